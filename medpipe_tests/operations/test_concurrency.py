"""Many at once on few GPUs: nobody works on a GPU while another does, nobody waits for ever, and a kill lets everything go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from medpipe.schema import ROLES
from medpipe_tests.operations.holders import GPUS, overlaps
from medpipe_tests.operations.processes import DEADLINE, ROOT, dagster_of, environment, make_workspace, swept, wait_until

RUNS = 6
REPETITIONS = 3
BUSY = 3 * DEADLINE
"""Seconds for a repetition: thirty processes on two cores that others may be using too."""


def variables(folder: Path) -> dict[str, str]:
    """With lock files of its own: TMPDIR is where the locks lie."""
    return environment(folder, CUDA_VISIBLE_DEVICES=",".join(GPUS), TMPDIR=str(folder), PYTHONPATH=str(ROOT))


def without_logs(path: Path) -> None:
    """Keep no output of steps: Dagster would start four more processes for each of the 90 steps."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["compute_logs"] = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager", "config": {}}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_overlapping_stretches_are_found() -> None:
    assert overlaps([("4", 0, 5), ("4", 5, 9), ("5", 3, 4), ("4", 10, 11)]) == []
    assert overlaps([("4", 0, 20), ("4", 5, 9), ("4", 12, 13), ("5", 3, 4)]) == [("4", 5, 9), ("4", 12, 13)]


@pytest.mark.slow
def test_six_runs_at_once_share_four_gpus(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path.resolve())
    without_logs(folder / "dagster.yaml")
    journal = folder / "journal.txt"
    command = [sys.executable, "-c", "from medpipe_tests.operations.standin import main; main()", str(journal), str(REPETITIONS)]
    dagster_of(folder).dispose()  # Dagster's own first touch of its databases is not for six at once
    with swept(folder), (folder / "runs.log").open("wb") as log:
        runs = [subprocess.Popen(command, cwd=folder, env=variables(folder), stdout=log, stderr=log) for _ in range(RUNS)]
        for number in range(REPETITIONS):
            wait_until(
                lambda number=number: len(list(folder.glob(f"ready-{number}-*"))) == RUNS, f"all stand before repetition {number}", BUSY
            )
            (folder / f"go-{number}").touch()
        ended = [run.wait(timeout=BUSY) for run in runs]
    assert ended == [0] * RUNS, (folder / "runs.log").read_text()[-3000:]
    words = [line.split() for line in journal.read_text().splitlines()]
    stretches = [(gpu, int(first), int(last)) for gpu, first, last in words]
    assert Counter(gpu for gpu, _, _ in stretches) == dict.fromkeys(GPUS, 2 * RUNS * REPETITIONS)  # each GPU: one role, then the team
    assert len(GPUS) == len(ROLES)
    assert overlaps(stretches) == []


@pytest.mark.slow
def test_two_hundred_kills_leave_no_lock_and_never_two_at_work_on_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medpipe_tests.operations.holders", "--kills", "200", "--seed", "0"]
    done = subprocess.run(command, env=variables(tmp_path), capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 200
    assert found["killed_at_work"] >= 50  # a kill of one that only waits proves less
    assert (found["overlaps"], found["held"]) == (0, 0)
