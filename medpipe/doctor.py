"""The prerequisites check: what this machine has, and what each profile would do on it. Changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medpipe.config import Settings, load_profile, profile_names
from medpipe.corpus.download import mirror_folder
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_role
from medpipe.models.base import bundled_gguf
from medpipe.schema import ROLES

HUB = "https://huggingface.co"
PACKAGES = ("torch", "transformers", "dagster", "mlflow", "peft", "bitsandbytes", "great-expectations")


def examine() -> None:
    """Print both tables."""
    console = Console()
    machine = Table(title="This machine", show_header=False)
    reachable = _hub_reachable()
    for name, value in [
        *_software(),
        *_hardware(),
        ("mirror", _mirror()),
        ("model hub", "reachable" if reachable else f"not reachable ({HUB})"),
    ]:
        machine.add_row(name, value)
    console.print(machine)
    profiles = Table(
        "profile", "base model", "planner", "researcher", "analyst", "reporter", "would", title="What each profile would do here"
    )
    for name in profile_names():
        settings = load_profile(name)
        places = [place_role(settings, role) for role in ROLES]
        shown = [f"GPU {place.gpu}" if place.gpu is not None else f"CPU, {place.threads} threads" for place in places]
        profiles.add_row(name, settings.model.name, *shown, _verdict(settings, reachable))
    console.print(profiles)


def _software() -> list[tuple[str, str]]:
    rows = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "MISSING: run make setup"))
    return rows


def _hardware() -> list[tuple[str, str]]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(Path.cwd())
    rows = [
        ("CPU cores", str(len(os.sched_getaffinity(0)))),
        ("RAM", f"{memory:.1f} GiB"),
        ("disk here", f"{disk.free / 2**30:.1f} GiB free of {disk.total / 2**30:.1f} GiB"),
        (
            "CUDA",
            f"available, {torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "not available: training runs on the CPU",
        ),
    ]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        rows.append((f"GPU {number}", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"))
    return rows


def _mirror() -> str:
    try:
        folder = mirror_folder()
    except MedpipeError as error:
        return str(error)
    return str(folder) if folder else "not set (MEDPIPE_MIRROR)"


def _hub_reachable() -> bool:
    import httpx

    try:
        httpx.head(HUB, timeout=5.0, follow_redirects=True)
    except httpx.TransportError:
        return False
    return True


def _verdict(settings: Settings, reachable: bool) -> str:
    if settings.model.kind == "bundled":
        try:
            bundled_gguf()
        except MedpipeError as error:
            return str(error)
        return "run"
    if settings.model.kind == "random" or reachable:
        return "run"
    return "stop at models/base: the hub is not reachable"
