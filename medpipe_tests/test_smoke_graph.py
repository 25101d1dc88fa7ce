"""The whole graph on the tiny profile, made by Dagster's own command, offline; then again by `medpipe run`, which reuses it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medpipe import store
from medpipe.evaluation.labels import SYSTEMS
from medpipe.schema import LEARNERS, ROLES, Manifest
from medpipe.tracking.mlflow_sink import PARENT_TAG
from medpipe_tests.operations.processes import dagster_of, make_workspace

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"  # nothing listens there: the same with and without a network
VARIABLES = ("MEDPIPE_MIRROR", "DAGSTER_HOME", "NO_PROXY", "no_proxy", "CUDA_VISIBLE_DEVICES")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in VARIABLES},
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), NOWHERE),
    "MEDPIPE_PROFILE": "smoke",
    "CUDA_VISIBLE_DEVICES": "",
}
NARROWER = ("--set", "evaluation.max_questions=3")
FIELDS = {"id", "question", "answer", "category", "source", "difficulty"}
RAN = ["evaluation/phenotypes_heldout", "evaluation/safety", "evaluation/synthetic_heldout"]
NOT_RUN = [
    f"evaluation/{name}"
    for name in ("medmcqa", "medqa", "medquad_heldout", "medquad_questions_heldout", "medxpertqa", "mmlu_medical", "pubmedqa")
]
EMPTY = ["evaluation/own_choice", "evaluation/own_text"]
"""The user named no file: finished, and nobody was asked."""
TRACKED = sorted(["models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl", *RAN, *EMPTY])


@dataclass(frozen=True)
class Run:
    """One run of the graph: how it ended, and the manifests that stood afterwards."""

    folder: Path
    done: subprocess.CompletedProcess[str]
    made: dict[str, Manifest]
    run_id: str

    def read(self, name: str) -> Any:
        return store.read_json(self.folder / name)


def carry_out(folder: Path, *command: str) -> Run:
    environment = {**ENVIRONMENT, "DAGSTER_HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    outputs = folder / "outputs"
    paths = sorted(outputs.glob(f"*/*/{store.MANIFEST}"))  # behind the links of what was made or used last
    found = {path.parent.relative_to(outputs).as_posix(): store.read_manifest(path.parent) for path in paths}
    with dagster_of(folder) as instance:
        run_id = instance.get_runs(limit=1)[0].run_id
    return Run(folder, done, {key: manifest for key, manifest in found.items() if manifest}, run_id)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every asset, made in a fresh workspace by Dagster's own command."""
    folder = make_workspace(tmp_path_factory.mktemp("workspace"))
    return carry_out(folder, sys.executable, "-m", "dagster", "asset", "materialize", "-m", "medpipe.definitions", "--select", "*")


@pytest.fixture(scope="module")
def narrower(graph: Run) -> Run:
    """The same graph with one setting of the evaluation changed, by the project's own command."""
    return carry_out(graph.folder, str(Path(sys.executable).with_name("medpipe")), "run", "--profile", "smoke", *NARROWER)


@pytest.fixture(scope="module")
def unchanged(narrower: Run) -> Run:
    """The same again with nothing changed."""
    return carry_out(narrower.folder, str(Path(sys.executable).with_name("medpipe")), "run", "--profile", "smoke", *NARROWER)


@pytest.fixture(scope="module")
def instance(graph: Run) -> Iterator[dg.DagsterInstance]:
    with dagster_of(graph.folder) as found:
        yield found


def test_every_folder_is_finished_and_whole(graph: Run) -> None:
    assert len(graph.made) == 38
    for key, manifest in graph.made.items():
        assert store.damaged_files(graph.folder / "outputs" / key, manifest) == []
        assert [check.name for check in manifest.checks if check.severity == "error" and not check.passed] == (
            ["reachable"] if key in ("sources/medquad", "sources/medquad_questions", "sources/medtext") else []
        )


def test_the_corpus_files_have_their_fields_and_the_summary_its_numbers(graph: Run) -> None:
    rows = {
        part: store.read_jsonl(graph.folder / "data" / f"medxpert_{part}.jsonl") for part in ("train", "cotrain", "validation", "complete")
    }
    for part in rows.values():
        assert part
        assert all(set(row) >= FIELDS for row in part)
    summary = graph.read("data/dataset_summary.json")
    assert {"total_samples", "categories", "sources", "difficulty_levels", "training_samples", "validation_samples"} <= set(summary)
    assert summary["total_samples"] == len(rows["complete"]) == sum(len(rows[part]) for part in ("train", "cotrain", "validation"))
    assert (summary["training_samples"], summary["validation_samples"]) == (len(rows["train"]), len(rows["validation"]))
    assert sum(summary["categories"].values()) == sum(summary["difficulty_levels"].values()) == summary["total_samples"]
    assert set(summary["sources"]) == {"phenotypes", "synthetic"}
    ids = {part: {row["id"] for row in rows[part]} for part in rows}
    assert not ids["train"] & ids["validation"] and not ids["cotrain"] & (ids["train"] | ids["validation"])
    assert ids["train"] | ids["cotrain"] | ids["validation"] == ids["complete"]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_its_adapter_tokenizer_statistics_and_log(graph: Run, role: str) -> None:
    folder = graph.folder / "outputs" / "models" / role
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "training_stats.json", "training_logs.txt"):
        assert (folder / name).stat().st_size > 0, name
    assert len({(graph.folder / "outputs" / "models" / other / "adapter_model.safetensors").read_bytes() for other in ROLES}) == 4
    assert store.read_jsonl(folder / "metrics.jsonl")


def test_training_results_sum_up_the_four_roles_and_the_team(graph: Run) -> None:
    results = graph.read("outputs/training_results.json")
    assert set(results["roles"]) == set(ROLES)
    for role in ROLES:
        assert results["roles"][role] == graph.read(f"outputs/models/{role}/training_stats.json")
        assert results["maporl_team"]["moved"][role] > 0.0
    assert results["maporl_team"]["iterations"] == 2
    rewards = [row["reward/team"] for row in store.read_jsonl(graph.folder / "outputs/models/maporl_team/metrics.jsonl")]
    assert len(rewards) == 2


def test_the_report_is_one_page_with_the_notice(graph: Run) -> None:
    page = (graph.folder / "outputs" / "report.html").read_text(encoding="utf-8")
    assert "medical advice" in page
    assert page.rstrip().endswith("</html>")
    assert 'src="http' not in page  # nothing that a page without a network would lack


def test_the_leaderboard_compares_the_systems_and_says_what_did_not_run_and_why(graph: Run) -> None:
    board = graph.read("outputs/evaluation/leaderboard/leaderboard.json")
    assert {row["benchmark"] for row in board["rows"]} == {key.partition("/")[2] for key in RAN}
    for name in RAN:
        assert [row["system"] for row in board["rows"] if name.endswith(row["benchmark"])] == list(SYSTEMS)
    for row in board["rows"]:
        assert row["n"] == 4
        assert 0.0 <= row["low"] <= row["mean"] <= row["high"] <= 1.0
    assert sorted(f"evaluation/{row['benchmark']}" for row in board["not_run"]) == NOT_RUN
    assert all(len(row["reason"]) > 20 for row in board["not_run"])


def test_a_benchmark_that_cant_be_had_is_empty_and_says_why(graph: Run, instance: dg.DagsterInstance) -> None:
    def materialised(key: str) -> bool:
        return instance.get_latest_materialization_event(dg.AssetKey(key.split("/"))) is not None

    assert [key for key in sorted(graph.made) if not materialised(key)] == []
    for key in NOT_RUN:
        assert graph.made[key].status == "unreachable"
        assert graph.made[key].reason
        assert list((graph.folder / "outputs" / key).iterdir()) == [graph.folder / "outputs" / key / store.MANIFEST]


def test_dagster_knows_the_outcome_of_every_check(graph: Run, instance: dg.DagsterInstance) -> None:
    records = instance.get_records_for_run(graph.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in records]
    outcomes = [(data.asset_key.to_user_string(), data.passed) for data in (event.asset_check_evaluation_data for event in events if event)]
    failed = {key for key, passed in outcomes if not passed}
    assert {key for key in failed if key.startswith("sources/")} == {
        "sources/medquad", "sources/medquad_questions", "sources/medtext", "sources/benchmarks",
    }  # fmt: skip
    # What can't be had is not available; a model that was taught nothing is not above chance and keeps no format.
    assert set(NOT_RUN) <= {key for key in failed if key.startswith("evaluation/")} <= {*NOT_RUN, *RAN}
    # Not decontaminated against what can't be had; a loss that rose; attacks that no gate was tuned on.
    only_warn = {"corpus/clean", "rewards/audit", "splits/train", *(f"models/{learner}" for learner in LEARNERS)}
    assert "corpus/clean" in failed
    assert {key for key in failed if not key.startswith(("sources/", "evaluation/"))} <= only_warn
    checked = ("corpus/clean", "splits/train", "splits/validation", "models/base", "models/maporl_team")
    assert set(checked) <= {key for key, passed in outcomes if passed}


def test_an_assets_page_has_metadata_that_a_person_wants_to_see(graph: Run, instance: dg.DagsterInstance) -> None:
    event = instance.get_latest_materialization_event(dg.AssetKey(["corpus", "clean"]))
    assert event is not None and event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert {"rows", "funnel", "samples", "categories", "folder", "config_hash", "commit", "reused"} <= set(metadata)
    assert event.asset_materialization.tags is not None
    assert event.asset_materialization.tags["dagster/data_version"] == graph.made["corpus/clean"].sha256


def test_mlflow_has_one_parent_and_a_nested_run_for_each_model_and_evaluation(graph: Run) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{graph.folder}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("medpipe-smoke")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], filter_string=f"tags.`{PARENT_TAG}` = '{graph.run_id}'"))
    assert len(runs) == 1
    parent = runs[0].info.run_id
    nested = list(client.search_runs([experiment.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'"))
    named = {str(run.info.run_name): run for run in nested}
    assert sorted(named) == TRACKED
    assert len(nested) == len(TRACKED)
    for key, run in named.items():
        assert run.info.status == "FINISHED"
        assert run.data.params and run.data.metrics
        assert run.data.tags["medpipe.fingerprint"] == graph.made[key].fingerprint
        assert {name: run.data.tags[f"medpipe.input.{name}"] for name in graph.made[key].inputs} == graph.made[key].inputs


def test_each_result_names_the_very_inputs_it_was_made_from(graph: Run) -> None:
    for key, manifest in graph.made.items():
        for name, sha256 in manifest.inputs.items():
            assert sha256 == graph.made[name].sha256, f"{key} was made from another {name}"


def test_nothing_can_hide_code_in_a_pickle_and_nothing_half_made_is_left(graph: Run) -> None:
    outputs = graph.folder / "outputs"
    assert [path for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle") for path in outputs.rglob(pattern)] == []
    assert [path for pattern in ("*.tmp", ".*.partial", ".*.previous") for path in graph.folder.rglob(pattern)] == []
    assert list((outputs / "scratch").iterdir()) == []


REMADE = {*RAN, *EMPTY, "evaluation/leaderboard", "release/champion", "release/report"}
TRIED_AGAIN = {"sources/medquad", "sources/medquad_questions", "sources/medtext", "sources/benchmarks", *NOT_RUN}
"""What could not be had is asked for in every run."""


def test_one_changed_setting_redoes_only_what_depends_on_it(graph: Run, narrower: Run) -> None:
    assert set(narrower.made) == set(graph.made)
    same = {key for key in graph.made if narrower.made[key] == graph.made[key]}
    assert same == set(graph.made) - REMADE - TRIED_AGAIN
    for key in TRIED_AGAIN | same:
        assert narrower.made[key].sha256 == graph.made[key].sha256
    rows = narrower.read("outputs/evaluation/leaderboard/leaderboard.json")["rows"]
    assert {row["n"] for row in rows} == {3}


def test_a_run_with_nothing_changed_makes_nothing_new(narrower: Run, unchanged: Run) -> None:
    assert {key for key in narrower.made if unchanged.made[key] != narrower.made[key]} <= TRIED_AGAIN
    for key, manifest in narrower.made.items():
        assert unchanged.made[key].sha256 == manifest.sha256


def test_the_terminal_shows_short_lines_and_the_leaderboard_at_the_end(narrower: Run, unchanged: Run) -> None:
    for run in (narrower, unchanged):
        assert "Traceback" not in run.done.stdout + run.done.stderr
        assert "BetaWarning" not in run.done.stderr
        assert "DEBUG" not in run.done.stderr
        assert "outputs/report.html" in run.done.stdout
        assert "Synthetic, held-out conditions" in run.done.stdout
    assert "models/planner is unchanged: made" in unchanged.done.stderr
    assert "not medical advice" in unchanged.done.stdout
