"""Which process drives a run, whether it still lives, and that no process outlives the one above it (Linux).

A run of Dagster's page hangs on a chain: `dagster dev` → code server → the run's own process → step → worker. When `dagster dev`
is killed, Dagster itself lets daemon, page and run go on without it; and a run whose process is killed with its server stays
"started" for ever. So each process of the chain watches the one above, and each run is tagged with the process that drives it.
Left out: other machines and containers, whose processes can't be seen from here; what is said of them is "unknown".
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import threading
from functools import cache
from pathlib import Path

from medpipe.kin import end_with_driver

DEV_VARIABLE = "DAGSTER_IS_DEV_CLI"
"""Set by `dagster dev` for every process below it."""


def owner_of(pid: int, run_id: str = "") -> str:
    """The text that names a process beyond doubt: number, start time, host, boot, and whose numbers these are.

    Args:
        pid: a process of this machine.
        run_id: the run that it drives; told, where another run may inherit the text.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return " ".join((str(pid), _started(pid), os.uname().nodename, boot, os.readlink("/proc/self/ns/pid"), run_id)).strip()


def named_run(owner: str) -> str:
    """The run that such a text names; empty where it names none."""
    return "".join(owner.split()[5:])


def lives(owner: str) -> bool | None:
    """Whether the process that such a text names lives; None where that can't be told from here."""
    words = owner.split()[:5]
    if len(words) < 5:
        return None
    _, _, host, boot, space = owner_of(os.getpid()).split()
    if words[2] != host:
        return None
    if words[3] != boot:
        return False  # this machine was started anew since
    return None if words[4] != space else _started(int(words[0])) == words[1]


def nobody_listens(path: str) -> bool:
    """Whether the server behind a unix socket is gone."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        return False


@cache
def end_with_servers() -> None:
    """Let this process end with the one above it, where it is one of `dagster dev` or of a code server; all others go on."""
    end_with_driver()
    if multiprocessing.parent_process() is not None or not _below_dev(os.getpid()):
        return
    above = _servers()
    try:
        handles = [os.pidfd_open(pid) for pid in above]
    except ProcessLookupError:
        os._exit(1)
    if not above or _servers() != above:  # something ended before this process came to look
        os._exit(1)

    def watch() -> None:
        poll = select.poll()
        for handle in handles:
            poll.register(handle, select.POLLIN)
        ended = [handle for handle, _ in poll.poll()]
        for handle in handles[: max(map(handles.index, ended))]:  # what stands between: a server that would wait for 45 s
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-servers", daemon=True).start()


def _servers() -> list[int]:
    """The processes above this one up to `dagster dev` itself; empty where the chain is broken."""
    found, here = [], os.getpid()
    while _below_dev(here):
        here = int((_stat(here) or ["", "0"])[1])
        if here <= 0 or "dagster" not in _text(here, "cmdline"):
            return []
        found.append(here)
    return found


def _below_dev(pid: int) -> bool:
    """Whether a process was started by `dagster dev` or below it."""
    return f"{DEV_VARIABLE}=1" in _text(pid, "environ").split("\0")


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty where there is none, or only its exit status is left of it."""
    words = _stat(pid)
    return "" if not words or words[0] in "ZX" else words[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: state, parent, …"""
    return _text(pid, "stat").rpartition(")")[2].split()


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended, or is another user's
        return ""
