"""Where finished results lie, and how several runs share them.

    outputs/store/models/planner/1a2b3c4d5e6f7a8b/    a result, under its fingerprint; another profile's stands beside it
    outputs/models/planner                            a link to the one that was made or used last
    outputs/refs/models/planner/9f8e7d6c.json         what was handed on last under the same settings

One process at a time makes a result: it holds a kernel lock, which is let go however the process ends; others wait, then find it
made. Left out: who makes a result (medpipe/launch/worker.py), and stores on other machines (medpipe/aws/store.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from medpipe import store
from medpipe.config import Settings, digest
from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, Ref

STORE, REFS = "store", "refs"
SHORT = 16  # characters of a fingerprint, in a folder's name


def folder_of(outputs: Path, key: str, fingerprint: str) -> Path:
    """Where the result of an asset with this fingerprint lies, whether it is made yet or not."""
    return outputs / STORE / key / fingerprint[:SHORT]


def finished(outputs: Path, key: str) -> list[tuple[Path, Manifest]]:
    """Every finished result of an asset, the newest last; one whose manifest is damaged is not among them."""
    found = []
    for folder in (outputs / STORE / key).glob("[!.]*"):
        with contextlib.suppress(store.DamagedManifest):
            if manifest := store.read_manifest(folder):
                found.append((folder, manifest))
    return sorted(found, key=lambda one: one[1].created_at)


def show(outputs: Path, key: str, folder: Path) -> None:
    """Let outputs/<key> lead to this result.

    Raises:
        MedpipeError: something that is not a result lies there.
    """
    place = outputs / key
    if place.is_symlink() and place.resolve() == folder.resolve():
        return
    if place.exists() and not place.is_symlink():
        _adopt(outputs, key, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    link = place.with_name(f".{place.name}.{os.getpid()}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(folder, place.parent))
    os.replace(link, place)


def _adopt(outputs: Path, key: str, place: Path) -> None:
    """Move a result that lies where a link belongs (an earlier version's, or a copy from elsewhere) into the store; nothing is lost."""
    if not (place / store.MANIFEST).is_file():
        raise MedpipeError(
            got="a folder or file that no run made", expected="nothing, or the link to a result", where=str(place), do="move it away"
        )
    home, number = outputs / STORE / key, 1
    while (home / f"earlier-{number}").exists():
        number += 1
    home.mkdir(parents=True, exist_ok=True)
    os.replace(place, home / f"earlier-{number}")


@contextlib.contextmanager
def held(folders: Iterable[Path], say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that makes these results; on entry, what an earlier holder was killed in is tidied up.

    Args:
        folders: as `folder_of` names them.
        say: is told whom it waits for.
    """
    with contextlib.ExitStack() as locks:
        for folder in sorted(folders):  # always in the same order: two processes that want several never wait for each other
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f".{folder.name}.lock"))
            try:
                locks.enter_context(lock.acquire(blocking=False))
            except Timeout:
                key = f"{folder.parent.parent.name}/{folder.parent.name}"
                say(f"another run is making {key}: waiting for it, its result is used here too")
                locks.enter_context(lock.acquire())
            store.recover(folder)
            shutil.rmtree(partial_of(folder), ignore_errors=True)
        yield


def partial_of(folder: Path) -> Path:
    """Where a result is built by who holds its lock."""
    return folder.with_name(f".{folder.name}.partial")


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """Names of a result's files that are missing or not what was made.

    Every byte is read once; after that a file counts as read while its inode, size and times are the same (beside the folder, in
    .<name>.seen.json). A file that is changed gets another ctime, which no program can set.
    """
    seen = folder.with_name(f".{folder.name}.seen.json")
    try:
        remembered = json.loads(seen.read_text(encoding="utf-8"))
        known = {name: str(sha) for name, (sha, *stat) in remembered.items() if stat == _stat(folder / name)}
    except (OSError, ValueError, AttributeError, TypeError):  # not there, or not what was written: then all is read again
        known = {}
    stats = {name: _stat(folder / name) for name in manifest.files}  # before reading: what changes meanwhile is read again
    damaged = store.damaged_files(folder, manifest, known)
    whole = {name: [sha, *stats[name]] for name, sha in manifest.files.items() if name not in damaged}
    if {name: row[0] for name, row in whole.items()} != known and os.access(folder.parent, os.W_OK):
        store.write_json(seen, whole)
    return damaged


def _stat(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def scope_of(settings: Settings, sections: Iterable[str], inputs: Iterable[Ref]) -> dict[str, str]:
    """The settings that a result depends on, its inputs' among them: section → hash."""
    own = {section: digest(getattr(settings, section).model_dump(mode="json"))[:SHORT] for section in sections}
    above = {section: hash for ref in inputs for section, hash in ref.scope.items()}
    return {**above, **own, "seed": str(settings.seed)}


def write_ref(outputs: Path, key: str, ref: Ref) -> None:
    """Keep what an asset hands on, beside what it handed on under other settings."""
    store.write_json(_refs(outputs, key) / f"{digest(ref.scope)[:SHORT]}.json", ref.model_dump())


def find_ref(settings: Settings, key: str) -> Ref | None:
    """What an asset handed on last under these very settings, or None.

    Raises:
        MedpipeError: only references that can't be read lie there.
    """
    found: list[tuple[float, Ref]] = []
    broken = None
    for path in sorted(_refs(settings.outputs, key).glob("[!.]*.json")):
        try:
            ref = Ref.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, ValueError):
            broken = path
            continue
        if fits(ref, settings):
            found.append((path.stat().st_mtime, ref))
    if found:
        return max(found, key=lambda one: one[0])[1]
    if broken:
        raise MedpipeError(
            got="a reference that can't be read",
            expected="what was written",
            where=str(broken),
            do=f"materialise {key} again: it writes it anew",
        )
    return None


def fits(ref: Ref, settings: Settings) -> bool:
    """Whether a result was made under these settings, as far as it depends on them."""
    return all(hash == _now(settings, section) for section, hash in ref.scope.items())


def other_settings(settings: Settings, key: str) -> list[str]:
    """Sections by which results of an asset that lie here differ from these settings; empty where there are none."""
    found = set[str]()
    for path in _refs(settings.outputs, key).glob("[!.]*.json"):
        with contextlib.suppress(ValidationError, ValueError):
            ref = Ref.model_validate_json(path.read_text(encoding="utf-8"))
            found |= {section for section, hash in ref.scope.items() if hash != _now(settings, section)}
    return sorted(found)


def older_than(manifest: Manifest, now: Mapping[str, str]) -> list[str]:
    """Inputs of a result that have another content now.

    Args:
        now: key → content hash of what is there; keys that the result wasn't made from don't count.
    """
    return sorted(key for key, sha in manifest.inputs.items() if key in now and now[key] != sha)


def _refs(outputs: Path, key: str) -> Path:
    return outputs / REFS / key


def _now(settings: Settings, section: str) -> str:
    if section == "seed":
        return str(settings.seed)
    value = getattr(settings, section, None)
    return digest(value.model_dump(mode="json"))[:SHORT] if value is not None else ""
