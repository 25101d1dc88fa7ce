"""Which device each role works on: counted without importing torch, so that the graph loads fast.

A role's `cuda:n` is taken modulo the number of visible GPUs; without a GPU every role runs on the CPU, in one of
`hardware.cpu_processes` slots that share the cores out. Left out: one role over several devices.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medpipe.config import Settings
from medpipe.schema import ROLES, Role

DRIVER = Path("/proc/driver/nvidia/gpus")


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


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() and part.strip() != "-1"]
    return [str(n) for n in range(len(list(DRIVER.iterdir())))] if DRIVER.is_dir() else []


def place_role(settings: Settings, role: Role) -> Place:
    """Where one role is fine-tuned."""
    gpus, wanted = visible_gpus(), settings.hardware.devices[role]
    if not gpus or wanted == "cpu":
        slots = settings.hardware.cpu_processes
        return Place(f"cpu_{ROLES.index(role) % slots}", None, max(1, _cores() // slots))
    number = int(wanted.removeprefix("cuda:")) % len(gpus)
    return Place(f"gpu_{number}", gpus[number], max(1, _cores() // len(gpus)))


def place_team(settings: Settings) -> Place:
    """Where work on all four roles at once is done: the planner's device, with all cores."""
    place = place_role(settings, "planner")
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


def _cores() -> int:
    return len(os.sched_getaffinity(0))
