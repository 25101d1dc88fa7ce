"""Supervised fine-tuning of the roles that live on one device, in one pass over the transcripts; loss on their own turns only.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/planner`. What a role learns stands in
medpipe/roles.py, the loop in medpipe/training/fit.py. Beside the four roles learns one agent that answers alone from the same
evidence: what the team has to beat. A run that was killed goes on from its newest whole checkpoint and ends with the same bytes on
a CPU. Left out: several devices for one role.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from medpipe import store
from medpipe.config import Settings, Training
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, weights_hash
from medpipe.models.kv_cache import Reading
from medpipe.schema import CheckResult, Learner, QAExample, speaker_of
from medpipe.team.transcript import Frame
from medpipe.training.fit import Fitted, fit, peak_memory_mib
from medpipe.training.rows import Lesson, make_lesson, optimizer_steps

VALIDATION_ROWS = 8


def run(jobs: Mapping[str, Job]) -> dict[str, Outcome]:
    """Fine-tune the learners named by the jobs, which share inputs, settings, scratch folder and device.

    Raises:
        MedpipeError: a split is not known to be valid, lora_layers is too high, or the training stopped (see `fit`).
    """
    by_learner: dict[Learner, Job] = {cast(Learner, name.partition("/")[2]): job for name, job in jobs.items()}
    learners: list[Learner] = list(by_learner)
    job = by_learner[learners[0]]
    for split in ("splits/train", "splits/validation"):
        require_valid(job.inputs[split], split)
    settings, seed = job.settings.training, job.settings.seed
    bare, tokenizer = base.load(job.inputs["models/base"], job.device, job.settings.model)
    base_before = weights_hash(dict(bare.named_parameters()))
    index, frame = EvidenceIndex.load(job.inputs["splits/train"] / "evidence"), Frame(tokenizer)
    chosen = pick(store.read_examples(job.inputs["splits/train"]), settings.max_examples, settings.choice_share, seed)
    held = pick(store.read_examples(job.inputs["splits/validation"]), VALIDATION_ROWS, settings.choice_share, seed)
    rows = make_lessons(chosen, index, learners, frame, job.settings, training=True)
    held_rows = make_lessons(held, index, learners, frame, job.settings)
    steps = optimizer_steps(rows, settings.batch_size * settings.gradient_accumulation, settings.epochs, f"{seed}/sft")
    job.report.log(
        f"{', '.join(learners)}: {len(rows)} rows, {settings.epochs} epochs, {len(steps)} steps, on {job.device}; "
        f"{len(held_rows)} validation rows"
    )
    config = adapter_config(bare, settings, job.settings.model.name)
    model = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(learners, config), settings.adapter == "activated")
    start = {learner: weights_hash(model.parameters(learner)) for learner in learners}
    reading = model.read([lesson.tokens for lesson in held_rows]) if model.activated else None  # the base's: once for both looks
    before = mean_losses(model, learners, held_rows, reading)
    fitted = fit(model, learners, steps, settings, job.scratch, {learner: own.report for learner, own in by_learner.items()})
    after = mean_losses(model, learners, held_rows, reading)
    frozen = {n.replace("base_layer.", ""): p for n, p in model.base.named_parameters() if "lora_" not in n}
    unchanged = weights_hash(frozen) == base_before
    out = {}
    for learner, own in by_learner.items():
        moved = weights_hash(model.parameters(learner)) != start[learner]
        model.save_adapter(learner, own.out, frame.invocation(speaker_of(learner)))
        tokenizer.save_pretrained(own.out)
        losses = before[learner], after[learner]
        out[f"models/{learner}"] = _outcome(learner, own, model, rows, fitted, losses, moved, unchanged, len(held_rows))
    return out


def make_lessons(
    rows: Sequence[QAExample], index: EvidenceIndex, learners: Sequence[Learner], frame: Frame, settings: Settings, training: bool = False
) -> list[Lesson]:
    """The rows as transcripts, with the evidence that a held-out row would be shown.

    Args:
        training: the rows are those that the index was made from: their own text, and that on their focus, is hidden.
    """
    team = settings.team
    found = index.for_questions(rows, team.evidence_passages, team.evidence_chars, training=training)
    evidence = [[passage.text for passage in passages] for passages in found]
    return [make_lesson(row, passages, learners, frame, settings) for row, passages in zip(rows, evidence, strict=True)]


def mean_losses(
    model: AdapterModel, learners: Sequence[Learner], lessons: Sequence[Lesson], reading: Reading | None
) -> dict[Learner, float]:  # fmt: skip
    """Mean over rows of each learner's loss per token, nats.

    Args:
        reading: of the lessons' tokens, by the bare base; None for whole-sequence adapters, which read for themselves.
    """
    out: dict[Learner, float] = {}
    for learner in learners:
        turns = [lesson.turns[learner] for lesson in lessons]
        found = model.sum_logps(learner, turns, VALIDATION_ROWS, reading)
        out[learner] = -sum(total / len(turn.completion) for total, turn in zip(found, turns, strict=True)) / len(lessons)
    return out


def adapter_config(model: Any, settings: Training, base_name: str) -> Any:
    """peft's configuration of an adapter on all linear layers of the model, or of its last `lora_layers` layers."""
    from peft import LoraConfig

    layers = model.get_decoder().layers
    if settings.lora_layers > len(layers):
        raise MedpipeError(
            got=f"training.lora_layers = {settings.lora_layers}", expected=f"at most {len(layers)}, the model's layers",
            where="the profile", do="lower it",
        )  # fmt: skip
    # Only layers from the first adapted one on need a backward pass.
    chosen = list(range(len(layers) - settings.lora_layers, len(layers))) if settings.lora_layers else None
    names = sorted({name.rpartition(".")[2] for name, module in layers.named_modules() if isinstance(module, torch.nn.Linear)})
    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, task_type="CAUSAL_LM",
        target_modules=names, layers_to_transform=chosen, base_model_name_or_path=base_name,
    )  # fmt: skip


def pick(rows: Sequence[QAExample], count: int, choice_share: float, seed: int) -> list[QAExample]:
    """A seeded sample with this share of multiple choice, spread evenly over the sources, as far as the rows allow."""
    kinds: dict[tuple[str, bool], list[QAExample]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        kinds.setdefault((row.source, row.is_choice), []).append(row)
    for key, group in kinds.items():
        random.Random(f"{seed}/{key}").shuffle(group)
    choice = [group for (_, is_choice), group in sorted(kinds.items()) if is_choice]
    text = [group for (_, is_choice), group in sorted(kinds.items()) if not is_choice]
    wanted = round(count * choice_share) if choice and text else count
    picked = _round_robin(choice, wanted)
    return picked + _round_robin(text, count - len(picked))


def _round_robin(groups: Sequence[Sequence[QAExample]], count: int) -> list[QAExample]:
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)][:count]


def _outcome(
    learner: Learner, job: Job, model: AdapterModel, rows: Sequence[Lesson], fitted: Fitted, losses: tuple[float, float], moved: bool,
    base_unchanged: bool, held: int,
) -> Outcome:  # fmt: skip
    from medpipe.evaluation.plots import training_curves

    curve, (before, after) = fitted.losses(learner), losses
    stats = {
        "role": learner, "rows": len(rows), "epochs": job.settings.training.epochs, "steps": len(curve), "tokens": fitted.tokens,
        "seconds": round(fitted.seconds, 1), "tokens_per_second": round(fitted.tokens / fitted.seconds, 1),
        "first_loss": round(curve[0], 4), "last_loss": round(curve[-1], 4), "adapter": job.settings.training.adapter,
        "precision": str(model.base.dtype).removeprefix("torch."), "peak_memory_mib": round(peak_memory_mib()),
        "resumed_from_steps": ", ".join(map(str, fitted.resumed_from)) or "never interrupted",
        "validation_loss_before": round(before, 4), "validation_loss_after": round(after, 4), "device": job.device,
        "trainable_parameters": sum(value.numel() for value in model.parameters(learner).values()),
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", stats)
    training_curves(learner, store.read_jsonl(job.out / "metrics.jsonl"), job.out / "plots" / "loss.png")
    turn = rows[0].turns[learner]
    shown = [*turn.context, *turn.invocation]
    example = [{"reads": model.tokenizer.decode(shown), "says": model.tokenizer.decode(list(turn.completion))}]
    alt = f"training loss of the {learner} by step, from {curve[0]:.2f} to {curve[-1]:.2f}, and its learning rate"
    checks = (
        CheckResult(name="adapter_moved_base_frozen", passed=moved and base_unchanged,
                    description="the adapter's weights changed and not one bit of the base's did",
                    values={"adapter_moved": moved, "base_unchanged": base_unchanged}),
        CheckResult(name="validation_loss_fell", passed=after < before, severity="warn",
                    description="loss on validation rows, before and after",
                    values={"before": round(before, 4), "after": round(after, 4), "rows": held}),
    )  # fmt: skip
    return Outcome({**stats, "loss": {"image": "plots/loss.png", "alt": alt}, "example": {"table": example}}, checks)
