"""What a profile would need on this machine, told before anything is loaded: devices, memory, steps, tokens, time, disk.

    show(plan(load_profile("quickstart")))

Rows and their lengths come from the finished splits where they are there, counted with the finished base's tokenizer on a sample;
until then the settings' limits are told, as upper bounds. Dimensions come from the finished base or from PUBLISHED. Time is FLOPs over
this machine's matmul peak, of which the last finished role tells what share is reached. torch is imported for that one
measurement only. Left out: evaluation, and the time of a team that has never been trained here (generation has its own pace).
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings
from medpipe.launch.devices import Machine, Place, place_role, place_team
from medpipe.lengths import Lengths, lengths
from medpipe.schema import ROLES, Manifest, Role
from medpipe.training import footprint
from medpipe.training.meter import PUBLISHED, Dims, Lora, forward_flops, train_flops

ASSUMED = {"cpu": 0.4, "cuda": 0.2}
"""Share of the matmul peak that useful arithmetic takes, before a run on this machine has told it."""
PROCESS_MIB = 550
"""What a training process holds before it has a model: Python, torch, transformers (measured on Linux, CPU build of torch)."""
ALLOCATOR = 0.8
"""What the C allocator holds on a CPU besides activations and logits, as a share of them: steps of ever new sizes leave gaps
(measured once: SmolLM2-135M, 8 rows of up to 310 tokens a pass). A GPU's allocator is not so counted."""
CHECKPOINTS = 3  # two are kept while the third is written; weights and two moments each
TEAM = "models/maporl_team"
UNKNOWN = "unknown until models/base is made"


@dataclass(frozen=True)
class Part:
    """One training: a role's fine-tuning, or the team's co-training."""

    name: str
    place: Place
    trainable: int
    frozen: int
    memory: Mapping[str, float]  # MiB by purpose
    steps: int
    tokens: float  # useful ones, without padding
    basis: str  # where rows and lengths are from
    flops: float
    seconds: float | None
    disk_mib: float  # while it runs, checkpoints included

    @property
    def memory_mib(self) -> float:
        """All of it."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Actual:
    """A finished role's numbers beside the estimate; None where its statistics do not hold them."""

    part: Part
    seconds: float
    memory_mib: float | None
    tokens: float
    same_settings: bool


@dataclass(frozen=True)
class Plan:
    """Everything that `show` prints."""

    profile: str
    model: str
    origin: str  # where the dimensions are from
    dims: Dims | None
    peaks: Mapping[str, float]  # device → FLOP/s
    utilisation: Mapping[str, tuple[float, str]]  # cpu or cuda → share of the peak, and where it is from
    parts: tuple[Part, ...] = ()
    base_mib: float = 0.0  # on disk
    free_mib: float = 0.0
    warnings: tuple[str, ...] = ()
    actual: tuple[Actual, ...] = ()


def plan(settings: Settings, measure: bool = True, seconds: float = 1.0, machine: Machine | None = None) -> Plan:
    """Estimate a profile on this machine, or on another.

    Args:
        measure: measure the matmul peak of each device used; without it the last run's peak is taken, or no time is told.
        seconds: how long each measurement takes.
        machine: another one, of which nothing is measured; its disk, and the time of a team on it, stay unknown.
    """
    dims, origin = dimensions(settings)
    places: dict[Role, Place] = {role: place_role(settings, role, machine) for role in ROLES}
    finished = _finished(settings)
    peaks = {each.pool: machine.peak for each in places.values()} if machine else _peaks(settings, places, finished, seconds * measure)
    shares = {kind: _utilisation(kind, finished) for kind in ("cpu", "cuda")}
    begun = Plan(settings.name, f"{settings.model.name} ({settings.model.kind})", origin, dims, peaks, shares)
    if dims is None:
        return replace(begun, warnings=tuple(_impossible(settings, None)))
    counted = {role: lengths(settings, role, _made(settings, "models/base")) for role in ROLES}
    roles = [_role(settings, dims, role, places[role], counted[role], begun) for role in ROLES]
    parts = roles + ([_team(settings, dims, machine)] if settings.training.method == "lora" else [])
    base_mib = dims.parameters * (2 if settings.model.kind == "hub" else 4) / footprint.MIB
    free = shutil.disk_usage(_nearest(settings.outputs)).free / footprint.MIB
    warnings = [*_impossible(settings, dims), *_too_large(settings, parts, machine)]
    if (needed := base_mib + sum(part.disk_mib for part in parts)) > free and not machine:
        warnings.append(f"about {needed:,.0f} MiB of disk are needed, {free:,.0f} MiB are free: set paths.outputs")
    actual = tuple(_beside(settings, part, *finished[part.name]) for part in roles if not machine and _made(settings, part.name))
    return replace(begun, parts=tuple(parts), base_mib=base_mib, free_mib=free, warnings=tuple(warnings), actual=actual)


def dimensions(settings: Settings) -> tuple[Dims | None, str]:
    """The base's dimensions and where they are from."""
    folder = _made(settings, "models/base")
    if folder and (dims := Dims.of_config(store.read_json(folder / "config.json"))):
        return dims, f"{folder / 'config.json'}"
    if not folder and settings.model.name in PUBLISHED:
        return PUBLISHED[settings.model.name], "the model's published config"
    return None, UNKNOWN if not folder else "of a family that medpipe/training/meter.py does not know"


# --- estimates


def _role(settings: Settings, dims: Dims, role: Role, place: Place, of: Lengths, begun: Plan) -> Part:
    training, lora = settings.training, _lora(settings)
    rows_per_step = training.batch_size * training.gradient_accumulation
    rows_per_pass = max(1, min(rows_per_step, training.tokens_per_pass // of.longest))
    element = _element(settings, place)
    memory = footprint.fine_tuning(
        dims, lora, element, settings.model.quantization, rows_per_pass * of.longest, rows_per_pass * of.longest_said,
        training.gradient_checkpointing,
    )  # fmt: skip
    tokens, said = (training.epochs * of.rows * each for each in (of.prompt + of.said, of.said))
    flops = train_flops(dims, tokens, said, lora)
    trainable = dims.lora_parameters(lora) if lora else dims.parameters
    learned = trainable * (4 if lora else element) / footprint.MIB
    pace = _pace(place, begun)
    return Part(
        f"models/{role}", place, trainable, dims.parameters if lora else 0, _with_process(memory, place),
        training.epochs * math.ceil(of.rows / rows_per_step), tokens, of.basis, flops, flops / pace if pace else None,
        learned * (1 + 3 * CHECKPOINTS),
    )  # fmt: skip


def _team(settings: Settings, dims: Dims, machine: Machine | None) -> Part:
    """Upper bounds: every episode plays all rounds, every message fills its budget."""
    lora = Lora(settings.training.lora_rank, settings.training.lora_layers)
    place, team, maporl = place_team(settings, machine), settings.team, settings.maporl
    episodes = maporl.questions_per_iteration * maporl.samples_per_question
    messages = maporl.iterations * episodes * team.max_rounds_per_episode  # of each role
    longest = max(team.max_new_tokens.values())
    tokens = messages * sum(team.max_prompt_tokens + team.max_new_tokens[role] for role in ROLES)
    said = messages * sum(team.max_new_tokens[role] for role in ROLES)
    element = _element(settings, place)
    memory = dict(
        footprint.co_training(
            dims, lora, element, settings.model.quantization, len(ROLES), maporl.minibatch, team.max_prompt_tokens + longest,
            maporl.minibatch * longest,
        )
    )  # fmt: skip
    memory["generation"] = footprint.cache(dims, element, episodes, team.max_prompt_tokens + longest)
    flops = maporl.epochs * train_flops(dims, tokens, said, lora) + 2 * forward_flops(dims, tokens, said, lora)  # drawn, and reference
    trainable = len(ROLES) * dims.lora_parameters(lora)
    disk = trainable * 4 * (1 + 3 * CHECKPOINTS) / footprint.MIB
    return Part(
        TEAM, place, trainable, dims.parameters + trainable, _with_process(memory, place), maporl.iterations, tokens,
        "at most: all rounds, full messages", flops, None if machine else _team_seconds(settings, place, episodes), disk
    )  # fmt: skip


def _team_seconds(settings: Settings, place: Place, episodes: int) -> float | None:
    """From the last team trained here, by episodes; generation's pace is not foretold."""
    folder = _made(settings, TEAM)
    if folder is None:
        return None
    stats = store.read_json(folder / "training_stats.json")
    if (stats["device"] == "cpu") != (place.gpu is None):
        return None
    return stats["seconds"] / (stats["iterations"] * stats["episodes_per_iteration"]) * settings.maporl.iterations * episodes


def _pace(place: Place, begun: Plan) -> float | None:
    """Useful FLOP/s: the device's peak, a process's share of the cores, and the share of it that is reached."""
    kind = "cpu" if place.gpu is None else "cuda"
    peak = begun.peaks.get(place.pool if kind == "cuda" else "cpu")
    cores = len(os.sched_getaffinity(0))
    return peak * begun.utilisation[kind][0] * (min(1.0, place.threads / cores) if kind == "cpu" else 1.0) if peak else None


def _with_process(memory: Mapping[str, float], place: Place) -> dict[str, float]:
    if place.gpu is not None:
        return dict(memory)
    return {**memory, "allocator": ALLOCATOR * (memory["activations"] + memory["logits"]), "process": PROCESS_MIB}


def _lora(settings: Settings) -> Lora | None:
    return Lora(settings.training.lora_rank, settings.training.lora_layers) if settings.training.method == "lora" else None


def _element(settings: Settings, place: Place) -> int:
    """Bytes of a number; a CPU always computes in fp32, and `auto` is half precision on a GPU."""
    return 4 if place.gpu is None or settings.model.precision == "fp32" else 2


# --- the machine


def _peaks(settings: Settings, places: Mapping[Role, Place], finished: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """FLOP/s by device: "cpu" for all cores together, or a GPU's pool."""
    found: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))
    for role, place in places.items():
        device = "cpu" if place.gpu is None else place.pool
        if device in found:
            continue
        if seconds:
            found[device] = _measured(settings, place, seconds)
            continue
        _, stats = finished.get(f"models/{role}", (None, {}))
        if "matmul_peak_gflops" in stats and (stats["device"] == "cpu") == (device == "cpu"):
            found[device] = stats["matmul_peak_gflops"] * 1e9 * (cores / place.threads if device == "cpu" else 1.0)
    return found


def _measured(settings: Settings, place: Place, seconds: float) -> float:
    import torch

    from medpipe.models.base import resolve_precision
    from medpipe.training.meter import matmul_peak

    device = "cpu" if place.gpu is None else f"cuda:{place.pool.removeprefix('gpu_')}"
    dtype = torch.float32 if device == "cpu" else resolve_precision(device, settings.model.precision)
    return matmul_peak(device, dtype, seconds)


def _utilisation(kind: str, finished: Mapping[str, tuple[Manifest, dict[str, Any]]]) -> tuple[float, str]:
    """Share of the peak that the role finished last reached on such a device, or the assumed one."""
    for name, (_, stats) in sorted(finished.items(), key=lambda item: item[1][0].created_at, reverse=True):
        if stats.get("mfu") and (stats["device"] == "cpu") == (kind == "cpu"):
            return stats["mfu"], f"as {name} reached"
    return ASSUMED[kind], "assumed: no finished run has measured it"


def _limit_mib(place: Place) -> float | None:
    """Memory of the GPU, or of the machine; None where nvidia-smi does not tell."""
    if place.gpu is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / footprint.MIB
    command = ["nvidia-smi", "-i", place.gpu, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


# --- what stands in the way


def _impossible(settings: Settings, dims: Dims | None) -> list[str]:
    training, found = settings.training, []
    if training.method == "full":
        found.append(
            "training.method = full: each role gets weights of its own, but models/maporl_team co-trains adapters on one shared base. "
            "Train roles alone (--select models/planner), or set training.method = lora"
        )
        if settings.model.precision == "fp16":
            found.append("training.method = full with model.precision = fp16: gradients in fp16 can't be unscaled; set bf16 or fp32")
    if dims and training.lora_layers > dims.layers:
        found.append(f"training.lora_layers = {training.lora_layers}, but the model has {dims.layers} layers: lower it")
    return found


def _too_large(settings: Settings, parts: list[Part], machine: Machine | None) -> list[str]:
    """GPUs take one training at a time; a CPU takes as many fine-tunings at once as it has slots."""
    found, advice = [], "lower training.tokens_per_pass, set training.gradient_checkpointing = true or model.quantization = 4bit"
    of_team = "lower maporl.minibatch, maporl.questions_per_iteration or team.max_prompt_tokens, or set model.quantization = 4bit"
    for part in parts:
        limit = machine.memory_mib if machine and part.place.gpu else _limit_mib(part.place)
        where = "this machine" if part.place.gpu is None else f"GPU {part.place.gpu}"
        if limit is None:
            found.append(f"whether {part.name} fits into {where} is not known: nvidia-smi does not tell its memory")
        elif part.memory_mib > limit:
            do = of_team if part.name == TEAM else advice
            found.append(f"{part.name} needs about {part.memory_mib:,.0f} MiB, {where} has {limit:,.0f} MiB: {do}")
    together = sorted((part.memory_mib for part in parts if part.place.gpu is None and part.name != TEAM), reverse=True)
    slots = settings.hardware.cpu_processes
    ram = _limit_mib(Place("", None, 1))
    if ram and sum(together[:slots]) > ram and not found:
        found.append(
            f"{slots} roles at once need about {sum(together[:slots]):,.0f} MiB, this machine has {ram:,.0f} MiB: "
            f"lower hardware.cpu_processes, or {advice}"
        )
    return found


# --- what is finished already


def _same_model(settings: Settings, manifest: Manifest) -> bool:
    then = manifest.settings.get("model", {})
    return all(then.get(key) == getattr(settings.model, key) for key in ("kind", "name", "revision"))


def _made(settings: Settings, name: str) -> Path | None:
    """A finished folder, if it was made from the model that these settings name."""
    folder = settings.outputs / name
    manifest = store.read_manifest(folder)
    return folder if manifest and _same_model(settings, manifest) else None


def _finished(settings: Settings) -> dict[str, tuple[Manifest, dict[str, Any]]]:
    found = {}
    for role in ROLES:
        folder = settings.outputs / "models" / role
        if manifest := store.read_manifest(folder):
            found[f"models/{role}"] = (manifest, store.read_json(folder / "training_stats.json"))
    return found


def _beside(settings: Settings, part: Part, manifest: Manifest, stats: Mapping[str, Any]) -> Actual:
    now = settings.model_dump(mode="json")
    same = all(manifest.settings.get(section) == now[section] for section in ("model", "training", "team"))
    return Actual(part, stats["seconds"], stats.get("peak_memory_mib"), stats["tokens"], same)


# --- on the terminal


def show(found: Plan) -> None:
    """Print the plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    size = (
        f"{found.dims.parameters / 1e6:,.1f} M parameters, {found.dims.layers} layers, from {found.origin}" if found.dims else found.origin
    )
    console.print(f"profile {found.profile}: {found.model}, {size}", markup=False)
    for device, peak in found.peaks.items():
        share, source = found.utilisation["cpu" if device == "cpu" else "cuda"]
        console.print(f"{device}: matmul peak {peak / 1e9:,.0f} GFLOP/s, of which {share:.0%} are counted on ({source})")
    if found.parts:
        table = Table("", *(part.name.removeprefix("models/") for part in found.parts), title="Estimates")
        for name, cells in _rows(found.parts).items():
            table.add_row(name, *cells)
        console.print(table)
        for part in found.parts:
            console.print(f"{part.name}: rows and tokens {part.basis}")
        whole = found.base_mib + sum(part.disk_mib for part in found.parts)
        console.print(f"disk: about {whole:,.0f} MiB with models/base ({found.base_mib:,.0f} MiB), {found.free_mib:,.0f} MiB are free")
    if found.actual:
        table = Table("", "time", "memory, MiB", "tokens", "settings", title="Finished: estimate → actual")
        for one in found.actual:
            memory = "unknown" if one.memory_mib is None else f"{one.memory_mib:,.0f}"
            table.add_row(
                one.part.name.removeprefix("models/"), f"{_time(one.part.seconds)} → {_time(one.seconds)}",
                f"{one.part.memory_mib:,.0f} → {memory}", f"{one.part.tokens:,.0f} → {one.tokens:,.0f}",
                "same" if one.same_settings else "others",
            )  # fmt: skip
        console.print(table)
    for warning in found.warnings:
        console.print(f"!! {warning}", markup=False)


def _rows(parts: Sequence[Part]) -> dict[str, list[str]]:
    purposes = list(dict.fromkeys(purpose for part in parts for purpose in part.memory))
    return {
        "device": [_device(part.place) for part in parts],
        "learning": [f"{part.trainable / 1e6:,.2f} M" for part in parts],
        "frozen": [f"{part.frozen / 1e6:,.1f} M" for part in parts],
        "memory": [f"{part.memory_mib:,.0f} MiB" for part in parts],
        **{f"  {purpose}": [f"{part.memory.get(purpose, 0):,.0f}" for part in parts] for purpose in purposes},
        "steps": [f"{part.steps:,}" for part in parts],
        "tokens": [f"{part.tokens:,.0f}" for part in parts],
        "time": [_time(part.seconds) for part in parts],
        "disk": [f"{part.disk_mib:,.0f} MiB" for part in parts],
    }


def _device(place: Place) -> str:
    return f"CPU x {place.threads}" if place.gpu is None else f"GPU {place.gpu}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
