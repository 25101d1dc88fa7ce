"""Data-parallel co-training: processes that share the questions out and take the same step (docs/maporl.md, section 5).

    accelerate launch --multi_gpu --num_processes 2 …        # sets what `current()` reads, on a CPU too

A process plays its own questions; numbers that need all of them (the spread of advantages, the count of tokens) and the
gradients are put together, so that the update is the one of a single process with the whole batch. JSON and tensors go
over the wire, never pickles. Left out: sharding the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    index: int = 0
    count: int = 1
    device: torch.device | None = None

    def part(self, items: Sequence[T]) -> list[T]:
        """Every count-th item: this process's share."""
        return list(items[self.index :: self.count])

    def gather(self, value: Any) -> list[Any]:
        """A JSON-able value of every process, in the order of the processes."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather

        raw = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        sizes: Tensor = gather(torch.tensor([len(raw)], device=self._device))  # type: ignore[assignment]
        padded = torch.zeros(int(sizes.max()), dtype=torch.uint8, device=self._device)
        padded[: len(raw)] = raw
        rows = gather(padded[None]).cpu()  # type: ignore[union-attr]
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes.tolist(), strict=True)]

    def total(self, value: int) -> int:
        """The sum over all processes."""
        return sum(self.gather(value))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes; a weight without one counts as zero."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        own = list(parameters)
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten().float() for p in own])
        summed: Tensor = reduce(flat, "sum")  # type: ignore[assignment]
        for parameter, part in zip(own, summed.split([p.numel() for p in own]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    @property
    def _device(self) -> torch.device:
        return self.device or torch.device("cpu")


ALONE = Ranks()


def current(device: str) -> Ranks:
    """The ranks that `accelerate launch` set up; one process alone where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return Ranks(state.process_index, state.num_processes, state.device)
