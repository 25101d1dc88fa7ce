"""Rows of fine-tuning, the steps of the optimizer that they make up, and the passes that a step is computed in.

    steps = optimizer_steps(rows, rows_per_step=16, epochs=3, seed="0/planner")
    for rows in steps: passes(rows, budget=8192)      # how many passes there are changes memory, never the gradient

The order is drawn from (seed, epoch) alone, so a resumed training sees what an uninterrupted one would have seen.
Left out: streaming; all token ids of a role lie in memory (some ten bytes a token).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 8
"""Steps over which rows are sorted by length: longer windows pad less and shuffle less."""


@dataclass(frozen=True)
class Row:
    """One training row: token ids of the role's prompt and of its target."""

    prompt: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def optimizer_steps(rows: Sequence[Row], rows_per_step: int, epochs: int, seed: str) -> list[list[Row]]:
    """The rows of each step, every row once an epoch; rows of one step are of like length, steps come in shuffled order."""
    steps = []
    for epoch in range(epochs):
        draw = random.Random(f"{seed}/{epoch}")
        shuffled = draw.sample(list(rows), len(rows))
        cut: list[list[Row]] = []
        for start in range(0, len(shuffled), WINDOW * rows_per_step):
            part = sorted(shuffled[start : start + WINDOW * rows_per_step], key=len, reverse=True)
            cut += [part[number : number + rows_per_step] for number in range(0, len(part), rows_per_step)]
        draw.shuffle(cut)
        steps += cut
    return steps


def passes(rows: Sequence[Row], budget: int, packed: bool = False) -> list[list[Row]]:
    """Cut a step's rows into forward and backward passes of at most `budget` tokens, padding included, or of one row.

    Args:
        packed: rows lie end to end and need no padding.
    """
    cut: list[list[Row]] = []
    room = 0
    for row in sorted(rows, key=len, reverse=True):  # the first row of a pass is its longest: all others are padded to it
        cost = len(row) if packed or not cut else len(cut[-1][0])
        if not cut or cost > room:
            cut.append([])
            room, cost = budget, len(row)
        cut[-1].append(row)
        room -= cost
    return cut
