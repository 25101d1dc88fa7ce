"""Trackers that are down, slow, deaf, locked, full or killed: the work does not notice, and afterwards each point is there once."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medpipe import store, tracking
from medpipe.config import Settings
from medpipe.tracking import Tracker, track_missed
from medpipe.tracking.journal import Journal, journals, read_state
from medpipe.training import sft
from medpipe_tests.tiny_team import real_job, tiny_settings
from medpipe_tests.tracking.tracked import DATASETS, PARAMS, TAGS, Door, mlflow_server, points, settings_in

pytestmark = pytest.mark.slow
POINTS = sorted([*(("loss", step, float(step)) for step in range(40)), ("rows", 0, 12.0)])

WORKS = """
import sys, time
from medpipe.config import load_profile
from medpipe.tracking import Tracker
settings = load_profile("smoke", {"paths.outputs": sys.argv[1]})
tracker = Tracker(settings, "models/planner", "run", {}, {}, print)
for step in range(40):
    tracker.metrics(step, {"loss": float(step)})
print("working", flush=True)
sys.stdin.readline()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A real MLflow server: its port and its database."""
    port = free_port()
    with mlflow_server(tmp_path_factory.mktemp("server"), port) as database:
        yield port, database


@pytest.fixture
def door(server: tuple[int, Path]) -> Iterator[Door]:
    found = Door(server[0])
    yield found
    found.close()


def work(settings: Settings, said: list[str], midway: object = None) -> None:
    """Forty numbers and an end; `midway` is called after half of them."""
    tracker = Tracker(settings, "models/planner", "run", PARAMS, TAGS, said.append, DATASETS)
    for step in range(40):
        if step == 20 and callable(midway):
            midway()
        tracker.metrics(step, {"loss": float(step)})
    tracker.close(False, {"rows": 12.0})


def loss_of(database: Path, experiment: str) -> list[tuple[str, int, float]]:
    """The points of one experiment of the server that the tests share."""
    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "SELECT key, step, value FROM metrics JOIN runs USING (run_uuid) JOIN experiments USING (experiment_id) "
            "WHERE experiments.name = ? AND key NOT LIKE 'system/%'",
            (experiment,),
        ).fetchall()
    connection.close()
    return sorted((str(key), int(step), float(value)) for key, step, value in found)


@pytest.mark.parametrize("mode", ["refuse", "deaf"])
@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_server_that_refuses_or_gives_no_answer_gets_each_point_once_when_it_is_back(
    tmp_path: Path, server: tuple[int, Path], door: Door, mode: str, when: str
) -> None:
    settings = settings_in(tmp_path, uri=f"http://127.0.0.1:{door.port}", experiment=f"{mode} {when}")
    said: list[str] = []

    def fail() -> None:
        door.mode = mode

    if when == "start":
        fail()
    work(settings, said, fail)
    assert len(said) >= 1 and said[-1].startswith("mlflow still lacks "), said
    door.mode = "open"
    spoken: list[str] = []
    assert track_missed(settings, spoken.append) == {"mlflow": 0}
    assert spoken == []
    assert loss_of(server[1], f"{mode} {when}") == POINTS
    assert track_missed(settings, spoken.append) == {"mlflow": 0}
    assert loss_of(server[1], f"{mode} {when}") == POINTS


def test_the_next_work_sends_what_the_one_before_could_not(tmp_path: Path, server: tuple[int, Path], door: Door) -> None:
    settings = settings_in(tmp_path, uri=f"http://127.0.0.1:{door.port}", experiment="next")
    door.mode = "refuse"
    work(settings, [])
    door.mode = "open"
    said: list[str] = []
    work(settings, said)
    assert said == []
    assert loss_of(server[1], "next") == sorted(2 * POINTS)


def test_a_locked_database_is_fed_afterwards(tmp_path: Path) -> None:
    said: list[str] = []
    Tracker(settings_in(tmp_path), "models/base", "before", {}, {}, said.append).close(False, {"seen": 1.0})  # the database is whole
    settings = settings_in(tmp_path, drain_seconds=3.0)
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    work(settings, said)
    lock.execute("ROLLBACK")
    lock.close()
    assert said and said[-1].startswith("mlflow still lacks ")
    assert track_missed(settings, print) == {"mlflow": 0}
    assert points(tmp_path / "mlflow.db") == sorted([*POINTS, ("seen", 0, 1.0)])


def test_a_full_database_is_said_and_fed_once_there_is_room(tmp_path: Path) -> None:
    settings, said = settings_in(tmp_path), []
    Tracker(settings, "models/base", "before", {}, {}, said.append).close(False, {"seen": 1.0})
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # what sqlite says when the disk is full
        database.execute("CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    work(settings, said)
    assert said[0].startswith("MLflow at sqlite:") and "full" in said[0] and said[-1].startswith("mlflow still lacks ")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TRIGGER full")
    database.close()
    assert track_missed(settings, print) == {"mlflow": 0}
    assert points(tmp_path / "mlflow.db") == sorted([*POINTS, ("seen", 0, 1.0)])


def test_a_killed_work_is_marked_so_and_keeps_its_numbers(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    settings = settings_in(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WORKS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "working\n"
        os.kill(process.pid, signal.SIGKILL)
    assert track_missed(settings, print) == {"mlflow": 0}
    assert points(tmp_path / "mlflow.db") == [("loss", step, float(step)) for step in range(40)]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    assert experiment is not None
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"KILLED"}


@pytest.mark.parametrize("feeder", [("/bin/false",), ("/nowhere/feeder",)])
def test_a_feeder_that_ends_at_once_or_cannot_start_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feeder: tuple[str, ...]
) -> None:
    settings, said = settings_in(tmp_path), []
    with monkeypatch.context() as broken:
        broken.setattr(tracking, "FEEDER", feeder)
        work(settings, said)
    assert said[-1].startswith("mlflow still lacks 42 lines of models/planner")
    assert track_missed(settings, print) == {"mlflow": 0}
    assert points(tmp_path / "mlflow.db") == POINTS


def test_a_feeder_that_is_killed_anywhere_sends_nothing_twice(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    journal = Tracker(settings, "models/planner", "run", PARAMS, TAGS, print)
    for step in range(40):
        journal.metrics(step, {"loss": float(step)})
    journal.close(False, {"rows": 12.0})
    (path,) = journals(tmp_path)
    state = read_state(path, "mlflow")
    for lines in range(0, state["lines"], 7):  # it had sent all, and had written down so much of it
        kept = {key: value for key, value in state.items() if lines or key in ("lines", "done")}
        store.write_json(path.with_name(f"{path.name}.mlflow"), {**kept, "lines": lines, "done": False})
        assert track_missed(settings, print) == {"mlflow": 0}
    assert points(tmp_path / "mlflow.db") == POINTS
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    database.close()


def test_training_ends_with_the_same_bytes_whether_its_tracker_lives_or_not(
    tmp_path: Path, tiny_base: Path, tiny_splits: dict[str, Path]
) -> None:
    inputs, found = {"models/base": tiny_base, **tiny_splits}, []
    for name, changed in (("none", {"kind": "none"}), ("dead", {"uri": f"http://127.0.0.1:{free_port()}"}), ("alive", {})):
        job = real_job("models/reporter", tiny_settings({"training.max_examples": 4, "training.epochs": 2}), inputs, tmp_path / name)
        job.report.tracker = Tracker(settings_in(tmp_path / name, **changed), job.name, "run", {}, {}, print)  # type: ignore[attr-defined]
        sft.run({job.name: job})
        job.report.tracker.close(False, {})  # type: ignore[attr-defined]
        found.append(store.sha256_file(next(job.out.rglob("adapter_model.safetensors"))))
    assert len(set(found)) == 1
    tracked = {(key, step) for key, step, _ in points(tmp_path / "alive" / "mlflow.db")}
    assert tracked == {
        (key, row["step"]) for row in store.read_jsonl(job.out / "metrics.jsonl") for key in row if key not in ("step", "time")
    }


def test_no_journal_is_seen_before_it_is_locked_and_has_its_head(tmp_path: Path) -> None:
    looks = (
        "import sys\nfrom pathlib import Path\nfrom medpipe.tracking.journal import is_written, journals, read\n"
        "folder, seen, bad = Path(sys.argv[1]), set(), 0\nprint('looking', flush=True)\n"
        "while len(seen) < 300:\n for path in journals(folder):\n  if path not in seen:\n"
        "   seen.add(path)\n   bad += not is_written(path) or len(read(path, 0, 1)) != 1\nprint(bad)\n"
    )
    with subprocess.Popen([sys.executable, "-c", looks, str(tmp_path)], stdout=subprocess.PIPE, text=True) as looker:
        assert looker.stdout and looker.stdout.readline() == "looking\n"
        held = [Journal(tmp_path, {"name": "models/planner", "run": str(number)}) for number in range(300)]
        assert looker.stdout.readline() == "0\n"
    assert len(held) == len(journals(tmp_path)) == 300
