"""The graph as a table: which assets there are, what each carries, how fast it loads, and which device each role claims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from medpipe.assets.models import model_assets
from medpipe.config import load_profile
from medpipe.definitions import defs
from medpipe.schema import LEARNERS, ROLES

KEYS = [
    "corpus/clean",
    "evaluation/leaderboard",
    "evaluation/medmcqa",
    "evaluation/medqa",
    "evaluation/medquad_heldout",
    "evaluation/medquad_questions_heldout",
    "evaluation/medxpertqa",
    "evaluation/mmlu_medical",
    "evaluation/own_choice",
    "evaluation/own_text",
    "evaluation/phenotypes_heldout",
    "evaluation/pubmedqa",
    "evaluation/safety",
    "evaluation/synthetic_heldout",
    "models/agent",
    "models/agent_rl",
    "models/analyst",
    "models/base",
    "models/maporl_team",
    "models/planner",
    "models/reporter",
    "models/researcher",
    "release/champion",
    "release/report",
    "rewards/audit",
    "sources/benchmarks",
    "sources/custom",
    "sources/medmcqa_train",
    "sources/medqa_train",
    "sources/medquad",
    "sources/medquad_questions",
    "sources/medtext",
    "sources/phenotypes",
    "sources/pubmedqa_train",
    "sources/synthetic",
    "splits/cotrain",
    "splits/train",
    "splits/validation",
]
MODELS = [key for key in KEYS if key.startswith(("models/", "rewards/"))]
DATA = [key for key in KEYS if key.startswith(("corpus/", "splits/"))]
HEAVY = (
    "torch", "transformers", "mlflow", "great_expectations", "pandas", "datasets", "matplotlib", "sentence_transformers", "peft", "boto3",
    "wandb", "optuna",
)  # fmt: skip
MOST_SECONDS = 3.0

LOADS = f"""
import json, sys, time
from medpipe.definitions import defs
seconds = time.process_time()  # of the processor: the clock's are other programs' too
graph = defs.resolve_asset_graph()
pools = {{key.to_user_string(): sorted(graph.get(key).pools or ()) for key in graph.get_all_asset_keys()}}
print(json.dumps({{"seconds": seconds, "heavy": [name for name in {HEAVY!r} if name in sys.modules], "pools": pools}}))
"""


def load(**environment: str) -> dict[str, Any]:
    """Load the graph in a fresh process; returns how long it took, what it imported, and each asset's pools."""
    plain = {name: value for name, value in os.environ.items() if name not in ("MEDPIPE_PROFILE", "MEDPIPE_MIRROR")}
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, env={**plain, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict[str, Any]]:
    """What the graph looks like on a machine with these GPUs visible."""
    return {gpus: load(CUDA_VISIBLE_DEVICES=gpus) for gpus in ("", "0", "0,1,2,3")}


def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def checks_of(key: str) -> list[dg.AssetCheckSpec]:
    graph = defs.resolve_asset_graph()
    return [graph.get_check_spec(check) for check in graph.asset_check_keys if check.asset_key.to_user_string() == key]


def test_the_graph_loads_in_under_three_seconds(loaded: dict[str, dict[str, Any]]) -> None:
    """The bar of `dagster dev`; the best of three, because other work on the machine only ever adds to it."""
    assert min(result["seconds"] for result in loaded.values()) < MOST_SECONDS


def test_the_graph_loads_without_anything_heavy(loaded: dict[str, dict[str, Any]]) -> None:
    assert [result["heavy"] for result in loaded.values()] == [[], [], []]


def test_the_assets_are_these() -> None:
    assert sorted(specs()) == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_an_asset_says_what_it_is_and_whose(key: str) -> None:
    spec = specs()[key]
    assert spec.group_name == key.partition("/")[0]
    assert spec.owners == ["team:medpipe"]
    assert spec.kinds
    assert spec.description and len(spec.description) > 20
    assert spec.description[0].isupper() and spec.description.rstrip()[-1] in ".)", spec.description


def test_every_check_job_sensor_and_schedule_says_what_it_is() -> None:
    repository = defs.get_repository_def()
    named: dict[str, str | None] = {f"{key}:{check.name}": check.description for key in KEYS for check in checks_of(key)}
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    named |= {each.name: each.description for each in [*jobs, *repository.sensor_defs, *repository.schedule_defs]}
    assert len(named) > 40
    assert [name for name, description in named.items() if len(description or "") < 10] == []


@pytest.mark.parametrize("key", MODELS)
def test_a_model_carries_a_blocking_check(key: str) -> None:
    assert any(check.blocking for check in checks_of(key))


@pytest.mark.parametrize("key", DATA)
def test_training_data_carries_checks_and_those_that_only_tell_are_these(key: str) -> None:
    blocking = {check.name for check in checks_of(key) if check.blocking}
    assert "schema_and_ranges" in blocking and ("no_focus_overlap" in blocking) == key.startswith("splits/")
    assert {check.name for check in checks_of(key)} - blocking <= {
        "drift", "decontaminated", "shares_by_source", "retrieval_alike", "own_rows",
    }  # fmt: skip


def test_a_source_that_cant_be_had_blocks_nothing_and_wrong_rows_do() -> None:
    for key in KEYS:
        if key.startswith("sources/"):
            checked = {"schema_and_ranges": True, "drift": False} if key != "sources/benchmarks" else {}
            assert {check.name: check.blocking for check in checks_of(key)} == {"reachable": False, **checked}


def test_benchmarks_say_that_they_are_for_evaluation_only() -> None:
    assert "evaluation only" in (specs()["sources/benchmarks"].description or "")


def test_arrows_go_from_sources_to_the_report() -> None:
    graph = defs.resolve_asset_graph()
    parents = {key: sorted(parent.to_user_string() for parent in graph.get(dg.AssetKey(key.split("/"))).parent_keys) for key in KEYS}
    assert parents["corpus/clean"] == [
        "sources/benchmarks",
        "sources/custom",
        "sources/medmcqa_train",
        "sources/medqa_train",
        "sources/medquad",
        "sources/medquad_questions",
        "sources/medtext",
        "sources/phenotypes",
        "sources/pubmedqa_train",
        "sources/synthetic",
    ]
    assert parents["sources/benchmarks"] == []
    readers = [key for key in KEYS if "sources/benchmarks" in parents[key]]
    assert readers == ["corpus/clean", *(key for key in KEYS if key.startswith("evaluation/") and key != "evaluation/leaderboard")]
    assert parents["splits/train"] == parents["splits/cotrain"] == parents["splits/validation"] == ["corpus/clean"]
    assert parents["models/base"] == []
    for learner in LEARNERS:
        assert parents[f"models/{learner}"] == ["models/base", "splits/train", "splits/validation"]
    learned_from = ["models/base", "rewards/audit", "splits/cotrain", "splits/train"]
    assert parents["models/maporl_team"] == sorted([*learned_from, *(f"models/{role}" for role in ROLES)])
    assert parents["models/agent_rl"] == sorted([*learned_from, "models/agent", "models/maporl_team"])
    assert parents["rewards/audit"] == ["splits/train"]
    assert "models/maporl_team" in parents["evaluation/medqa"]
    shown_by = ["evaluation/leaderboard", "release/champion", "release/report"]
    assert [key for key in KEYS if "evaluation/medqa" in parents[key]] == shown_by  # and never a model
    assert "evaluation/leaderboard" in parents["release/report"]


def test_a_learned_verifier_stands_in_the_graph_where_the_profile_asks_for_it() -> None:
    def parents(verifier: str) -> dict[str, list[str]]:
        assets = model_assets(load_profile("smoke", {"maporl.verifier": verifier}))
        return {key.to_user_string(): sorted(k.to_user_string() for k in a.asset_deps[key]) for a in assets for key in a.keys}

    assert "models/verifier" not in parents("medical")
    found = parents("learned")
    assert "models/verifier" in found["models/maporl_team"]
    assert found["models/verifier"] == sorted(["models/base", "splits/train", "splits/validation", *(f"models/{role}" for role in ROLES)])


def test_the_jobs_are_these_and_each_makes_its_part_of_the_graph() -> None:
    def made(name: str) -> list[str]:
        selected = defs.resolve_job_def(name).asset_layer.executable_asset_keys
        return sorted(key.to_user_string() for key in selected)

    assert [job.name for job in defs.get_repository_def().get_all_jobs() if not job.name.startswith("__")] == [
        "evaluate",
        "everything",
        "ingest",
        "release",
        "train",
    ]
    assert made("everything") == KEYS
    parts = {name: made(name) for name in ("ingest", "train", "evaluate", "release")}
    assert sorted(key for part in parts.values() for key in part) == KEYS  # each asset in one of the four
    assert parts["ingest"] == [key for key in KEYS if key.startswith(("corpus/", "sources/", "splits/"))]
    assert parts["train"] == MODELS
    assert parts["evaluate"] == [key for key in KEYS if key.startswith("evaluation/")]
    assert parts["release"] == ["release/champion", "release/report"]


def test_the_champion_is_stale_after_a_missed_week_and_fails_after_two() -> None:
    policies = {key: spec.freshness_policy for key, spec in specs().items() if spec.freshness_policy}
    assert policies == {"release/champion": dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))}


def test_nothing_starts_by_itself_until_it_is_switched_on() -> None:
    repository = defs.get_repository_def()
    stopped = {each.name: each.default_status.value for each in [*repository.sensor_defs, *repository.schedule_defs]}
    names = ("changed_inputs", "check_failures", "custom_rows", "run_failures", "weekly_retraining")
    # What starts nothing, and stops what would cost money, is on.
    assert stopped == {**dict.fromkeys(names, "STOPPED"), "orphaned_jobs": "RUNNING"}


def test_retraining_is_weekly_and_off_until_switched_on() -> None:
    schedule = defs.resolve_schedule_def("weekly_retraining")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.cron_schedule == "0 3 * * 0"
    assert schedule.execution_timezone == "UTC"
    assert schedule.job_name == "everything"


@pytest.mark.parametrize(
    ("gpus", "pools"),
    [
        ("", ["cpu"] * 4),
        ("0", ["gpu_0", "gpu_0", "gpu_0", "gpu_0"]),
        ("0,1,2,3", ["gpu_0", "gpu_1", "gpu_2", "gpu_3"]),
    ],
)
def test_each_role_claims_its_gpu_or_the_cpu(loaded: dict[str, dict[str, Any]], gpus: str, pools: list[str]) -> None:
    claimed = loaded[gpus]["pools"]
    assert [claimed[f"models/{role}"] for role in ROLES] == [[pool] for pool in pools]
    assert claimed["models/maporl_team"] == claimed["evaluation/safety"] == [pools[0]]
    assert claimed["corpus/clean"] == claimed["evaluation/leaderboard"] == []


def test_on_sagemaker_the_models_are_one_step_with_the_same_keys_and_checks() -> None:
    local, remote = (model_assets(load_profile("smoke", {"aws.launcher": place})) for place in ("local", "sagemaker"))
    keys = [{key.to_user_string() for asset in assets for key in asset.keys} for assets in (local, remote)]
    checks = [{spec.key for asset in assets for spec in asset.check_specs} for assets in (local, remote)]
    assert keys[0] == keys[1] and checks[0] == checks[1]
    assert [len(asset.keys) for asset in remote] == [1, 8]
