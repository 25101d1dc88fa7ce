"""The `medpipe` command on a workspace that is damaged, interrupted or half made, in processes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from medpipe import store
from medpipe_tests.operations.processes import BIN, DEADLINE, ROOT, Halt, environment, make_workspace, swept, wait_until, working_in
from medpipe_tests.test_cli import medpipe, one_message

QUICK = ("run", "--profile", "smoke", "--select", "sources/custom")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with Dagster's settings alone."""
    shutil.copyfile(ROOT / "dagster.yaml", tmp_path / "dagster.yaml")
    return tmp_path


@pytest.fixture
def with_databases(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with Dagster's databases."""
    monkeypatch.chdir(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs() == [] and instance.get_asset_keys() == []
        assert instance.all_instigator_state() == []
    return home


@pytest.mark.parametrize(
    ("name", "content"),
    [("history/runs.db", "half"), ("history/runs/index.db", "half"), ("schedules/schedules.db", "half"), ("history/runs.db", "noise")],
)
def test_a_damaged_database_of_dagsters_is_one_message(with_databases: Path, name: str, content: str) -> None:
    path = with_databases / ".dagster" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else b"noise" * 1000)
    message = one_message(medpipe(*QUICK, cwd=with_databases))
    assert (
        message.startswith("medpipe: got a database that can't be read (")
        and f"in {path}: move {path.parents[name.count('/')]} away" in message
    )


def test_databases_that_are_empty_or_not_there_are_made_by_dagster(with_databases: Path) -> None:
    from medpipe.runner import _require_databases

    (with_databases / ".dagster" / "history" / "runs.db").write_bytes(b"")
    (with_databases / ".dagster" / "schedules" / "schedules.db").unlink()
    _require_databases(with_databases)


def test_outputs_that_are_no_folder_are_one_message(home: Path) -> None:
    (home / "outputs").symlink_to("/nowhere/at/all")
    message = one_message(medpipe(*QUICK, cwd=home))
    assert message.startswith(
        "medpipe: got a link to /nowhere/at/all, where nothing is, expected a folder that can be written to, in outputs "
    )
    message = one_message(medpipe(*QUICK, "--set", "paths.outputs=/dev/null", cwd=home))
    assert message.startswith("medpipe: got something that is not a folder, expected a folder that can be written to, in /dev/null ")


def test_outputs_that_cannot_be_written_to_are_one_message(home: Path) -> None:
    message = one_message(medpipe(*QUICK, "--set", "paths.outputs=/sys/medpipe", cwd=home))  # not even root makes a folder there
    assert message.startswith("medpipe: got no access (") and "in /sys/medpipe (paths.outputs): correct the folder" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_outputs_without_the_right_to_write_are_one_message(home: Path) -> None:
    (home / "outputs").mkdir(mode=0o555)
    assert one_message(medpipe(*QUICK, cwd=home)).startswith("medpipe: got no access (Permission denied), expected a folder that ")


@pytest.mark.slow
@pytest.mark.parametrize("reaches", ["every process, as a terminal's Ctrl-C does", "the command alone"])
def test_an_interrupted_run_says_what_stands_and_ends_with_130(tmp_path: Path, reaches: str) -> None:
    folder = make_workspace(tmp_path.resolve())
    halt = Halt(folder)
    command = [BIN / "medpipe", "run", "--profile", "smoke", "--select", "sources/synthetic"]
    with swept(folder):
        run = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,  # ignored below a shell's background job
        )  # fmt: skip
        wait_until(halt.reached, "the worker reads")
        (os.killpg if reaches.startswith("every") else os.kill)(run.pid, signal.SIGINT)
        said, told = run.communicate(timeout=DEADLINE)
        assert run.returncode == 130, told
        assert told.splitlines()[-1] == (
            "Interrupted. 0 of the assets asked for stand in outputs; the same command makes the others, and takes a training up where it "
            "was last saved."
        )
        assert "Traceback" not in told and "Stack Trace" not in told
        assert "Look at" not in said
        wait_until(lambda: not working_in(folder), "every process of the run is gone", 30)


@pytest.mark.slow
def test_a_run_of_a_part_tells_of_what_it_made_and_calls_the_rest_older(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path.resolve())
    board = folder / "outputs" / "evaluation" / "leaderboard" / "leaderboard.json"
    store.write_json(board, {"rows": "of an earlier run"})
    store.write_text(folder / "outputs" / "report.html", "of an earlier run")
    command = [BIN / "medpipe", *QUICK]
    first, second = (
        subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE) for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "made 1, found 0 standing" in first.stdout and "Look at:  outputs/sources/custom\n" in first.stdout
    assert "made 0, found 1 standing" in second.stdout and "Look at" not in second.stdout
    for told in (first.stdout, second.stdout):
        assert "Older:    leaderboard.json and report.html in outputs are of an earlier run" in told


@pytest.mark.parametrize("module", ["medpipe", "medpipe.cli"])
def test_python_m_is_the_same_command(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "data", "show", "nothing", "--profile", "none.yaml"], capture_output=True, text=True, cwd=ROOT
    )
    assert one_message(done).startswith("medpipe: got ")
