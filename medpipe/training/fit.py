"""The loop of fine-tuning: several adapters on one device learn from the same transcripts, each from its own turns.

    fitted = fit(model, ("planner", "reporter"), steps, settings, scratch, reports)

A pass reads its transcripts once, by the bare base; then each learner's turns are scored behind what was read, with gradients
through the turns alone (with whole-sequence adapters each learner reads for itself). The learners share no weight: each has its own
optimizer, and ends with the same bytes whoever learns beside it. A training that was killed goes on from its newest whole
checkpoint. Left out: several devices for one role; gradient scaling, as no weight that learns is kept in half precision.
"""

from __future__ import annotations

import math
import random
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medpipe.config import Training
from medpipe.errors import MedpipeError
from medpipe.job import Reporter
from medpipe.models.adapters import AdapterModel
from medpipe.schema import Learner
from medpipe.training.checkpoint import Checkpoint, Checkpoints, asked_to_stop, join_optimizer, split_optimizer
from medpipe.training.rows import Lesson, passes

MIB = 2**20


@dataclass
class Fitted:
    """What a training went through, over all its interruptions."""

    metrics: list[dict[str, dict[str, float]]] = field(default_factory=list)  # a step's numbers by learner
    seconds: float = 0.0  # of steps, without loading and without what was lost to an interruption
    tokens: int = 0  # useful ones, read or learned: padding is not counted, and what several learners share counts once
    budget: int = 0  # tokens of a pass, lowered where memory ran out
    resumed_from: list[int] = field(default_factory=list)

    def losses(self, learner: Learner) -> list[float]:
        """Nats per completion token, one a step."""
        return [step[learner]["loss"] for step in self.metrics]


def fit(
    model: AdapterModel, learners: Sequence[Learner], steps: Sequence[list[Lesson]], settings: Training, scratch: Path,
    reports: Mapping[Learner, Reporter],
) -> Fitted:  # fmt: skip
    """Train the learners' adapters, going on from the newest whole checkpoint in the scratch folder.

    Raises:
        MedpipeError: a loss or a gradient is no number or too high, memory does not suffice for one row, or SIGTERM came
            (then a checkpoint was written first).
    """
    first = reports[learners[0]]
    checkpoints = Checkpoints(scratch / "checkpoints", first.warn)
    weights: dict[Learner, list[Any]] = {learner: list(model.parameters(learner).values()) for learner in learners}
    optimizers: dict[Learner, torch.optim.Optimizer] = {
        learner: torch.optim.AdamW(weights[learner], lr=settings.learning_rate, weight_decay=0.0) for learner in learners
    }
    fitted, saved = Fitted(budget=settings.tokens_per_pass), time.monotonic()
    newest = checkpoints.newest()
    if newest:
        _load(newest, model, optimizers, fitted)
        for learner in learners:  # the log of the interrupted attempt is gone with its unfinished folder
            for number, step in enumerate(fitted.metrics, 1):
                reports[learner].metrics(number, step[learner])
        first.log(f"going on after step {newest.step}, from {newest.folder}")
    model.model.train()  # dropout within adapters, where there is any
    with asked_to_stop() as asked:
        for number in range(len(fitted.metrics), len(steps)):
            started = time.monotonic()
            rate = settings.learning_rate * schedule(number, len(steps), settings.warmup_share)
            where = f"fine-tuning, step {number + 1}"
            losses = _step(model, learners, steps[number], settings, fitted, first, where)
            norms = _move(optimizers, weights, rate, settings.gradient_clip, where, settings)
            seconds = time.monotonic() - started
            tokens = sum(map(len, steps[number]))
            fitted.seconds, fitted.tokens = fitted.seconds + seconds, fitted.tokens + tokens
            shared = {"learning_rate": rate, "tokens_per_second": tokens / seconds, "memory_mib": peak_memory_mib()}
            fitted.metrics.append({name: {"loss": losses[name], "gradient_norm": norms[name], **shared} for name in learners})
            for name in learners:
                reports[name].metrics(number + 1, fitted.metrics[-1][name])
            told = ", ".join(f"{name} {losses[name]:.2f}" for name in learners)
            first.progress(number + 1, len(steps), f"loss: {told}; {tokens / seconds:.0f} tokens/s")
            last = number + 1 == len(steps)
            if not last and (asked.is_set() or time.monotonic() - saved >= settings.checkpoint_seconds):
                _save(checkpoints, model, optimizers, fitted)
                saved = time.monotonic()
            if asked.is_set() and not last:
                raise MedpipeError(
                    got="the signal SIGTERM", expected=f"{len(steps)} steps", where=f"fine-tuning, after step {number + 1}",
                    do="materialise it again: a checkpoint was written and the training goes on from it",
                )  # fmt: skip
    model.model.eval()  # what follows measures the policy, without dropout
    return fitted


def schedule(step: int, steps: int, warmup_share: float) -> float:
    """Share of the learning rate in this step (from 0): linear warm-up, then half a cosine down to 0."""
    warmup = int(warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _step(
    model: AdapterModel, learners: Sequence[Learner], lessons: list[Lesson], settings: Training, fitted: Fitted, report: Reporter,
    where: str,
) -> dict[Learner, float]:  # fmt: skip
    """Forward and backward over a step's rows; each learner's loss is the mean over all its completion tokens."""
    while True:
        try:
            return _forward_backward(model, learners, passes(lessons, fitted.budget), settings, where)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            fitted.budget = _shrunk(lessons, fitted.budget, report, where, error)
        model.model.zero_grad()  # what the passes before the failed one left
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _forward_backward(
    model: AdapterModel, learners: Sequence[Learner], cut: list[list[Lesson]], settings: Training, where: str
) -> dict[Learner, float]:  # fmt: skip
    totals = {name: sum(len(lesson.turns[name].completion) for part in cut for lesson in part) for name in learners}
    losses = dict.fromkeys(learners, 0.0)
    for number, part in enumerate(cut):
        reading = model.read([lesson.tokens for lesson in part]) if model.activated else None
        for name in learners:
            torch.manual_seed(random.Random(f"{where}/{name}/{number}").getrandbits(63))  # dropout, whoever learns beside it
            with model.use(name, train=True):
                scored = model.score(name, [lesson.turns[name] for lesson in part], reading)
                loss = -scored.logp_N.sum() / totals[name]
                value = float(loss.detach())
                if not math.isfinite(value) or value > settings.max_loss:
                    raise _stopped(f"a loss of {value}", f"a number up to training.max_loss = {settings.max_loss}", f"{where}, {name}")
                loss.backward()
            losses[name] += value
    return losses


def _move(
    optimizers: Mapping[Learner, torch.optim.Optimizer], weights: Mapping[Learner, list[Any]], rate: float, clip: float, where: str,
    settings: Training,
) -> dict[Learner, float]:  # fmt: skip
    """One step of every optimizer, none of them where a gradient is no number; returns the norms before clipping."""
    norms: dict[Learner, float] = {name: float(torch.nn.utils.clip_grad_norm_(own, clip)) for name, own in weights.items()}
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise _stopped(f"a gradient of norm {norm}", "a finite number", f"{where}, {name}")
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return norms


def _shrunk(lessons: list[Lesson], budget: int, report: Reporter, where: str, error: RuntimeError) -> int:
    """A budget with half the rows in a pass, and twice the passes: the same effective batch in less memory."""
    widest = max(map(len, passes(lessons, budget)))
    if widest == 1:
        raise MedpipeError(
            got="too little memory for a single row", expected=f"room for {max(map(len, lessons))} tokens", where=where,
            do="lower team.max_header_tokens, set model.quantization = 4bit, or choose a smaller base",
        ) from error  # fmt: skip
    while max(map(len, passes(lessons, budget))) > max(1, widest // 2):
        budget //= 2
    after = passes(lessons, budget)
    report.warn(
        f"out of memory in {where}: passes of up to {widest} rows become passes of up to {max(map(len, after))}; "
        f"the effective batch stays {len(lessons)} rows"
    )
    return budget


def _stopped(got: str, expected: str, where: str) -> MedpipeError:
    return MedpipeError(got=got, expected=expected, where=where, do="lower training.learning_rate, or set model.precision to fp32")


def _save(checkpoints: Checkpoints, model: AdapterModel, optimizers: Mapping[Learner, torch.optim.Optimizer], fitted: Fitted) -> None:
    weights, moments, plain = {}, {}, {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        tensors, others = split_optimizer(state["state"])
        weights |= {f"{name}/{key}": value for key, value in model.parameters(name).items()}
        moments |= {f"{name}/{key}": value for key, value in tensors.items()}
        plain[name] = {"groups": state["param_groups"], "others": others}
    documents = {"optimizers": plain, "fitted": vars(fitted)}
    checkpoints.save(len(fitted.metrics), {"weights": weights, "optimizers": moments}, documents)


def _load(saved: Checkpoint, model: AdapterModel, optimizers: Mapping[Learner, torch.optim.Optimizer], fitted: Fitted) -> None:
    weights, moments, plain = saved.tensors("weights"), saved.tensors("optimizers"), saved.document("optimizers")
    for name, optimizer in optimizers.items():
        with torch.no_grad():
            for key, value in model.parameters(name).items():
                value.copy_(weights[f"{name}/{key}"])
        own = {key.removeprefix(f"{name}/"): value for key, value in moments.items() if key.startswith(f"{name}/")}
        optimizer.load_state_dict({"state": join_optimizer(own, plain[name]["others"]), "param_groups": plain[name]["groups"]})
    for key, value in saved.document("fitted").items():
        setattr(fitted, key, value)
    fitted.resumed_from.append(saved.step)


def peak_memory_mib() -> float:
    """The most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
