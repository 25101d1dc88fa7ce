"""Supervised fine-tuning of one role: LoRA on the shared base, loss on the completion only.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/planner`. Runs on transformers' Trainer;
ours are the role's rows, batches of like length, and logits computed only at completion tokens. The order of the rows is
drawn from (seed, epoch), never from the global random state. Left out: checkpoints inside a role's training, packing.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from medpipe import store
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models import base
from medpipe.models.policy import Policies, weights_hash
from medpipe.models.tokens import encode_prompt, encode_target
from medpipe.roles import question_text, reference_said, target_for
from medpipe.schema import CheckResult, QAExample, Role
from medpipe.training.losses import completion_loss

VALIDATION_ROWS = 8


@dataclass(frozen=True)
class Row:
    """One training row: token ids of the role's prompt and of its target."""

    prompt: list[int]
    target: list[int]


def run(job: Job) -> Outcome:
    """Fine-tune the role named by the job, write adapter, tokenizer, statistics and log.

    Raises:
        MedpipeError: a split is not known to be valid, lora_layers is too high, or the loss is no number.
    """
    for split in ("splits/train", "splits/validation"):
        require_valid(job.inputs[split], split)
    role = cast(Role, job.name.partition("/")[2])
    settings = job.settings.training
    model, tokenizer = base.load(job.inputs["models/base"], job.device, job.settings.model.precision)
    frozen_before = weights_hash(dict(model.named_parameters()))
    index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
    chosen = pick(store.read_examples(job.inputs["splits/train"]), settings.max_examples, job.settings.seed)
    held = pick(store.read_examples(job.inputs["splits/validation"]), VALIDATION_ROWS, job.settings.seed)
    rows, held_rows = (role_rows(role, part, index, tokenizer, job) for part in (chosen, held))
    job.report.log(f"{role}: {len(rows)} rows, {settings.epochs} epochs, {len(held_rows)} validation rows, on {job.device}")

    policies = _with_adapter(model, tokenizer, role, settings, job.settings.model.name)
    start_weights = weights_hash(policies.parameters(role))
    before = mean_loss(policies, role, held_rows, settings.batch_size)
    started = time.monotonic()
    losses = _train(policies, role, rows, job)
    seconds = time.monotonic() - started
    after = mean_loss(policies, role, held_rows, settings.batch_size)

    policies.model.save_pretrained(job.out, selected_adapters=[role], save_embedding_layers=False)
    _flatten(job.out, role)
    tokenizer.save_pretrained(job.out)
    base_parameters = {n.replace("base_layer.", ""): p for n, p in policies.base.named_parameters() if "lora_" not in n}
    frozen_after = weights_hash(base_parameters)
    moved = weights_hash(policies.parameters(role)) != start_weights
    tokens = settings.epochs * sum(len(row.prompt) + len(row.target) for row in rows)
    stats = {
        "role": role, "rows": len(rows), "epochs": settings.epochs, "steps": len(losses), "tokens": tokens, "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1), "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4),
        "validation_loss_before": round(before, 4), "validation_loss_after": round(after, 4), "device": job.device,
        "trainable_parameters": sum(p.numel() for p in policies.parameters(role).values()),
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", stats)
    from medpipe.evaluation.plots import loss_curves

    loss_curves({role: store.read_jsonl(job.out / "metrics.jsonl")}, job.out / "plots" / "loss.png")
    example = [{"prompt": tokenizer.decode(rows[0].prompt), "target": tokenizer.decode(rows[0].target)}]
    checks = (
        CheckResult(name="adapter_moved_base_frozen", passed=moved and frozen_before == frozen_after,
                    description="the adapter's weights changed and not one bit of the base's did",
                    values={"adapter_moved": moved, "base_unchanged": frozen_before == frozen_after}),
        CheckResult(name="validation_loss_fell", passed=after < before, severity="warn",
                    description="loss on validation rows, before and after",
                    values={"before": round(before, 4), "after": round(after, 4), "rows": len(held_rows)}),
    )  # fmt: skip
    plot = {"image": "plots/loss.png", "alt": f"training loss of the {role} by step, from {losses[0]:.2f} to {losses[-1]:.2f}"}
    return Outcome(metadata={**stats, "loss": plot, "example": {"table": example}}, checks=checks)


def pick(rows: Sequence[QAExample], count: int, seed: int) -> list[QAExample]:
    """A seeded sample, half of it multiple choice and spread evenly over the sources, as far as the rows allow."""
    kinds: dict[tuple[str, bool], list[QAExample]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        kinds.setdefault((row.source, row.is_choice), []).append(row)
    for key, group in kinds.items():
        random.Random(f"{seed}/{key}").shuffle(group)
    choice = [group for (_, is_choice), group in sorted(kinds.items()) if is_choice]
    text = [group for (_, is_choice), group in sorted(kinds.items()) if not is_choice]
    wanted = count // 2 if choice and text else count
    picked = _round_robin(choice, count - wanted if text else count)
    return picked + _round_robin(text, count - len(picked))


def role_rows(role: Role, rows: Sequence[QAExample], index: EvidenceIndex, tokenizer: Any, job: Job) -> list[Row]:
    """What the role sees (evidence without the row's own answer, the earlier roles' messages) and what it learns to say."""
    team, training = job.settings.team, job.settings.training
    found = index.search_many([(question_text(row), row.id) for row in rows], team.evidence_passages, max_chars=team.evidence_chars)

    def message(speaker: Role, text: str) -> list[int]:
        # A message that is longer than the role's budget in the team would be learned in vain: it counts as cut off there.
        return encode_target(tokenizer, text, min(training.max_completion, team.max_new_tokens[speaker]))

    out = []
    for row, passages in zip(rows, found, strict=True):
        evidence = [passage.text for passage in passages]
        target = message(role, target_for(role, row, evidence))
        room = min(team.max_prompt_tokens, training.max_length - len(target))
        said = reference_said(role, row, evidence, lambda speaker, text: tokenizer.decode(message(speaker, text)[:-1]).strip())
        prompt = encode_prompt(tokenizer, role, row, evidence, said, room)
        out.append(Row(prompt, target))
    return out


def mean_loss(policies: Policies, role: str, rows: Sequence[Row], batch: int) -> float:
    """Mean over rows of the completion's loss per token, nats."""
    logps = policies.mean_logp(role, [row.prompt for row in rows], [row.target for row in rows], batch)
    return -sum(logps) / len(logps)


def _with_adapter(model: Any, tokenizer: Any, role: Role, settings: Any, base_name: str) -> Policies:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)  # the adapter's first weights
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, task_type="CAUSAL_LM",
        target_modules=_linear_names(model), layers_to_transform=_last_layers(model, settings.lora_layers),
    )  # fmt: skip
    peft = get_peft_model(model, config, adapter_name=role)
    peft.peft_config[role].base_model_name_or_path = base_name  # no path of this machine in the adapter's config
    return Policies(peft, tokenizer, [role])


def _linear_names(model: Any) -> list[str]:
    """The names that linear modules bear in every layer, such as q_proj; the output head is none of them."""
    layers = model.get_decoder().layers
    return sorted({name.rpartition(".")[2] for name, module in layers.named_modules() if isinstance(module, torch.nn.Linear)})


def _last_layers(model: Any, count: int) -> list[int] | None:
    """Numbers of the last `count` layers, which alone then need a backward pass; None for 0: all layers."""
    total = len(model.get_decoder().layers)
    if count > total:
        raise MedpipeError(
            got=f"training.lora_layers = {count}", expected=f"at most {total}, the model's layers", where="the profile", do="lower it"
        )
    return list(range(total - count, total)) if count else None


def _train(policies: Policies, role: str, rows: Sequence[Row], job: Job) -> list[float]:
    settings = job.settings.training
    order = [
        row for epoch in range(settings.epochs) for row in _by_length(rows, settings.batch_size, f"{job.settings.seed}/{role}/{epoch}")
    ]
    steps = math.ceil(math.ceil(len(order) / settings.batch_size) / settings.gradient_accumulation)
    on_gpu = job.device != "cpu"
    dtype = base.resolve_precision(job.device, job.settings.model.precision)
    arguments = TrainingArguments(
        output_dir=str(job.scratch), num_train_epochs=1, per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation, learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=int(settings.warmup_share * steps), max_grad_norm=1.0,
        gradient_checkpointing=settings.gradient_checkpointing, dataloader_num_workers=settings.loader_workers,
        bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16, use_cpu=not on_gpu, logging_steps=1, save_strategy="no",
        logging_nan_inf_filter=False, report_to=[], disable_tqdm=True, remove_unused_columns=False, seed=job.settings.seed,
        dataloader_pin_memory=on_gpu,
    )  # fmt: skip
    if settings.gradient_checkpointing:
        policies.model.enable_input_require_grads()
    callback = _Report(job, steps, sum(len(row.prompt) + len(row.target) for row in order) / steps)
    with policies.use(role, train=True):
        policies.model.train()
        trainer = _CompletionTrainer(
            policies, model=policies.model, args=arguments, train_dataset=cast(Any, order), data_collator=list, callbacks=[callback]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    policies.model.eval()  # what follows measures the policy, without dropout
    return callback.losses


class _CompletionTrainer(Trainer):
    """Trainer whose loss is the completion's alone and whose rows come in the order they are given."""

    def __init__(self, policies: Policies, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._policies = policies
        self.model_accepts_loss_kwargs = False  # the loss is a mean already: accumulation divides it

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        scored = self._policies.score([row.prompt for row in inputs], [row.target for row in inputs])
        return completion_loss(scored.logp_N)

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(cast(Any, self.train_dataset))

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs


class _Report(TrainerCallback):
    """Hands the Trainer's numbers to the job's reporter and stops on a loss that is not a number."""

    def __init__(self, job: Job, steps: int, tokens_per_step: float) -> None:
        self._job, self._steps, self._tokens = job, steps, tokens_per_step
        self._last = time.monotonic()
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, now = float(logs["loss"]), time.monotonic()
        if not math.isfinite(loss):
            raise MedpipeError(
                got=f"a loss of {loss}", expected="a finite number", where=f"{self._job.name}, step {state.global_step}",
                do="lower training.learning_rate or set model.precision to fp32",
            )  # fmt: skip
        self.losses.append(loss)
        speed = self._tokens / (now - self._last)
        self._last = now
        self._job.report.metrics(
            state.global_step, {"loss": loss, "learning_rate": float(logs["learning_rate"]), "tokens_per_second": speed}
        )
        self._job.report.progress(state.global_step, self._steps, f"loss {loss:.3f}")


def _by_length(rows: Sequence[Row], batch: int, seed: str) -> list[Row]:
    """Shuffled batches of like length: sorted inside windows of eight batches, then the batches shuffled."""
    draw = random.Random(seed)
    shuffled = draw.sample(list(rows), len(rows))
    window = 8 * batch
    batches = []
    for start in range(0, len(shuffled), window):
        part = sorted(shuffled[start : start + window], key=lambda row: len(row.prompt) + len(row.target), reverse=True)
        batches += [part[i : i + batch] for i in range(0, len(part), batch)]
    full = [b for b in batches if len(b) == batch]
    draw.shuffle(full)
    return [row for b in full + [b for b in batches if len(b) < batch] for row in b]


def _round_robin(groups: Sequence[Sequence[QAExample]], count: int) -> list[QAExample]:
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)][:count]


def _flatten(folder: Path, role: str) -> None:
    """peft writes a named adapter into a folder of its own: move it up, and drop the empty model card."""
    for path in (folder / role).iterdir():
        path.rename(folder / path.name)
    (folder / role).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
