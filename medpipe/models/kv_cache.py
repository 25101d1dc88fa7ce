"""Keys and values of sequences that were read once and are used many times.

    reading = model.read(headers)          # medpipe/models/adapters.py
    samples = reading.select([0, 0, 0, 1])  # three samples of the first sequence, one of the second
    model.extend(samples, turns)            # what was said since

A `Reading` holds B sequences of different lengths side by side: padding and holes are masked, positions are counted per row.
transformers' DynamicCache copies everything it holds for each token that is added; a layer here copies it every ROOM tokens.
Left out: sliding windows, caches over several devices.
Shape suffixes: B rows, T columns (read tokens and holes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROOM = 128  # tokens
ATTENTION = "medpipe_grouped"
"""Name under which `grouped_attention` is registered with transformers."""


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
        """Keep these rows, in this order; a row may come more than once. The old buffers stay as they are."""
        assert self.keys is not None and self.values is not None, "rows are chosen of what was read"
        before = self.get_seq_length()
        own = self.keys[indices], self.values[indices]
        self._room = keys, values = tuple(_longer(part, part, before, before + ROOM) for part in own)  # type: ignore[assignment]
        self.keys, self.values = keys[:, :, :before], values[:, :, :before]

    def branch(self) -> RoomyLayer:
        """A layer on the same buffers: what it adds is overwritten when this one grows."""
        other = RoomyLayer()
        other.lazy_initialization(self.keys, self.values)  # type: ignore[arg-type]
        other.keys, other.values, other._room = self.keys, self.values, self._room
        return other


class PrefixLayer(DynamicLayer):
    """Keys and values of a prefix that needs no gradient; what is added gets one and is not kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The prefix followed by the new tokens."""
        assert self.keys is not None and self.values is not None, "a prefix is there from the start"
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _longer(held: Tensor | None, like: Tensor, filled: int, length: int) -> Tensor:
    buffer = torch.empty(*like.shape[:2], length, like.shape[-1], dtype=like.dtype, device=like.device)
    if filled and held is not None:
        buffer[:, :, :filled] = held
    buffer[:, :, filled:] = 0  # attention weighs holes with 0, and 0 times what may lie there is not always 0
    return buffer


class Reading:
    """B sequences that were read: their keys and values, where each one's tokens stand, and how many they are."""

    def __init__(self, cache: Cache, mask_BT: Tensor) -> None:
        self.cache, self.mask_BT = cache, mask_BT

    @property
    def rows(self) -> int:
        """B."""
        return self.mask_BT.shape[0]

    @property
    def lengths(self) -> list[int]:
        """Tokens read, per row."""
        return self.mask_BT.sum(1).tolist()

    def select(self, rows: Sequence[int]) -> Reading:
        """A copy with these rows, in this order; a row may come more than once."""
        index = torch.tensor(rows, device=self.mask_BT.device)
        mask_BT = self.mask_BT[index]
        cache = Cache(layers=[layer.branch() for layer in self.cache.layers])  # type: ignore[attr-defined]
        cache.batch_select_indices(index)
        return Reading(cache, mask_BT)

    def branch(self) -> Reading:
        """The same sequences on the same memory, to be added to for a while: void as soon as this reading grows."""
        return Reading(Cache(layers=[layer.branch() for layer in self.cache.layers]), self.mask_BT)  # type: ignore[attr-defined]

    def prefix(self, rows: Sequence[int], lengths: Sequence[int]) -> tuple[Cache, Tensor]:
        """The first tokens of these rows as a cache that gradients don't enter, and its mask [B, T].

        Args:
            rows: numbers of rows; one may come more than once.
            lengths: how many tokens of each count; the rest is masked.
        """
        index = torch.tensor(rows, device=self.mask_BT.device)
        most = torch.tensor(lengths, device=self.mask_BT.device)[:, None]
        mask_BT = self.mask_BT[index] * (self.mask_BT[index].cumsum(1) <= most)
        used = mask_BT.any(0).nonzero()
        width = int(used.max()) + 1 if len(used) else 0
        held: list[Any] = list(self.cache.layers)
        layers: list[Any] = [PrefixLayer(layer.keys[index, :, :width], layer.values[index, :, :width]) for layer in held]
        return Cache(layers=layers), mask_BT[:, :width]


def empty_cache() -> Cache:
    """A cache of roomy layers that holds nothing yet."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def grouped_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, is_causal: bool | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Scaled dot-product attention in which the query heads of one key head stand behind each other as further queries.

    The same numbers as transformers' own function, which under a mask copies keys and values once per query head of a group:
    with a long shared prefix that copy costs more than the attention itself.
    """
    groups = query.shape[1] // key.shape[1]
    if attention_mask is None or groups == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    batch, heads, length, size = query.shape
    folded = query.reshape(batch, heads // groups, groups * length, size)
    mask = attention_mask.repeat(1, 1, groups, 1)
    out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.reshape(batch, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
