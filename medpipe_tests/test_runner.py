"""What is left of a run that was killed, and how the next one tidies it up."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medpipe import runner
from medpipe.errors import MedpipeError

ROOT = Path(__file__).parent.parent
DEADLINE = 120.0  # seconds; for what a busy machine may take, not for what is expected


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


def wait_until(true: Callable[[], Any], what: str) -> Any:
    """The first true value; fails after the deadline."""
    end = time.monotonic() + DEADLINE
    while not (value := true()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)
    return value


def working_in(folder: Path) -> list[str]:
    """Ids and commands of the processes whose working directory this is."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").readlink() == folder:
                found.append(f"{process.name} {(process / 'cmdline').read_text().replace(chr(0), ' ')[:80]}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or is not ours
    return found


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_behind_and_the_next_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    pipe = tmp_path / "data" / "synthetic" / "conditions" / "z_pipe.yaml"
    pipe.parent.mkdir(parents=True)
    shutil.copy(min((ROOT / "data" / "synthetic" / "conditions").glob("*.yaml")), pipe.with_name("some.yaml"))
    os.mkfifo(pipe)  # whoever reads it stays in the middle of its work

    def connect() -> int | None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody reads yet
            return None

    command = [Path(sys.executable).with_name("medpipe"), "run", "--profile", "smoke", "--select", "sources/synthetic"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_until((tmp_path / "outputs" / "sources" / ".synthetic.partial").is_dir, "the worker begins")
        end = wait_until(connect, "the worker reads")
        assert len(working_in(tmp_path)) >= 3  # command line, step and worker at least
        run.kill()
    wait_until(lambda: not working_in(tmp_path), "every process of the killed run is gone")
    os.close(end)
    assert not (tmp_path / "outputs" / "sources" / "synthetic").exists()

    pipe.unlink()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert again.returncode == 0, again.stderr
    assert "was killed before it ended: marked as failed, its slots are free again" in again.stderr
    assert (tmp_path / "outputs" / "sources" / "synthetic" / "manifest.json").is_file()


@pytest.mark.parametrize("select", ["*", "models/maporl_team", "evaluation/leaderboard"])
def test_a_team_of_roles_that_share_no_base_is_refused_before_anything_starts(select: str, instance: dg.DagsterInstance) -> None:
    with pytest.raises(MedpipeError, match=r"got training\.method = full, expected lora.*train one role alone"):
        runner.run_graph("smoke", select, ["training.method=full"])
    assert instance.get_runs() == []


def test_a_quantised_base_that_shall_learn_itself_is_refused_before_anything_starts() -> None:
    with pytest.raises(MedpipeError, match=r"training\.method = full with model\.quantization = 4bit.*set training\.method = lora"):
        runner.run_graph("smoke", "models/reporter", ["training.method=full", "model.quantization=4bit"])
