"""What happened, written down once and shown where people look: a journal on disk, fed to MLflow and Weights & Biases.

    medpipe track                      # sends what a tracker missed

The journal (`outputs/tracking/*.jsonl`, medpipe/tracking/journal.py) is the truth. A process beside the work reads it and feeds the
trackers (medpipe/tracking/feeder.py), so that a tracker that is down, slow, locked or full never stops, slows or changes training.
What it missed is sent by the next run's feeder or by `medpipe track`; each point arrives once (the two sinks say how).
One run per asset, below one parent per Dagster run in MLflow, in one group in W&B. Numbers are what the work measured; only
`system/*` is measured here (medpipe/tracking/usage.py). Left out: weights as artefacts of a tracker.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from medpipe.config import Settings, mlflow_address
from medpipe.errors import MedpipeError
from medpipe.tracking.journal import Journal, is_written, journals, unfed
from medpipe.tracking.usage import Sampler

FEEDER = (sys.executable, "-m", "medpipe.tracking.feeder")
TOUCH = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
"""A program that makes MLflow's tables in a fresh database, by touching it."""


def mlflow_server(settings: Settings) -> str:
    """Where MLflow was told to keep its runs: the profile's uri, or MLFLOW_TRACKING_URI; empty for the outputs folder.

    Raises:
        MedpipeError: the address holds a secret, which would stand in logs, or is none.
    """
    return mlflow_address(settings.tracking)


def tracking_uri(settings: Settings) -> str:
    """Where MLflow keeps its runs: where it was told to, or sqlite in the outputs folder."""
    return mlflow_server(settings) or f"sqlite:///{(settings.outputs / 'mlflow.db').resolve()}"


@contextlib.contextmanager
def alone_with_mlflow(uri: str, outputs: Path) -> Iterator[None]:
    """Hold the lock under which MLflow's database is first touched, with a whole database there if it is sqlite's.

    MLflow makes its tables over some seconds and can't use a database in which it was interrupted: it is made aside, in a process of
    its own, and gets its name when it is whole.

    Raises:
        MedpipeError: MLflow could not make it.
    """
    from sqlalchemy.engine import make_url

    outputs.mkdir(parents=True, exist_ok=True)
    with FileLock(str(outputs / ".mlflow.lock"), timeout=600):
        url = make_url(uri) if uri.startswith("sqlite:") else None
        if url and url.database and url.database != ":memory:" and not (path := Path(url.database)).exists():
            partial = path.with_name(f"{path.name}.partial")
            for left in path.parent.glob(f"{partial.name}*"):
                left.unlink()
            done = subprocess.run([sys.executable, "-c", TOUCH, str(url.set(database=str(partial)))], capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["it said nothing"]
                raise MedpipeError(
                    got=f"a failure of MLflow ({said[-1]})", expected="a fresh database", where=str(path),
                    do="see that its folder exists and the disk has room, or set tracking.kind = none to go without MLflow",
                )  # fmt: skip
            partial.rename(path)
        yield


def trackers(settings: Settings) -> tuple[str, ...]:
    """Names of the trackers that the profile asks for, and W&B where WANDB_PROJECT asks for it and its package is there."""
    kind = settings.tracking.kind
    if kind == "mlflow" and _wandb_asked() and _wandb_installed():
        kind = "both"
    return {"none": (), "both": ("mlflow", "wandb")}.get(kind, (kind,))


def notes(settings: Settings) -> list[str]:
    """What the environment changes about where runs are recorded, a line each: for whoever starts a run to say."""
    if settings.tracking.kind != "mlflow" or not _wandb_asked():
        return []
    project = os.environ["WANDB_PROJECT"]
    if not _wandb_installed():
        return [f"WANDB_PROJECT = {project} is set, but Weights & Biases is off: its package is missing (pip install 'medpipe[wandb]')"]
    return [f"Weights & Biases is on, beside MLflow: WANDB_PROJECT = {project} is set (WANDB_MODE=disabled turns it off)"]


def _wandb_asked() -> bool:
    return bool(os.environ.get("WANDB_PROJECT", "").strip()) and os.environ.get("WANDB_MODE") != "disabled"


def _wandb_installed() -> bool:
    return importlib.util.find_spec("wandb") is not None


def track_missed(settings: Settings, say: Callable[[str], None]) -> dict[str, int]:
    """Send what the trackers still lack; returns what they lack afterwards."""
    with subprocess.Popen(FEEDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as feeder:
        assert feeder.stdin and feeder.stdout
        _instruct(feeder.stdin, settings, None)
        feeder.stdin.close()
        for line in feeder.stdout:
            say(line.rstrip("\n"))
    return lacking(settings)


def lacking(settings: Settings) -> dict[str, int]:
    """How many lines each tracker lacks of all journals that nobody writes any more."""
    files = [file for file in journals(settings.outputs) if not is_written(file)]
    return {name: sum(unfed(file, name) for file in files) for name in trackers(settings)}


class Tracker:
    """What one asset's work tells the trackers; opened with its first number, and no method of it waits for a tracker but `close`."""

    def __init__(
        self, settings: Settings, name: str, run_id: str, params: Mapping[str, Mapping[str, Any]], tags: Mapping[str, str],
        warn: Callable[[str], None], datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Nothing is written yet.

        Args:
            name: the asset's key.
            run_id: Dagster's run.
            datasets: what the work read, each with `name`, `sha256`, `path` and, if known, `rows`.
        """
        self._settings, self._name, self._warn = settings, name, warn
        mlflow_server(settings)  # a wrong address is refused before the work begins
        shared = {"medpipe.profile": settings.name, "medpipe.config_hash": settings.config_hash()}
        self._head = {
            "run": run_id, "name": name, "params": {s: dict(section) for s, section in params.items()}, "tags": dict(tags),
            "shared": shared, "datasets": [dict(each) for each in datasets],
        }  # fmt: skip
        self._journal: Journal | None = None
        self._feeder: subprocess.Popen[str] | None = None
        self._sampler: Sampler | None = None
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at a step."""
        self._write({"kind": "metrics", "step": step, "values": {key: float(value) for key, value in values.items()}})

    def episodes(self, step: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Keep a share of a step's episodes (`tracking.trace_share`), drawn by the seed and the episode alone; MLflow gets them as traces.

        Args:
            transcripts: plain episodes as `Episode.transcript(timed=True)` makes them. Without times, a trace has the moment
                of this call as start and end.
        """
        settings = self._settings
        for each in transcripts:
            if is_traced(settings.seed, step, each, settings.tracking.trace_share):
                self._write({"kind": "episode", "step": step, "now_ns": time.time_ns(), "transcript": dict(each)})

    def close(self, failed: bool, numbers: Mapping[str, float]) -> None:
        """Record the final numbers, end the run, and wait `tracking.drain_seconds` at most until the trackers have everything."""
        if self._sampler:
            self._sampler.stop()
        self._write({"kind": "close", "failed": failed, "numbers": {key: float(value) for key, value in numbers.items()}})
        if self._journal is None:
            return
        self._journal.close()
        if self._feeder:
            self._drain(self._feeder)
        for tracker in trackers(self._settings):
            if lines := unfed(self._journal.path, tracker):
                self._warn(
                    f"{tracker} still lacks {lines} lines of {self._name}: nothing is lost ({self._journal.path}); "
                    "the next run sends them, or `medpipe track` does"
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._settings.tracking.kind == "none":
            return
        if self._journal is None:
            self._open()
        assert self._journal
        self._journal.append(line)
        self._pass_on()

    def _open(self) -> None:
        for line in notes(self._settings):
            self._warn(line)
        self._journal = Journal(self._settings.outputs, self._head)
        self._sampler = Sampler(self._journal.append)
        try:
            self._feeder = subprocess.Popen(FEEDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._feeder.stdin and self._feeder.stdout
            self._listener = threading.Thread(target=self._listen, args=(self._feeder.stdout,), daemon=True)
            self._listener.start()
            _instruct(self._feeder.stdin, self._settings, self._journal.path)
        except OSError as error:  # no memory for a process, or it ended at once: the work does not need it
            self._warn(f"the feeder of the trackers could not be started ({error}): going on without it; the journal has every number")

    def _drain(self, feeder: subprocess.Popen[str]) -> None:
        """Tell the feeder that this is the end, and wait for it."""
        assert feeder.stdin
        with contextlib.suppress(BrokenPipeError):
            feeder.stdin.close()
        try:
            feeder.wait(self._settings.tracking.drain_seconds)
        except subprocess.TimeoutExpired:
            feeder.kill()
            feeder.wait()
        self._listener.join(timeout=5)
        self._pass_on()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            self._said.put(line.rstrip("\n"))

    def _pass_on(self) -> None:
        """Say what the feeder said, from the thread that also says everything else."""
        while not self._said.empty():
            self._warn(self._said.get())


def is_traced(seed: int, step: int, transcript: Mapping[str, Any], share: float) -> bool:
    """Whether an episode belongs to the share that is kept: the same ones in every run with this seed."""
    drawn = hashlib.sha256(f"{seed}/trace/{step}/{episode_name(transcript)}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < share * 2**64


def episode_name(transcript: Mapping[str, Any]) -> str:
    """Which episode of a step this is."""
    return f"{transcript['question']['id']}/{transcript['sample']}"


def _instruct(feeder: IO[str], settings: Settings, own: Path | None) -> None:
    given = {"outputs": str(settings.outputs), "own": str(own) if own else "", "parent": os.getpid(), "trackers": trackers(settings)}
    given |= {"uri": tracking_uri(settings), "local": not mlflow_server(settings), "tracking": settings.tracking.model_dump(mode="json")}
    feeder.write(json.dumps(given) + "\n")
    feeder.flush()
