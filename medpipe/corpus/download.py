"""Get a file: from the mirror folder, from earlier downloads, or from the network, in this order; always the same bytes.

    MEDPIPE_MIRROR=<folder>     # where files lie as their publishers serve them
    with fetched(["a.zip"], "https://…/a.zip", Path("outputs/downloads"), what="A", lock=Path("data/sources.lock.json")) as path:
        rows = parse(path)

A download that was cut, even by a kill, goes on where it stopped if the server still has the same file. A file's checksum is
given by the caller, or recorded in the lock file when the block has read the file without an error: a damaged file is never
recorded. From then on another content stops the run.
What this leaves out: several connections at once, and servers' wishes for a pause (Retry-After).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from medpipe import store
from medpipe.corpus import lockfile
from medpipe.corpus.lockfile import Pinned
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.job import Reporter
from medpipe.schema import Frozen

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

MIRROR = "MEDPIPE_MIRROR"
HUB = "https://huggingface.co"
MIB = 2**20
LONGEST_PAUSE = 30.0  # seconds between two tries


@dataclass(frozen=True)
class Limits:
    """Where a download gives up: seconds, bytes, and tries in a row that brought no new byte."""

    connect_seconds: float = 10.0
    read_seconds: float = 30.0  # between two pieces of the file
    total_seconds: float = 3600.0
    bytes: int = 2 * 2**30
    tries: int = 3
    pause_seconds: float = 0.5  # before the second try; doubles with each one, and up to as much again by chance


LIMITS = Limits()


class _Said(Frozen):
    """What a server said of the file that a part is the beginning of."""

    url: str
    etag: str
    last_modified: str
    bytes: int | None

    @property
    def validator(self) -> str:
        """What proves for If-Range that a file is still the same one; a weak ETag does not."""
        return self.etag if self.etag.startswith('"') else self.last_modified

    def agrees(self, response: httpx.Response, total: int) -> bool:
        """False if the server now names another version: some servers take no notice of If-Range."""
        now = response.headers
        return (
            self.bytes in (None, total)
            and now.get("ETag", self.etag) == self.etag
            and now.get("Last-Modified", self.last_modified) == self.last_modified
        )


def mirror_folder() -> Path | None:
    """The folder named by MEDPIPE_MIRROR, or None where the variable is unset or empty.

    Raises:
        MedpipeError: the variable names a folder that does not exist.
    """
    value = os.environ.get(MIRROR, "").strip()
    if value and not Path(value).is_dir():
        raise MedpipeError(
            got=f"{value!r}", expected="an existing folder", where=f"the environment variable {MIRROR}", do="correct or unset it"
        )  # fmt: skip
    return Path(value) if value else None


def find_local(names: Sequence[str], cache: Path) -> Path | None:
    """The first of `names` in the mirror folder, otherwise in `cache`, otherwise None."""
    folders = [folder for folder in (mirror_folder(), cache) if folder is not None]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


@contextmanager
def fetched(
    names: Sequence[str], url: str, cache: Path, *, what: str, sha256: str | None = None, lock: Path | None = None,
    report: Reporter | None = None, limits: Limits = LIMITS,
) -> Iterator[Path]:  # fmt: skip
    """Path of the file: local if it can be had there, otherwise downloaded into `cache` under the first name.

    The block reads the file. If it ends without an error, the checksum is recorded in `lock`, where none was before.

    Args:
        names: file names to look for, the preferred one first.
        what: what the file is, for messages.
        sha256: expected checksum in hex; a local file is checked too.
        lock: lock file that is used where `sha256` is None: the first use of a file name is recorded there, later ones must agree.
        report: told when a download begins, and each MiB of it.
        limits: where a download gives up.

    Raises:
        SourceUnreachable: the file is neither local nor to be had from `url`.
        MedpipeError: the checksum is wrong, the file is too large, or was replaced while it was read; the lock file is damaged,
            or MEDPIPE_MIRROR names no folder.
    """
    found = find_local(names, cache)
    name = found.name if found else names[0]
    known = lockfile.read(lock).get(name) if lock and not sha256 else None
    wanted = Pinned(sha256.lower()) if sha256 else Pinned(known.sha256, known, lock) if known else None
    if found is None:
        found = cache / name
        with lockfile.alone(found, limits.total_seconds):
            if not found.is_file():  # otherwise another process got it meanwhile
                expected = f"{' or '.join(names)} in the folder {MIRROR}, or a network"
                _Download(url, found, what, expected, report, limits).run(wanted)
    actual = store.sha256_file(found)
    if wanted and actual != wanted.sha256:
        raise wanted.other_content(found, str(found), actual)
    yield found
    if lock and not wanted:
        if store.sha256_file(found) != actual:
            raise MedpipeError(
                got="another content after reading than before", expected="a file that nobody writes to", where=str(found),
                do="run again when it has been copied or downloaded",
            )  # fmt: skip
        lockfile.record(lock, found, actual, url)


def fetch(
    names: Sequence[str], url: str, cache: Path, *, what: str, sha256: str | None = None, lock: Path | None = None,
    report: Reporter | None = None, limits: Limits = LIMITS,
) -> Path:  # fmt: skip
    """As `fetched`, for a file that needs no reading to be known as whole: its checksum is recorded at once."""
    with fetched(names, url, cache, what=what, sha256=sha256, lock=lock, report=report, limits=limits) as path:
        return path


def hub_address(url: str, names: Sequence[str]) -> str:
    """An address at the hub, at the host that HF_ENDPOINT names; other addresses as they are.

    Raises:
        SourceUnreachable: HF_HUB_OFFLINE forbids to ask the hub.
    """
    if not url.startswith(f"{HUB}/"):
        return url
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise SourceUnreachable(
            got="HF_HUB_OFFLINE", expected=f"{' or '.join(names)} in the folder {MIRROR}", where=url,
            do="put the file there, or unset HF_HUB_OFFLINE",
        )  # fmt: skip
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/") + url.removeprefix(HUB)


def require_reachable(url: str, *, expected: str) -> None:
    """Ask `url` once for its headers, so that a library with long retries is not called without a network.

    Raises:
        SourceUnreachable: no answer, or an error status.
    """
    import httpx

    try:
        httpx.head(url, timeout=LIMITS.connect_seconds, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as error:
        raise _unreachable(error, url, expected) from error


@dataclass
class _Download:
    """One file on its way: `<name>.part` beside the target, and in `<name>.part.json` what the server said of it."""

    url: str
    target: Path
    what: str
    expected: str
    report: Reporter | None
    limits: Limits

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.target.name}.part")
        self.about = self.target.with_name(f"{self.target.name}.part.json")

    def run(self, wanted: Pinned | None) -> None:
        """Put the whole file in its place; a wrong checksum is given one more chance, from the first byte."""
        self._log(f"downloading {self.what} from {self.url}")
        with store.atomic_path(self.target) as temporary:
            for chances_left in (1, 0):
                self._complete()
                if wanted is None or (actual := store.sha256_file(self.part)) == wanted.sha256:
                    break
                error = wanted.other_content(self.part, self.url, actual, self.target.name)
                self._drop()
                if not chances_left:
                    raise error
                self._log(f"{self.what} came with the checksum {actual}, not {wanted.sha256}: once more from the start")
            os.replace(self.part, temporary)
        self._drop()

    def _complete(self) -> None:
        """Ask until the part is whole, as long as that brings anything."""
        import httpx
        from tenacity import Retrying, retry_if_exception, wait_exponential, wait_random

        pause, deadline = self.limits.pause_seconds, time.monotonic() + self.limits.total_seconds
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=self._stuck(deadline),
            wait=wait_exponential(multiplier=pause, max=LONGEST_PAUSE) + wait_random(0, pause),
            reraise=True,
        )
        try:
            retrying(self._ask, deadline)
        except httpx.HTTPError as error:
            raise _unreachable(error, self.url, self.expected) from error

    def _stuck(self, deadline: float) -> Callable[[RetryCallState], bool]:
        """For tenacity: true after too many tries in a row that brought no new byte, or when the time is over."""
        most, at = self._size(), 0

        def stuck(state: RetryCallState) -> bool:
            nonlocal most, at
            if self._size() > most:
                most, at = self._size(), state.attempt_number
            return state.attempt_number - at >= self.limits.tries or time.monotonic() > deadline

        return stuck

    def _ask(self, deadline: float) -> None:
        """One request: for the rest if the beginning is known to be of the same file, otherwise for all of it."""
        import httpx

        said = self._begun()
        have = self._size() if said else 0
        if said and have == said.bytes:
            return  # killed between the last byte and the renaming
        headers = {"Accept-Encoding": "identity"}  # the bytes as they lie there, so that they can be counted
        if said and have:
            self._log(f"going on with {self.what} after {have} bytes")
            headers |= {"Range": f"bytes={have}-", "If-Range": said.validator}
        timeout = httpx.Timeout(self.limits.read_seconds, connect=self.limits.connect_seconds)
        with httpx.stream("GET", self.url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            rest = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            start, total = (int(rest[1]), int(rest[2])) if rest else (0, 0)
            if response.status_code == 206 and said and 0 < have == start and said.agrees(response, total):
                self._write(response, "ab", have, total, deadline)
            elif response.status_code in (206, 416):
                self._drop()
                raise httpx.RemoteProtocolError(f"the server answered {response.status_code} for another part than was asked for")
            else:
                self._begin(response)
                self._write(response, "wb", 0, _length(response), deadline)

    def _begin(self, response: httpx.Response) -> None:
        """Forget what was had before and note of which file the bytes now come."""
        import httpx

        response.raise_for_status()
        if response.status_code != 200 or response.headers.get("Content-Encoding", "identity") != "identity":
            raise httpx.UnsupportedProtocol(f"status {response.status_code}, content encoded by {response.headers.get('Content-Encoding')}")
        self._drop()
        etag, last_modified = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
        store.write_json(self.about, _Said(url=self.url, etag=etag, last_modified=last_modified, bytes=_length(response)).model_dump())

    def _write(self, response: httpx.Response, mode: str, have: int, total: int | None, deadline: float) -> None:
        import httpx

        self._within_size(total or 0)
        told = have // MIB
        with self.part.open(mode) as handle:
            for piece in response.iter_raw():
                have += len(piece)
                self._within_size(have)
                handle.write(piece)
                if time.monotonic() > deadline:
                    raise SourceUnreachable(
                        got=f"{have} bytes after {self.limits.total_seconds:.0f} s", expected="the whole file within that time",
                        where=self.url, do="run again: the download goes on where it stopped",
                    )  # fmt: skip
                if have // MIB > told:
                    told = have // MIB
                    handle.flush()  # what was told of survives a kill
                    self._tell(told, total)
        if total is not None and have != total:
            raise httpx.RemoteProtocolError(f"the connection ended after {have} of {total} bytes")
        self._tell(-(-have // MIB), have)

    def _within_size(self, count: int) -> None:
        if count > self.limits.bytes:
            self._drop()
            raise MedpipeError(
                got=f"a file of {count} bytes or more", expected=f"at most {self.limits.bytes}", where=self.url,
                do=f"see what the address serves; put the right file into a folder and set {MIRROR} to it",
            )  # fmt: skip

    def _begun(self) -> _Said | None:
        """What the server said of the part, if that suffices to ask it for the rest."""
        if not (self.part.is_file() and self.about.is_file()):
            return None
        try:
            said = _Said.model_validate_json(self.about.read_bytes())
        except ValidationError:  # a damaged note is no proof: the file is got from its start
            return None
        return said if said.url == self.url and said.validator else None

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)  # first: a part must never stand beside what was said of another one
        self.about.unlink(missing_ok=True)

    def _log(self, text: str) -> None:
        if self.report:
            self.report.log(text)

    def _tell(self, mebibytes: int, total: int | None) -> None:
        if self.report:
            known = "" if total is not None else ", its size unknown: the limit is shown"
            self.report.progress(mebibytes, -(-(self.limits.bytes if total is None else total) // MIB), f"MiB of {self.what}{known}")


def _length(response: httpx.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _may_pass(error: BaseException) -> bool:
    """True for a server's own error and a lost connection; a host that took the whole connect time is not asked again."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectTimeout | httpx.UnsupportedProtocol)


def _unreachable(error: Exception, url: str, expected: str) -> SourceUnreachable:
    response = getattr(error, "response", None)
    got = f"HTTP status {response.status_code}" if response is not None else f"{type(error).__name__} ({error})"
    return SourceUnreachable(
        got=got, expected=expected, where=url, do=f"put the file into a folder and set {MIRROR} to it, or run again with a network"
    )  # fmt: skip
