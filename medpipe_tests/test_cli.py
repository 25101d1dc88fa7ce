"""The `medpipe` command as a user types it, in processes of its own; and what it tidies up after a run that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from medpipe import runner
from medpipe.config import profile_names

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).with_name("medpipe")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
VARIABLES = ("MEDPIPE_PROFILE", "MEDPIPE_MIRROR", "DAGSTER_HOME", "NO_PROXY", "no_proxy")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in VARIABLES},
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), NOWHERE),
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "200",
    "TERM": "dumb",
}


def medpipe(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **environment}, timeout=300)


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    """What a user is told of a mistake: exit status 1 and one line, no traceback."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_names_the_commands_and_says_what_this_is_not() -> None:
    done = medpipe("--help")
    assert done.returncode == 0
    for word in ("run", "doctor", "ui", "not medical advice"):
        assert word in " ".join(done.stdout.split())


def test_help_of_run_names_its_options() -> None:
    done = medpipe("run", "--help")
    assert done.returncode == 0
    for option in ("--profile", "--select", "--set"):
        assert option in done.stdout


@pytest.mark.slow
def test_doctor_tells_what_the_machine_has_and_what_each_profile_would_do() -> None:
    done = medpipe("doctor")
    assert done.returncode == 0, done.stderr
    words = ("Python", "torch", "transformers", "CUDA", "CPU cores", "RAM", "disk here", "mirror", "model hub", "not reachable")
    for word in (*words, *profile_names()):
        assert word in done.stdout, word
    assert "stop at models/base: the hub is not reachable" in done.stdout  # what local-qwen3 would do without a network


@pytest.mark.slow
def test_doctor_tells_of_a_mirror_that_is_not_there_and_goes_on() -> None:
    done = medpipe("doctor", MEDPIPE_MIRROR="/nowhere", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert "got '/nowhere', expected an existing folder, in the environment variable MEDPIPE_MIRROR: correct or unset it" in done.stdout
    assert "RAM" in done.stdout


def test_an_unknown_profile_is_one_message() -> None:
    assert one_message(medpipe("run", "--profile", "fast")).startswith("medpipe: got profile 'fast', expected one of local-qwen3, ")


@pytest.mark.parametrize(
    ("exception", "message"),
    [
        ("training.epoch=2", "medpipe: got the unknown key training.epoch, expected a key of medpipe/config.py, in profile smoke: "),
        ("training.epochs=[1", "medpipe: got 'training.epochs=[1', expected a value that YAML can read, in --set: "),
    ],
)
def test_a_wrong_exception_is_one_message(exception: str, message: str) -> None:
    assert one_message(medpipe("run", "--profile", "smoke", "--set", exception)).startswith(message)


def test_a_mirror_that_is_not_there_is_one_message() -> None:
    message = one_message(medpipe("run", "--profile", "smoke", MEDPIPE_MIRROR="/nowhere"))
    assert message == (
        "medpipe: got '/nowhere', expected an existing folder, in the environment variable MEDPIPE_MIRROR: correct or unset it"
    )


def test_outside_the_projects_root_a_run_says_so_and_makes_nothing(tmp_path: Path) -> None:
    message = one_message(medpipe("run", "--profile", "smoke", cwd=tmp_path))
    assert message == (
        f"medpipe: got no dagster.yaml in {tmp_path}, expected the project's root, in the working directory: change to the project's root"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("selection", ["models/plannr", "group:nothing"])
def test_a_selection_of_nothing_is_one_message(tmp_path: Path, selection: str) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    message = one_message(medpipe("run", "--profile", "smoke", "--select", selection, cwd=tmp_path))
    assert message.startswith(f"medpipe: got selection '{selection}', expected ")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's real databases, in a folder of their own, with the project's settings."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def test_a_killed_run_is_marked_as_failed_and_its_slot_is_free_again(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("cpu_0")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        tag = {runner.OWNER_TAG: f"{owner.pid} {runner._started(owner.pid)}"}
        run = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED, tags=tag))
        storage.claim_concurrency_slot("cpu_0", run.run_id, "models__planner")
        assert runner.free_dead_runs(instance) == []  # its process lives
        assert storage.get_concurrency_info("cpu_0").active_slot_count == 1
        owner.kill()
    assert runner.free_dead_runs(instance) == [run.run_id]
    after = instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is dg.DagsterRunStatus.FAILURE
    assert storage.get_concurrency_info("cpu_0").active_slot_count == 0
    assert runner.free_dead_runs(instance) == []


def test_another_process_under_the_old_number_is_not_the_owner(instance: dg.DagsterInstance) -> None:
    tag = {runner.OWNER_TAG: f"{os.getpid()} 1"}  # this process's number, another time of start
    run = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED, tags=tag))
    assert runner.free_dead_runs(instance) == [run.run_id]


def test_runs_of_dagsters_page_and_ended_runs_are_left_alone(instance: dg.DagsterInstance) -> None:
    started = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED))
    ended = instance.add_run(dg.DagsterRun("everything", status=dg.DagsterRunStatus.SUCCESS, tags={runner.OWNER_TAG: "1 0"}))
    assert runner.free_dead_runs(instance) == []
    left = [instance.get_run_by_id(run.run_id) for run in (started, ended)]
    assert [run.status for run in left if run] == [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS]
