"""A run killed at each of its joints: nothing works on without it, nothing stays taken, and the next run goes on.

The order of what is killed: a worker, its step, Dagster's daemon, `dagster dev`, everything at once; and a disk that is full. The
command line's own death is in medpipe_tests/test_runner.py, kills of GPU holders are in test_concurrency.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from medpipe import results, store
from medpipe.launch.devices import gpus_held
from medpipe.training.checkpoint import damage
from medpipe_tests.operations.processes import (
    BIN,
    DEADLINE,
    Dev,
    Halt,
    dagster_of,
    environment,
    kill_all,
    make_workspace,
    swept,
    those_that,
    wait_until,
    working_in,
)

pytestmark = pytest.mark.slow

WORKER, STEP, DAEMON = "medpipe.launch.worker", "multiprocessing.forkserver", "dagster._daemon"
ORPHAN_SECONDS = 10.0
"""How long a process may outlive the one above it."""
SLOT_SECONDS = 30.0
"""How long a slot may stay taken after the run that holds it was found dead."""
ASSET = "sources/synthetic"
POOL = "cpu_0"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    folder = make_workspace(tmp_path.resolve())
    with swept(folder):
        yield folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "medpipe"), "run", "--profile", "smoke", *words], cwd=folder, env=environment(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone_in_time(folder: Path, what: str) -> None:
    wait_until(lambda: not working_in(folder), f"every process is gone after {what}", ORPHAN_SECONDS)


def finished(folder: Path) -> bool:
    """Whether the asset stands whole, with nothing half-made beside it."""
    made = folder / "outputs" / ASSET
    manifest = store.read_manifest(made)
    return manifest is not None and store.damaged_files(made, manifest) == [] and not half_made(folder)


def half_made(folder: Path) -> list[Path]:
    """Results of the asset that are being built, or were when their process was killed."""
    return list((folder / "outputs" / results.STORE / ASSET).glob(".*.partial"))


def test_a_killed_worker_or_step_fails_its_run_and_the_next_one_makes_the_asset(workspace: Path) -> None:
    halt = Halt(workspace)
    for victim in ("worker", "step"):
        run = start(workspace, "--select", ASSET)
        wait_until(halt.reached, "the worker reads")
        worker = those_that(workspace, WORKER)[0]
        os.kill(worker if victim == "worker" else parent_of(worker), signal.SIGKILL)
        wait_until(lambda: not those_that(workspace, WORKER), "the worker is gone", ORPHAN_SECONDS)
        said, _ = run.communicate(timeout=DEADLINE)
        assert run.returncode == 1, said
        gone_in_time(workspace, f"the death of the {victim}")
        assert not (workspace / "outputs" / ASSET).exists()
    with dagster_of(workspace) as instance:
        step, worker = instance.get_runs()
        assert step.status is worker.status is dg.DagsterRunStatus.FAILURE
        (failed,) = instance.all_logs(worker.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        reason = failed.get_dagster_event().step_failure_data.user_failure_data
        assert reason and reason.description == f"{ASSET}: the worker ended with status -9 and said nothing"

    halt.lift()
    again = start(workspace, "--select", ASSET)
    said, _ = again.communicate(timeout=DEADLINE)
    assert again.returncode == 0, said
    assert finished(workspace)


def in_the_middle(dev: Dev, halt: Halt, run_id: str) -> None:
    """Wait until the run's worker stands in the middle of its work."""
    wait_until(halt.reached, f"the worker of run {run_id} reads")
    assert dev.status(run_id) == "STARTED"


def retry_of(dev: Dev, run_id: str) -> str | None:
    return next((run["runId"] for run in dev.runs() if run["parentRunId"] == run_id), None)


def leak_slot(folder: Path, run_id: str) -> None:
    """Take a slot in the name of a run, which no step will ever give back."""
    with dagster_of(folder) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(POOL)
        assert storage.claim_concurrency_slot(POOL, run_id, "models__planner").is_claimed


def slots_taken(folder: Path) -> int:
    with dagster_of(folder) as instance:
        return instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


def break_database(folder: Path) -> None:
    """Leave the databases as a power failure does: a writer dies in the middle of a transaction that has reached the disk."""
    writer = (
        "import os, signal, sqlite3, sys\n"
        "base = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('PRAGMA cache_size = 1')\n"
        "base.execute('BEGIN IMMEDIATE')\n"
        "base.execute('CREATE TABLE half_made (words TEXT)')\n"
        "base.executemany('INSERT INTO half_made VALUES (?)', [('x' * 4000,)] * 500)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    database = folder / ".dagster" / "history" / "runs.db"
    done = subprocess.run([sys.executable, "-c", writer, str(database)], cwd=folder)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in (database.with_name("runs.db-wal"), database.with_name("runs.db-journal")) if path.is_file()]
    assert any(path.stat().st_size > 100_000 for path in left), "the unfinished transaction lies beside the database"


def hold_gpu(folder: Path) -> subprocess.Popen[str]:
    """A process of the workspace that holds a GPU's lock, as a worker would."""
    lines = "from medpipe.launch.devices import gpus_held\nwith gpus_held(['4'], print):\n print('held', flush=True)\n input()\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", lines], cwd=folder, env=environment(folder, TMPDIR=str(folder)), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout and holder.stdout.readline() == "held\n"
    return holder


def test_the_page_s_runs_end_with_daemon_page_and_machine_and_go_on_afterwards(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halt, dev = Halt(workspace), Dev(workspace)
    first = dev.launch("ingest", ASSET)
    in_the_middle(dev, halt, first)
    leak_slot(workspace, first)
    os.kill(those_that(workspace, DAEMON)[0], signal.SIGKILL)
    dev.wait()  # it notices within seconds, and ends
    gone_in_time(workspace, "the death of the daemon and then of dagster dev")

    dev = Dev(workspace)  # marks the run as failed, frees its slot and starts it again
    wait_until(lambda: dev.status(first) == "FAILURE", "the run is marked as failed")
    wait_until(lambda: slots_taken(workspace) == 0, "the leaked slot is free", SLOT_SECONDS)
    second = wait_until(lambda: retry_of(dev, first), "the run is started again")
    in_the_middle(dev, halt, second)
    dev.kill()
    gone_in_time(workspace, "the death of dagster dev")

    halt.lift()
    dev = Dev(workspace)
    third = wait_until(lambda: retry_of(dev, second), "the run is started again")
    wait_until(lambda: dev.status(third) == "SUCCESS", "the run goes through")
    assert finished(workspace)
    assert [run["status"] for run in dev.runs()] == ["SUCCESS", "FAILURE", "FAILURE"]

    shutil.rmtree((workspace / "outputs" / ASSET).resolve())
    halt = Halt(workspace)
    fourth = dev.launch("ingest", ASSET)
    in_the_middle(dev, halt, fourth)
    leak_slot(workspace, fourth)
    holder = hold_gpu(workspace)
    kill_all(workspace)  # the machine's restart
    dev.wait()
    holder.wait(timeout=DEADLINE)
    break_database(workspace)
    assert len(half_made(workspace)) == 1
    halt.lift()

    run = start(workspace, "--select", ASSET)
    said, _ = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, said
    assert f"run {fourth[:8]} was killed before it ended: marked as failed, its slots are free again" in said
    assert finished(workspace)
    assert slots_taken(workspace) == 0
    with dagster_of(workspace) as instance:
        assert len(instance.get_runs()) == 5  # nothing is lost
    with sqlite3.connect(workspace / ".dagster" / "history" / "runs.db") as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half_made'").fetchone() == (0,)
    monkeypatch.setattr("tempfile.tempdir", str(workspace))
    waited: list[str] = []
    with gpus_held(["4"], waited.append):
        assert waited == []


@pytest.fixture
def small_disk(workspace: Path) -> Iterator[Path]:
    """A small file system of its own for checkpoints."""
    if os.getuid():
        pytest.skip("only root may mount a small file system to fill")
    folder = workspace / "outputs" / "scratch"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        kill_all(workspace)
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; removed, it gives the room back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"\0" * 65536)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


def whole_checkpoints(disk: Path) -> list[Path]:
    return sorted(folder for folder in disk.glob("*/checkpoints/step-*") if not damage(folder))


def test_a_disk_that_is_full_leaves_the_last_checkpoint_and_the_next_run_goes_on_from_it(workspace: Path, small_disk: Path) -> None:
    lesson = ["--select", "*models/reporter", "--set", "training.epochs=25", "--set", "training.checkpoint_seconds=0"]
    run = start(workspace, *lesson)
    wait_until(lambda: whole_checkpoints(small_disk), "the training has written a checkpoint", 3 * DEADLINE)
    filler = fill(small_disk)
    said, _ = run.communicate(timeout=DEADLINE)
    assert run.returncode == 1, said
    assert "a full disk" in said or "No space left on device" in said, said
    left = whole_checkpoints(small_disk)
    assert left, "the last verified checkpoint is gone"
    gone_in_time(workspace, "the failed run")

    filler.unlink()
    again = start(workspace, *lesson)
    said, _ = again.communicate(timeout=DEADLINE)
    assert again.returncode == 0, said
    stats = store.read_json(workspace / "outputs" / "models" / "reporter" / "training_stats.json")
    assert stats["resumed_from_steps"] == str(int(left[-1].name.removeprefix("step-")))
    steps = [row["step"] for row in store.read_jsonl(workspace / "outputs" / "models" / "reporter" / "metrics.jsonl")]
    assert steps == list(range(1, stats["steps"] + 1))  # nothing is lost, nothing is there twice
    assert whole_checkpoints(small_disk) == []
