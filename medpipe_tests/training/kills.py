"""Fine-tuning of the tiny model, killed at random moments and with failing writes, until it is done: how often it ends the same.

    python -m medpipe_tests.training.kills --kills 100         # SIGKILL at random moments; a new training after each finished one
    python -m medpipe_tests.training.kills --writes 1          # every write fails once: the 1st in one training, the 2nd in the next, …

Each attempt is a forked process: torch is loaded once, by a parent that never computes. Prints one JSON line; exit status 1 where
a training ended with other bytes than the uninterrupted one, or did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings
from medpipe.job import Job
from medpipe.launch.worker import WorkReporter
from medpipe_tests.tiny_team import make_base, make_splits, tiny_settings

LESSON = {
    "training.max_examples": 16, "training.batch_size": 2, "training.gradient_accumulation": 2, "training.epochs": 5,
    "training.lora_dropout": 0.1, "training.checkpoint_seconds": 0, "training.learning_rate": 5e-3,
}  # fmt: skip
ATTEMPTS = 30
"""So often a training may be started again before it counts as one that does not end."""


LEARNERS = ("models/planner", "models/reporter")


def train(settings: Settings, inputs: dict[str, Path], root: Path) -> None:
    """One attempt as the worker makes it, two learners in one pass: what was unfinished is thrown away, the scratch folder stays."""
    from medpipe.training import sft

    out, scratch = root / "out", root / "scratch"
    shutil.rmtree(out, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = {}
    for name in LEARNERS:
        (out / name).mkdir(parents=True)
        jobs[name] = Job(name, settings, inputs, out / name, scratch, "cpu", WorkReporter(root / "log.txt", out / name, lambda *_: None))
    sft.run(jobs)
    stats = [store.read_json(out / name / "training_stats.json") for name in LEARNERS]
    for name, own in zip(LEARNERS, stats, strict=True):
        steps = [row["step"] for row in store.read_jsonl(out / name / "metrics.jsonl")]
        assert steps == list(range(1, own["steps"] + 1)), f"the log of {name} holds the steps {steps}"
    weights = [store.sha256_file(out / name / "adapter_model.safetensors") for name in LEARNERS]
    store.write_json(root / "done.json", {"sha256": weights, "resumed": stats[0]["resumed_from_steps"] != "never interrupted"})


def attempt(work: Callable[[], None], kill_after: float | None = None, sign: int = signal.SIGKILL) -> int:
    """Do work in a forked process, which is sent a signal after some seconds; returns its exit status, below 0 for a signal."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except Exception as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    timer = threading.Timer(kill_after, os.kill, (child, sign)) if kill_after is not None else None
    if timer:
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer:
        timer.cancel()
    return os.waitstatus_to_exitcode(status)


def failing(nth: int, work: Callable[[], None]) -> None:
    """Do work in which the nth sync or rename fails as on a full disk, and tell on success that it never came to that."""
    calls = 0

    def broken(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return call

    os.fsync, os.replace = broken(os.fsync), broken(os.replace)  # in a process of its own, which ends with this work
    work()


class Trial:
    """The uninterrupted training, and what others come to beside it."""

    def __init__(self, root: Path, seed: int, inputs: dict[str, Path]) -> None:
        self.settings, self.root, self.draw, self.inputs = tiny_settings(LESSON), root, random.Random(seed), inputs
        started = time.monotonic()
        assert attempt(self._work(root / "whole")) == 0
        self.seconds = time.monotonic() - started
        self.sha256 = store.read_json(root / "whole" / "done.json")["sha256"]
        self.trainings = self.same = self.resumed = self.ended_early = 0

    def _work(self, root: Path) -> Callable[[], None]:
        return lambda: train(self.settings, self.inputs, root)

    def finish(self, first: Callable[[Path], int], again: Callable[[Path], int]) -> None:
        """One training: a first attempt, then others until it is done."""
        folder = self.root / f"training-{self.trainings}"
        self.trainings += 1
        status = first(folder)
        for _ in range(ATTEMPTS):
            if status == 0:
                break
            self.ended_early += 1
            status = again(folder)
        if (folder / "done.json").is_file():
            done = store.read_json(folder / "done.json")
            self.same += done["sha256"] == self.sha256
            self.resumed += done["resumed"]
        shutil.rmtree(folder)

    def kills(self, count: int) -> None:
        """Kill attempts at random moments until so many were killed; the last training may end in peace."""

        def one(folder: Path) -> int:
            moment = self.draw.uniform(0, 1.1 * self.seconds) if self.ended_early < count else None
            return attempt(self._work(folder), moment)

        while self.ended_early < count:
            self.finish(one, one)

    def writes(self, stride: int) -> None:
        """Let the 1st, then the (1 + stride)th, … write of a training fail, until there is none so late."""
        nth, before = 1, -1
        while self.ended_early > before:
            before = self.ended_early
            self.finish(
                lambda folder, nth=nth: attempt(lambda: failing(nth, self._work(folder))), lambda folder: attempt(self._work(folder))
            )
            nth += stride


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--writes", type=int, default=0, metavar="STRIDE", help="let every STRIDE-th write fail once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=json.loads, help="finished folders as JSON, where there are any: models/base, splits/train, …")
    arguments = parser.parse_args()
    import torch

    import medpipe.evaluation.plots
    import medpipe.training.sft  # noqa: F401  (loaded once, for all attempts)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.inputs:
            inputs = {name: Path(path) for name, path in arguments.inputs.items()}
        else:
            assert attempt(lambda: make_base(root) and None) == 0
            inputs = {"models/base": root / "models" / "base", **make_splits(root / "splits")}
        trial = Trial(root, arguments.seed, inputs)
        if arguments.kills:
            trial.kills(arguments.kills)
        if arguments.writes:
            trial.writes(arguments.writes)
    print(json.dumps({name: getattr(trial, name) for name in ("trainings", "same", "resumed", "ended_early")}))
    sys.exit(trial.same != trial.trainings)


if __name__ == "__main__":
    main()
