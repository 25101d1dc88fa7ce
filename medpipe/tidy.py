"""What in the outputs folder can go: listed, and removed when asked.

    found = removable(settings)                # results that nothing shows or hands on any more, and what interrupted work left
    remove(found)

Kept whatever is asked for: what a version in MLflow's registry was made from (the team and its base), and decisions on the champion.
Left out: downloads, logs, the trackers' journals and databases, which are small or can't be made again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from medpipe import registry, results, store
from medpipe.config import Settings
from medpipe.schema import Ref

DECISIONS = "release/champion"


@dataclass(frozen=True)
class Removable:
    """A folder that can go, why, and its size."""

    path: Path
    why: str
    bytes: int


def removable(settings: Settings, everything: bool = False) -> list[Removable]:
    """Folders below the outputs folder that no profile needs.

    Args:
        everything: results that are shown or handed on as well.

    Raises:
        MedpipeError: MLflow's registry, which has to be asked what it names, can't be read.
    """
    home, named = settings.outputs / results.STORE, _named_by_registry(settings)
    needed = set() if everything else {*_shown(settings.outputs), *_handed_on(settings.outputs)}
    found = []
    for folder in _results(home):
        key = folder.parent.relative_to(home).as_posix()
        if folder.name.startswith("."):
            why = "left by work that was interrupted"
        elif folder.resolve() in needed or key == DECISIONS or _content(folder) in named:
            continue
        else:
            why = "shown and handed on" if everything else "replaced: nothing shows it or hands it on"
        found.append(Removable(folder, f"{key}: {why}", _size(folder)))
    scratch = settings.outputs / "scratch"
    for folder in sorted(scratch.iterdir()) if scratch.is_dir() else ():
        found.append(Removable(folder, "checkpoints of a training that did not end", _size(folder)))
    return found


def remove(found: Sequence[Removable]) -> list[Removable]:
    """Remove these folders, with the links and references that lead to them; returns those that a run is making right now."""
    busy = []
    for one in found:
        lock = FileLock(one.path.with_name(f".{one.path.name.removeprefix('.').removesuffix('.partial')}.lock"))
        try:
            with lock.acquire(blocking=False):
                shutil.rmtree(one.path)
        except Timeout:
            busy.append(one)
            continue
        for name in (".lock", ".seen.json"):
            one.path.with_name(f".{one.path.name}{name}").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the last one of its asset
            one.path.parent.rmdir()
    return busy


def forget_what_is_gone(outputs: Path) -> None:
    """Remove links and references that lead nowhere."""
    for link in outputs.glob("*/*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    for path in (outputs / results.REFS).rglob("*.json"):
        with contextlib.suppress(ValueError):
            if not Path(Ref.model_validate_json(path.read_text(encoding="utf-8")).path).exists():
                path.unlink()


def _results(home: Path) -> Iterator[Path]:
    """Every result and every half-made one: the folders at the third level, sources/medquad/1a2b…"""
    yield from sorted(path for path in home.glob("*/*/*") if path.is_dir())


def _shown(outputs: Path) -> set[Path]:
    return {link.resolve() for link in outputs.glob("*/*") if link.is_symlink()}


def _handed_on(outputs: Path) -> set[Path]:
    found = set()
    for path in (outputs / results.REFS).rglob("*.json"):
        with contextlib.suppress(ValueError):
            found.add(Path(Ref.model_validate_json(path.read_text(encoding="utf-8")).path).resolve())
    return found


def _named_by_registry(settings: Settings) -> set[str]:
    """Content hashes that the registry's versions were made from; without MLflow there is no registry."""
    if settings.tracking.kind not in ("mlflow", "both") or not _has_registry(settings):
        return set()
    return {sha for version in registry.versions(settings) for sha in (version.team, version.base) if sha}


def _has_registry(settings: Settings) -> bool:
    """A database that does not exist yet names nothing, and must not be made by looking."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI") or settings.tracking.uri or (settings.outputs / "mlflow.db").is_file())


def _content(folder: Path) -> str:
    try:
        manifest = store.read_manifest(folder)
    except store.DamagedManifest:
        return ""
    return manifest.sha256 if manifest else ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
