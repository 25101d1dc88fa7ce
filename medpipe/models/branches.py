"""Completions of prompts that begin alike, laid out as branches of one stem: what they share is computed once.

    laid = lay_out(prompts, completions)      # None where nothing is worth sharing

Each line holds the shared beginning of a family (medpipe/models/cache.py), then, beside each other, the rest of each prompt
with its completion. A token sees the stem and its own branch, at the positions it would have alone; so log-probabilities and
gradients are those of separate rows. Used by `Policies.score`. Left out: branches of branches, and flash attention, which
takes no such mask. Shape suffixes: B lines, T time, N completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpipe.models.cache import families

WORTH = 0.2
"""Share of all tokens that must be spared: attention with a mask of its own is slower."""


@dataclass(frozen=True)
class Laid:
    """What goes into the model, and where each completion token is read from."""

    ids_BT: Tensor
    position_BT: Tensor
    mask_B1TT: Tensor  # True: may be seen
    line_N: Tensor
    time_N: Tensor  # the place before the token
    target_N: Tensor


def lay_out(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int, device: torch.device) -> Laid | None:
    """The branched layout, completion tokens in the order of the rows."""
    found = families(prompts)
    spared = sum(family.shared * (len(family.rows) - 1) for family in found)
    if spared < WORTH * sum(map(len, [*prompts, *completions])):
        return None
    lines: list[tuple[list[int], list[int], list[int]]] = []  # ids, positions, branches; the stem is branch 0
    places: list[tuple[int, int]] = []
    for line, family in enumerate(found):
        ids = list(prompts[family.rows[0]][: family.shared])
        positions, branches = list(range(family.shared)), [0] * family.shared
        for branch, row in enumerate(family.rows, 1):
            rest = [*prompts[row][family.shared :], *completions[row]][:-1]  # nothing is read from the last token
            first = len(ids) + len(prompts[row]) - family.shared - 1
            places += [(line, first + k) for k in range(len(completions[row]))]
            ids += rest
            positions += range(family.shared, family.shared + len(rest))
            branches += [branch] * len(rest)
        lines.append((ids, positions, branches))
    width = max(len(ids) for ids, _, _ in lines)
    ids_BT, position_BT, branch_BT = (
        torch.tensor([[*line[part], *[fill] * (width - len(line[part]))] for line in lines]) for part, fill in enumerate((pad, 0, -1))
    )
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    own_BTT = (branch_BT[:, :, None] == branch_BT[:, None, :]) | (branch_BT[:, None, :] == 0)
    line_N, time_N = torch.tensor(places).unbind(1)
    target_N = torch.tensor([token for completion in completions for token in completion])
    laid = ids_BT, position_BT, (causal_TT & own_BTT)[:, None], line_N, time_N, target_N
    return Laid(*(part.to(device) for part in laid))
