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


FLOOR = 0.1
"""Of the reward's range, which is 1: a smaller spread is not scaled up to a full step, since it is mostly noise."""


def normalise(advantages: Mapping[Cell, float], floor: float = FLOOR) -> dict[Cell, float]:
    """Divide by the spread per (role, round), or by the floor where the spread is smaller.

    The mean stays: a leave-one-out advantage is centred by its own baseline.
    """
    groups: dict[Hashable, list[Cell]] = defaultdict(list)
    for cell in advantages:
        groups[cell.role, cell.round].append(cell)
    out = {}
    for cells in groups.values():
        values = [advantages[cell] for cell in cells]
        spread = pstdev(values, fmean(values))
        for cell in cells:
            out[cell] = advantages[cell] / max(spread, floor)
    return out


def whiten(advantages: Mapping[Cell, float], floor: float = FLOOR) -> dict[Cell, float]:
    """Mean 0 and unit spread per (role, round), for advantages that have no baseline of their own samples (`gae`)."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for cell, value in advantages.items():
        groups[cell.role, cell.round].append(value)
    means = {key: fmean(values) for key, values in groups.items()}
    return normalise({cell: value - means[cell.role, cell.round] for cell, value in advantages.items()}, floor)


def flat_questions(targets: Mapping[Cell, float], tolerance: float = 1e-6) -> set[Hashable]:
    """Questions that teach nothing: in every (role, round) group all samples fared alike, to the tolerance."""
    groups: dict[tuple[Hashable, str, int], list[float]] = defaultdict(list)
    for cell, value in targets.items():
        groups[cell.question, cell.role, cell.round].append(value)
    teaching = {question for (question, _, _), values in groups.items() if max(values) - min(values) > tolerance}
    return {cell.question for cell in targets} - teaching
