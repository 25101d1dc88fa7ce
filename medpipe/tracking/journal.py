"""The journal of one asset's work: a JSON line for everything that is told, and per tracker how many lines of it have arrived.

    outputs/tracking/20261122-101500-models_planner-1a2b3c4d.jsonl             # head, metrics, system, episode, close
    outputs/tracking/20261122-101500-models_planner-1a2b3c4d.jsonl.mlflow      # {"lines": 12, "done": false, ...}

Who writes a journal holds the kernel's lock on it: where the lock can be had and the last line is not `close`, its writer was killed.
A last line without an end is one that was being written at that moment, and is no line. Left out: the journals are never removed.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from medpipe import store

KILLED = {"kind": "close", "failed": True, "killed": True, "numbers": {}}
"""Stands for the missing last line of a journal whose writer was killed."""


class Journal:
    """One journal that is being written; several threads may append."""

    def __init__(self, outputs: Path, head: Mapping[str, Any]) -> None:
        """A new journal with its head; it gets its name once it is locked and has that: else a feeder might take it for a dead one."""
        folder = outputs / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        when = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{when}-{str(head['name']).replace('/', '_')}-{secrets.token_hex(4)}.jsonl"
        unnamed = self.path.with_suffix(".partial")
        self._file = unnamed.open("a", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._lock = threading.Lock()
        self.append({"kind": "head", **head})
        unnamed.rename(self.path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; it bears the time (milliseconds since 1970)."""
        text = json.dumps({"time_ms": int(time.time() * 1000), **line}, ensure_ascii=False)
        with self._lock:
            if self._file.closed:  # a sample that came too late
                return
            self._file.write(text + "\n")
            self._file.flush()

    def close(self) -> None:
        """Let go of the kernel's lock."""
        with self._lock:
            self._file.close()


def journals(outputs: Path) -> list[Path]:
    """All journals, oldest first."""
    return sorted((outputs / "tracking").glob("*.jsonl"))


def read(path: Path, start: int, most: int | None = None) -> list[dict[str, Any]]:
    """Whole lines from number `start` on, `most` of them at most."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, start, None if most is None else start + most) if line.endswith("\n")]


def is_written(path: Path) -> bool:
    """Whether somebody still writes it."""
    with path.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_state(path: Path, tracker: str) -> dict[str, Any]:
    """How far a tracker has been fed: `lines`, whether it is `done`, and what its sink keeps."""
    file = _state(path, tracker)
    return store.read_json(file) if file.is_file() else {"lines": 0, "done": False}


def write_state(path: Path, tracker: str, state: Mapping[str, Any]) -> None:
    """Keep how far a tracker has been fed."""
    store.write_json(_state(path, tracker), dict(state))


def unfed(path: Path, tracker: str) -> int:
    """Lines that a tracker has not got."""
    state = read_state(path, tracker)
    return 0 if state["done"] else max(1, len(read(path, state["lines"])))


def _state(path: Path, tracker: str) -> Path:
    return path.with_name(f"{path.name}.{tracker}")
