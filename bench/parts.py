"""What the measurements of the core share: the bundled corpus as splits, the base, questions with passages, and child processes.

    from parts import child, cases            # a neighbour in this folder, not a script of its own

Nothing large is imported before a measurement begins, since a child would inherit the memory's peak. Left out: what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medpipe.config import Settings
    from medpipe.job import Job
    from medpipe.schema import QAExample

WORK = Path("outputs/bench/core")
QUIET = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip
NEVER = "<gh_stars>"  # a control token that the model was given and does not say
KINDS = ("learn", "held", "asked", "play")
"""Rows to fine-tune on, training-side rows to measure their loss on, held-out questions, and those of co-training."""


def settings_for(changes: Mapping[str, Any] | None = None) -> Settings:
    """Quickstart's settings on the bundled corpus alone, without tracking."""
    from medpipe.config import load_profile

    return load_profile("quickstart", {"corpus.use": ["synthetic"], "tracking.kind": "none", **(changes or {})})


def job_for(settings: Settings, name: str, out: Path, inputs: Mapping[str, Path] | None = None) -> Job:
    """A job of the graph, on folders of this benchmark."""
    from mirror import Quiet

    from medpipe.job import Job

    (out / "scratch").mkdir(parents=True, exist_ok=True)
    return Job(name, settings, dict(inputs or {}), out, out / "scratch", "cpu", Quiet())


def base_folder() -> Path:
    """The bundled base, made once."""
    folder = WORK / "base"
    if not (folder / "precision.json").is_file():
        from medpipe.models import base

        base.run(job_for(settings_for(), "models/base", folder))
    return folder


def corpus() -> Path:
    """The bundled corpus from its source to the splits, by the functions that the assets run; compared with no benchmark."""
    from medpipe import store
    from medpipe.tasks import TASKS

    folder = WORK / "corpus"
    if not (folder / "splits/validation/rows.jsonl").is_file():
        settings = settings_for()
        made = {"sources/benchmarks": folder / "none"}
        (folder / "none").mkdir(parents=True, exist_ok=True)
        store.write_examples(folder / "none", [])
        store.write_json(folder / "none" / "benchmarks.json", {})
        splits = dict.fromkeys(("splits/train", "splits/cotrain", "splits/validation"), "split")
        sources = dict.fromkeys(("sources/synthetic", "sources/custom"), "source")
        for key, task in {**sources, "corpus/clean": "clean", **splits}.items():
            TASKS[task]({key: job_for(settings, key, folder / key, made)})
            made[key] = folder / key
    return folder


def prepare(passages: int = 2, chars: int = 240, each: int = 48) -> dict[str, Any]:
    """Questions of each kind with their passages: text that any version of the code can read. Every other row of "learn" and "held" is
    multiple choice, "asked" and "play" are so throughout."""
    from medpipe import store
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.corpus.splits import heldout
    from medpipe.evaluation.benchmarks import choose

    base_folder()
    folder, told = corpus(), {}
    index = EvidenceIndex.load(folder / "splits/train/evidence")
    sides = {
        "learn": store.read_examples(folder / "splits/train"), "held": store.read_examples(folder / "splits/validation"),
        "asked": heldout(folder / "corpus/clean", "synthetic"), "play": store.read_examples(folder / "splits/cotrain"),
    }  # fmt: skip
    for kind, rows in sides.items():
        choice, text = ([row for row in rows if row.is_choice is wanted] for wanted in (True, False))
        if kind in ("learn", "held"):
            pairs = zip(choose(choice, each, 0), choose(text, each, 0), strict=False)
            chosen = [row for pair in pairs for row in pair]
        else:
            chosen = choose(choice, each, 0)
        found = index.for_questions(chosen, passages, chars, training=kind == "learn")
        texts = [[passage.text for passage in each_] for each_ in found]
        store.write_json(WORK / f"{kind}.json", [[row.model_dump(mode="json"), own] for row, own in zip(chosen, texts, strict=True)])
        told[kind] = len(chosen)
    return told


def cases(kind: str, count: int, start: int = 0) -> tuple[list[QAExample], list[list[str]]]:
    """Prepared questions of a kind, and the passages of each."""
    from medpipe.schema import QAExample

    read = json.loads((WORK / f"{kind}.json").read_text(encoding="utf-8"))[start : start + count]
    if len(read) < count:
        raise SystemExit(f"got {len(read)} prepared questions ({kind}), expected {count}: ask for fewer")
    return [QAExample.model_validate(row) for row, _ in read], [passages for _, passages in read]


def clock() -> tuple[float, float]:
    """Seconds of the wall, and CPU seconds of all threads of this process."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> dict[str, float]:
    """Seconds since then; on a machine that others use too, the CPU's tell more."""
    wall, worked = (now - then for now, then in zip(clock(), started, strict=True))
    return {"seconds": round(wall, 2), "cpu_seconds": round(worked, 2)}


def memory() -> int:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def child(script: str, what: str, options: argparse.Namespace, names: Sequence[str], code: Path | None = None, **changes: Any) -> Any:
    """The JSON that a process of a script prints last: a measurement.

    Args:
        names: options that it is given too.
        code: a work tree whose `medpipe` it imports; None for the installed one.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    given = {name: getattr(options, name) for name in names} | changes
    flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    path = os.pathsep.join(part for part in (str(code) if code else "", os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, script, "--child", what, *flags]
    done = subprocess.run(command, env={**os.environ, **QUIET, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} {given}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
