"""The table of work: which function makes which asset, and what its result depends on.

An asset's fingerprint is the hash of its inputs' content, the settings sections named here, and the source code of the
modules named here. While the fingerprint stands and its files are whole, the asset is reused instead of made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from medpipe.config import Settings, digest
from medpipe.job import Job, Outcome

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """One kind of work: `run` is "module:function"; `sections` and `code` are what its result depends on."""

    run: str
    sections: tuple[str, ...]
    code: tuple[str, ...]  # modules or folders below medpipe/ besides the one that holds `run`
    joint: bool = False  # `run` takes {name: job} and gives {name: outcome}: several assets in one pass

    def __call__(self, jobs: Mapping[str, Job]) -> dict[str, Outcome]:
        """Import the function and do the work of these assets, keyed by their names."""
        module, _, function = self.run.partition(":")
        run = getattr(import_module(module), function)
        return run(jobs) if self.joint else {name: run(job) for name, job in jobs.items()}

    def fingerprint(self, settings: Settings, inputs: dict[str, str], **extra: str) -> str:
        """Hash of everything the result depends on; `inputs` maps each input's key to its content hash."""
        chosen = {section: getattr(settings, section).model_dump(mode="json") for section in self.sections}
        module = self.run.partition(":")[0].removeprefix("medpipe.").replace(".", "/") + ".py"
        code = code_hash((module, "__init__.py", "schema.py", "store.py", *self.code))
        return digest({"seed": settings.seed, "settings": chosen, "inputs": inputs, "code": code, "extra": extra})


@lru_cache
def code_hash(names: tuple[str, ...]) -> str:
    """sha256 over the files named, each a file or a folder (its Python files) below medpipe/."""
    total = hashlib.sha256()
    for name in sorted(set(names)):
        path = PACKAGE / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            total.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


PEOPLE = (
    "answers.py", "roles.py", "corpus/evidence.py", "corpus/retrieval.py", "corpus/groups.py", "corpus/shingles.py", "corpus/text.py",
    "minilm.py", "models", "team",
)  # fmt: skip
"""Code on which every task depends that lets the four roles speak."""

CORPUS = ("answers.py", "roles.py", "minilm.py", "corpus")

TASKS: dict[str, Task] = {
    "source": Task("medpipe.corpus.sources:run", ("corpus",), CORPUS),
    "benchmarks": Task("medpipe.corpus.benchmarks:run", (), CORPUS),
    "clean": Task("medpipe.corpus.cleaning:run", ("corpus",), CORPUS),
    "split": Task("medpipe.corpus.splits:run", ("corpus",), CORPUS),
    "base": Task("medpipe.models.base:run", ("model",), ("answers.py", "models/tiny.py", "models/kv_cache.py", "models/tokens.py")),
    "sft": Task(
        "medpipe.training.sft:run",
        ("model", "training", "team"),
        ("training/checkpoint.py", "training/fit.py", "training/rows.py", "corpus/validation.py", *PEOPLE),
        joint=True,
    ),
    "audit": Task("medpipe.rewards.audit:run", ("rewards",), ("answers.py", "minilm.py", "rewards", "roles.py")),
    "verifier": Task(
        "medpipe.training.learned:run",
        ("model", "training", "team", "maporl"),
        ("corpus/validation.py", *PEOPLE),
    ),
    "maporl": Task(
        "medpipe.training.maporl:run",
        ("model", "team", "rewards", "maporl"),
        ("training", "rewards", "corpus/validation.py", *PEOPLE),
    ),
    "tuning": Task(
        "medpipe.tuning.study:run",
        ("model", "training", "team", "rewards", "maporl", "hardware", "tracking", "tuning"),
        ("tuning", "tasks.py", "kin.py", "training", "rewards", "corpus/validation.py", *PEOPLE),
    ),
    "benchmark": Task(
        "medpipe.evaluation.evaluate:run",
        ("corpus", "model", "team", "rewards", "evaluation"),
        ("evaluation", "corpus", "rewards", *PEOPLE),
    ),
    "leaderboard": Task("medpipe.evaluation.leaderboard:run", ("evaluation",), ("evaluation",)),
    "champion": Task(
        "medpipe.evaluation.champion:run",
        ("model", "team", "evaluation", "release", "tracking"),
        ("evaluation", "corpus", "questions.py", "registry.py", "tracking", *PEOPLE),
    ),
    "report": Task(
        "medpipe.evaluation.report:run",
        ("corpus", "model", "training", "team", "rewards", "maporl", "evaluation", "release", "hardware"),
        ("evaluation", "evaluation/report.html.jinja", "corpus", "roles.py"),
    ),
}  # fmt: skip
