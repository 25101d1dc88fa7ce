"""Runs that really stand in MLflow's database, and trackers that can't be used and must not matter."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe import NOTICE, store
from medpipe.config import Settings
from medpipe.launch.worker import WorkReporter
from medpipe.tracking import Tracker, alone_with_mlflow, is_traced, tracking_uri
from medpipe.tracking.journal import journals, read
from medpipe.tracking.mlflow_sink import PARENT_TAG
from medpipe_tests.tracking.tracked import DATASETS, PARAMS, TAGS, settings_in

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
        tracker = Tracker(settings, name, run_id, PARAMS, TAGS, warned.append, DATASETS)
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
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.dataset.profile) == ("splits/train", "e" * 36, '{"num_rows": 12}')
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


@pytest.mark.parametrize("more", ["", "?timeout=30"])
def test_a_first_start_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path, more: str) -> None:
    from mlflow.tracking import MlflowClient

    uri, partial = tracking_uri(settings_in(tmp_path)) + more, tmp_path / "mlflow.db.partial"
    makes = f"from pathlib import Path; from medpipe.tracking import alone_with_mlflow as a\nwith a({uri!r}, Path({str(tmp_path)!r})): pass"
    first = subprocess.Popen([sys.executable, "-c", makes], stderr=subprocess.DEVNULL, start_new_session=True)
    while not (partial.exists() and partial.stat().st_size):
        assert first.poll() is None, "it ended before it was killed"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "mlflow.db").exists()
    with alone_with_mlflow(uri, tmp_path):
        pass
    assert [experiment.name for experiment in MlflowClient(uri).search_experiments()] == ["Default"]
    assert {path.name for path in tmp_path.glob("mlflow*")} == {"mlflow.db"}


@pytest.mark.parametrize("where", ["a folder that can't exist", "a server that isn't there"])
def test_a_tracker_that_cant_be_used_is_said_once_and_no_number_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/file/mlflow.db" if where == "a folder that can't exist" else "http://127.0.0.1:9"
    settings = settings_in(tmp_path / "outputs", uri=uri, trace_share=1.0)
    said: list[tuple[str, str]] = []
    (tmp_path / "out").mkdir()
    reporter = WorkReporter(tmp_path / "log.txt", tmp_path / "out", lambda level, text: said.append((level, text)))
    reporter.tracker = Tracker(settings, "models/planner", "run", PARAMS, TAGS, reporter.warn)
    for step in range(3):
        reporter.metrics(step, {"loss": float(step)})
        reporter.tracker.episodes(step, [transcript(1)])
    reporter.tracker.close(False, {"rows": 12.0})
    assert [(row["step"], row["loss"]) for row in store.read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [level for level, _ in said] == ["warning", "warning"]
    first, last = [text for _, text in said]
    assert first.startswith(f"MLflow at {uri} failed (")
    assert first.endswith("going on without it for now; the journal has every number")
    assert re.fullmatch(
        r"mlflow still lacks 8 lines of models/planner: nothing is lost .*; the next run sends them, or `medpipe track` does", last
    )


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
    assert len(warned) == 2
    assert warned[0].startswith(f"MLflow at sqlite:///{tmp_path}/mlflow.db failed (")
    assert warned[1].startswith("mlflow still lacks ")


def transcript(number: int, sample: int = 0, **question: Any) -> dict[str, Any]:
    """An episode of two messages, as Episode.transcript(timed=True) makes it."""
    turn = {"round": 0, "text": "It fits: é.\nAnswer: B", "answer": "B", "malformed": "", "value": 0.75, "tokens": 9}
    times = ({"started_ns": 10**18 + 5, "ended_ns": 10**18 + 7}, {"started_ns": 10**18 + 7, "ended_ns": 10**18 + 2_000_007})
    return {
        "question": {"id": f"q-{number}", "question": "Which fits?", "options": ["gout", "asthma"], "answer": "B", **question},
        "sample": sample, "evidence": ["asthma: Wheezing."], "evidence_from": "local index",
        "turns": [{"role": role, **turn, **when} for role, when in zip(("planner", "reporter"), times, strict=True)],
        "final": turn["text"],
    }  # fmt: skip


def traces_of(settings: Settings, filter_string: str | None = None) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    assert experiment is not None
    return list(client.search_traces(locations=[experiment.experiment_id], filter_string=filter_string, max_results=500))


def test_an_episode_is_a_trace_of_its_run_and_each_message_a_span(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trace_share=1.0)
    warned: list[str] = []
    tracker = Tracker(settings, "models/maporl_team", "run-1", PARAMS, TAGS, warned.append)
    tracker.episodes(3, [transcript(1), transcript(1, sample=1), transcript(2)])
    tracker.metrics(3, {"loss": 1.0})
    tracker.episodes(4, [transcript(1)])
    tracker.close(False, {})
    assert warned == []
    (run,) = runs_of(settings, "run-1")[1]
    assert len(traces_of(settings)) == 4
    assert len(traces_of(settings, "tags.`medpipe.step` = '3' AND tags.`medpipe.question` = 'q-1'")) == 2
    (found,) = traces_of(settings, "tags.`medpipe.step` = '4'")
    assert found.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
    assert found.info.tags["medpipe.notice"] == NOTICE
    assert (found.info.request_preview, found.info.response_preview) == ("Which fits?", "It fits: é.\nAnswer: B")
    assert (found.info.request_time, found.info.execution_duration) == (10**12, 2)
    whole, first, second = found.data.spans
    assert whole.parent_id is None and first.parent_id == second.parent_id == whole.span_id
    assert [span.name for span in (whole, first, second)] == ["episode q-1", "round 1: planner", "round 1: reporter"]
    assert [(span.start_time_ns - 10**18, span.end_time_ns - 10**18) for span in (whole, first, second)] == [
        (5, 2_000_007), (5, 7), (7, 2_000_007),
    ]  # fmt: skip
    expected = {"role": "planner", "round": 0, "text": "It fits: é.\nAnswer: B", "answer": "B", "value": 0.75, "malformed": "", "tokens": 9}
    assert {**expected, "question_id": "q-1"}.items() <= first.attributes.items()
    told = {"notice": NOTICE, "evidence_from": "local index", "reference": "B", "sample": 0, "step": 4, "messages": 2}
    assert told.items() <= whole.attributes.items()
    assert whole.inputs == {"question": "Which fits?", "options": ["gout", "asthma"], "evidence": ["asthma: Wheezing."]}


def test_without_times_a_trace_bears_the_moment_it_was_handed_over(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, trace_share=1.0)
    untimed = transcript(1)
    for turn in untimed["turns"]:
        del turn["started_ns"], turn["ended_ns"]
    before = time.time_ns()
    tracker = Tracker(settings, "models/maporl_team", "run-1", {}, {}, pytest.fail)
    tracker.episodes(1, [untimed])
    tracker.close(False, {})
    (found,) = traces_of(settings)
    moments = {moment for span in found.data.spans for moment in (span.start_time_ns, span.end_time_ns)}
    assert len(moments) == 1 and before <= moments.pop() <= time.time_ns()


def test_which_episodes_are_kept_depends_on_the_seed_and_the_episode_alone() -> None:
    episodes = [transcript(number, sample) for number in range(500) for sample in range(4)]

    def kept(seed: int, step: int, share: float) -> set[int]:
        return {n for n, episode in enumerate(episodes) if is_traced(seed, step, episode, share)}

    tenth = kept(0, 1, 0.1)
    assert 140 < len(tenth) < 260  # of 2000, 200 expected with a standard deviation of 13
    assert tenth == kept(0, 1, 0.1) and tenth < kept(0, 1, 0.5)
    assert tenth != kept(1, 1, 0.1) and tenth != kept(0, 2, 0.1)
    assert kept(0, 1, 0.0) == set() and len(kept(0, 1, 1.0)) == 2000


def test_no_episode_kept_opens_no_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "outputs", trace_share=0.0)
    Tracker(settings, "models/maporl_team", "run-1", {}, {}, pytest.fail).episodes(1, [transcript(1)])
    assert not (tmp_path / "outputs").exists()


def test_a_store_that_takes_no_traces_still_gets_the_numbers(database: Settings, tmp_path: Path) -> None:
    shutil.copyfile(database.outputs / "mlflow.db", tmp_path / "mlflow.db")
    settings = settings_in(tmp_path, trace_share=1.0)
    warned: list[str] = []
    tracker = Tracker(settings, "models/maporl_team", "run-4", {}, {}, warned.append)
    tracker.metrics(1, {"loss": 1.0})
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("DROP TABLE spans")
    connection.close()
    tracker.episodes(1, [transcript(1)])
    tracker.metrics(2, {"loss": 0.5})
    tracker.episodes(2, [transcript(2)])
    tracker.close(False, {})
    assert len(warned) == 1 and warned[0].startswith("MLflow at sqlite:") and warned[0].endswith(": going on without traces")
    assert [run.data.metrics for run in runs_of(settings, "run-4")[1]] == [{"loss": 0.5}]


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


def test_what_the_work_takes_of_the_machine_is_told_beside_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.tracking.usage.SAMPLE_SECONDS", 0.05)
    settings = settings_in(tmp_path)
    tracker = Tracker(settings, "models/planner", "run-1", PARAMS, TAGS, pytest.fail)
    held = bytearray(64 * 2**20)
    tracker.metrics(1, {"loss": 1.0})
    end = time.monotonic() + 60
    while not any(line["kind"] == "system" and line["step"] >= 2 for line in read(journals(tmp_path)[0], 0)):
        assert time.monotonic() < end
    tracker.close(False, {})
    (run,) = runs_of(settings, "run-1")[1]
    assert len(held) / 2**20 < run.data.metrics["system/system_memory_usage_megabytes"] < 100_000
    assert run.data.metrics["system/cpu_utilization_percentage"] > 1  # this test, which only looks, takes what it gets
