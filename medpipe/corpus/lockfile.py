"""The lock file: which content each file from elsewhere had at its first use, as JSON that people can read and edit.

    record(Path("data/sources.lock.json"), archive, sha256, url)      # read(lock)["a.zip"].sha256 from then on
    python -m medpipe.corpus.lockfile forget data/sources.lock.json a.zip      # the next content of a.zip is accepted

Several processes may write it at once: each adds to what the others wrote. What this leaves out: the checking itself (download.py).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.schema import Frozen

WAIT_SECONDS = 60.0  # for other processes that write into the lock file
SHORT = 12  # characters of a checksum in a message


class Locked(Frozen):
    """What the lock file says about one file name."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int
    url: str
    modified: str = ""  # when the file was last written, in UTC; empty in entries of before this was noted


_ENTRIES = TypeAdapter(dict[str, Locked])


def read(lock: Path) -> dict[str, Locked]:
    """File name → its entry; nothing where there is no lock file yet.

    Raises:
        MedpipeError: the lock file is damaged.
    """
    if not lock.exists():
        return {}
    if not lock.is_file():
        raise MedpipeError(got="a folder", expected="a file, or nothing", where=str(lock), do="take it away")
    try:
        return _ENTRIES.validate_json(lock.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise MedpipeError(
            got=f"{first['msg']} at {'.'.join(str(part) for part in first['loc']) or 'the top'}",
            expected='{"<file name>": {"sha256": …, "bytes": …, "url": …}, …}', where=str(lock),
            do="mend it, or delete it: then the checksums of the next use are recorded",
        ) from error  # fmt: skip


def record(lock: Path, path: Path, sha256: str, url: str) -> None:
    """Add an entry for a file under its name; if another process was quicker, its entry holds.

    Raises:
        MedpipeError: another process recorded another content, or the lock file is damaged.
    """
    with alone(lock, WAIT_SECONDS):
        entries, about = read(lock), path.stat()
        own = Locked(sha256=sha256, bytes=about.st_size, url=url, modified=_utc(about.st_mtime))
        first = entries.setdefault(path.name, own)
        if first.sha256 != sha256:
            raise Pinned(first.sha256, first, lock).other_content(path, str(path), sha256)
        _write(lock, entries)


def forget(lock: Path, name: str) -> None:
    """Take the entry of a file name away, so that its next content is recorded.

    Raises:
        MedpipeError: there is no such entry, or the lock file is damaged.
    """
    with alone(lock, WAIT_SECONDS):
        entries = read(lock)
        if entries.pop(name, None) is None:
            raise MedpipeError(
                got=f"no entry {name!r}", expected=f"one of {', '.join(sorted(entries)) or 'none'}", where=str(lock), do="name one of these"
            )  # fmt: skip
        _write(lock, entries)


@dataclass(frozen=True)
class Pinned:
    """The checksum that a file must have: given by the code, or by an entry of a lock file."""

    sha256: str
    entry: Locked | None = None
    lock: Path | None = None

    def other_content(self, path: Path, where: str, actual: str, name: str = "") -> MedpipeError:
        """The error for a file with another checksum; `where` and `name` tell what it is called if `path` is not."""
        name, found = name or path.name, path.stat()
        got = f"sha256 {actual[:SHORT]}… ({found.st_size} bytes, of {_utc(found.st_mtime)})"
        if self.entry is None or self.lock is None:
            return MedpipeError(
                got=got, expected=f"sha256 {self.sha256[:SHORT]}…", where=where, do="delete the file if it is local, and get it again"
            )
        of = f", of {self.entry.modified}" if self.entry.modified else ""
        newer = {True: "the file that is here is the newer one", False: "the recorded one is newer"}
        told = newer[_utc(found.st_mtime) > self.entry.modified] if self.entry.modified else "which one is newer was not recorded"
        command = shlex.join([sys.executable, "-m", "medpipe.corpus.lockfile", "forget", str(self.lock), name])
        return MedpipeError(
            got=got, expected=f"sha256 {self.sha256[:SHORT]}… ({self.entry.bytes} bytes{of}), recorded in {self.lock}", where=where,
            do=f'{told}. To accept the file that is here, run "{command}" (it deletes the entry "{name}"), then run again; '
            "otherwise put the recorded file in its place",
        )  # fmt: skip


def _utc(seconds: float) -> str:
    """Seconds since 1970 as text that sorts by time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _write(lock: Path, entries: Mapping[str, Locked]) -> None:
    store.write_json(lock, {name: entries[name].model_dump() for name in sorted(entries)})


@contextmanager
def alone(path: Path, seconds: float) -> Iterator[None]:
    """Let one process at a time make `path`; the kernel lets go of the guard file beside it when its process dies.

    Raises:
        MedpipeError: another process did not end within `seconds`.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    guard = FileLock(path.with_name(f".{path.name}.guard"), timeout=seconds)
    try:
        guard.acquire()
    except Timeout as error:
        raise MedpipeError(
            got=f"another process busy with {path.name} for {seconds:.0f} s", expected="it to end", where=str(path.parent),
            do="wait for it or end it, and run again",
        ) from error  # fmt: skip
    try:
        yield
    finally:
        guard.release()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["forget", lock_file, file_name]:
            try:
                forget(Path(lock_file), file_name)
            except MedpipeError as error:
                sys.exit(str(error))
            print(f"{file_name}: the next content that can be read is recorded in {lock_file}")
        case _:
            sys.exit("usage: python -m medpipe.corpus.lockfile forget <lock file> <file name>")
