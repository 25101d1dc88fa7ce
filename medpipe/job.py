"""What one asset's work sees and gives back: the border between the graph and the library.

Every asset runs one library function `run(job) -> Outcome` in a process of its own. The function reads its inputs'
folders, writes files into `job.out` (a folder that is being built) and returns what a person wants to see. The worker
(medpipe/launch/worker.py) turns the folder into a finished one by writing its manifest last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from medpipe.config import Settings
from medpipe.schema import CheckResult


class Reporter(Protocol):
    """Where a job says what it is doing; implemented by the worker."""

    def log(self, text: str) -> None:
        """Say one line now."""
        ...

    def warn(self, text: str) -> None:
        """Say one line now, as a warning."""
        ...

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell how far the job is; said aloud every few seconds at most, and at the end."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record measured numbers: one line of `metrics.jsonl` in the output folder, and the tracker."""
        ...

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Hand played episodes to the tracker, which keeps a sample of them as traces."""
        ...


@dataclass(frozen=True)
class Job:
    """One asset's work. `settings` holds only the sections that the task declared: reading another is an error.

    A task that makes several assets at once (`Task.joint`) is given a job for each; they differ in name, out and report.
    """

    name: str  # the asset's key, "models/planner"
    settings: Settings
    inputs: Mapping[str, Path]  # input's key → its finished folder
    out: Path  # the folder being built
    scratch: Path  # survives a kill: for checkpoints of this very fingerprint
    device: str  # "cpu" or "cuda:0" (the worker makes the claimed GPU the only visible one)
    report: Reporter


@dataclass(frozen=True)
class Outcome:
    """What a job gives back besides its files.

    `metadata` values are plain numbers and strings, or one of {"table": rows}, {"markdown": text},
    {"image": path relative to the folder, "alt": text}, {"file": path}. `exports` names files of the folder that are
    copied to a place where people look for them, such as data/medxpert_train.jsonl; a copy that is lost is made again.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    exports: Mapping[str, Path] = field(default_factory=dict)
    status: Literal["ok", "unreachable"] = "ok"
    reason: str = ""


ALWAYS = ("name", "seed", "paths", "outputs", "data")


def scoped(settings: Settings, sections: tuple[str, ...]) -> Settings:
    """A view of the settings that knows only these sections, so that a fingerprint can't miss one that is read."""
    return cast(Settings, _Scoped(settings, sections))


class _Scoped:
    def __init__(self, settings: Settings, sections: tuple[str, ...]) -> None:
        self._settings, self._allowed = settings, {*sections, *ALWAYS}

    def __getattr__(self, name: str) -> Any:
        if name not in self._allowed:
            raise AttributeError(f"this task did not declare the settings section {name!r}: add it to its Task in medpipe/tasks.py")
        return getattr(self._settings, name)
