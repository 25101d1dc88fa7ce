"""Which device each role works on: counted without importing torch, so that the graph loads fast.

GPUs are those that the driver's own tool lists (`nvidia-smi -L`, which asks NVML; WSL2 has no other list), else those in /proc. Where
torch can't use what is there, or sees more, `gpu_problem` says so.

A role's `cuda:n` is taken modulo the number of visible GPUs; without a GPU every role runs on the CPU. What lives on one device is
fine-tuned in one pass by one process, which claims that device. Left out: one role over several devices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from medpipe.config import Settings
from medpipe.schema import LEARNERS, ROLES, Learner, Role, speaker_of

DRIVER = Path("/proc/driver/nvidia/gpus")
WSL = "/usr/lib/wsl/lib"
"""Where WSL2 keeps nvidia-smi, which is not on every shell's path there."""


@dataclass(frozen=True)
class Place:
    """Where a process works: the pool that admits one at a time, the physical GPU (or none), and its CPU threads."""

    pool: str
    gpu: str | None
    threads: int

    @property
    def device(self) -> str:
        """The device as the process sees it: the claimed GPU is the only visible one."""
        return "cpu" if self.gpu is None else "cuda:0"


@dataclass(frozen=True)
class Machine:
    """A machine other than this one, as a plan needs it: so many equal GPUs, each one's matmul peak (FLOP/s) and memory."""

    gpus: int
    peak: float
    memory_mib: float


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() and part.strip() != "-1"]
    return [str(n) for n in range(_listed_gpus())]


def _listed_gpus() -> int:
    """GPUs that the driver lists, whatever torch makes of them."""
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=WSL)
    listed = _told_by(tool) if tool else None
    if listed is None:
        return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return listed


@lru_cache
def _told_by(tool: str) -> int | None:
    """How many GPUs `nvidia-smi -L` lists, a line for each; None where it fails. Asked once a process: it takes up to a second."""
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def gpu_problem() -> str:
    """Where the driver and torch disagree about GPUs: what is wrong and what to do; empty where they agree.

    Loads torch only where there may be a disagreement, and does not initialise CUDA (torch counts by NVML).
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return ""  # somebody chose
    listed, build = _listed_gpus(), version("torch")
    if not listed and build.endswith("+cpu"):
        return ""
    import torch

    usable = torch.cuda.device_count()
    if listed and torch.version.cuda is None:
        return (
            f"the driver lists {listed} GPU(s), but torch {build} is a build for the CPU: install one for CUDA (pip install "
            f"--force-reinstall 'torch=={build.partition('+')[0]}' --index-url https://download.pytorch.org/whl/cu130, or the index that "
            "pytorch.org/get-started names for your driver), or set CUDA_VISIBLE_DEVICES='' to train on the CPU"
        )
    if usable < listed:
        return (
            f"the driver lists {listed} GPU(s), but torch {build} (CUDA {torch.version.cuda}) can use {usable}: update the driver, or "
            "install a torch for an older CUDA; CUDA_VISIBLE_DEVICES='' trains on the CPU"
        )
    if usable > listed:
        numbers = ",".join(map(str, range(usable)))
        return (
            f"torch sees {usable} GPU(s), but nvidia-smi and {DRIVER} list {listed}, so that training would not use all of them: "
            f"put nvidia-smi on the path, or set CUDA_VISIBLE_DEVICES={numbers}"
        )
    return ""


def place_role(settings: Settings, role: Role, machine: Machine | None = None) -> Place:
    """Where one role is fine-tuned, here or on another machine."""
    gpus, wanted = [str(n) for n in range(machine.gpus)] if machine else visible_gpus(), settings.hardware.devices[role]
    if not gpus or wanted == "cpu":
        return Place("cpu", None, _cores())
    number = int(wanted.removeprefix("cuda:")) % len(gpus)
    return Place(f"gpu_{number}", gpus[number], max(1, _cores() // len(gpus)))


def fine_tuned_together(settings: Settings) -> list[tuple[Place, list[Learner]]]:
    """Who is fine-tuned in one pass, by device; the lone agent beside the last role, whose turn it speaks in."""
    groups: dict[str, tuple[Place, list[Learner]]] = {}
    for learner in LEARNERS:
        place = place_role(settings, speaker_of(learner))
        groups.setdefault(place.pool, (place, []))[1].append(learner)
    return list(groups.values())


def place_team(settings: Settings, machine: Machine | None = None) -> Place:
    """Where work on all four roles at once is done: the planner's device, with all cores."""
    place = place_role(settings, "planner", machine)
    return Place(place.pool, place.gpu, _cores())


def place_co_training(settings: Settings) -> Place:
    """Where the team is co-trained: as other work of the team, or on a GPU for each role or each data-parallel process.

    The pool admits by the first GPU; the kernel's locks on the others make the worker wait for who still holds them.
    """
    place, gpus = place_team(settings), visible_gpus()
    threads = max(1, place.threads // settings.maporl.processes)
    if place.gpu is None:
        return Place(place.pool, None, threads)
    wanted = [place.gpu, *(gpu for gpu in gpus if gpu != place.gpu)][: settings.maporl.processes]
    if settings.maporl.placement == "per_role":
        wanted = list(dict.fromkeys(gpu for role in ROLES if (gpu := place_role(settings, role).gpu)))
    return Place(place.pool, ",".join(wanted), threads)


def place_light() -> Place:
    """Where work without a model is done: on the CPU, in no pool."""
    return Place("", None, _cores())


@contextlib.contextmanager
def gpus_held(gpus: Iterable[str], log: Callable[[str], None]) -> Iterator[None]:
    """Hold the kernel's lock on each physical GPU: it is let go by the kernel itself however this process ends.

    Args:
        gpus: their ids, as CUDA_VISIBLE_DEVICES names them.
        log: is told which GPU is waited for.
    """
    with contextlib.ExitStack() as held:
        for gpu in sorted(set(gpus)):  # always in the same order: two processes that want several never wait for each other
            held.callback(os.close, _locked(Path(tempfile.gettempdir()) / f"medpipe-gpu-{gpu}.lock", gpu, log))
        yield


def _locked(path: Path, gpu: str, log: Callable[[str], None]) -> int:
    """An open file that holds the lock; anew where the file was cleared away before the lock was had."""
    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"GPU {gpu} is in use by another medpipe process: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


def _opened(path: Path) -> int:
    """The lock file, made where there is none. To lock another user's file, reading it is enough."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
