"""Files on disk: atomic writes, content hashes, and the manifest that is written last.

Nothing is ever half-written: a file is written under a temporary name, synced and renamed; a folder is built under a
temporary name, gets its manifest last, and is renamed as a whole. What leaves this out: remote stores (S3).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.schema import Manifest, QAExample

MANIFEST = "manifest.json"
ROWS = "rows.jsonl"


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
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def hash_of_hashes(files: dict[str, str]) -> str:
    """Content hash of a folder: sha256 over its files' paths and hashes."""
    return hashlib.sha256("".join(f"{name}\0{sha}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, or None where the folder is missing or was never finished."""
    path = folder / MANIFEST
    return Manifest.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of files that are missing or differ from what the manifest recorded."""
    now = hash_tree(folder)
    return sorted(name for name in manifest.files.keys() | now.keys() if manifest.files.get(name) != now.get(name))


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest into a finished partial folder, and put the folder in the place of `final`."""
    write_json(partial / MANIFEST, manifest.model_dump(mode="json"))
    put_in_place(partial, final)


def put_in_place(partial: Path, final: Path) -> None:
    """Sync a finished folder, all of it, and rename it to `final`; what was there is gone afterwards."""
    previous = final.with_name(f".{final.name}.previous")
    try:
        _sync(partial)
        for path in partial.rglob("*"):
            _sync(path)
        shutil.rmtree(previous, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            os.replace(final, previous)
        os.replace(partial, final)
        _sync(final.parent)
    except OSError as error:
        raise _explain(error, final) from error
    shutil.rmtree(previous, ignore_errors=True)


def export(folder: Path, manifest: Manifest) -> None:
    """Copy the manifest's exported files to where people look for them; a copy that is whole already stays."""
    for name, target in manifest.exports.items():
        place = Path(target)
        if place.is_file() and sha256_file(place) == manifest.files[name]:
            continue
        with atomic_path(place) as temporary:
            shutil.copyfile(folder / name, temporary)


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
