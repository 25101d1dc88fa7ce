"""What the tests of models, team and training share: a tiny base, small adapters on it, splits, and jobs that keep metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.job import Job
from medpipe.launch.worker import WorkReporter
from medpipe.schema import LEARNERS, QAExample, speaker_of
from medpipe_tests.valid import mark_valid

DATA = Path(__file__).parents[1] / "data"
SIZES = {"team.max_header_tokens": 360}
BUDGETS = {"planner": 20, "researcher": 22, "analyst": 24, "reporter": 24}


def tiny_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The smoke profile with room for a whole multiple-choice prompt."""
    return load_profile("smoke", {**SIZES, "team.max_new_tokens": dict(BUDGETS), **(overrides or {})})


def real_job(name: str, settings: Settings, inputs: Mapping[str, Path], root: Path) -> Job:
    """A job as the worker makes it: its reporter writes metrics.jsonl into the result."""
    out, scratch = root / name, root / "scratch" / name
    out.mkdir(parents=True)
    scratch.mkdir(parents=True)
    return Job(name, settings, dict(inputs), out, scratch, "cpu", WorkReporter(root / "log.txt", out, lambda level, text: None))


def make_base(root: Path) -> Path:
    """The finished folder of models/base in the smoke profile (ten seconds)."""
    from medpipe.models import base

    job = real_job("models/base", tiny_settings(), {}, root)
    outcome = base.run(job)
    assert all(check.passed for check in outcome.checks)
    return job.out


def make_adapters(base: Path, root: Path, activated: bool = True) -> dict[str, Path]:
    """One small adapter per learner, random and different, as the project saves them: {"models/planner": folder}."""
    import torch
    from peft import LoraConfig

    from medpipe.models import base as base_models
    from medpipe.models.adapters import AdapterModel
    from medpipe.team.transcript import Frame

    bare, tokenizer = base_models.load(base)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, base_model_name_or_path="qwen3"
    )
    model, frame = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(LEARNERS, config), activated), Frame(tokenizer)
    folders = {}
    for number, learner in enumerate(LEARNERS):
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, value in model.parameters(learner).items():
                # Small, so that the roles speak differently and still end their sentences.
                value.copy_(torch.randn(value.shape, generator=draw) * (0.02 if "lora_B" in name else 0.1))
        folders[f"models/{learner}"] = root / learner
        (root / learner).mkdir(parents=True)
        model.save_adapter(learner, root / learner, frame.invocation(speaker_of(learner)))
        store.write_json(root / learner / "training_stats.json", {"role": learner})
    return folders


def make_splits(root: Path) -> dict[str, Path]:
    """Splits of the bundled corpus by the corpus functions: 40 conditions, with the evidence index of the training rows."""
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.corpus.groups import part_of
    from medpipe.corpus.synthetic import generate, library, load_conditions

    settings = tiny_settings()
    conditions = load_conditions(DATA / "synthetic" / "conditions")[:40]
    rows = generate(conditions, seed=0, per_condition=1)
    folders = {}
    for part in ("train", "cotrain", "validation"):
        chosen = [row for row in rows if part_of(row.focus, settings.corpus, settings.seed) == part]
        folders[f"splits/{part}"] = root / part
        store.write_examples(root / part, chosen)
        mark_valid(root / part)
        if part == "train":
            EvidenceIndex.build(chosen, library(conditions)).save(root / part / "evidence")
    return folders


def text_row(number: int = 1, **changes: Any) -> QAExample:
    fields: dict[str, Any] = {
        "id": f"text-{number}", "source": "custom", "focus": "asthma", "qtype": "symptoms",
        "question": "Which signs are typical of asthma?", "answer": "Wheezing comes first. Breath gets short at night. Cough follows.",
    }  # fmt: skip
    return QAExample(**{**fields, **changes})


def choice_row(number: int = 1, **changes: Any) -> QAExample:
    fields: dict[str, Any] = {
        "id": f"choice-{number}", "source": "custom", "focus": "asthma", "qtype": "diagnosis",
        "question": "A person wheezes at night and coughs after running. Which condition fits best?",
        "options": ("gout", "asthma", "migraine", "eczema"), "answer": "B", "rationale": "Wheezing at night points to asthma.",
    }  # fmt: skip
    return QAExample(**{**fields, **changes})
