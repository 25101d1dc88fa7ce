"""The prerequisites check: what this machine has, and what each profile would do on it. Changes nothing.

A model of the hub may lie in its cache, which a run uses where the hub can't be reached. A profile that trains on SageMaker is judged
by what its job needs, not by this machine. Left out: whether AWS would take the credentials, which `medpipe aws launch` finds out.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medpipe import store
from medpipe.aws.account import VARIABLES, Account
from medpipe.config import Model, Settings, load_profile, profile_names
from medpipe.corpus.download import mirror_folder
from medpipe.errors import MedpipeError
from medpipe.launch.devices import gpu_problem, place_role
from medpipe.models.base import bundled_gguf
from medpipe.models.folder import refuse_unfit
from medpipe.schema import ROLES
from medpipe.tracking import mlflow_server, notes

PACKAGES = ("torch", "transformers", "dagster", "mlflow", "peft", "bitsandbytes", "great-expectations")


def examine() -> None:
    """Print both tables; what is too long for a line is wrapped, never cut."""
    console = Console()
    machine = Table(title="This machine", show_header=False)
    machine.add_column(no_wrap=True)
    machine.add_column(overflow="fold")
    hub = _hub()
    for name, value in [*_software(), *_hardware(), ("mirror", _mirror()), ("model hub", hub or "reachable"), ("tracking", _tracking())]:
        machine.add_row(name, Text(value))
    console.print(machine)
    profiles = Table(title="What each profile would do here")
    profiles.add_column("profile", no_wrap=True)
    profiles.add_column("would", overflow="fold")
    for name in profile_names():
        profiles.add_row(name, Text("\n".join(_of_profile(name, hub))))
    console.print(profiles)


def _of_profile(name: str, hub: str) -> list[str]:
    try:
        settings = load_profile(name)
    except MedpipeError as error:  # an address of MLflow in the environment that no run may use
        return [f"stop: {error}"]
    if settings.aws.launcher == "sagemaker":
        where = ", ".join(f"{role}: {settings.hardware.devices[role]}" for role in ROLES)
        machine = f"{settings.aws.instance_count} x {settings.aws.instance_type} on SageMaker"
        return [settings.model.name, f"{machine}: {where}", _needs_of_the_job(settings)]
    places = {role: place_role(settings, role) for role in ROLES}
    if all(place.gpu is None for place in places.values()):
        where = f"all roles: CPU, {places[ROLES[0]].threads} threads"
    else:
        where = ", ".join(f"{role}: {'CPU' if place.gpu is None else f'GPU {place.gpu}'}" for role, place in places.items())
    return [settings.model.name, where, _verdict(settings.model, hub)]


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
    problem = gpu_problem()
    usable = torch.cuda.device_count()
    cuda = f"available, {usable} GPU(s)" if usable else "not available: training runs on the CPU"
    rows = [
        ("CPU cores", str(len(os.sched_getaffinity(0)))),
        ("RAM", f"{memory:.1f} GiB"),
        ("disk here", f"{disk.free / 2**30:.1f} GiB free of {disk.total / 2**30:.1f} GiB"),
        ("CUDA", f"!! {problem}" if problem else cuda),
    ]
    for number in range(usable):
        properties = torch.cuda.get_device_properties(number)
        rows.append((f"GPU {number}", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"))
    return rows


def _mirror() -> str:
    try:
        folder = mirror_folder()
    except MedpipeError as error:
        return str(error)
    return str(folder) if folder else "not set (MEDPIPE_MIRROR)"


def _tracking() -> str:
    """Of the environment: profiles may have addresses of their own."""
    plain = Settings(name="doctor")
    try:
        address = mlflow_server(plain)
    except MedpipeError as error:
        return f"!! {error}"
    return "; ".join([f"MLflow at {address}" if address else "MLflow in the outputs folder", *notes(plain)])


def _hub() -> str:
    """Why the hub can't be asked; empty where it can."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked: HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=5.0, follow_redirects=True)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return f"not reachable ({constants.ENDPOINT}: {type(error).__name__})"
    return ""


def cached(model: Model) -> Path | None:
    """The model's folder in the hub's cache, if its configuration and all its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model.name, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    index = folder / "model.safetensors.index.json"
    weights = set(store.read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return folder if all((folder / name).is_file() for name in ("config.json", *weights)) else None


def _needs_of_the_job(settings: Settings) -> str:
    account = Account.of(settings.aws)
    names = {**VARIABLES, "region": "AWS_REGION"}
    missing = [f"aws.{name} ({variable})" for name, variable in names.items() if not getattr(account, name)]
    fetches = f"the job itself fetches {settings.model.name} from the hub" if settings.model.kind == "hub" else "the job has the model"
    if missing:
        return f"stop before the launch: it lacks {', '.join(missing)} (docs/aws.md); {fetches}"
    return f"run, as a job in {account.region}; {fetches}"


def _verdict(model: Model, hub: str) -> str:
    if model.kind == "bundled":
        try:
            bundled_gguf()
        except MedpipeError as error:
            return f"stop at models/base: {error}"
        return "run"
    if model.kind == "folder":
        try:
            refuse_unfit(Path(model.name))
        except MedpipeError as error:
            return f"stop at models/base: {error}"
        return "run"
    if model.kind == "random" or not hub:
        return "run"
    if folder := cached(model):
        return f"run, with the model in the hub's cache ({folder})"
    return f"stop at models/base: the hub is {hub.partition(' (')[0]}, and {model.name} is not whole in the hub's cache"
