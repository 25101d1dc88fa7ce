"""transformers' Trainer for one role: loss on the completion alone, passes by token budget, verified checkpoints.

    fit(policies, "planner", steps, job, "lora")     # steps: medpipe/training/batches.py

Trainer's loop, schedule, clipping, precision and callbacks are as users know them. Ours are: one item of the data is one step of
the optimizer, computed in as many passes as memory allows; checkpoints (medpipe/training/checkpoint.py) in place of its pickles;
and a stop, before the weights take harm, on a loss or a gradient that is no number. Left out: several devices for one role.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from medpipe.config import Training
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.models import base
from medpipe.models.policy import Policies
from medpipe.training.batches import Row, passes
from medpipe.training.checkpoint import Checkpoint, Checkpoints, asked_to_stop, join_optimizer, split_optimizer
from medpipe.training.meter import Dims, Lora, matmul_peak, train_flops

METER_SECONDS = 0.2
MIB = 2**20


@dataclass
class Fitted:
    """What a training went through, over all its interruptions."""

    losses: list[float] = field(default_factory=list)  # nats per completion token, one a step
    metrics: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0  # of steps, without loading and without what was lost to an interruption
    flops: float = 0.0  # of useful tokens, counted by medpipe/training/meter.py
    countable: bool = True  # False: the meter does not know the model's family, so that there is no utilisation to tell
    tokens: int = 0  # useful ones: padding is not counted
    matmul_peak: float = 0.0  # FLOP/s
    resumed_from: list[int] = field(default_factory=list)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: the share of this device's measured matmul peak that useful arithmetic took; None: unknown."""
        return self.flops / (self.seconds * self.matmul_peak) if self.countable else None


def fit(policies: Policies, adapter: str | None, steps: Sequence[list[Row]], job: Job) -> Fitted:
    """Train an adapter, or (None) the whole model, going on from the newest whole checkpoint in the job's scratch folder.

    Raises:
        MedpipeError: the loss or a gradient is no number or too high, memory does not suffice for one row, or SIGTERM came
            (then a checkpoint was written first).
    """
    settings, on_gpu = job.settings.training, job.device != "cpu"
    dtype = base.resolve_precision(job.device, job.settings.model.precision)
    arguments = TrainingArguments(
        output_dir=str(job.scratch), num_train_epochs=1, per_device_train_batch_size=1, learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=int(settings.warmup_share * len(steps)), max_grad_norm=settings.gradient_clip,
        activation_checkpointing=settings.gradient_checkpointing, dataloader_num_workers=settings.loader_workers,
        bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16, use_cpu=not on_gpu, logging_steps=1, save_strategy="no",
        logging_nan_inf_filter=False, report_to=[], disable_tqdm=True, remove_unused_columns=False, seed=job.settings.seed,
        dataloader_pin_memory=False,
    )  # fmt: skip
    if settings.gradient_checkpointing:
        policies.model.enable_input_require_grads()
    checkpoints = Checkpoints(job.scratch / "checkpoints", job.report.warn)
    start = checkpoints.newest()
    with policies.use(adapter, train=True), asked_to_stop() as asked:
        policies.model.train()
        trainer = RoleTrainer(policies, job, checkpoints, model=policies.model, args=arguments, train_dataset=cast(Any, list(steps)))
        trainer.add_callback(_Watch(trainer, asked))
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    policies.model.eval()  # what follows measures the policy, without dropout
    done = len(trainer.fitted.losses)
    if done < len(steps):
        raise MedpipeError(
            got="the signal SIGTERM", expected=f"{len(steps)} steps", where=f"{job.name}, after step {done}",
            do="materialise it again: a checkpoint was written and the training goes on from it",
        )  # fmt: skip
    return trainer.fitted


class RoleTrainer(Trainer):
    """Trainer whose items are steps: lists of rows that are summed up in passes before the optimizer moves."""

    def __init__(self, policies: Policies, job: Job, checkpoints: Checkpoints, **kwargs: Any) -> None:
        super().__init__(data_collator=cast(Any, _only), **kwargs)
        self._policies, self._job, self._checkpoints = policies, job, checkpoints
        self._settings: Training = job.settings.training
        self.budget = self._settings.tokens_per_pass
        self.packed = {"on": True, "off": False, "auto": base.keeps_rows_apart(policies.base)}[self._settings.packing]
        dtype = base.resolve_precision(job.device, job.settings.model.precision)
        self._dims = Dims.of_config(policies.base.config)
        self.fitted = Fitted(matmul_peak=matmul_peak(job.device, dtype, METER_SECONDS), countable=self._dims is not None)
        self._lora = Lora(self._settings.lora_rank, self._settings.lora_layers) if self._settings.method == "lora" else None
        self._last = time.monotonic()

    # --- one step

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over a step's rows; returns its loss, the mean over all its completion tokens."""
        rows: list[Row] = inputs
        model.train()
        while True:
            try:
                return self._forward_backward(passes(rows, self.budget, self.packed), sum(len(row.target) for row in rows))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                self._shrink(rows, error)
            model.zero_grad()  # what the passes before the failed one left
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _forward_backward(self, cut: list[list[Row]], targets: int) -> Tensor:
        total = torch.zeros((), device=self._policies.device)
        for rows in cut:
            with self.compute_loss_context_manager():
                scored = self._policies.score([row.prompt for row in rows], [row.target for row in rows], packed=self.packed)
                loss = -scored.logp_N.sum() / targets
            total += loss.detach()
            if not math.isfinite(value := float(loss.detach())) or value > self._settings.max_loss:
                raise self._stopped(f"a loss of {value}", f"a number up to training.max_loss = {self._settings.max_loss}")
            self.accelerator.backward(loss)
        return total

    def _shrink(self, rows: list[Row], error: RuntimeError) -> None:
        """Halve the rows of a pass, and double the passes: the same effective batch in less memory."""
        before = passes(rows, self.budget, self.packed)
        widest = max(len(part) for part in before)
        if widest == 1:
            raise MedpipeError(
                got="too little memory for a single row", expected=f"room for {max(map(len, rows))} tokens",
                where=f"{self._job.name} on {self._job.device}, step {self.state.global_step + 1}",
                do="lower training.max_length, set training.gradient_checkpointing = true or model.quantization = 4bit, or a smaller base",
            ) from error  # fmt: skip
        while max(len(part) for part in passes(rows, self.budget, self.packed)) > max(1, widest // 2):
            self.budget //= 2
        after = passes(rows, self.budget, self.packed)
        self._job.report.warn(
            f"out of memory in step {self.state.global_step + 1}: passes of up to {widest} rows become passes of up to "
            f"{max(map(len, after))}, {len(after)} a step instead of {len(before)}; the effective batch stays {len(rows)} rows"
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None and norm is not None and not math.isfinite(float(norm)):
            raise self._stopped(f"a gradient of norm {float(norm)}", "a finite number")  # with a scaler, fp16 skips such a step itself
        return norm

    def _stopped(self, got: str, expected: str) -> MedpipeError:
        kept = self._checkpoints.newest()
        where = f"; the last good state is kept in {kept.folder}" if kept else ""
        return MedpipeError(
            got=got, expected=expected, where=f"{self._job.name}, step {self.state.global_step + 1}{where}",
            do="lower training.learning_rate, or set model.precision to fp32",
        )  # fmt: skip

    # --- numbers

    def measured(self, step: int, rows: list[Row], logs: dict[str, float]) -> None:
        """Take in the numbers of a finished step and hand them on."""
        now, fitted = time.monotonic(), self.fitted
        seconds, self._last = now - self._last, now
        tokens, targets = sum(map(len, rows)), sum(len(row.target) for row in rows)
        flops = train_flops(self._dims, tokens, targets, self._lora) if self._dims else 0.0
        fitted.losses.append(float(logs["loss"]))
        fitted.seconds, fitted.flops, fitted.tokens = fitted.seconds + seconds, fitted.flops + flops, fitted.tokens + tokens
        values = {
            "loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"]), "gradient_norm": float(logs["grad_norm"]),
            "tokens_per_second": tokens / seconds, "memory_mib": peak_memory_mib(),
        }  # fmt: skip
        if fitted.countable:
            values["mfu"] = flops / (seconds * fitted.matmul_peak)
        fitted.metrics.append({"step": step, **values})
        self._job.report.metrics(step, values)
        self._job.report.progress(step, self.state.max_steps, f"loss {values['loss']:.3f}, {values['tokens_per_second']:.0f} tokens/s")

    # --- checkpoints in place of Trainer's own

    def _trainable(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._policies.model.named_parameters() if value.requires_grad}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        optimizer = cast(Any, self.optimizer).state_dict()
        moments, scalars = split_optimizer(optimizer["state"])
        random = {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if self._job.device != "cpu" else {})}
        fitted, scaler = self.fitted, self.accelerator.scaler
        state = {
            "groups": optimizer["param_groups"], "scalars": scalars,
            "scheduler": cast(Any, self.lr_scheduler).state_dict(), "scaler": scaler.state_dict() if scaler else None,
            "budget": self.budget, "losses": fitted.losses, "metrics": fitted.metrics, "seconds": fitted.seconds, "flops": fitted.flops,
            "tokens": fitted.tokens, "resumed_from": fitted.resumed_from,
        }  # fmt: skip
        parts = {"weights": self._trainable(), "optimizer": moments, "random": random}
        trainer_state = {**dataclasses.asdict(self.state), "log_history": []}  # under the name that Trainer looks for
        self._checkpoints.save(self.state.global_step, parts, {"state": state, "trainer_state": trainer_state})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = _opened(resume_from_checkpoint)
        weights, mine = saved.tensors("weights"), self._trainable()
        if weights.keys() != mine.keys():
            raise MedpipeError(
                got=f"a checkpoint of {len(weights)} tensors", expected=f"the {len(mine)} that are trained here", where=str(saved.folder),
                do="delete it: it is of another training",
            )  # fmt: skip
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(weights[name])
        state, fitted = saved.document("state"), self.fitted
        self.budget = state["budget"]
        fitted.losses, fitted.seconds, fitted.flops, fitted.tokens = state["losses"], state["seconds"], state["flops"], state["tokens"]
        fitted.metrics, fitted.resumed_from = state["metrics"], [*state["resumed_from"], saved.step]
        for row in fitted.metrics:  # the log of the interrupted attempt is gone with its unfinished folder
            self._job.report.metrics(int(row["step"]), {key: value for key, value in row.items() if key != "step"})
        self._job.report.log(f"going on after step {saved.step}, from {saved.folder}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved = _opened(checkpoint)
        state = saved.document("state")
        moments = join_optimizer(saved.tensors("optimizer"), state["scalars"])
        cast(Any, self.optimizer).load_state_dict({"state": moments, "param_groups": state["groups"]})
        cast(Any, self.lr_scheduler).load_state_dict(state["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_opened(checkpoint).document("state")["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        random = _opened(checkpoint).tensors("random")
        torch.set_rng_state(random["cpu"])
        if self._job.device != "cpu":
            torch.cuda.set_rng_state(random["cuda"])
        self._last = time.monotonic()

    # --- items go through as they are

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(cast(Any, self.train_dataset))

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs


class _Watch(TrainerCallback):
    """Hands on each step's numbers, and asks for a checkpoint when it is time or when the process is asked to end."""

    def __init__(self, trainer: RoleTrainer, asked: threading.Event) -> None:
        self._trainer, self._asked = trainer, asked
        self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            steps = cast(list[list[Row]], self._trainer.train_dataset)
            self._trainer.measured(state.global_step, steps[state.global_step - 1], logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        due = time.monotonic() - self._saved >= self._trainer._settings.checkpoint_seconds
        if not last and (due or self._asked.is_set()):
            control.should_save, control.should_training_stop = True, self._asked.is_set()
            self._saved = time.monotonic()


def peak_memory_mib() -> float:
    """The most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _opened(folder: str) -> Checkpoint:
    return Checkpoint(Path(folder), int(Path(folder).name.removeprefix("step-")))


def _only(items: list[list[Row]]) -> list[Row]:
    return items[0]
