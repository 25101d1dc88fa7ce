"""Files on disk: atomic writes, content hashes, and the manifest that is written last.

Nothing is ever half-written: a file is written under a temporary name, synced and renamed; a folder is built under a
temporary name, gets its manifest last, and is renamed as a whole. What leaves this out: remote stores (S3).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, QAExample

MANIFEST = "manifest.json"
ROWS = "rows.jsonl"
VOLATILE = ("metrics.jsonl", "training_logs.txt", "training_stats.json", "training_results.json", "timings.json", "plots/", "docs/")
"""Files of a result that tell how it was made, not what it is: they carry times, so the content hash leaves them out."""


class DamagedManifest(MedpipeError):
    """A manifest that is not what was written: nothing that it says can be relied on."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it over `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def jsonl_writer(path: Path) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """Give a function that adds one JSON object as a line; the file appears whole at the end, or not at all."""
    return _line_writer(path, lambda row: json.dumps(row, ensure_ascii=False))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, atomically; returns the number of lines."""
    return _write_all(jsonl_writer(path), rows)


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file that this project wrote, one after the other."""
    with path.open(encoding="utf-8") as handle:
        yield from map(json.loads, handle)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file that this project wrote."""
    return list(iter_jsonl(path))


def examples_writer(folder: Path) -> AbstractContextManager[Callable[[QAExample], None]]:
    """Give a function that adds one row to a folder's rows, which appear whole at the end, or not at all."""
    return _line_writer(folder / ROWS, QAExample.model_dump_json)


def write_examples(folder: Path, rows: Iterable[QAExample]) -> int:
    """Write question-answer rows into a folder; returns their number."""
    return _write_all(examples_writer(folder), rows)


def iter_examples(folder: Path) -> Iterator[QAExample]:
    """The question-answer rows of a folder, one after the other."""
    with (folder / ROWS).open("rb") as handle:
        yield from map(QAExample.model_validate_json, handle)


def read_examples(folder: Path) -> list[QAExample]:
    """Read the question-answer rows of a folder."""
    return list(iter_examples(folder))


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file below a folder, but for its own manifest."""
    return {name: sha256_file(folder / name) for name in _names(folder)}


def hash_of_hashes(files: dict[str, str]) -> str:
    """Content hash of a folder: sha256 over its files' paths and hashes."""
    return hashlib.sha256("".join(f"{name}\0{sha}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def content_hash(files: Mapping[str, str]) -> str:
    """Content hash of a result: over its files but for the VOLATILE ones."""
    return hash_of_hashes({name: sha for name, sha in files.items() if not name.startswith(VOLATILE)})


def seal_of(manifest: Manifest) -> str:
    """sha256 over everything that a manifest says."""
    said = json.dumps(manifest.model_dump(mode="json", exclude={"seal"}), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest with its seal, atomically."""
    sealed = manifest.model_copy(update={"seal": seal_of(manifest)})
    write_json(folder / MANIFEST, sealed.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, or None where the folder is missing or was never finished.

    Raises:
        DamagedManifest: it is not what was written.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # JSON, UTF-8 and pydantic's all are
        raise DamagedManifest(got="a manifest that can't be read", **_told(folder)) from error
    if manifest.seal != seal_of(manifest):
        raise DamagedManifest(got="a manifest that was altered after it was written", **_told(folder))
    return manifest


def damaged_files(folder: Path, manifest: Manifest, known: Mapping[str, str] | None = None) -> list[str]:
    """Names of files that are missing or differ from what the manifest recorded. Files that it doesn't name are not looked at.

    Args:
        known: name → sha256 of files whose bytes need not be read again.
    """
    known = known or {}
    return sorted(
        name
        for name, sha in manifest.files.items()
        if known.get(name) != sha and not ((folder / name).is_file() and sha256_file(folder / name) == sha)
    )


def extra_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of files in a finished folder that its manifest doesn't know: somebody put them there."""
    return sorted(name for name in _names(folder) if name not in manifest.files)


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest into a finished partial folder, and put the folder in the place of `final`."""
    write_manifest(partial, manifest)
    put_in_place(partial, final)


def put_in_place(partial: Path, final: Path) -> None:
    """Sync a finished folder, all of it, and rename it to `final`.

    What was there is gone afterwards, but for files that its manifest doesn't know: those are taken over. A process that is killed
    between the two renames leaves `final` under another name; `recover` brings it back.
    """
    previous = _previous(final)
    try:
        _sync(partial)
        for path in partial.rglob("*"):
            _sync(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(final, previous)
        os.replace(partial, final)
        _sync(final.parent)
        _keep_extras(previous, final)
    except OSError as error:
        raise _explain(error, final) from error
    shutil.rmtree(previous, ignore_errors=True)


def recover(final: Path) -> None:
    """Finish what `put_in_place` was killed in: either the old folder is back, or the new one has what was added to the old."""
    previous = _previous(final)
    if not previous.exists():
        return
    if final.exists():
        _keep_extras(previous, final)
        shutil.rmtree(previous, ignore_errors=True)
    else:
        os.replace(previous, final)


def export(folder: Path, manifest: Manifest) -> None:
    """Copy the manifest's exported files to where people look for them; a copy that is whole already stays."""
    for name, target in manifest.exports.items():
        place = Path(target)
        if place.is_file() and sha256_file(place) == manifest.files[name]:
            continue
        with atomic_path(place) as temporary:
            shutil.copyfile(folder / name, temporary)


def _previous(final: Path) -> Path:
    return final.with_name(f".{final.name}.previous")


def _names(folder: Path) -> list[str]:
    """Every file below a folder but its own manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _keep_extras(previous: Path, final: Path) -> None:
    """Move files that a person added to a result into the one that takes its place; its own files are never overwritten."""
    try:
        own = read_manifest(previous)
    except DamagedManifest:
        own = None
    if own is None:  # a partial folder, or one whose manifest can't tell what is extra: only what the new one lacks
        own = read_manifest(final)
    for name in extra_files(previous, own) if own and previous.exists() else ():
        if not (final / name).exists():
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(previous / name, final / name)


def _told(folder: Path) -> dict[str, str]:
    return {
        "expected": "the manifest that its making wrote",
        "where": str(folder / MANIFEST),
        "do": "materialise it again: it is made anew",
    }


@contextmanager
def _line_writer(path: Path, encode: Callable[[Any], str]) -> Iterator[Callable[[Any], None]]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        yield lambda value: print(encode(value), file=handle)


def _write_all(writer: AbstractContextManager[Callable[[Any], None]], rows: Iterable[Any]) -> int:
    count = 0
    with writer as write:
        for row in rows:
            write(row)
            count += 1
    return count


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: Path) -> Exception:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free // 2**20
        return MedpipeError(
            got=f"a full disk ({free} MiB free)", expected="room to write", where=str(path),
            do="free some space or set paths.outputs to another disk; nothing half-written was left",
        )  # fmt: skip
    return error
