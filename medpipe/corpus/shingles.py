"""Texts as runs of words, in numbers: what near-duplicate search and decontamination compare.

    words = Words.of(["What causes migraine?", "The causes of migraine are unknown."])
    hashes, owner = words.runs(8)        # every run of eight words, and the text that it stands in

A word is a lower-case run of letters and digits, or a sign that compares (<). It is known by a 32-bit number that is the
same in every process: 31 bits of a checksum, and a last bit that tells figures, negations and such signs, on which a meaning
hangs, from other words. Among 500,000 different words about 60 pairs share a number, so whoever decides by a single word must
look at the text itself.
What this leaves out: stemming, languages that do not put spaces between words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+|[<>≤≥]")
_ASCII = bytes(sign if chr(sign).isalnum() or chr(sign) in "<>" else ord(" ") for sign in range(128)) + bytes(128)
_ODD = 0x9E3779B97F4A7C15  # the golden ratio's fraction, odd: spreads neighbouring numbers over 64 bits


_NEGATIONS = "no not never none neither nor without cannot except unless"
_LITTLE = (
    "a an and are as at be been by can could do does for from had has have how in is it its known many may might of on or people "
    "should some someone that the their there they this to was were what when where which who why will with would you your"
)
COMPARING = frozenset("<>≤≥")
NEGATIONS = frozenset(_NEGATIONS.split())
LITTLE = frozenset(_LITTLE.split())
"""Words that do not tell one question from another."""


class _Numbers(dict[str, int]):
    """Word → its number, computed once."""

    def __missing__(self, word: str) -> int:
        decisive = word in NEGATIONS or word in COMPARING or any(sign.isdigit() for sign in word)
        self[word] = number = zlib.crc32(word.encode("utf-8", "surrogatepass")) & ~1 | decisive
        return number


_NUMBERS = _Numbers()
_REMEMBERED = 500_000  # words; more are forgotten all at once, so that memory stays bounded


def word_list(text: str) -> list[str]:
    """The words of a text, in lower case."""
    if text.isascii():  # nearly all texts: the same words as below, in a fifth of the time
        plain = text.lower().encode().translate(_ASCII).decode()
        return plain.replace("<", " < ").replace(">", " > ").split()
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Words:
    """Many texts' words: text n holds `numbers[starts[n]:starts[n + 1]]`."""

    numbers: NDArray[np.uint32]  # [words]
    starts: NDArray[np.int64]  # [texts + 1]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """Cut texts into words."""
        import numpy as np

        if len(_NUMBERS) > _REMEMBERED:
            _NUMBERS.clear()
        lists = [word_list(text) for text in texts]
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(words) for words in lists], out=starts[1:])
        numbers = map(_NUMBERS.__getitem__, chain.from_iterable(lists))
        return cls(np.fromiter(numbers, np.uint32, int(starts[-1])), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def runs(self, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hash of every run of `length` words inside one text, and the number of that text; in reading order."""
        import numpy as np

        count = max(len(self.numbers) - length + 1, 0)
        hashes = np.zeros(count, np.uint64)
        with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
            for offset in range(length):
                hashes = hashes * np.uint64(_ODD) + self.numbers[offset : offset + count]
            hashes ^= hashes >> np.uint64(31)
            hashes *= np.uint64(_ODD)
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        inside = owner[:count] == owner[length - 1 :][:count]
        return hashes[inside], owner[:count][inside]


def signatures(words: Words, places: int = 128) -> NDArray[np.uint32]:
    """MinHash signatures [texts, places] of each text's set of words and pairs of neighbouring words.

    Single words keep short texts alike after two words changed places; pairs keep long texts about one thing apart.
    """
    import numpy as np
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  (compiled, without type stubs)

    singles, owner1 = words.runs(1)
    pairs, owner2 = words.runs(2)
    owner = np.concatenate([owner1, owner2])
    order = np.argsort(owner, kind="stable")
    starts = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(np.bincount(owner, minlength=len(words)), out=starts[1:])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate([singles, pairs])[order], starts, places, 0)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(words), places)
