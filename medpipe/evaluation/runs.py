"""Two runs side by side: the same system on the questions that both answered, benchmark by benchmark.

    medpipe compare outputs outputs-before --system maporl_team
    rows = differences(Path("outputs"), Path("outputs-before"), "maporl_team")

A run is an outputs folder. Questions are matched by benchmark and id; a question whose right answer differs in the two runs is an error.
Left out: what changed between the runs (each folder's manifest.json has settings, inputs and commit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from medpipe import NOTICE
from medpipe.errors import MedpipeError
from medpipe.evaluation import items
from medpipe.evaluation.benchmarks import ASKED
from medpipe.evaluation.comparisons import compare, holm

RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 0


@dataclass(frozen=True)
class Difference:
    """One benchmark: means of both runs on the n questions that both answered, a − b with its interval, and p after Holm's correction."""

    benchmark: str
    n: int
    left_out: int  # questions that only one of the runs answered
    a: float
    b: float
    mean: float
    low: float
    high: float
    holm_p: float


def differences(run_a: Path, run_b: Path, system: str) -> list[Difference]:
    """One row per benchmark that both runs have, in the order of the leaderboard.

    Raises:
        MedpipeError: no benchmark with this system in both runs, or a question that has two right answers.
    """
    found: list[Difference] = []
    for name in ASKED:
        one, other = (_rows(run / "evaluation" / name, system) for run in (run_a, run_b))
        shared = [id for id in one if id in other]
        if not shared:
            continue
        if changed := [id for id in shared if one[id]["answer"] != other[id]["answer"]]:
            raise MedpipeError(
                got=f"two right answers to {changed[0]} of {name}", expected="the same benchmark in both runs",
                where=f"{run_a} and {run_b}", do="compare runs on the same questions",
            )  # fmt: skip
        scores = {"a": [one[id]["score"] for id in shared], "b": [other[id]["score"] for id in shared]}
        (told,) = compare(scores, [("a", "b")], RESAMPLES, CONFIDENCE, SEED, binary=ASKED[name].binary)
        alone = len(one.keys() ^ other.keys())
        found.append(Difference(name, len(shared), alone, fmean(scores["a"]), fmean(scores["b"]), told.mean, told.low, told.high, told.p))
    if not found:
        raise MedpipeError(
            got=f"no benchmark that {system} answered in both", expected="two outputs folders with finished evaluations",
            where=f"{run_a} and {run_b}", do="run the evaluations, or name another system with --system",
        )  # fmt: skip
    adjusted = holm({row.benchmark: row.holm_p for row in found})
    return [replace(row, holm_p=adjusted[row.benchmark]) for row in found]


def as_text(rows: Sequence[Difference], run_a: Path, run_b: Path, system: str) -> str:
    """A table for the terminal."""
    lines = [
        f"{system}: {run_a} (A) against {run_b} (B), {CONFIDENCE:.0%} intervals; p after Holm's correction over {len(rows)} benchmarks",
        "",
    ]
    lines += ["| benchmark | n | only one run | A | B | A − B | interval | p |", "|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.benchmark} | {row.n} | {row.left_out} | {row.a:.3f} | {row.b:.3f} | {row.mean:+.3f} "
        f"| {row.low:+.3f} to {row.high:+.3f} | {row.holm_p:.3g} |"
        for row in rows
    ]  # fmt: skip
    return "\n".join([*lines, "", NOTICE])


def _rows(folder: Path, system: str) -> dict[str, dict[str, Any]]:
    if not (folder / items.ITEMS).is_file():
        return {}
    return {row["id"]: row for row in items.read(folder) if row["system"] == system}
