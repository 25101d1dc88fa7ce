"""Supervised fine-tuning of one role: LoRA on the shared base or all of its weights, loss on the completion only.

Made alone with `dagster asset materialize -m medpipe.definitions --select models/planner`. What a role learns stands in
medpipe/roles.py, how it is trained in medpipe/training/trainer.py. A run that was killed goes on from its newest whole
checkpoint and ends with the same bytes on a CPU. Left out: several devices for one role.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import torch

from medpipe import store
from medpipe.config import Training
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models import base
from medpipe.models.policy import Policies, weights_hash
from medpipe.models.tokens import encode_prompt, encode_target
from medpipe.roles import reference_said, reference_verdict, target_for
from medpipe.schema import CheckResult, QAExample, Role
from medpipe.training.batches import Row, optimizer_steps
from medpipe.training.trainer import Fitted, fit, peak_memory_mib

VALIDATION_ROWS = 8


def run(job: Job) -> Outcome:
    """Fine-tune the role named by the job, write its weights, tokenizer, statistics and log.

    Raises:
        MedpipeError: a split is not known to be valid, lora_layers is too high, or the training stopped (see `fit`).
    """
    for split in ("splits/train", "splits/validation"):
        require_valid(job.inputs[split], split)
    role = cast(Role, job.name.partition("/")[2])
    settings = job.settings.training
    model, tokenizer = base.load(job.inputs["models/base"], job.device, job.settings.model)
    base_before = weights_hash(dict(model.named_parameters()))
    index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
    chosen = pick(store.read_examples(job.inputs["splits/train"]), settings.max_examples, job.settings.seed)
    held = pick(store.read_examples(job.inputs["splits/validation"]), VALIDATION_ROWS, job.settings.seed)
    rows, held_rows = (role_rows(role, part, index, tokenizer, job) for part in (chosen, held))
    steps = optimizer_steps(rows, settings.batch_size * settings.gradient_accumulation, settings.epochs, f"{job.settings.seed}/{role}")
    job.report.log(
        f"{role}: {len(rows)} rows, {settings.epochs} epochs, {len(steps)} steps, on {job.device}; {len(held_rows)} validation rows"
    )

    adapter = role if settings.method == "lora" else None
    policies = with_adapter(model, tokenizer, role, settings, job.settings.model.name) if adapter else _whole(model, tokenizer)
    learning = policies.parameters(adapter) if adapter else dict(model.named_parameters())
    start_weights = weights_hash(learning)
    before = mean_loss(policies, adapter, held_rows, settings.batch_size)
    fitted = fit(policies, adapter, steps, job)
    after = mean_loss(policies, adapter, held_rows, settings.batch_size)
    moved = weights_hash(learning) != start_weights

    if adapter:
        policies.save_adapter(role, job.out)
        frozen = {n.replace("base_layer.", ""): p for n, p in policies.base.named_parameters() if "lora_" not in n}
        check = CheckResult(name="adapter_moved_base_frozen", passed=moved and weights_hash(frozen) == base_before,
                            description="the adapter's weights changed and not one bit of the base's did",
                            values={"adapter_moved": moved, "base_unchanged": weights_hash(frozen) == base_before})  # fmt: skip
    else:
        policies.model.save_pretrained(job.out)
        check = CheckResult(name="adapter_moved_base_frozen", passed=moved,
                            description="all weights learn (training.method = full): they changed, in a copy of the base",
                            values={"weights_moved": moved})  # fmt: skip
    tokenizer.save_pretrained(job.out)
    stats = _statistics(role, job, rows, fitted) | {
        "validation_loss_before": round(before, 4), "validation_loss_after": round(after, 4), "device": job.device,
        "trainable_parameters": sum(value.numel() for value in learning.values()),
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", stats)
    from medpipe.evaluation.plots import training_curves

    training_curves(role, store.read_jsonl(job.out / "metrics.jsonl"), job.out / "plots" / "loss.png")
    example = [{"prompt": tokenizer.decode(rows[0].prompt), "target": tokenizer.decode(rows[0].target)}]
    fell = CheckResult(name="validation_loss_fell", passed=after < before, severity="warn",
                       description="loss on validation rows, before and after",
                       values={"before": round(before, 4), "after": round(after, 4), "rows": len(held_rows)})  # fmt: skip
    first, last = fitted.losses[0], fitted.losses[-1]
    alt = f"training loss of the {role} by step, from {first:.2f} to {last:.2f}, and its learning rate"
    plot = {"image": "plots/loss.png", "alt": alt}
    return Outcome(metadata={**stats, "loss": plot, "example": {"table": example}}, checks=(check, fell))


def _statistics(role: str, job: Job, rows: Sequence[Row], fitted: Fitted) -> dict[str, Any]:
    return {
        "role": role, "rows": len(rows), "epochs": job.settings.training.epochs, "steps": len(fitted.losses), "tokens": fitted.tokens,
        "seconds": round(fitted.seconds, 1), "tokens_per_second": round(fitted.tokens / fitted.seconds, 1),
        "first_loss": round(fitted.losses[0], 4), "last_loss": round(fitted.losses[-1], 4),
        **({} if fitted.mfu is None else {"mfu": round(fitted.mfu, 4)}),
        "matmul_peak_gflops": round(fitted.matmul_peak / 1e9, 1), "peak_memory_mib": round(peak_memory_mib()),
        "resumed_from_steps": ", ".join(map(str, fitted.resumed_from)) or "never interrupted",
    }  # fmt: skip


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
    found = index.search_for_training(rows, team.evidence_passages, team.evidence_chars)

    def message(speaker: Role, text: str) -> list[int]:
        # A message that is longer than the role's budget in the team would be learned in vain: it counts as cut off there.
        return encode_target(tokenizer, text, min(training.max_completion, team.max_new_tokens[speaker]))

    out = []
    for row, passages in zip(rows, found, strict=True):
        evidence = [passage.text for passage in passages]
        target = message(role, target_for(role, row, evidence))
        room = min(team.max_prompt_tokens, training.max_length - len(target))

        def fit(speaker: Role, text: str) -> str:
            return tokenizer.decode(message(speaker, text)[:-1]).strip()

        said, verdict = reference_said(role, row, evidence, fit), reference_verdict(row, evidence, fit)
        prompt = encode_prompt(tokenizer, role, row, evidence, said, room, verdict)
        out.append(Row(prompt, target))
    return out


def mean_loss(policies: Policies, adapter: str | None, rows: Sequence[Row], batch: int) -> float:
    """Mean over rows of the completion's loss per token, nats."""
    logps = policies.mean_logp(adapter, [row.prompt for row in rows], [row.target for row in rows], batch)
    return -sum(logps) / len(logps)


def with_adapter(model: Any, tokenizer: Any, role: Role, settings: Training, base_name: str) -> Policies:
    """The base with a fresh adapter under the role's name, always the same one."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)  # the adapter's first weights
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, task_type="CAUSAL_LM",
        target_modules=_linear_names(model), layers_to_transform=_last_layers(model, settings.lora_layers),
    )  # fmt: skip
    peft = get_peft_model(model, config, adapter_name=role)
    peft.peft_config[role].base_model_name_or_path = base_name  # no path of this machine in the adapter's config
    return Policies(peft, tokenizer, [role])


def _whole(model: Any, tokenizer: Any) -> Policies:
    model.requires_grad_(True)
    return Policies(model, tokenizer)


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


def _round_robin(groups: Sequence[Sequence[QAExample]], count: int) -> list[QAExample]:
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)][:count]
