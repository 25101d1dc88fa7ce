"""What a message is likely to go on with: tokens that the model then checks in one pass instead of saying them one by one.

    draft = Draft([likely, context])
    draft.after([*invocation, *said], 16)      # the tokens that followed these in a source, at most 16

Speculative decoding with a look-up as the draft (Leviathan et al., arXiv 2211.17192; look-up in the prompt: Saxena 2023, and vLLM's
`ngram` method). A draft decides how much work a message costs and not what it says: AdapterModel.generate keeps a token only where it
is the one that the model says itself. Only rounding is another, as with any other batch: in bf16 two words that are almost equally
likely may change places. Left out: drafts by a smaller model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

LONGEST, SHORTEST = 4, 2
"""Tokens that have to be the same for what follows them to be a draft: the longest match decides, a single token is too weak."""


class Draft:
    """A look-up in sequences of tokens; of two that match alike the earlier source goes first, and in it the later place."""

    def __init__(self, sources: Sequence[Sequence[int]]) -> None:
        self._sources = sources

    @cached_property
    def _places(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """Where each run of tokens ends: (source, end). Found when first asked: a message that is remembered needs none."""
        places: dict[tuple[int, ...], tuple[int, int]] = {}
        for number, source in enumerate(self._sources):
            own = {
                tuple(source[end - size : end]): (number, end)
                for size in range(SHORTEST, LONGEST + 1)
                for end in range(size, len(source))
            }  # fmt: skip
            places = own | places
        return places

    def after(self, tokens: Sequence[int], most: int) -> list[int]:
        """What followed the last of these tokens, at most `most` of it; nothing where they stand nowhere."""
        if most <= 0:
            return []
        for size in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            if place := self._places.get(tuple(tokens[-size:])):
                number, end = place
                return list(self._sources[number][end : end + most])
        return []
