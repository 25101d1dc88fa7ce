"""What in the outputs folder can go: listed, and removed when asked.

    found = removable(settings)                # results that nothing shows or hands on any more, and what interrupted work left
    busy = remove(found)
    forget_what_is_gone(settings.outputs)

Always kept: what a version in MLflow's registry was made from (the team and its base), decisions on the champion, and what a process
makes right now. The newest result of an asset goes only with `everything`: a run that was killed may not have handed it on yet.
Lock files stay, they are empty: a process that waits on a removed one and a process that makes a new one would both hold "the" lock.
Left out: downloads, logs, studies of settings, the trackers' journals and databases, which are small or can't be made again; and
registries of other profiles on servers that this profile does not name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from medpipe import registry, results, store
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.schema import Ref
from medpipe.tracking import mlflow_server

DECISIONS = "release/champion"
SCRATCH = "scratch"


@dataclass(frozen=True)
class Removable:
    """A folder below an outputs folder that can go, why, and its size; `needed`: it is shown or handed on."""

    outputs: Path
    path: Path
    why: str
    bytes: int
    needed: bool = False


def removable(settings: Settings, everything: bool = False) -> list[Removable]:
    """Folders below the outputs folder that no profile needs; nothing is changed.

    Args:
        everything: results that are shown, handed on or the newest of their asset as well.

    Raises:
        MedpipeError: MLflow's registry, which has to be asked what it names, can't be read; or everything is to go while a run works.
    """
    outputs = settings.outputs
    home = outputs / results.STORE
    if not (_results(outputs) or _scratch(outputs)):
        return []
    named, needed, working = _named_by_registries(settings), _needed(outputs), _made_now(outputs)
    if everything and working:
        names = sorted(f"{one.parent.parent.name}/{one.parent.name}" for one in working)
        raise MedpipeError(
            got=f"a run that makes {', '.join(names)}", expected="no run at work", where=str(outputs),
            do="wait for it, or end it: it reads what would be removed; or clean without --all",
        )  # fmt: skip
    found = []
    for folder in _results(outputs):
        final, key = _final(folder), _key(home, folder)
        used = _short(home, final) in needed
        if final in working:
            continue
        if _is_half(folder):
            why, used = "left by work that was interrupted", False
        elif key == DECISIONS or _content(folder) in named or (used and not everything):
            continue
        else:
            why = "shown, handed on, or the newest" if used else "replaced: nothing shows it or hands it on"
        found.append(Removable(outputs, folder, f"{key}: {why}", _size(folder), used))
    for folder in () if working else _scratch(outputs):  # which of them a run uses, its name does not tell
        found.append(Removable(outputs, folder, "checkpoints of work that did not end", _size(folder)))
    return found


def remove(found: Sequence[Removable]) -> list[Removable]:
    """Remove these folders; returns those that stay because a run makes them, or needs them since they were listed.

    Raises:
        MedpipeError: one of them can't be removed.
    """
    busy = []
    needed = {outputs: _needed(outputs) for outputs in {one.outputs for one in found}}
    for one in found:
        home, final = one.outputs / results.STORE, _final(one.path)
        in_store = one.path.is_relative_to(home)
        if one.needed or not in_store:
            stays = bool(_made_now(one.outputs))
        else:
            stays = not _is_half(one.path) and _short(home, final) in needed[one.outputs]
        if stays:
            busy.append(one)
            continue
        try:
            with _lock_of(final).acquire(blocking=False) if in_store else contextlib.nullcontext():
                _remove(one.path, final)
        except Timeout:
            busy.append(one)
        except OSError as error:
            raise MedpipeError(
                got=f"a folder that can't be removed ({error.strerror})", expected="rights to remove it", where=str(one.path),
                do="correct its rights, and clean again",
            ) from error  # fmt: skip
    return busy


def forget_what_is_gone(outputs: Path) -> None:
    """Remove links into the store and references that lead nowhere; links that lead elsewhere are not of this project's making."""
    home = (outputs / results.STORE).resolve()
    for link in outputs.glob("[!.]*/[!.]*"):
        if link.is_symlink() and not link.exists() and link.resolve().is_relative_to(home):
            link.unlink()
    for path, ref in _refs(outputs / results.REFS):
        if ref and not Path(ref.path).exists() and not (home / _key(outputs / results.REFS, path) / Path(ref.path).name).exists():
            path.unlink()


def _remove(path: Path, final: Path) -> None:
    """Remove a folder whose lock is held, if it has one; a kill in the middle leaves no folder that looks like a result."""
    partial = results.partial_of(final)
    if path not in (final, partial) and final.exists():
        return store.recover(final)  # the folder before, from the moment of an exchange: what somebody added to it is taken over
    if path != partial:
        shutil.rmtree(partial, ignore_errors=True)
        path.rename(partial)
        final.with_name(f".{final.name}.seen.json").unlink(missing_ok=True)
    shutil.rmtree(partial)


def _results(outputs: Path) -> list[Path]:
    """Every result and every half-made one: the folders at the third level, sources/medquad/1a2b…"""
    return sorted(path for path in (outputs / results.STORE).glob("*/*/*") if path.is_dir() and not path.is_symlink())


def _scratch(outputs: Path) -> list[Path]:
    return sorted(path for path in (outputs / SCRATCH).glob("*") if path.is_dir() and not path.is_symlink())


def _final(folder: Path) -> Path:
    """The result that a folder is, or that it was to become: .1a2b.partial and .1a2b.previous belong to 1a2b."""
    name = folder.name
    return folder.with_name(name[1:].rpartition(".")[0]) if name.startswith(".") and name.endswith((".partial", ".previous")) else folder


def _is_half(folder: Path) -> bool:
    """Whether it is no result: a partial folder, or the one before of an exchange that came to its end."""
    final = _final(folder)
    return folder == results.partial_of(final) or (folder != final and final.exists())


def _key(home: Path, path: Path) -> str:
    return path.parent.relative_to(home).as_posix()


def _short(home: Path, folder: Path) -> str:
    return folder.relative_to(home).as_posix()


def _lock_of(final: Path) -> FileLock:
    return FileLock(final.with_name(f".{final.name}.lock"))


def _made_now(outputs: Path) -> set[Path]:
    """Results whose lock another process holds, those of a study's trials among them."""
    held = set()
    for lock in (path for home in (outputs, *outputs.glob("tuning/*/*")) for path in (home / results.STORE).glob("*/*/.*.lock")):
        try:
            with FileLock(lock).acquire(blocking=False):
                pass
        except Timeout:
            held.add(lock.with_name(lock.name[1:].removesuffix(".lock")))
    return held


def _needed(outputs: Path) -> set[str]:
    """Results that a link shows, that a reference of any profile hands on, or that are the newest: "models/planner/1a2b…"."""
    home = outputs / results.STORE
    found = set[str]()
    for link in outputs.glob("[!.]*/[!.]*"):
        if link.is_symlink() and (shown := link.resolve()).is_relative_to(home.resolve()):
            found.add(_short(home.resolve(), shown))
    for refs in (outputs / results.REFS, *outputs.glob(f"tuning/*/*/{results.REFS}")):  # trials of settings use the same splits and base
        for path, ref in _refs(refs):
            key = _key(refs, path)
            # By name: a path may be relative to another working directory. What an unreadable one hands on is unknown: so nothing goes.
            found |= {f"{key}/{Path(ref.path).name}"} if ref else {_short(home, folder) for folder in (home / key).glob("[!.]*")}
    for place in home.glob("*/*"):
        made = results.finished(outputs, _short(home, place))
        found |= {_short(home, folder) for folder, manifest in made if manifest.created_at == made[-1][1].created_at}
    return found


def _refs(folder: Path) -> Iterator[tuple[Path, Ref | None]]:
    """References with their files; None for one that can't be read."""
    for path in sorted(folder.glob("*/*/[!.]*.json")):
        try:
            yield path, Ref.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, ValueError):
            yield path, None


def _named_by_registries(settings: Settings) -> set[str]:
    """Content hashes that registered versions were made from: in the outputs folder's own database, and where this profile keeps its runs.

    The first is asked whatever the profile says, since another profile may have written it. A database that does not exist yet names
    nothing, and must not be made by looking.
    """
    from sqlalchemy.engine import make_url

    own = (settings.outputs / "mlflow.db").resolve()
    addresses = {f"sqlite:///{own}"} | ({mlflow_server(settings)} if settings.tracking.kind in ("mlflow", "both") else set())
    named = set[str]()
    for uri in sorted(addresses - {""}):
        if uri.startswith("sqlite") and not Path(make_url(uri).database or "").is_file():
            continue
        there = settings.model_copy(update={"tracking": settings.tracking.model_copy(update={"uri": uri})})
        named |= {sha for version in registry.versions(there) for sha in (version.team, version.base) if sha}
    return named


def _content(folder: Path) -> str:
    try:
        manifest = store.read_manifest(folder)
    except store.DamagedManifest:
        return ""
    return manifest.sha256 if manifest else ""


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, of which some may go while this looks."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return total
