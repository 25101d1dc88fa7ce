"""Supervised fine-tuning: medpipe against TRL's SFTTrainer and transformers' Trainer, on the same base and rows in one run.

    python bench/sft.py [--rows 96] [--epochs 1] [--repeat 3] [--systems a,b,c,d] [--search]

The base is the bundled SmolLM2-135M-Instruct, the rows are the reporter's, made by medpipe from the bundled corpus with
quickstart's budgets; both are prepared once in outputs/bench/sft, the rows as token ids. Each measurement is a process of
its own, systems take turns, medians are printed at the end. Systems:
- a: medpipe (medpipe/training/trainer.py) with its own batches and its checkpoint once a minute;
- b: TRL's SFTTrainer with its defaults: gradient checkpointing, rows in random order, padded to the longest of a batch;
- c: TRL's SFTTrainer at its best setting on a CPU, one of VARIANTS. `--search` first tries all of them for SEARCH_STEPS steps,
  prints speed and by how much the loss of one batch differs from that of the same rows scored one by one, and takes the
  fastest exact one; without it --variant is taken;
- d: transformers' Trainer, every batch padded to 512, with gradient checkpointing.

Equal for all: weights, the adapter (r=8, alpha=16, no dropout, every linear module of every layer) and its first values, fp32
on the CPU, threads, rows, epochs, rows per optimizer step (--batch; a packed variant of c comes near it), loss on the completion
alone as the mean over a step's completion tokens, AdamW with the same rate, no weight decay, cosine schedule, warm-up 5%,
gradients clipped at 1, a loss logged at every step. Different: order of the rows, padding, recomputation, at which
tokens the output head is computed, the loop itself; and bf16, TRL's default, is switched off in b (many times slower on a CPU).

What is measured: seconds of the training call alone, first step included, loading and evaluation excluded; useful tokens are
those of prompts and completions, without padding. `train loss` is the mean of the last quarter of the steps' losses,
`held-out loss` the mean per completion token of HELD validation rows after training; it is computed by Policies.mean_logp for
all. On a machine that others use too, `cpu_seconds` (all threads, from set-up to the end of the training) tells more than seconds.
Peak memory is the process's up to the end of the training, loading included. The share of the matmul peak is

    FLOPs = 2·M·T + 2·(M - first)·T + 2·H·C + 2·H·C + 3·2·A·T            (medpipe/training/meter.py, without recomputation)

over seconds times the fastest product of two matrices in the same process (fp32, one second before training). M are the
parameters of all layers' matrices, `first` those of the lowest q, k, v with their adapters' A, whose input needs no gradient,
H those of the output head, A the adapter's; T are useful tokens, C completion tokens. So work on padding, on the prompts'
logits and on recomputation is no merit.
Needs: pip install -e '.[bench]'. Left out: GPUs, and systems that need one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medpipe.config import Settings
    from medpipe.job import Job
    from medpipe.models.policy import Policies
    from medpipe.training.batches import Row

WORK = Path("outputs/bench/sft")
ROLE = "reporter"
HELD, WIDTH, SEARCH_STEPS, EXACT = 32, 512, 3, 1e-3
NAMES = {"a": "medpipe", "b": "TRL, defaults", "c": "TRL, best on CPU", "d": "Trainer, padded to 512"}
VARIANTS: dict[str, dict[str, Any]] = {  # all without gradient checkpointing
    "random": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "grouped, two passes": {"train_sampling_strategy": "group_by_length", "passes": 2},
    "grouped, four passes": {"train_sampling_strategy": "group_by_length", "passes": 4},
    "grouped, a row a pass": {"train_sampling_strategy": "group_by_length", "passes": 8},
    "medpipe's order, four passes": {"train_sampling_strategy": "sequential", "passes": 4, "ordered": True},
    "padding-free": {"padding_free": True, "max_length": None},
    "grouped, padding-free": {"train_sampling_strategy": "group_by_length", "padding_free": True, "max_length": None},
    "packed": {"packing": True},
}
BEST = "medpipe's order, four passes"
"""The fastest of all in a `--search` on two CPU cores (RESULTS.md); of those that use TRL alone it is a row a pass."""


# --- in a process of its own


def prepare(rows: int, batch: int) -> dict[str, Any]:
    """Base model and rows, unless they are there already."""
    from medpipe import store
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.training import sft

    settings = settings_for(rows, 1, batch, 1e-3)
    if not (WORK / "base" / "config.json").is_file():
        from medpipe.models import base

        (WORK / "base").mkdir(parents=True, exist_ok=True)
        base.run(job_for(settings, "models/base", WORK / "base", WORK))
    made = rows_file(rows)
    if not made.is_file():
        with tempfile.TemporaryDirectory() as folder:
            splits = corpus_into(Path(folder), settings)
            index = EvidenceIndex.load(splits["train"] / "evidence")
            job = job_for(settings, f"models/{ROLE}", Path(folder), Path(folder))
            parts = {"train": (splits["train"], rows), "held": (splits["validation"], HELD)}
            chosen = {name: sft.pick(store.read_examples(split), count, settings.seed) for name, (split, count) in parts.items()}
            read = {name: sft.role_rows(ROLE, part, index, tokenizer_of(), job) for name, part in chosen.items()}
        store.write_json(made, {name: [[row.prompt, row.target] for row in part] for name, part in read.items()})
    both = read_rows(rows)
    return {name: {"rows": len(part), "tokens": sum(map(size, part)), "longest": max(map(size, part))} for name, part in both.items()}


def measure(system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train by one system; its speed, losses and memory."""
    import torch

    from medpipe.training.meter import Dims, Lora, matmul_peak, train_flops

    rows, held = read_rows(options.rows).values()
    settings = settings_for(options.rows, options.epochs, options.batch, options.rate)
    policies = fresh(settings)
    peak = matmul_peak("cpu", torch.float32, seconds=1.0)
    loaded, worked = memory(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if system == "a":
            seconds, losses = by_medpipe(policies, rows, settings, Path(folder))
            gap = None
        else:
            with policies.use(ROLE, train=True):
                trainer = peer(system, options.variant, policies, rows, settings, folder)
            gap = inexactness(trainer, policies) if options.searching else None
            with policies.use(ROLE, train=True):
                seconds, losses = timed(trainer)
    trained, worked = memory(), time.process_time() - worked
    tokens, said = options.epochs * sum(map(size, rows)), options.epochs * sum(len(row.target) for row in rows)
    dims = Dims.of_config(policies.base.config)
    assert dims is not None, "the bundled model's family is known to the meter"
    flops = train_flops(dims, tokens, said, Lora(settings.training.lora_rank))
    return {
        "system": system, "name": NAMES[system], "variant": options.variant if system == "c" else "", "rows": len(rows),
        "epochs": options.epochs, "steps": len(losses), "tokens": tokens, "completion_tokens": said, "seconds": round(seconds, 2),
        "cpu_seconds": round(worked, 2),
        "tokens_per_second": round(tokens / seconds, 1), "train_loss": round(fmean(losses[-max(1, len(losses) // 4) :]), 4),
        "held_loss": round(held_loss(policies, held), 4) if not options.searching else None, "peak_mib": trained, "loaded_mib": loaded,
        "gflops_peak": round(peak / 1e9, 1), "share_of_peak": round(flops / seconds / peak, 4), "loss_gap": gap,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def by_medpipe(policies: Policies, rows: Sequence[Row], settings: Settings, folder: Path) -> tuple[float, list[float]]:
    from medpipe.training.batches import optimizer_steps
    from medpipe.training.trainer import fit

    training = settings.training
    steps = optimizer_steps(rows, training.batch_size, training.epochs, f"{settings.seed}/{ROLE}")
    fitted = fit(policies, ROLE, steps, job_for(settings, f"models/{ROLE}", folder, folder))
    return fitted.seconds, fitted.losses  # from the trainer's readiness to the last step, as for the peers


def peer(system: str, variant: str, policies: Policies, rows: Sequence[Row], settings: Settings, folder: str) -> Any:
    """TRL's or transformers' trainer, ready to train."""
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from medpipe.training.batches import optimizer_steps

    training = settings.training
    chosen = dict(VARIANTS[variant]) if system == "c" else {}
    passes = chosen.pop("passes", 1)
    epochs = training.epochs
    if chosen.pop("ordered", False):  # the same rows in the same steps: then the losses must agree, too
        epoch = optimizer_steps(rows, training.batch_size, training.epochs, f"{settings.seed}/{ROLE}")
        rows, epochs = [row for step in epoch for row in step], 1
    batch = training.batch_size // passes
    if chosen.get("packing"):  # an item is then a row of WIDTH tokens: so many that about as many rows make a step
        batch = max(1, round(batch * sum(map(size, rows)) / len(rows) / WIDTH))
        chosen["max_length"] = WIDTH
    steps = epochs * -(-len(rows) // training.batch_size)
    common: dict[str, Any] = {
        "output_dir": folder, "num_train_epochs": epochs, "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes, "learning_rate": training.learning_rate, "lr_scheduler_type": "cosine",
        "warmup_steps": int(training.warmup_share * steps), "max_grad_norm": training.gradient_clip, "weight_decay": 0.0, "bf16": False,
        "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": settings.seed,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    data = Dataset.from_list([{"input_ids": [*row.prompt, *row.target], "labels": [-100] * len(row.prompt) + row.target} for row in rows])
    if system == "d":
        arguments = TrainingArguments(**common, gradient_checkpointing=True)
        end = policies.tokenizer.pad_token_id
        trainer: Any = Trainer(policies.model, arguments, train_dataset=data, data_collator=lambda items: padded(items, end))
    else:
        from trl.trainer.sft_config import SFTConfig  # pyright: ignore[reportMissingImports]
        from trl.trainer.sft_trainer import SFTTrainer  # pyright: ignore[reportMissingImports]

        if system == "c":
            chosen["gradient_checkpointing"] = False
        trainer = SFTTrainer(policies.model, SFTConfig(**common, **chosen), train_dataset=data, processing_class=policies.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def padded(items: Sequence[Mapping[str, list[int]]], end: Any) -> dict[str, Any]:
    """A batch in which every row is WIDTH tokens long."""
    import torch

    fill = {"input_ids": end, "labels": -100}
    batch = {key: torch.tensor([item[key] + [value] * (WIDTH - len(item[key])) for item in items]) for key, value in fill.items()}
    filled = torch.tensor([[1] * len(item["input_ids"]) + [0] * (WIDTH - len(item["input_ids"])) for item in items])
    return {**batch, "attention_mask": filled}


def timed(trainer: Any) -> tuple[float, list[float]]:
    trainer.model.train()
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.model.eval()
    return seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def inexactness(trainer: Any, policies: Policies) -> float:
    """By how much the trainer's loss of its first items differs from that of the same rows, each scored alone."""
    import torch

    from medpipe.training.batches import Row

    items = [trainer.train_dataset[number] for number in range(trainer.args.per_device_train_batch_size)]
    pairs: list[Row] = []
    for item in items:
        start = 0
        for length in item.get("seq_lengths") or [len(item["input_ids"])]:
            ids, labels = item["input_ids"][start : start + length], item["labels"][start : start + length]
            prompt = sum(label == -100 for label in labels)
            pairs.append(Row(ids[:prompt], ids[prompt:]))
            start += length
    with torch.inference_mode():
        loss = float(trainer.compute_loss(trainer.model, trainer.data_collator(items)))
    return round(abs(loss - held_loss(policies, pairs, batch=1)), 6)


def fresh(settings: Settings) -> Policies:
    """The base with a new adapter: always the same values."""
    from medpipe.models import base
    from medpipe.training import sft

    model, tokenizer = base.load(WORK / "base", "cpu", settings.model)
    return sft.with_adapter(model, tokenizer, ROLE, settings.training, settings.model.name)


def held_loss(policies: Policies, rows: Sequence[Row], batch: int = 8) -> float:
    """Mean loss per completion token, nats."""
    means = policies.mean_logp(ROLE, [row.prompt for row in rows], [row.target for row in rows], batch)
    said = [len(row.target) for row in rows]
    return -sum(mean * count for mean, count in zip(means, said, strict=True)) / sum(said)


def settings_for(rows: int, epochs: int, batch: int, rate: float) -> Settings:
    from medpipe.config import load_profile

    changes = {"max_examples": rows, "epochs": epochs, "batch_size": batch, "learning_rate": rate, "lora_layers": 0}
    return load_profile("quickstart", {f"training.{name}": value for name, value in changes.items()})


def job_for(settings: Settings, name: str, out: Path, scratch: Path) -> Job:
    from mirror import Quiet

    from medpipe.job import Job

    return Job(name, settings, {}, out, scratch, "cpu", Quiet())


def corpus_into(folder: Path, settings: Settings) -> dict[str, Path]:
    """The bundled corpus from its source to the splits, by the functions that the assets run; compared with no benchmark."""
    from mirror import Quiet

    from medpipe import store
    from medpipe.job import Job
    from medpipe.tasks import TASKS

    made = {"sources/benchmarks": folder / "none"}
    store.write_examples(folder / "none", [])
    store.write_json(folder / "none" / "benchmarks.json", {})
    for key, task in {
        "sources/synthetic": "source",
        "corpus/clean": "clean",
        "splits/train": "split",
        "splits/validation": "split",
    }.items():
        out, scratch = folder / key, folder / "scratch" / key
        out.mkdir(parents=True)
        scratch.mkdir(parents=True)
        TASKS[task](Job(key, settings, dict(made), out, scratch, "cpu", Quiet()))
        made[key] = out
    return {side: made[f"splits/{side}"] for side in ("train", "validation")}


def tokenizer_of() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(WORK / "base", local_files_only=True)


def rows_file(rows: int) -> Path:
    return WORK / f"rows-{rows}.json"


def read_rows(rows: int) -> dict[str, list[Row]]:
    from medpipe import store
    from medpipe.training.batches import Row

    return {name: [Row(prompt, target) for prompt, target in part] for name, part in store.read_json(rows_file(rows)).items()}


def size(row: Row) -> int:
    return len(row.prompt) + len(row.target)


def memory() -> int:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# --- in the process that was called: it imports nothing large, whose memory its children would inherit the peak of


def child(what: str, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """The JSON that a process of this script prints last."""
    given = {key: getattr(options, key) for key in ("rows", "epochs", "batch", "rate", "variant")} | changes
    flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, __file__, "--child", what, *flags, *(["--searching"] if options.searching else [])]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what} {given}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def search(options: argparse.Namespace) -> str:
    """Try TRL's variants on a few steps; the fastest of those whose loss is exact."""
    few = argparse.Namespace(**{**vars(options), "rows": SEARCH_STEPS * options.batch, "epochs": 1, "searching": True})
    child("prepare", few)
    found = {}
    for variant in VARIANTS:
        result = child("c", few, variant=variant)
        print(json.dumps(result), flush=True)
        exact = result["loss_gap"] < EXACT
        print(f"| {variant} | {result['tokens_per_second']} tokens/s | {'exact' if exact else 'INEXACT'} ({result['loss_gap']:.1e} nats) |")
        if exact:
            found[variant] = result["tokens_per_second"]
    best = max(found, key=lambda variant: found[variant])
    print(f"best: {best}", flush=True)
    return best


def table(results: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> None:
    """Medians by system."""
    print("\n| system | useful tokens/s | against medpipe | share of matmul peak | train loss | held-out loss | peak memory |")
    print("|---|---|---|---|---|---|---|")
    runs = {system: [result for result in results if result["system"] == system] for system in systems}
    speed = {system: median(run["tokens_per_second"] for run in part) for system, part in runs.items()}
    lines = []
    for system, part in runs.items():
        middle = {key: median(run[key] for run in part) for key in ("share_of_peak", "train_loss", "held_loss", "peak_mib")}
        speeds = [run["tokens_per_second"] for run in part]
        ratio = f"{speed[system] / speed['a']:.2f} x" if "a" in speed else "not run"
        name = NAMES[system] + (f" ({part[0]['variant']})" if part[0]["variant"] else "")
        line = {"system": system, "name": name, "runs": len(part), "tokens_per_second": speed[system], **middle}
        print(
            f"| {name} | {speed[system]:.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {ratio} | {middle['share_of_peak']:.1%} | "
            f"{middle['train_loss']:.3f} | {middle['held_loss']:.3f} | {middle['peak_mib']:,.0f} MiB |"
        )
        lines.append(json.dumps(line))
    print("", *lines, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=96, help="training rows")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="rows per optimizer step")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--systems", default="a,b,c,d", help="which, separated by commas")
    parser.add_argument("--variant", default=BEST, choices=list(VARIANTS), help="of system c")
    parser.add_argument("--search", action="store_true", help="find the best variant of system c first")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--searching", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(prepare(options.rows, options.batch) if options.child == "prepare" else measure(options.child, options)))
        return
    systems = options.systems.split(",")
    if unknown := [system for system in systems if system not in NAMES]:
        parser.error(f"got the system {', '.join(unknown)}: known are {', '.join(f'{key} ({name})' for key, name in NAMES.items())}")
    print(json.dumps(child("prepare", options)), flush=True)
    if options.search:
        options.variant = search(options)
    results = []
    for _ in range(options.repeat):
        for system in systems:
            results.append(child(system, options))
            print(json.dumps(results[-1]), flush=True)
    table(results, systems)


if __name__ == "__main__":
    main()
