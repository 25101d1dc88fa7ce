"""Co-training for real on a tiny team: two iterations, what moves, what is measured, and that a seed decides all of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from medpipe import store
from medpipe.job import Job, Outcome
from medpipe.models.policy import Policies
from medpipe.schema import ROLES
from medpipe.training import maporl
from medpipe.training.learned import LearnedVerifier
from medpipe_tests.tiny_team import real_job, tiny_settings

PROMISED = {
    "reward/team", "reward/accuracy", "reward/relevance", "reward/safety", "reward/collaboration", "reward/evidence", "reward/reasoning",
    "return/planner", "return/researcher", "return/analyst", "return/reporter", "kl", "entropy", "clip_fraction", "malformed",
    "mean_length", "distinct_2", "answer_accuracy", "tokens_per_second",
}  # fmt: skip

Run = tuple[Job, Outcome]


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_adapters: dict[str, Path], tiny_splits: dict[str, Path]) -> dict[str, Path]:
    return {"models/base": tiny_base, **tiny_adapters, **tiny_splits}


def co_train(inputs: dict[str, Path], root: Path, seed: int = 0) -> Run:
    sizes = {"maporl.iterations": 2, "maporl.questions_per_iteration": 2, "maporl.samples_per_question": 3}
    job = real_job("models/maporl_team", tiny_settings({"seed": seed, "paths.outputs": str(root / "outputs"), **sizes}), inputs, root)
    return job, maporl.run(job)


@pytest.fixture(scope="module")
def before(inputs: dict[str, Path]) -> dict[str, dict[str, str]]:
    """Content of every input before the training."""
    return {key: store.hash_tree(folder) for key, folder in inputs.items()}


@pytest.fixture(scope="module")
def ran(inputs: dict[str, Path], before: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return co_train(inputs, tmp_path_factory.mktemp("maporl"))


def adapters(job: Job) -> dict[str, str]:
    return {role: store.sha256_file(job.out / role / "adapter_model.safetensors") for role in ROLES}


def test_every_role_moves_and_nothing_else_does(ran: Run, inputs: dict[str, Path], before: dict[str, dict[str, str]]) -> None:
    job, outcome = ran
    checks = {check.name: check for check in outcome.checks}
    assert checks["weights_moved_base_frozen"].passed and checks["weights_moved_base_frozen"].values["rest_unchanged"] is True
    assert checks["on_policy"].passed and checks["on_policy"].values["enforced"] is True
    for role, made in adapters(job).items():
        assert made != before[f"models/{role}"]["adapter_model.safetensors"]
    assert {key: store.hash_tree(folder) for key, folder in inputs.items()} == before
    assert min(store.read_json(job.out / "training_stats.json")["moved"].values()) > 0


def test_every_iteration_measures_what_is_promised(ran: Run) -> None:
    measured = store.read_jsonl(ran[0].out / "metrics.jsonl")
    assert [row["step"] for row in measured] == [1, 2]
    for row in measured:
        assert set(row) >= PROMISED
        assert all(math.isfinite(row[name]) for name in PROMISED)
        assert all(
            0 <= row[name] <= 1 for name in PROMISED if name.startswith("reward/") or name in ("malformed", "distinct_2", "clip_fraction")
        )
        assert row["on_policy_gap"] < 1e-3 and row["entropy"] > 0
    assert measured[0]["kl"] < 1e-6  # at first, policy and reference are one
    assert measured[1]["kl"] > measured[0]["kl"]


def test_a_folder_per_role_is_written_without_pickle_or_paths(ran: Run) -> None:
    job, outcome = ran
    names = {path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file()}
    assert names >= {f"{role}/{file}" for role in ROLES for file in ("adapter_model.safetensors", "adapter_config.json")}
    assert names >= {"metrics.jsonl", "examples.json", "training_stats.json", "plots/reward.png", "tokenizer.json"}
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".jsonl", ".jinja", ".png"}
    written = [job.out / name for name in names if Path(name).suffix in (".json", ".jsonl", ".jinja")]
    assert not [path.name for path in written if str(job.out.parents[2]) in path.read_text(encoding="utf-8")]
    configs = [store.read_json(job.out / role / "adapter_config.json") for role in ROLES]
    assert {config["base_model_name_or_path"] for config in configs} == {"qwen3"}
    assert outcome.metadata["episodes_per_iteration"] == 6


def test_examples_show_the_whole_team_at_work(ran: Run) -> None:
    told = store.read_json(ran[0].out / "examples.json")
    assert [len(told[name]) for name in ("before", "after")] == [2, 2]
    assert [episode["question"] for episode in told["before"]] == [episode["question"] for episode in told["after"]]
    for episode in (*told["before"], *told["after"]):
        assert [turn["role"] for turn in episode["turns"][:4]] == list(ROLES)
        assert all(0 <= turn["value"] <= 1 for turn in episode["turns"])


def test_a_learned_verifier_scores_multiple_choice_and_does_not_move(inputs: dict[str, Path], tmp_path: Path) -> None:
    sizes = {"maporl.verifier": "learned", "maporl.iterations": 1, "maporl.choice_share": 1.0}
    settings = tiny_settings({"paths.outputs": str(tmp_path / "outputs"), **sizes})
    judge = tmp_path / "verifier"
    policies = Policies.load(inputs["models/base"], {"planner": inputs["models/planner"]})
    LearnedVerifier.fresh(policies, settings).save(judge)  # it has learned nothing: 0.5 for every message that can be read
    before = store.hash_tree(judge)
    job = real_job("models/maporl_team", settings, {**inputs, "models/verifier": judge}, tmp_path)
    outcome = maporl.run(job)
    assert outcome.metadata["verifier"] == "learned" and store.hash_tree(judge) == before
    episodes = store.read_json(job.out / "examples.json")["before"]
    turns = [turn for episode in episodes if episode["question"]["options"] for turn in episode["turns"]]
    assert turns and all(turn["value"] == (0.0 if turn["malformed"] else 0.5) for turn in turns)


def test_the_seed_decides_everything(ran: Run, inputs: dict[str, Path], tmp_path: Path) -> None:
    again, _ = co_train(inputs, tmp_path)
    assert adapters(again) == adapters(ran[0])
    volatile = {"time", "seconds", "tokens_per_second"}
    one, other = (
        [{name: value for name, value in row.items() if name not in volatile} for row in store.read_jsonl(job.out / "metrics.jsonl")]
        for job in (ran[0], again)
    )
    assert one == other
