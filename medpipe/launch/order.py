"""The order that a worker process carries out, and whether its result already lies there.

One interface for every place of work: whoever can hand a worker this JSON can run it. A SageMaker job writes its own orders, from the
same inputs, settings and code (medpipe/aws/entry.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medpipe import results, store
from medpipe.config import Settings, digest
from medpipe.launch.devices import Place
from medpipe.schema import Frozen, Manifest, Ref
from medpipe.tasks import TASKS

WORKER = (sys.executable, "-m", "medpipe.launch.worker")
TOGETHER = (sys.executable, "-m", "medpipe.launch.together")
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
    "GX_ANALYTICS_ENABLED": "False",
    "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
    "PYTHONUNBUFFERED": "1",
    "GOMP_SPINCOUNT": "10000",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}
"""Environment of every worker: progress bars of libraries off (they freeze Dagster's page), telemetry off, no waiting
for minutes for a tracking server that does not answer (MLflow's own default), and threads that wait for work a moment
only: with OpenMP's default two processes on the same cores spin each other to a standstill."""


class Order(Frozen):
    """What to make, from what, with which settings, where."""

    name: str  # the asset's key, "models/planner"
    task: str  # key of medpipe.tasks.TASKS
    settings: Settings
    inputs: dict[str, Ref]
    out: str  # the folder of the result, named after the fingerprint
    fingerprint: str
    device: str = "cpu"
    run_id: str = ""
    commit: str = ""
    together: tuple[Order, ...] = ()  # further results of the same work: the roles that are fine-tuned on one device

    @property
    def parts(self) -> tuple[Order, ...]:
        """Every result that this order makes, itself first."""
        return self, *self.together

    @property
    def scratch(self) -> Path:
        """Where checkpoints lie: the same folder for the same results, whatever was killed in between."""
        marks = [part.fingerprint for part in self.parts]
        return self.settings.outputs / "scratch" / (marks[0] if len(marks) == 1 else digest(marks))[:16]


def write_order(
    name: str, task: str, settings: Settings, inputs: dict[str, Ref], place: Place, run_id: str, extra: dict[str, str]
) -> Order:
    """Write the order for an asset; `extra` adds what else its result depends on (a source file's hash, say)."""
    fingerprint = TASKS[task].fingerprint(settings, {key: ref.sha256 for key, ref in inputs.items()}, name=name, **extra)
    return Order(
        name=name, task=task, settings=settings, inputs=inputs, out=str(results.folder_of(settings.outputs, name, fingerprint)),
        fingerprint=fingerprint, device=place.device, run_id=run_id, commit=commit(),
    )  # fmt: skip


def command_of(order: Order) -> tuple[str, ...]:
    """What carries the order out: a worker, or several that co-train together."""
    processes = order.settings.maporl.processes if order.name == "models/maporl_team" else 1
    return WORKER if processes == 1 else (*TOGETHER, str(processes))


def standing_result(order: Order, say: Callable[[str], None] = lambda text: None) -> Manifest | None:
    """The manifest of a finished, whole result of this very order, or None. A source that could not be had is tried again.

    Args:
        say: is told what is damaged, and which files somebody added.
    """
    folder = Path(order.out)
    try:
        manifest = store.read_manifest(folder)
    except store.DamagedManifest as error:
        say(f"{order.name} is made anew: {error}")
        return None
    if manifest is None or manifest.fingerprint != order.fingerprint or manifest.status != "ok":
        return None
    if damaged := results.damage(folder, manifest):
        say(f"{order.name} is made anew: {_few(damaged)} in {folder} missing or not as made")
        return None
    if extra := store.extra_files(folder, manifest):
        say(f"{order.name}: {_few(extra)} in {folder} is not of its making, and is left alone")
    return manifest


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def worker_environment(place: Place) -> dict[str, str]:
    """Variables that must be set before the worker starts: the one GPU it may see, and its share of the cores."""
    visible = {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}
    return {**QUIET, "OMP_NUM_THREADS": str(place.threads), **visible}


COMMIT_VARIABLE = "MEDPIPE_COMMIT"
"""Names the commit where the code lies without its history: in a SageMaker job."""


def commit() -> str:
    """The git commit of the working directory, with "+changes" where it differs from it; "unknown" outside a checkout."""
    if os.environ.get(COMMIT_VARIABLE):
        return os.environ[COMMIT_VARIABLE]

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return ask("rev-parse", "--short=12", "HEAD") + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def to_ref(order: Order, manifest: Manifest) -> Ref:
    """What the next asset is handed."""
    scope = results.scope_of(order.settings, TASKS[order.task].sections, order.inputs.values())
    return Ref(path=order.out, sha256=manifest.sha256, status=manifest.status, reason=manifest.reason, scope=scope)


def as_extras(order: Order) -> dict[str, Any]:
    """The order as plain data for the border between processes."""
    return {"order": order.model_dump(mode="json"), "parent": os.getpid()}
