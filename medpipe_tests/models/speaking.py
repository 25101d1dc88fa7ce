"""Transcripts, scores and hooks that the tests of adapters and of messages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from medpipe.config import Model
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, Completion, Turn, weights_hash
from medpipe.models.kv_cache import Reading
from medpipe.team.transcript import Frame
from medpipe.training.update import on_policy_gap
from medpipe_tests.tiny_team import choice_row, text_row

ADAPTERS = [None, "planner", "reporter"]
COMPLETIONS = [[17, 18, 19], [20], [21, 22, 23, 24, 25] * 8, [26, 27], [28], [29, 30]]
EXACT = 1e-4  # nats, fp32
ROWS = [
    text_row(question="Why?"), choice_row(), text_row(question="fever and pain " * 20), choice_row(question="cough " * 40),
    text_row(question="What of night sweats?"), choice_row(options=("a", "b"), answer="A"),
]  # fmt: skip


def load(tiny_base: Path, folders: dict[str, Path], *names: str, choice: Model = base.PLAIN) -> AdapterModel:
    return AdapterModel.load(tiny_base, {name: folders[f"models/{name}"] for name in names}, choice=choice)


def places(contexts: list[list[int]], frame: Frame, role: str, completions: list[list[int]] = COMPLETIONS) -> list[Turn]:
    return [Turn(context, frame.invocation(role), said) for context, said in zip(contexts, completions, strict=True)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logps(model: AdapterModel, adapter: str | None, turns: list[Turn], *args: Any, temperature: float = 1.0) -> torch.Tensor:
    with model.use(adapter), torch.inference_mode():
        return model.score(adapter, turns, *args, temperature=temperature).logp_N


def held(reading: Reading) -> str:
    """A hash of all that a reading holds."""
    layers = {f"{n}/{name}": getattr(layer, name) for n, layer in enumerate(reading.cache.layers) for name in ("keys", "values")}
    return weights_hash({**layers, "mask": reading.mask_BT})


class HalfEnds(torch.nn.Module):
    """An output head under which each token ends the message with probability one half, whatever else the model thinks."""

    def __init__(self, head: Any, end: int, temperature: float) -> None:
        super().__init__()
        self.head, self.end, self.temperature = head, end, temperature

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden).float() / self.temperature
        rest = logits.index_fill(-1, torch.tensor([self.end]), float("-inf")).logsumexp(-1, keepdim=True)
        return logits.index_copy(-1, torch.tensor([self.end]), rest) * self.temperature


@contextmanager
def half_ends(model: AdapterModel, temperature: float = 1.0) -> Iterator[None]:
    """With 64 messages of at most two tokens some are cut off, with up to 40 all end: but for one case in 10^8."""
    head = model.base.get_output_embeddings()
    model.base.set_output_embeddings(HalfEnds(head, Frame(model.tokenizer).end, temperature))
    yield
    model.base.set_output_embeddings(head)


@contextmanager
def passes(model: AdapterModel) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of each forward pass."""
    seen: list[tuple[int, int]] = []
    handle = model.base.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    handle.remove()


def drawn_places(contexts: list[list[int]], frame: Frame, role: str, drawn: list[Completion]) -> list[Turn]:
    return places(contexts, frame, role, [list(completion.tokens) for completion in drawn])


def gap(
    model: AdapterModel, adapter: str | None, contexts: list[list[int]], drawn: list[Completion], temperature: float = 1.0,
    reading: Reading | None = None,
) -> float:  # fmt: skip
    turns = drawn_places(contexts, Frame(model.tokenizer), adapter or "assistant", drawn)
    scored = logps(model, adapter, turns, reading, temperature=temperature)
    return on_policy_gap(scored, torch.tensor([logp for completion in drawn for logp in completion.logps]), model.base.dtype)
