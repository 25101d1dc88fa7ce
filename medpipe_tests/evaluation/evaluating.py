"""An evaluation of a tiny team as a process of its own, so that a test can kill it.

    python -m medpipe_tests.evaluation.evaluating <folder> '{"models/base": "…", …}'

It says every step of its progress on a line. Left out: the worker around it (medpipe_tests/launch).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings
from medpipe.job import Job, Outcome, scoped
from medpipe.schema import ROLES
from medpipe_tests.conftest import Collected
from medpipe_tests.tiny_team import choice_row, tiny_settings

NAME = "medqa"
QUESTIONS = 5
SECTIONS = ("corpus", "model", "team", "rewards", "evaluation")
SETTINGS: dict[str, Any] = {"evaluation.batch_size": 3, "evaluation.max_questions": QUESTIONS, "evaluation.coalitions": 2}


class Aloud(Collected):
    """Says its progress."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        print(f"{text} {done}/{total}", flush=True)


def inputs_of(root: Path, base: Path, adapters: Mapping[str, Path], splits: Mapping[str, Path]) -> dict[str, Path]:
    """What an evaluation reads: a benchmark of four-option questions, the roles, and a team whose adapters changed places."""
    rows = [
        choice_row(n, source=NAME, question=f"Case {n}: wheezing at night after a run. Which condition fits best?", answer="ABCD"[n % 4],
                   qtype=("diagnosis", "treatment")[n % 2])
        for n in range(QUESTIONS)
    ]  # fmt: skip
    folder = root / "benchmarks"
    store.write_examples(folder, rows)
    store.write_json(folder / "benchmarks.json", {NAME: {"status": "ok", "title": NAME}})
    team = root / "team"
    team.mkdir()
    for role, other in zip(ROLES, reversed(ROLES), strict=True):
        (team / role).symlink_to(adapters[f"models/{other}"])
    made = {"sources/benchmarks": folder, "models/base": base, "models/maporl_team": team, "splits/train": splits["splits/train"]}
    return {**made, **adapters}


def evaluate(root: Path, inputs: Mapping[str, Path], settings: Settings | None = None, reporter: Collected | None = None) -> Outcome:
    """Run it; the result lies in `root`/out, and what survives a kill in `root`/scratch."""
    from medpipe.evaluation import evaluate as evaluation

    for folder in ("out", "scratch"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    chosen = scoped(settings or tiny_settings(SETTINGS), SECTIONS)
    return evaluation.run(Job(f"evaluation/{NAME}", chosen, inputs, root / "out", root / "scratch", "cpu", reporter or Collected()))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    evaluate(Path(sys.argv[1]), {key: Path(path) for key, path in json.loads(sys.argv[2]).items()}, reporter=Aloud())
