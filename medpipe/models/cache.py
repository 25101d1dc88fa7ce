"""Keys and values of a batch that is being generated: room is made ahead, and prompts that begin alike share their beginning.

Used by medpipe/models/policy.py. transformers' DynamicCache copies all it holds for every token that is added; this one
copies it every ROOM tokens. Left out: sliding windows, caches on several devices.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # tokens


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, shape [B, heads, T, head size]: views into buffers that are longer than T."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens at the end and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < after:
            self._room = (_longer(self.keys, key_states, before, after + ROOM), _longer(self.values, value_states, before, after + ROOM))
        keys, values = self._room
        keys[:, :, before:after], values[:, :, before:after] = key_states, value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may come more than once."""
        super().batch_select_indices(indices)
        self._room = None


def _longer(held: Tensor | None, like: Tensor, filled: int, length: int) -> Tensor:
    buffer = torch.zeros(*like.shape[:2], length, like.shape[-1], dtype=like.dtype, device=like.device)
    if filled and held is not None:
        buffer[:, :, :filled] = held
    return buffer


def roomy_cache() -> Cache:
    """An empty cache."""
    return Cache(layer_class_to_replicate=RoomyLayer)


@dataclass(frozen=True)
class Family:
    """Neighbouring prompts that begin alike: how many tokens they share, and their rows."""

    shared: int
    rows: range


def families(prompts: Sequence[Sequence[int]]) -> list[Family]:
    """The division of neighbouring prompts into families that spares most tokens; a prompt alone is a family too.

    Samples of one question stand side by side, so only neighbours are compared. One token of each prompt is never shared:
    it is what the next one is read from.
    """
    common = [_common(one, other) for one, other in pairwise(prompts)]
    spared, first_of = [0], [0]  # for the first n prompts: tokens that need not be read, and where the last family begins
    for end in range(1, len(prompts) + 1):
        best, best_first, shared = spared[end - 1], end - 1, sys.maxsize
        for first in range(end - 2, -1, -1):
            shared = min(shared, common[first])
            found = spared[first] + shared * (end - 1 - first)
            best, best_first = max((best, best_first), (found, first))
        spared.append(best)
        first_of.append(best_first)
    out: list[Family] = []
    end = len(prompts)
    while end:
        rows = range(first_of[end], end)
        out.append(Family(min((common[row] for row in rows[:-1]), default=len(prompts[end - 1]) - 1), rows))
        end = rows.start
    return out[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike, one short of the shorter one's length at most."""
    most = min(len(one), len(other)) - 1
    return next((place for place in range(most) if one[place] != other[place]), most)
