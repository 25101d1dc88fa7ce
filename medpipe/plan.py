"""What a profile would need on this machine, told before anything is loaded: devices, memory, steps, tokens, time, disk.

    show(plan(load_profile("quickstart")))

Rows and their tokens come from the finished splits and base where they are there, counted on a sample of real training rows; until
then the settings' limits are told, as upper bounds. Time is foretold from a finished training of the same kind in this outputs folder,
on the same kind of device, with a model of comparable size: by the FLOP/s that it reached. Where there is none, the time is unknown,
and what is told is how long the same FLOPs would take at the device's matmul peak, which nothing reaches. For another machine
(`medpipe aws cost`) the share of the peak is assumed: EFFICIENCY. Left out: evaluation, a learned verifier, and what quantised weights
cost in time.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from medpipe import store
from medpipe.config import Settings
from medpipe.launch.devices import Machine, Place, gpu_problem, place_role, place_team
from medpipe.models.base import PROBE
from medpipe.models.folder import refuse_unfit
from medpipe.schema import LEARNERS, ROLES, Learner, speaker_of
from medpipe.training import meter
from medpipe.training.meter import PUBLISHED, Dims, Lora

EFFICIENCY = {"cpu": {"reading": 0.4, "learning": 0.25, "drawing": 0.1}, "cuda": {"reading": 0.2, "learning": 0.2, "drawing": 0.02}}
"""Share of the matmul peak that each kind of work is assumed to reach on another machine. CPU: measured once, SmolLM2-135M in fp32 on a
shared core, 16 rows of 400 tokens read, turns of 25 learned, 48 messages drawn. GPU: not measured; drawing waits for memory and hangs on
the batch."""
PROCESS_MIB = 550
"""What a training process holds before it has a model: Python, torch, transformers (measured on Linux, CPU build of torch)."""
ALLOCATOR = 0.8
"""What the C allocator holds on a CPU besides activations and logits, as a share of them (measured once): steps of ever new sizes
leave gaps."""
CHECKPOINTS = 3  # two are kept while the third is written; weights and two moments each
FRAME = 6  # tokens of a turn besides its message: its header, its end, a line's end
SAMPLE = 32  # rows
TEAM, LONE = "models/maporl_team", "models/agent_rl"
STATS = "training_stats.json"
COMPARABLE = 2.0
"""A model is of comparable size with up to so many times the parameters of another: small ones spend their time on other things than
large ones, and reach another share of the peak."""
UNKNOWN = "unknown until models/base is made"


@dataclass(frozen=True)
class Rows:
    """Rows of an epoch, and the tokens of one: of the transcript that is read once, and of all learners' turns behind it."""

    count: int
    read: float  # mean
    turns: float  # mean, headers of turns included
    said: float  # mean, of the completions alone
    contexts: float  # mean over rows of what stands before each learner's turn, summed over the learners
    longest: int  # of the transcript
    longest_turn: int  # of one learner
    basis: str  # where the numbers are from


@dataclass(frozen=True)
class Part:
    """One training: the fine-tuning on one device, the team's co-training, or the lone agent's."""

    name: str
    place: Place
    trainable: int
    frozen: int
    memory: Mapping[str, float]  # MiB by purpose
    steps: int
    tokens: float  # read and learned, or drawn; without padding
    basis: str  # where rows and tokens are from
    flops: Mapping[str, float]  # by kind of work, the keys of EFFICIENCY
    seconds: float | None  # None: unknown
    at_peak: float | None  # seconds that the same FLOPs take at the matmul peak
    disk_mib: float  # while it runs, checkpoints included
    made: str = ""  # what the finished training of the same model says of itself
    speed: float | None = None  # FLOP/s of the finished training that `seconds` is from

    @property
    def memory_mib(self) -> float:
        """All of it."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """Everything that `show` prints."""

    profile: str
    model: str
    origin: str  # where the dimensions are from
    dims: Dims | None
    peaks: Mapping[str, float]  # pool → FLOP/s
    parts: tuple[Part, ...] = ()
    base_mib: float = 0.0  # on disk
    free_mib: float = 0.0
    warnings: tuple[str, ...] = ()


def plan(settings: Settings, measure: bool = True, seconds: float = 1.0, machine: Machine | None = None) -> Plan:
    """Estimate a profile on this machine, or on another.

    Args:
        measure: measure the matmul peak of each device used.
        seconds: how long each measurement takes.
        machine: another one, of which nothing is measured; its disk stays unknown.
    """
    dims, origin = dimensions(settings)
    together: dict[Place, list[Learner]] = {}
    for learner in LEARNERS:
        together.setdefault(place_role(settings, speaker_of(learner), machine), []).append(learner)
    peaks = {place.pool: machine.peak for place in together} if machine else _peaks(settings, together, seconds * measure)
    begun = Plan(settings.name, f"{settings.model.name} ({settings.model.kind})", origin, dims, peaks)
    if dims is None:
        return begun
    tuned = [_fine_tuning(settings, dims, place, learners, peaks) for place, learners in together.items()]
    parts = [*tuned, *(_co_training(settings, dims, place_team(settings, machine), name, peaks) for name in (TEAM, LONE))]
    parts = [_foretold(settings, dims, part, peaks) if machine is None else _assumed(part, peaks) for part in parts]
    base_mib = dims.parameters * (2 if settings.model.kind == "hub" else 4) / meter.MIB
    free = shutil.disk_usage(_nearest(settings.outputs)).free / meter.MIB
    warnings = _warnings(settings, dims, parts, machine)
    if measure and machine is None:
        warnings += [
            f"the matmul peak of {place.pool} could not be measured, as other processes use this machine: plan again when it is idle"
            for place in together if place.pool not in peaks
        ]  # fmt: skip
        warnings += [problem for problem in (gpu_problem(),) if problem]
    if (needed := base_mib + sum(part.disk_mib for part in parts)) > free and not machine:
        warnings.append(f"about {needed:,.0f} MiB of disk are needed, {free:,.0f} MiB are free: set paths.outputs")
    return replace(begun, parts=tuple(parts), base_mib=base_mib, free_mib=free, warnings=tuple(warnings))


def dimensions(settings: Settings) -> tuple[Dims | None, str]:
    """The base's dimensions and where they are from."""
    folder = _made(settings, "models/base")
    if folder and (dims := Dims.of_config(store.read_json(folder / "config.json"))):
        return dims, f"{folder / 'config.json'}"
    if not folder and settings.model.kind == "folder":
        refuse_unfit(Path(settings.model.name))
        config = Path(settings.model.name) / "config.json"
        if dims := Dims.of_config(store.read_json(config)):
            return dims, str(config)
    elif not folder and settings.model.name in PUBLISHED:
        return PUBLISHED[settings.model.name], "the model's published config"
    return None, UNKNOWN if not folder else "of a family that medpipe/training/meter.py does not know"


def rows_of(settings: Settings, learners: Sequence[Learner]) -> Rows:
    """What these learners learn from: a sample of their lessons, or upper bounds where splits or base are not made yet."""
    folder, base = settings.outputs / "splits" / "train", _made(settings, "models/base")
    said = {learner: settings.team.max_new_tokens[speaker_of(learner)] for learner in learners}
    if store.read_manifest(folder) is None or base is None:
        full = settings.team.max_header_tokens + 2 * sum(settings.team.max_new_tokens[role] + FRAME for role in ROLES)  # an earlier round
        turns, count = sum(said.values()) + FRAME * len(said), settings.training.max_examples
        basis = "at most: training.max_examples full rows; splits/train and models/base are not made yet"
        return Rows(count, full, turns, sum(said.values()), full * len(said), full, max(said.values()) + FRAME, basis)
    from transformers import AutoTokenizer

    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.team.transcript import Frame
    from medpipe.training.sft import make_lessons, pick

    rows = store.read_examples(folder)
    count = min(len(rows), settings.training.max_examples)
    chosen = pick(rows, min(count, SAMPLE), settings.training.choice_share, settings.seed)
    frame = Frame(AutoTokenizer.from_pretrained(base, local_files_only=True))
    lessons = make_lessons(chosen, EvidenceIndex.load(folder / "evidence"), learners, frame, settings, training=True)
    turns_of = [list(lesson.turns.values()) for lesson in lessons]
    length = [[len(turn.invocation) + len(turn.completion) for turn in turns] for turns in turns_of]
    return Rows(
        count, fmean(len(lesson.tokens) for lesson in lessons), fmean(map(sum, length)),
        fmean(sum(len(turn.completion) for turn in turns) for turns in turns_of),
        fmean(sum(len(turn.context) for turn in turns) for turns in turns_of), max(len(lesson.tokens) for lesson in lessons),
        max(map(max, length)), f"of {count} rows of splits/train, by {len(lessons)} of them",
    )  # fmt: skip


# --- estimates


def _fine_tuning(settings: Settings, dims: Dims, place: Place, learners: Sequence[Learner], peaks: Mapping[str, float]) -> Part:
    """A transcript is read once by the bare base, then each learner's turn is learned behind it; `lora` reads for each learner."""
    training, lora, of, element = settings.training, _lora(settings), rows_of(settings, learners), _element(settings, place)
    rows_per_step, seen = training.batch_size * training.gradient_accumulation, training.epochs * of.count
    pass_rows = max(1, min(rows_per_step, training.tokens_per_pass // of.longest))
    shared = training.adapter == "activated"
    read, learned = (of.read, of.turns) if shared else (0.0, of.contexts + of.turns)
    flops = {"reading": meter.read_flops(dims, seen * read), "learning": meter.learn_flops(dims, lora, seen * learned, seen * of.said)}
    return _part(
        settings, dims, ", ".join(f"models/{learner}" for learner in learners), place, len(learners), flops, peaks, basis=of.basis,
        steps=training.epochs * math.ceil(of.count / rows_per_step), tokens=seen * (of.read + of.said),
        made=_told(settings, f"models/{learners[0]}"),
        memory={
            # The reading, a pass's copy of it, and what is joined to it for the backward pass.
            "keys and values": 3 * meter.keys_values(dims, element, pass_rows * of.longest) if shared else 0.0,
            "activations": meter.activations(dims, lora, element, pass_rows * (of.longest_turn + (0 if shared else of.longest))),
            "logits": meter.logits(dims, pass_rows * of.longest_turn),
        },
    )  # fmt: skip


def _co_training(settings: Settings, dims: Dims, place: Place, name: str, peaks: Mapping[str, float]) -> Part:
    """Upper bounds: every question is replaced as often as may be, every episode plays all rounds, every message is full."""
    lora, team, maporl, element = _lora(settings), settings.team, settings.maporl, _element(settings, place)
    shared = settings.training.adapter == "activated"
    at_once = math.ceil(maporl.questions_per_iteration * (1 + maporl.redraw))  # questions of an iteration
    asked = maporl.iterations * at_once
    looks = math.ceil(maporl.iterations / maporl.select_every) * maporl.select_questions if maporl.select_every else 0
    tree = (len(ROLES) + 1) / 2 if maporl.credit == "tree" else 1.0  # each role's alternatives are continued by the later roles
    budgets = {role: team.max_new_tokens[role] for role in ROLES}
    rounds = team.max_rounds_per_episode
    a_round = sum(budgets.values())
    framed = rounds * (a_round + FRAME * len(ROLES))
    samples = asked * maporl.samples_per_question
    drawn = samples * tree * rounds * a_round  # the lone agent may draw as many
    learned = samples * (framed if maporl.credit == "episodes" else a_round + FRAME * len(ROLES))
    readers = 1 if shared else len(ROLES)
    flops = {
        "reading": meter.read_flops(dims, readers * ((asked + looks) * team.max_header_tokens + (samples * tree + looks) * framed)),
        "learning": maporl.epochs * meter.learn_flops(
            dims, lora, learned if shared else learned + samples * rounds * len(ROLES) * (team.max_header_tokens + framed), learned
        ) + (meter.draw_flops(dims, lora, learned) if maporl.kl else 0.0),  # the reference scores once more
        "drawing": meter.draw_flops(dims, lora, drawn + looks * rounds * a_round),
    }  # fmt: skip
    longest, row = max(budgets.values()) + FRAME, team.max_header_tokens + framed
    held = at_once * maporl.samples_per_question + 2 * maporl.minibatch  # an iteration's readings, and a minibatch's copies
    return _part(
        settings, dims, name, place, 1 if name == LONE else len(ROLES), flops, peaks, starts=True, steps=maporl.iterations,
        tokens=drawn, basis="drawn, at most: all questions redrawn, all rounds, full messages", made=_told(settings, name),
        memory={
            "keys and values": readers * meter.keys_values(dims, element, held * row),
            "activations": meter.activations(dims, lora, element, maporl.minibatch * (longest if shared else row)),
            "logits": meter.logits(dims, maporl.minibatch * longest),
        },
    )  # fmt: skip


def _part(
    settings: Settings, dims: Dims, name: str, place: Place, learners: int, flops: Mapping[str, float], peaks: Mapping[str, float], *,
    memory: Mapping[str, float], steps: int, tokens: float, basis: str, made: str, starts: bool = False,
) -> Part:  # fmt: skip
    """What is the same for every training; `starts`: a frozen copy and a best one lie beside each adapter that learns."""
    own, element = meter.adapters(dims, _lora(settings), learners), _element(settings, place)
    held = {
        "weights": meter.weights(dims, element, settings.model.quantization) + own * (3 if starts else 1),
        "gradients": own, "optimizer": 2 * own, **memory,
    }  # fmt: skip
    if place.gpu is None:
        held |= {"allocator": ALLOCATOR * (memory["activations"] + memory["logits"]), "process": PROCESS_MIB}
    peak = peaks.get(place.pool)
    trainable = learners * dims.lora_parameters(_lora(settings))
    return Part(
        name, place, trainable, dims.parameters, held, steps, tokens, basis, flops, None, sum(flops.values()) / peak if peak else None,
        own * (1 + 3 * CHECKPOINTS), made,
    )  # fmt: skip


# --- time


def _assumed(part: Part, peaks: Mapping[str, float]) -> Part:
    """The part with its time on another machine, by the share of the peak that each kind of work is assumed to reach."""
    share, peak = EFFICIENCY["cpu" if part.place.gpu is None else "cuda"], peaks[part.place.pool]
    return replace(part, seconds=sum(count / (peak * share[kind]) for kind, count in part.flops.items()))


def _foretold(settings: Settings, dims: Dims, part: Part, peaks: Mapping[str, float]) -> Part:
    """The part with its time here, if a finished training tells how fast this machine is at such work."""
    finished = [name for name in part.name.split(", ") if (settings.outputs / name / STATS).is_file()]
    if not finished or settings.aws.launcher != "local":  # a job's results tell of its own machine
        return part
    name = finished[0]
    stats, then = store.read_json(settings.outputs / name / STATS), _settings_then(settings, name)
    done, tokens = dimensions(then)[0] if then else None, stats.get("tokens", stats.get("drawn_tokens", 0))
    now = {"fp32": "float32", "bf16": "bfloat16"}[_precision(settings, part.place)]
    if (
        then is None or done is None or not 1 / COMPARABLE <= done.parameters / dims.parameters <= COMPARABLE
        or str(stats.get("device")).partition(":")[0] != ("cpu" if part.place.gpu is None else "cuda") or stats.get("precision") != now
        or then.training.adapter != settings.training.adapter or not tokens or not stats.get("seconds")
    ):  # fmt: skip
        return part
    if name in (TEAM, LONE):
        was = _co_training(then, done, part.place, name, peaks)
    else:  # who learned in the same pass tells the same time
        told = [one for one in finished if store.read_json(settings.outputs / one / STATS)["seconds"] == stats["seconds"]]
        was = _fine_tuning(then, done, part.place, [one for one in LEARNERS if f"models/{one}" in told], peaks)
    speed = sum(was.flops.values()) * tokens / was.tokens / stats["seconds"]
    return replace(part, seconds=sum(part.flops.values()) / speed, speed=speed)


def _settings_then(settings: Settings, name: str) -> Settings | None:
    """The settings with those that a finished training was made with; None where its manifest is gone or of another version."""
    adapters = {TEAM: "models/planner", LONE: "models/agent"}.get(name, name)  # a co-training goes on with what these were made with
    manifests = [store.read_manifest(settings.outputs / one) for one in (adapters, name)]
    if None in manifests:
        return None
    known = settings.model_dump(mode="json")
    for manifest in manifests:
        known |= {section: values for section, values in manifest.settings.items() if section in known} if manifest else {}
    try:
        return Settings.model_validate(known)
    except ValidationError:
        return None


def _lora(settings: Settings) -> Lora:
    return Lora(settings.training.lora_rank, settings.training.lora_layers)


def _precision(settings: Settings, place: Place) -> str:
    """As medpipe/models/base.py resolves it, without asking torch: `auto` is taken to be bf16 on a GPU."""
    chosen = settings.model.precision
    if chosen != "auto":
        return chosen
    if place.gpu is not None:
        return "bf16"
    folder = _made(settings, "models/base")
    return store.read_json(folder / PROBE)["cpu"] if folder and (folder / PROBE).is_file() else "fp32"


def _element(settings: Settings, place: Place) -> int:
    """Bytes of a number."""
    return {"fp32": 4, "bf16": 2}[_precision(settings, place)]


# --- the machine, and what lies there


def _peaks(settings: Settings, places: Mapping[Place, Any], seconds: float) -> dict[str, float]:
    """FLOP/s by pool, measured."""
    if not seconds:
        return {}
    import torch

    found = {}
    for place in places:
        device = "cpu" if place.gpu is None else place.pool.replace("gpu_", "cuda:")
        dtype = torch.bfloat16 if _precision(settings, place) == "bf16" else torch.float32
        if peak := meter.matmul_peak(device, dtype, seconds):
            found[place.pool] = peak
    return found


def _limit_mib(place: Place) -> float | None:
    """Memory of the GPU, or of the machine; None where nvidia-smi does not tell."""
    if place.gpu is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / meter.MIB
    command = ["nvidia-smi", "-i", place.gpu, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _warnings(settings: Settings, dims: Dims, parts: Sequence[Part], machine: Machine | None) -> list[str]:
    """What stands in the way: layers that are not there, memory that does not suffice."""
    found = []
    if settings.training.lora_layers > dims.layers:
        found.append(f"training.lora_layers = {settings.training.lora_layers}, but the model has {dims.layers} layers: lower it")
    for part in parts:
        limit = machine.memory_mib if machine and part.place.gpu else _limit_mib(part.place)
        where = "this machine" if part.place.gpu is None else f"GPU {part.place.gpu}"
        if limit is None:
            found.append(f"whether {part.name} fits into {where} is not known: nvidia-smi does not tell its memory")
        elif part.memory_mib > limit:
            fine_tuning = part.name not in (TEAM, LONE)
            do = "training.tokens_per_pass" if fine_tuning else "maporl.minibatch, maporl.questions_per_iteration"
            found.append(
                f"{part.name} needs about {part.memory_mib:,.0f} MiB, {where} has {limit:,.0f} MiB: lower {do} or "
                "team.max_header_tokens, or set model.quantization = 4bit"
            )
    return found


def _made(settings: Settings, name: str) -> Path | None:
    """A finished folder, if it was made from the model that these settings name."""
    manifest = store.read_manifest(settings.outputs / name)
    then = manifest.settings.get("model", {}) if manifest else {}
    same = all(then.get(key) == getattr(settings.model, key) for key in ("kind", "name", "revision"))
    return settings.outputs / name if manifest and same else None


def _told(settings: Settings, name: str) -> str:
    """Time and memory that a finished training wrote down."""
    folder = _made(settings, name)
    stats = store.read_json(folder / STATS) if folder else {}
    memory = f", {stats['peak_memory_mib']:,} MiB" if "peak_memory_mib" in stats else ""
    return f"{_time(stats['seconds'])}{memory}" if stats else ""


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


# --- on the terminal


def show(found: Plan) -> None:
    """Print the plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    size = f"{found.dims.parameters / 1e6:,.1f} M parameters, {found.dims.layers} layers, from " if found.dims else ""
    console.print(f"profile {found.profile}: {found.model}, {size}{found.origin}", markup=False)
    for pool, peak in found.peaks.items():
        console.print(f"{pool}: matmul peak {peak / 1e9:,.0f} GFLOP/s")
    if found.parts:
        table = Table("", *(part.name.replace("models/", "") for part in found.parts), title="Estimates")
        for name, cells in _cells(found.parts).items():
            table.add_row(name, *cells)
        console.print(table)
        for part in found.parts:
            console.print(f"{part.name}: tokens {part.basis}; {_timed(part, found.peaks.get(part.place.pool))}")
        whole = found.base_mib + sum(part.disk_mib for part in found.parts)
        console.print(f"disk: about {whole:,.0f} MiB with models/base ({found.base_mib:,.0f} MiB), {found.free_mib:,.0f} MiB are free")
    for warning in found.warnings:
        console.print(f"!! {warning}", markup=False)


def _cells(parts: Sequence[Part]) -> dict[str, list[str]]:
    purposes = list(dict.fromkeys(purpose for part in parts for purpose in part.memory))
    return {
        "device": [f"CPU x {p.place.threads}" if p.place.gpu is None else f"GPU {p.place.gpu}" for p in parts],
        "learning": [f"{part.trainable / 1e6:,.2f} M" for part in parts],
        "frozen": [f"{part.frozen / 1e6:,.1f} M" for part in parts],
        "memory": [f"{part.memory_mib:,.0f} MiB" for part in parts],
        **{f"  {purpose}": [f"{part.memory.get(purpose, 0):,.0f}" for part in parts] for purpose in purposes},
        "steps": [f"{part.steps:,}" for part in parts],
        "tokens": [f"{part.tokens:,.0f}" for part in parts],
        "time": [_time(part.seconds) for part in parts],
        "  at the peak": [_time(part.at_peak) for part in parts],
        "disk": [f"{part.disk_mib:,.0f} MiB" for part in parts],
        "when last made": [part.made or "not yet" for part in parts],
    }


def _timed(part: Part, peak: float | None) -> str:
    """Where the time is from, or why it is unknown."""
    if part.speed is None:
        return "time unknown, as no model of about this size was trained so on this machine yet; it takes longer than at the peak"
    share = meter.utilisation(part.speed, peak)
    told = f", {share:.0%} of the peak" if share else ", more than the peak measured now, which was none" if peak else ""
    return f"time by the {part.speed / 1e9:,.1f} GFLOP/s of the finished training{told}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
