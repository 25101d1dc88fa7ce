"""Supervised fine-tuning of the four roles: medpipe against TRL's SFTTrainer, on the same base and rows in one run.

    python bench/sft.py [--rows 16] [--repeat 3] [--search] [--json]

The base is the bundled SmolLM2-135M-Instruct in fp32 on one CPU thread; the rows are the lessons that medpipe makes of the bundled
corpus with quickstart's budgets, half of them multiple choice. Each measurement is a process of its own, systems take turns, the table
shows medians.
- medpipe: one pass over the transcripts for all four roles (medpipe/training/fit.py);
- TRL: an SFTTrainer for each role, one after the other, on prompt and completion as token ids, at its best setting on a CPU, one of
  VARIANTS. `--search` tries them on a few rows first and takes the fastest. All are without gradient checkpointing and bf16, TRL's
  defaults, which are slower here.

Equal: weights, adapters (r = 8, alpha 16, all linear modules of the last 15 layers), rows, rows per optimizer step, loss on the
completion alone, AdamW with the same rate, cosine schedule, gradients clipped at 1. Different: the order of rows, padding, and that TRL's
adapters act on the whole sequence, as it knows no others.

Useful tokens are those of each role's own prompt (header, mates' turns, its own turn's header) and completion, without padding, summed
over the four roles: what must go through the model where nothing is shared. So medpipe's are the same number, though it reads
what the roles share once. CPU seconds are those of the training calls, first step included, loading excluded.
Needs: pip install -e '.[bench]'. Left out: GPUs, held-out loss (bench/core.py, part `adapters`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from parts import WORK, base_folder, cases, child, clock, memory, prepare, settings_for, since

if TYPE_CHECKING:
    from medpipe.training.rows import Lesson

STEP, SEARCHED = 8, 16  # rows per optimizer step; rows of a search
VARIANTS: dict[str, dict[str, Any]] = {  # all without gradient checkpointing
    "grouped, a step a pass": {"train_sampling_strategy": "group_by_length", "rows": 8},
    "grouped, two rows a pass": {"train_sampling_strategy": "group_by_length", "rows": 2},
    "a row a pass": {"rows": 1},
    "padding-free, a step a pass": {"padding_free": True, "max_length": None, "rows": 8},
}
BEST = "a row a pass"
"""Where no `--search` was asked for."""


# --- in a process of its own


def lessons(count: int) -> tuple[Any, Any, list[Lesson]]:
    """The base, its tokenizer, and the rows as transcripts."""
    from medpipe.models import base
    from medpipe.schema import ROLES
    from medpipe.team.transcript import Frame
    from medpipe.training.rows import make_lesson

    settings = settings_for({"model.precision": "fp32"})
    model, tokenizer = base.load(base_folder(), "cpu", settings.model)
    frame = Frame(tokenizer)
    return model, tokenizer, [make_lesson(row, own, ROLES, frame, settings) for row, own in zip(*cases("learn", count), strict=True)]


def by_medpipe(count: int) -> dict[str, Any]:
    from mirror import Quiet

    from medpipe.models.adapters import AdapterModel
    from medpipe.schema import ROLES
    from medpipe.training.fit import fit
    from medpipe.training.rows import optimizer_steps
    from medpipe.training.sft import adapter_config

    settings = settings_for({"training.learning_rate": 1e-3, "training.checkpoint_seconds": 1e6}).training
    bare, tokenizer, rows = lessons(count)
    config = adapter_config(bare, settings, "bundled")
    model = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(ROLES, config), activated=True)
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        fitted = fit(model, ROLES, optimizer_steps(rows, STEP, 1, "0"), settings, Path(folder), dict.fromkeys(ROLES, Quiet()))
        spent = since(started)
    return {**spent, **useful(rows), "last_losses": [round(fitted.losses(role)[-1], 3) for role in ROLES]}


def by_trl(count: int, variant: str) -> dict[str, Any]:
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig  # pyright: ignore[reportMissingImports]
    from trl.trainer.sft_trainer import SFTTrainer  # pyright: ignore[reportMissingImports]

    from medpipe.schema import ROLES
    from medpipe.training.sft import adapter_config

    settings = settings_for().training
    chosen = dict(VARIANTS[variant])
    at_once = chosen.pop("rows")
    wall = worked = 0.0
    losses, rows = [], []
    for role in ROLES:
        bare, tokenizer, rows = lessons(count)
        model: Any = get_peft_model(bare, adapter_config(bare, settings, "bundled"))  # type: ignore[arg-type]
        turns = [lesson.turns[role] for lesson in rows]
        items = [
            {
                "input_ids": [*turn.context, *turn.invocation, *turn.completion],
                "labels": [-100] * (len(turn.context) + len(turn.invocation)) + list(turn.completion),
            }
            for turn in turns
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = SFTConfig(
                output_dir=folder, num_train_epochs=1, per_device_train_batch_size=at_once, gradient_accumulation_steps=STEP // at_once,
                learning_rate=1e-3, lr_scheduler_type="cosine", max_grad_norm=settings.gradient_clip, weight_decay=0.0, bf16=False,
                use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0, dataloader_pin_memory=False,
                gradient_checkpointing=False, **chosen,
            )  # fmt: skip
            trainer: Any = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(items), processing_class=tokenizer)
            trainer.remove_callback(PrinterCallback)
            started = clock()
            trainer.train()
            spent = since(started)
        wall, worked = wall + spent["seconds"], worked + spent["cpu_seconds"]
        losses.append([round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry][-1])
    return {"seconds": round(wall, 2), "cpu_seconds": round(worked, 2), **useful(rows), "variant": variant, "last_losses": losses}


def useful(rows: Sequence[Lesson]) -> dict[str, int]:
    """Tokens of all roles' prompts and completions, and how many of them are distinct: read once, or said."""
    turns = [turn for lesson in rows for turn in lesson.turns.values()]
    said = sum(len(turn.completion) for turn in turns)
    prompts = sum(len(turn.context) + len(turn.invocation) for turn in turns)
    return {"rows": len(rows), "tokens": prompts + said, "said": said, "distinct": sum(map(len, rows)), "peak_mib": memory()}


# --- in the process that was called


def measure(system: str, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """One system's training, in a process of its own."""
    found = child(__file__, system, options, ("rows", "variant"), **changes)
    found = {"system": system, **found, "tokens_per_cpu_second": round(found["tokens"] / found["cpu_seconds"], 1)}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="training rows; each is one question for all four roles")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--variant", default=BEST, choices=list(VARIANTS), help="of TRL")
    parser.add_argument("--search", action="store_true", help="find TRL's fastest variant first")
    parser.add_argument("--json", action="store_true", help="JSON lines in place of the table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = {"prepare": prepare, "medpipe": lambda: by_medpipe(options.rows), "TRL": lambda: by_trl(options.rows, options.variant)}
        print(json.dumps(found[options.child]()))
        return
    if not (WORK / "learn.json").is_file():
        child(__file__, "prepare", options, ())
    if options.search:
        speeds = {variant: measure("TRL", options, rows=SEARCHED, variant=variant)["tokens_per_cpu_second"] for variant in VARIANTS}
        options.variant = max(speeds, key=lambda variant: speeds[variant])
    runs = {system: [] for system in ("medpipe", "TRL")}
    for _ in range(options.repeat):
        for system, own in runs.items():
            own.append(measure(system, options))
    speed = {system: median(run["tokens_per_cpu_second"] for run in own) for system, own in runs.items()}
    ratio = round(speed["medpipe"] / speed["TRL"], 2)
    if options.json:
        print(json.dumps({"useful_tokens_per_cpu_second": speed, "ratio": ratio, "variant": options.variant, "runs": options.repeat}))
        return
    print("\n| system | useful tokens | CPU seconds | useful tokens per CPU second | peak memory |\n|---" + "|---" * 4 + "|")
    for system, own in runs.items():
        seconds, peak = (median(run[key] for run in own) for key in ("cpu_seconds", "peak_mib"))
        name = system if system == "medpipe" else f"TRL ({options.variant})"
        print(f"| {name} | {own[0]['tokens']:,} | {seconds:.1f} | {speed[system]:.0f} | {peak:,.0f} MiB |")
    print(f"\nmedpipe against TRL: {ratio} x")


if __name__ == "__main__":
    main()
