"""The process that feeds the trackers: it follows one journal to its end, then sends what older ones still lack.

    python -m medpipe.tracking.feeder          # started by medpipe/tracking/__init__.py, which tells it what to do on standard input

The first line of its input is JSON; the end of the input means that the work has ended: everything is tried once more, and the feeder
ends. It dies with its parent. A tracker that fails is said once on standard output, and again when it is back; in between it is
tried with growing pauses. Being killed at any moment loses nothing: how far a journal was read is kept beside it, after the tracker
has taken it, and what is sent twice counts once. Left out: several trackers of one kind.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from medpipe.kin import die_with_parent
from medpipe.tracking.journal import KILLED, is_written, journals, read, read_state, write_state

LOOK_SECONDS = 1.0
LONGEST_PAUSE = 30.0
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""The feeder tries again by itself, and waits no minutes for one answer (MLflow's own default)."""
AT_ONCE = 500  # lines handed to a tracker together


class Sink(Protocol):
    """A tracker, as the feeder sees it. What it raises means: not taken, try again."""

    where: str

    def take(self, path: Path, state: dict[str, Any], head: Mapping[str, Any], lines: list[dict[str, Any]], first: int) -> str:
        """Hand over lines (the first one is number `first`); afterwards all of them count as taken.

        Args:
            state: kept beside the journal; the sink adds what it needs to go on.

        Returns:
            Something to say, or nothing.
        """
        ...


def sinks(given: Mapping[str, Any]) -> dict[str, Sink]:
    """The trackers that were asked for; each imports its library when it is needed."""
    made: dict[str, Sink] = {}
    for name in given["trackers"]:
        if name == "mlflow":
            from medpipe.tracking.mlflow_sink import MLflow

            made[name] = MLflow(given["uri"], Path(given["outputs"]), given["tracking"]["experiment"], local=given["local"])
        else:
            from medpipe.tracking.wandb_sink import WandB

            made[name] = WandB(Path(given["outputs"]), given["tracking"])
    return made


class Feeder:
    """All trackers and all journals of one outputs folder."""

    def __init__(self, given: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._sinks, self._say = sinks(given), say
        self._outputs, self._own = Path(given["outputs"]), Path(given["own"]) if given["own"] else None
        self._down: set[str] = set()
        self._older = set(self._sinks)  # trackers that may still lack journals of earlier work

    def feed(self) -> bool:
        """Send what there is; whether every tracker took it. Own lines first; a tracker that fails gets no older ones."""
        ok = True
        for name, sink in self._sinks.items():
            try:
                if self._own:
                    self._send(name, sink, self._own)
                if name in self._older:
                    for path in journals(self._outputs):
                        if path != self._own and not read_state(path, name)["done"] and not is_written(path):
                            self._send(name, sink, path)
                    self._older.remove(name)
            except Exception as error:  # whatever breaks in a tracker must not break training; it is said, and tried again
                ok = False
                if name not in self._down:
                    self._down.add(name)
                    text = str(error).splitlines()[0] if str(error) else type(error).__name__
                    self._say(f"{sink.where} failed ({text[:300]}): going on without it for now; the journal has every number")
                continue
            if name in self._down:
                self._down.remove(name)
                self._say(f"{sink.where} is back")
        return ok

    def _send(self, name: str, sink: Sink, path: Path) -> None:
        try:
            with FileLock(f"{path}.{name}.lock", timeout=0):
                state = read_state(path, name)
                while not state["done"]:
                    ended = path != self._own and not is_written(path)  # looked at before the lines are
                    lines = read(path, state["lines"], AT_ONCE)
                    if not lines and not ended:
                        return
                    lines = lines or [dict(KILLED, time_ms=int(path.stat().st_mtime * 1000))]
                    (head,) = read(path, 0, 1)
                    if said := sink.take(path, state, head, lines, state["lines"]):
                        self._say(said)
                    state["lines"] += len(lines)
                    state["done"] = lines[-1]["kind"] == "close"
                    write_state(path, name, state)
        except Timeout:  # another feeder is at it
            return


def main() -> None:
    """Feed until the input ends."""
    given = json.loads(sys.stdin.readline())
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not what the feeder says

    def say(text: str) -> None:
        with suppress(BrokenPipeError):
            print(text, file=out, flush=True)

    die_with_parent(given["parent"])
    feeder, pause, ended = Feeder(given, say), LOOK_SECONDS, False
    while True:
        ok = feeder.feed()
        if ended:
            sys.exit(0 if ok else 1)
        pause = LOOK_SECONDS if ok else min(LONGEST_PAUSE, 2 * pause)
        until = time.monotonic() + pause
        while not ended and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([sys.stdin], [], [], left)
            ended = bool(ready) and not sys.stdin.readline()


if __name__ == "__main__":
    main()
