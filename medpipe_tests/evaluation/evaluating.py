"""An evaluation of a tiny team as a process of its own, so that a test can kill it; and what such an evaluation reads.

    python -m medpipe_tests.evaluation.evaluating <folder> '{"models/base": "…", …}'

It says every step of its progress on a line. Left out: the worker around it (medpipe_tests/launch).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.evaluation.systems import ADAPTERS
from medpipe.job import Job, Outcome, scoped
from medpipe.schema import LETTERS, QAExample
from medpipe_tests.conftest import Collected

NAME = "medqa"
QUESTIONS = 5
SECTIONS = ("corpus", "model", "team", "rewards", "evaluation")
BUDGETS = {"planner": 12, "researcher": 14, "analyst": 16, "reporter": 20}
SETTINGS: dict[str, Any] = {"evaluation.batch_size": 3, "evaluation.max_questions": QUESTIONS, "evaluation.coalitions": 2}
CONDITIONS = ("stroke", "asthma", "diabetes", "infection")
LIBRARY = [
    {"id": f"library-{number}", "title": name, "text": f"{name.capitalize()} is known for {signs}. It can come at any age."}
    for number, (name, signs) in enumerate(
        zip(CONDITIONS, ("sudden weakness of a side", "wheezing at night", "thirst and weight loss", "fever and chills"), strict=True)
    )
]
"""A passage on each of the options."""


class Aloud(Collected):
    """Says its progress."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        print(f"{text} {done}/{total}", flush=True)


def small(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The smoke profile with short messages."""
    return load_profile("smoke", {"team.max_header_tokens": 360, "team.max_new_tokens": dict(BUDGETS), **SETTINGS, **(overrides or {})})


def choice(number: int, **changes: Any) -> QAExample:
    """A question with four conditions as options."""
    fields: dict[str, Any] = {
        "id": f"choice-{number}", "source": NAME, "focus": "asthma", "qtype": ("diagnosis", "treatment")[number % 2],
        "question": f"Case {number}: wheezing at night after a run. Which condition fits best?", "options": CONDITIONS,
        "answer": LETTERS[number % 4],
    }  # fmt: skip
    return QAExample(**{**fields, **changes})


def text(number: int, **changes: Any) -> QAExample:
    """A free-text question."""
    fields: dict[str, Any] = {
        "id": f"text-{number}", "source": "medquad", "focus": "asthma", "qtype": "symptoms", "answer": "Wheezing comes first.",
        "question": "Which signs are typical of asthma?",
    }  # fmt: skip
    return QAExample(**{**fields, **changes})


def make_inputs(root: Path, activated: bool = True, base: Path | None = None) -> dict[str, Path]:
    """What an evaluation reads: four-option questions with a library, a base, and a random adapter for everyone who can speak."""
    from medpipe.corpus.evidence import EvidenceIndex

    store.write_examples(root / "benchmarks", [choice(number) for number in range(QUESTIONS)])
    store.write_json(root / "benchmarks" / "benchmarks.json", {NAME: {"status": "ok", "title": NAME}})
    EvidenceIndex.build([text(9, source="custom")], LIBRARY).save(root / "train" / "evidence")
    store.write_examples(root / "train", [text(9, source="custom")])
    store.write_examples(root / "cotrain", [text(8, source="custom", question="What helps against asthma?")])
    made = {"sources/benchmarks": root / "benchmarks", "splits/train": root / "train", "splits/cotrain": root / "cotrain"}
    made["models/base"] = base or make_base(root / "base")
    made |= {key: root / key for key, _ in ADAPTERS.values()}
    make_adapters(made["models/base"], {name: made[key] / folder for name, (key, folder) in ADAPTERS.items()}, activated)
    return made


def make_base(folder: Path) -> Path:
    """The tiny model as models/base leaves it."""
    from medpipe.models import tiny
    from medpipe.models.base import CHATML

    model, tokenizer = tiny.make(CHATML)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapters(base: Path, folders: Mapping[str, Path], activated: bool) -> None:
    """Random adapters, each another, that leave the model its sentences."""
    import torch

    from medpipe.models import base as base_models
    from medpipe.models.adapters import AdapterModel
    from medpipe.team.transcript import Frame
    from medpipe.training.sft import adapter_config

    bare, tokenizer = base_models.load(base)
    config = adapter_config(bare, small().training, "qwen3")
    model = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(folders, config), activated)
    generator = torch.Generator().manual_seed(0)
    for name, folder in folders.items():
        with torch.no_grad():
            for key, value in model.parameters(name).items():
                if "lora_B" in key:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_adapter(name, folder, Frame(tokenizer).invocation("reporter"))


def job_of(root: Path, inputs: Mapping[str, Path], settings: Settings | None = None, reporter: Collected | None = None) -> Job:
    """The evaluation's job; its result lies in `root`/out, and what survives a kill in `root`/scratch."""
    for folder in ("out", "scratch"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    chosen = scoped(settings or small(), SECTIONS)
    return Job(f"evaluation/{NAME}", chosen, inputs, root / "out", root / "scratch", "cpu", reporter or Collected())


def evaluate(root: Path, inputs: Mapping[str, Path], settings: Settings | None = None, reporter: Collected | None = None) -> Outcome:
    """Run it."""
    from medpipe.evaluation import evaluate as evaluation

    return evaluation.run(job_of(root, inputs, settings, reporter))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    evaluate(Path(sys.argv[1]), {key: Path(path) for key, path in json.loads(sys.argv[2]).items()}, reporter=Aloud())
