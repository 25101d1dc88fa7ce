"""Get a file: from the mirror folder, from earlier downloads, or from the network, in this order.

    MEDPIPE_MIRROR=<folder>     # where files lie as their publishers serve them

Nothing half-written is left, a wrong checksum stops the run, and without a network this fails within seconds.
What this leaves out: resuming a download in its middle.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.store import atomic_path, sha256_file

MIRROR = "MEDPIPE_MIRROR"
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
PAUSES = (0.5, 2.0)  # seconds before the first and the second retry


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


def fetch(
    names: Sequence[str], url: str, cache: Path, *, what: str, sha256: str | None = None, log: Callable[[str], None] | None = None
) -> Path:
    """Path of the file: local if it can be had there, otherwise downloaded into `cache` under the first name.

    Args:
        names: file names to look for, the preferred one first.
        what: what the file is, for messages.
        sha256: expected checksum in hex; a local file is checked too.
        log: called with one line before a download.

    Raises:
        SourceUnreachable: the file is neither local nor to be had from `url`.
        MedpipeError: the checksum is wrong, or MEDPIPE_MIRROR names no folder.
    """
    found = find_local(names, cache)
    if found is not None:
        _verify(found, sha256, str(found))
        return found
    if log:
        log(f"downloading {what} from {url}")
    return _download(url, cache / names[0], f"{' or '.join(names)} in the folder {MIRROR}, or a network", sha256)


def require_reachable(url: str, *, expected: str) -> None:
    """Ask `url` once for its headers, so that a library with long retries is not called without a network.

    Raises:
        SourceUnreachable: no answer, or an error status.
    """
    import httpx

    try:
        httpx.head(url, timeout=CONNECT_SECONDS, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as error:
        raise _unreachable(error, url, expected) from error


def _download(url: str, target: Path, expected: str, sha256: str | None) -> Path:
    import httpx

    for pause in (*PAUSES, None):
        try:
            with atomic_path(target) as temporary:
                timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
                with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response, temporary.open("wb") as handle:
                    response.raise_for_status()
                    for chunk in response.iter_bytes():
                        handle.write(chunk)
                _verify(temporary, sha256, url)
            break
        except httpx.HTTPError as error:
            if pause is None or not _may_pass(error):
                raise _unreachable(error, url, expected) from error
            time.sleep(pause)
    return target


def _may_pass(error: Exception) -> bool:
    """True for a server's own error and a lost connection; a host that took the whole connect time is not asked again."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectTimeout)


def _unreachable(error: Exception, url: str, expected: str) -> SourceUnreachable:
    response = getattr(error, "response", None)
    got = f"HTTP status {response.status_code}" if response is not None else f"{type(error).__name__} ({error})"
    return SourceUnreachable(
        got=got, expected=expected, where=url, do=f"put the file into a folder and set {MIRROR} to it, or run again with a network"
    )  # fmt: skip


def _verify(path: Path, sha256: str | None, where: str) -> None:
    if sha256 and (actual := sha256_file(path)) != sha256:
        raise MedpipeError(got=f"sha256 {actual}", expected=sha256, where=where, do="delete the file if it is local, and get it again")
