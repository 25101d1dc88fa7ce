"""The lock file: which content each file from elsewhere had at its first use, as JSON that people can read and edit.

    record(Path("data/sources.lock.json"), archive, sha256, url)      # read(lock)["a.zip"].sha256 from then on

Several processes may write it at once: each adds to what the others wrote. What this leaves out: the checking itself (download.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.schema import Frozen

WAIT_SECONDS = 60.0  # for other processes that write into the lock file


class Locked(Frozen):
    """What the lock file says about one file name."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int
    url: str


_ENTRIES = TypeAdapter(dict[str, Locked])


def read(lock: Path) -> dict[str, Locked]:
    """File name → its entry; nothing where there is no lock file yet.

    Raises:
        MedpipeError: the lock file is damaged.
    """
    if not lock.is_file():
        return {}
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
        entries = read(lock)
        first = entries.setdefault(path.name, Locked(sha256=sha256, bytes=path.stat().st_size, url=url))
        if first.sha256 != sha256:
            raise other_content(path.name, str(path), sha256, first.sha256, lock)
        store.write_json(lock, {name: entries[name].model_dump() for name in sorted(entries)})


def other_content(name: str, where: str, actual: str, wanted: str, lock: Path | None) -> MedpipeError:
    """The error for a file with another checksum than the pinned one, or with `lock` than the recorded one."""
    recorded = f" (recorded in {lock} at first use)" if lock else ""
    accept = f'; to accept the new version, delete the entry "{name}" of {lock}' if lock else ""
    return MedpipeError(
        got=f"sha256 {actual}", expected=f"sha256 {wanted}{recorded}", where=where,
        do=f"delete the file if it is local, and get it again{accept}",
    )  # fmt: skip


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
