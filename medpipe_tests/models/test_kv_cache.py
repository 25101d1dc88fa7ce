"""Keys and values that are kept: rows chosen of them, and attention over them. Readings as a whole: test_adapters.py."""

from __future__ import annotations

import pytest
import torch

from medpipe.models.kv_cache import ROOM, RoomyLayer, grouped_attention


def test_chosen_rows_are_copies_with_room_and_the_first_buffers_stay() -> None:
    drawn = torch.Generator().manual_seed(0)
    keys, values, more = (torch.randn(3, 2, length, 4, generator=drawn) for length in (5, 5, 2))
    layer = RoomyLayer()
    layer.update(keys.clone(), values.clone())
    chosen = layer.branch()
    chosen.batch_select_indices(torch.tensor([2, 0, 2]))
    rows = [2, 0, 2]
    assert torch.equal(chosen.keys, keys[rows]) and torch.equal(chosen.values, values[rows])  # type: ignore[arg-type]
    room = chosen.keys.untyped_storage().data_ptr()  # type: ignore[union-attr]
    after, _ = chosen.update(more, more)
    assert torch.equal(after, torch.cat([keys[rows], more], dim=2)) and after.untyped_storage().data_ptr() == room
    chosen.update(*(torch.ones(3, 2, ROOM, 4) for _ in range(2)))  # more than there is room for
    assert chosen.get_seq_length() == 7 + ROOM and torch.equal(chosen.keys[:, :, :7], after)  # type: ignore[index]
    assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)  # type: ignore[arg-type]


@pytest.mark.parametrize("queries", [1, 7])
def test_grouped_attention_equals_that_of_transformers(queries: int) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, length, 8, generator=draw) for heads, length in ((6, queries), (2, 20), (2, 20)))
    mask = torch.rand(3, 1, queries, 20, generator=draw) < 0.6
    mask[..., 0] = True  # every query sees something
    layer = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = 3, True  # type: ignore[assignment]
    for given in (mask, None):
        one, other = (each(layer, query, key, value, given, scaling=0.3)[0] for each in (grouped_attention, sdpa_attention_forward))
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-6)
