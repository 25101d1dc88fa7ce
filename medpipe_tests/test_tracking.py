"""Runs that really stand in MLflow's database, and trackers that can't be used and must not matter."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.launch.worker import WorkReporter
from medpipe.tracking import PARENT_TAG, Tracker, tracking_uri

PARAMS = {"training": {"epochs": 3, "learning_rate": 0.001}, "team": {"evidence_passages": 2}}
TAGS = {"medpipe.input.splits/train": "d" * 64, "medpipe.config_hash": "c" * 64, "medpipe.asset": "models/planner"}

OPENS_A_RUN = """
import sys
from medpipe.config import load_profile
from medpipe.tracking import Tracker
settings = load_profile("smoke", {"paths.outputs": sys.argv[1]})
warned = []
tracker = Tracker(settings, sys.argv[2], "run-at-once", {"model": {"kind": "random"}}, {}, warned.append)
tracker.metrics(1, {"loss": 1.0})
tracker.close(False, {"final": 2.0})
sys.exit("".join(warned) or 0)
"""


def settings_in(folder: Path, **tracking: str) -> Settings:
    return load_profile("smoke", {"paths.outputs": str(folder), **{f"tracking.{key}": value for key, value in tracking.items()}})


def runs_of(settings: Settings, run_id: str) -> tuple[list[Any], list[Any]]:
    """(parents, nested runs) that stand in the database for a Dagster run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    assert experiment is not None
    parents = list(client.search_runs([experiment.experiment_id], filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'"))
    nested = [
        run
        for parent in parents
        for run in client.search_runs([experiment.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    ]
    return parents, nested


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Two runs of Dagster: the first with a model that was finished and one that failed."""
    settings = settings_in(tmp_path_factory.mktemp("tracked"))
    warned: list[str] = []
    for run_id, name, failed in (("run-1", "models/planner", False), ("run-1", "models/analyst", True), ("run-2", "models/base", False)):
        tracker = Tracker(settings, name, run_id, PARAMS, TAGS, warned.append)
        tracker.metrics(1, {"loss": 2.5})
        tracker.metrics(2, {"loss": 1.5, "learning_rate": 0.001})
        tracker.close(failed, {} if failed else {"rows": 12.0})
    assert warned == []
    yield settings


def test_a_dagster_run_is_one_parent_and_each_model_a_nested_run(database: Settings) -> None:
    parents, nested = runs_of(database, "run-1")
    assert [parent.info.run_name for parent in parents] == ["smoke run-1"]
    assert parents[0].data.tags["medpipe.profile"] == "smoke"
    assert parents[0].data.tags["medpipe.config_hash"] == database.config_hash()
    assert sorted(run.info.run_name for run in nested) == ["models/analyst", "models/planner"]
    others, base = runs_of(database, "run-2")
    assert len(others) == 1
    assert others[0].info.run_id != parents[0].info.run_id
    assert [run.info.run_name for run in base] == ["models/base"]


def test_a_nested_run_holds_parameters_numbers_and_hashes(database: Settings) -> None:
    from mlflow.tracking import MlflowClient

    run = next(run for run in runs_of(database, "run-1")[1] if run.info.run_name == "models/planner")
    assert run.data.params == {"training.epochs": "3", "training.learning_rate": "0.001", "team.evidence_passages": "2"}
    assert TAGS.items() <= run.data.tags.items()
    assert run.data.metrics == {"loss": 1.5, "learning_rate": 0.001, "rows": 12.0}
    history = MlflowClient(tracking_uri(database)).get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 2.5), (2, 1.5)]


def test_a_run_ends_as_its_work_did(database: Settings) -> None:
    assert {run.info.run_name: run.info.status for run in runs_of(database, "run-1")[1]} == {
        "models/planner": "FINISHED",
        "models/analyst": "FAILED",
    }
    assert runs_of(database, "run-2")[0][0].info.status == "FINISHED"


@pytest.mark.slow
def test_four_processes_that_open_a_fresh_database_at_once_all_get_their_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    names = [f"models/{number}" for number in range(4)]
    started = [
        subprocess.Popen([sys.executable, "-c", OPENS_A_RUN, str(tmp_path), name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in names
    ]
    ended = [(process.communicate()[1].decode(), process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0, 0], "\n".join(text for text, _ in ended)
    parents, nested = runs_of(settings, "run-at-once")
    assert len(parents) == 1
    assert sorted(run.info.run_name for run in nested) == names
    assert all(run.data.metrics == {"loss": 1.0, "final": 2.0} for run in nested)


@pytest.mark.parametrize("where", ["a folder that can't exist", "a server that isn't there"])
def test_a_tracker_that_cant_be_used_is_said_once_and_no_number_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/file/mlflow.db" if where == "a folder that can't exist" else "http://127.0.0.1:9"
    settings = settings_in(tmp_path / "outputs", uri=uri)
    said: list[tuple[str, str]] = []
    (tmp_path / "out").mkdir()
    reporter = WorkReporter(tmp_path / "log.txt", tmp_path / "out", lambda level, text: said.append((level, text)))
    reporter.tracker = Tracker(settings, "models/planner", "run", PARAMS, TAGS, reporter.warn)
    for step in range(3):
        reporter.metrics(step, {"loss": float(step)})
    reporter.tracker.close(False, {"rows": 12.0})
    assert [(row["step"], row["loss"]) for row in store.read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len(said) == 1
    level, text = said[0]
    assert level == "warning"
    assert text.startswith(f"MLflow at {uri} failed (")
    assert text.endswith("going on without it; metrics.jsonl has every number")


def test_a_tracker_that_breaks_in_the_middle_is_said_once(database: Settings, tmp_path: Path) -> None:
    shutil.copyfile(database.outputs / "mlflow.db", tmp_path / "mlflow.db")
    warned: list[str] = []
    tracker = Tracker(settings_in(tmp_path), "models/reporter", "run-3", {}, {}, warned.append)
    tracker.metrics(1, {"loss": 1.0})
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("DROP TABLE metrics")
    connection.close()
    tracker.metrics(2, {"loss": 0.7})
    tracker.metrics(3, {"loss": 0.5})
    tracker.close(False, {})
    assert len(warned) == 1
    assert warned[0].startswith(f"MLflow at sqlite:///{tmp_path}/mlflow.db failed (")


def test_no_tracker_is_a_setting(tmp_path: Path) -> None:
    warned: list[str] = []
    tracker = Tracker(settings_in(tmp_path / "outputs", kind="none"), "models/planner", "run", PARAMS, TAGS, warned.append)
    tracker.metrics(1, {"loss": 1.0})
    tracker.close(False, {"rows": 1.0})
    assert warned == []
    assert not (tmp_path / "outputs").exists()


def test_the_database_lies_in_the_outputs_unless_the_profile_says_otherwise(tmp_path: Path) -> None:
    assert tracking_uri(settings_in(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(settings_in(tmp_path, uri="http://127.0.0.1:5000")) == "http://127.0.0.1:5000"
