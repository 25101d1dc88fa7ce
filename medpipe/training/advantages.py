"""Advantage of every cell: leave-one-out baseline over the samples of one question, normalised per role and round.

Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740) with groups as in docs/maporl.md, section 6. For `gae` see
medpipe/training/values.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from statistics import fmean, pstdev
from typing import NamedTuple


class Cell(NamedTuple):
    """Where a target belongs: which question and sample, which role, which round."""

    question: Hashable
    sample: int
    role: str
    round: int


def leave_one_out(targets: Mapping[Cell, float]) -> dict[Cell, float]:
    """G minus the mean G of the same (question, role, round) over the other samples.

    A cell that no other sample reached has nothing to be compared with and gets 0: it teaches nothing.
    """
    groups: dict[Hashable, list[Cell]] = defaultdict(list)
    for cell in targets:
        groups[cell.question, cell.role, cell.round].append(cell)
    out = {}
    for cells in groups.values():
        total = sum(targets[cell] for cell in cells)
        for cell in cells:
            others = len(cells) - 1
            out[cell] = targets[cell] - (total - targets[cell]) / others if others else 0.0
    return out


def normalise(advantages: Mapping[Cell, float], floor: float = 1e-6) -> dict[Cell, float]:
    """Scale to unit spread per (role, round). The mean stays: a leave-one-out advantage is centred by its own baseline."""
    groups: dict[Hashable, list[Cell]] = defaultdict(list)
    for cell in advantages:
        groups[cell.role, cell.round].append(cell)
    out = {}
    for cells in groups.values():
        values = [advantages[cell] for cell in cells]
        spread = pstdev(values, fmean(values))
        for cell in cells:
            out[cell] = advantages[cell] / spread if spread > floor else 0.0
    return out


def whiten(advantages: Mapping[Cell, float], floor: float = 1e-6) -> dict[Cell, float]:
    """Mean 0 and unit spread per (role, round), for advantages that have no baseline of their own samples (`gae`)."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for cell, value in advantages.items():
        groups[cell.role, cell.round].append(value)
    means = {key: fmean(values) for key, values in groups.items()}
    return normalise({cell: value - means[cell.role, cell.round] for cell, value in advantages.items()}, floor)


def zero_variance_share(advantages: Mapping[Cell, float]) -> float:
    """Share of (question, role, round) groups that teach nothing because all their samples fared alike."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for cell, value in advantages.items():
        groups[cell.question, cell.role, cell.round].append(value)
    flat = sum(all(abs(value) < 1e-9 for value in values) for values in groups.values())
    return flat / len(groups) if groups else 0.0
