"""What this machine has asked SageMaker for: one small file for each launch, and a kernel lock on it while its launcher lives.

    <outputs>/aws/jobs/<digest12>.json     the job's name, attempt and state; written before SageMaker is called
    <outputs>/aws/jobs/<digest12>.lock     held by the launcher; free at once when it dies, however that happens

An intent that is open and whose lock is free belongs to a launcher that died: medpipe.aws.jobs.sweep stops its job. Left out:
SageMaker itself (medpipe/aws/jobs.py), and launchers on other machines, which the job's name keeps apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from medpipe import store
from medpipe.errors import MedpipeError

State = Literal["intended", "created", "ended"]
LOCK_TRIES = 61  # with a second between them: the sweeper holds a lock for as long as one stop takes


@dataclass(frozen=True)
class Intent:
    """What one launcher is about to do, or did."""

    digest: str
    name: str
    attempt: int
    region: str
    created_at: str  # UTC, ISO 8601
    state: State = "intended"
    status: str = ""  # as SageMaker last gave it
    account: str = ""  # whose number it is; empty where it is not known

    @property
    def open(self) -> bool:
        """Whether its job may run."""
        return self.state != "ended"

    def age_seconds(self, now: float) -> float:
        """Since its job was last asked for; `now` in seconds since the epoch."""
        return now - datetime.fromisoformat(self.created_at).timestamp()

    def now(self, state: State, status: str) -> Intent:
        """The same intent, further on."""
        return replace(self, state=state, status=status)


def same_account(one: str, other: str) -> bool:
    """Whether two account numbers can be of one account: what is not known is not held against it."""
    return "" in (one, other) or one == other


def folder(outputs: Path) -> Path:
    """Where the intents of an outputs folder lie."""
    return outputs / "aws" / "jobs"


def stamp() -> str:
    """The time as an intent holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(home: Path, intent: Intent) -> None:
    """Record it; on the disk when this returns."""
    store.write_json(_place(home, intent.digest), asdict(intent))


def read(home: Path, digest: str) -> Intent | None:
    """The intent of a launch, if there is one."""
    path = _place(home, digest)
    return _read(path) if path.is_file() else None


def all_open(home: Path) -> list[Intent]:
    """Every intent whose job may run, oldest first."""
    found = [_read(path) for path in home.glob("*.json")]
    return sorted((intent for intent in found if intent.open), key=lambda intent: intent.created_at)


@contextlib.contextmanager
def launching(home: Path, digest: str, pause: Callable[[float], None], say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the launch for this process; another holder is waited for a minute, as it may be the sweeper.

    Raises:
        MedpipeError: another living process of this machine holds it.
    """
    for attempt in range(LOCK_TRIES):
        if attempt == 1:
            say(f"launch {digest[:12]}: another process has it; waiting up to {LOCK_TRIES - 1} s")
        if attempt:
            pause(1.0)
        with _locked(home, digest) as held:
            if held:
                yield
                return
    raise MedpipeError(
        got="a launch that another process on this machine is carrying out", expected="one launcher for each launch",
        where=str(_place(home, digest)), do="wait for it (medpipe aws status), or end it: it stops its job",
    )  # fmt: skip


@contextlib.contextmanager
def abandoned(home: Path, digest: str) -> Iterator[Intent | None]:
    """Give the open intent of a launch whose launcher is gone, and keep launchers away meanwhile; None where there is none."""
    with _locked(home, digest) as held:
        intent = read(home, digest) if held else None
        yield intent if intent is not None and intent.open else None


@contextlib.contextmanager
def _locked(home: Path, digest: str) -> Iterator[bool]:
    """Whether the lock could be had. Its file stays: were it removed, two could hold locks on two files of one name."""
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(_place(home, digest).with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _place(home: Path, digest: str) -> Path:
    return home / f"{digest[:12]}.json"


def _read(path: Path) -> Intent:
    try:
        return Intent(**store.read_json(path))
    except (TypeError, ValueError) as error:
        raise MedpipeError(
            got=f"a record of a job that can't be read ({error})", expected="what medpipe wrote there", where=str(path),
            do="see with `medpipe aws status` whether its job runs, stop it if it does, then remove the file",
        ) from error  # fmt: skip
