"""What all made multiple-choice questions need: distractors by nearness, letters spread evenly, difficulty by word overlap.

    grade(stems("an enlarged liver"), [[stems(passage)] for passage in passages], right=2)     # "easy", "medium" or "hard"

The *overlap rule* reads no medicine: it picks the option of which a library passage shares most word stems with the question.
A question that it answers right by CLEAR stems or more is easy, right by fewer is medium, and one where it is wrong or
undecided is hard. So "hard" means that counting words does not help.
What this leaves out: weights for rare words, and how difficult a question is for a person.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from medpipe.schema import LETTERS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Difficulty = Literal["easy", "medium", "hard"]
Stems = frozenset[str]
AIMS: tuple[Literal["near", "mixed", "far"], ...] = ("near", "mixed", "far")
"""Which distractors a question asks for; questions take turns."""

CLEAR = 2  # stems by which the right option must lead in an easy question
STEM = 5  # letters
_WORD = re.compile(r"[^\W\d_]{4,}")
_WORDS = (
    "about abnormal abnormality affected affects also always caused causes condition conditions describe described disease diseases "
    "disorder disorders does feature features findings fits form forms frequent from have having however individual into known more most "
    "occasional often other others people person picture rare seen sign signs some such suggest symptom symptoms syndrome than that their "
    "them then there these they this together type types usually very well when where which with without"
)
_GENERIC = frozenset(word[:STEM] for word in _WORDS.split())


@lru_cache(maxsize=50_000)  # passages are compared over and over
def stems(text: str) -> Stems:
    """The first five letters of each word of four letters or more that carries meaning."""
    return frozenset(stem for word in _WORD.findall(text.casefold()) if (stem := word[:STEM]) not in _GENERIC)


def lead(asked: Stems, options: Sequence[Sequence[Stems]], right: int) -> int:
    """By how many stems the right option leads under the overlap rule; 0 or less: the rule is undecided or wrong.

    Args:
        asked: of the question.
        options: for each option, of each of its passages; the best passage counts.
        right: number of the right option.
    """
    scores = [max((len(asked & passage) for passage in passages), default=0) for passages in options]
    return scores[right] - max(score for number, score in enumerate(scores) if number != right)


def grade(asked: Stems, options: Sequence[Sequence[Stems]], right: int) -> Difficulty:
    """The difficulty by the overlap rule; arguments as for `lead`."""
    ahead = lead(asked, options, right)
    return "easy" if ahead >= CLEAR else "medium" if ahead > 0 else "hard"


def draw(ids: Iterable[str], count: int, seed: int, what: str) -> list[str]:
    """`count` of the ids by seed. A place in the draw hangs on the seed and the id alone, so a smaller count gives a subset."""
    return sorted(ids, key=lambda id: hashlib.sha256(f"{what}/{seed}/{id}".encode()).digest())[:count]


def distractors(nearest_first: Sequence[int], aim: Literal["near", "mixed", "far"], count: int, chance: random.Random) -> list[int]:
    """The nearest ones, a third of them with others by chance, or others alone, in no order; others are of the farther two thirds."""
    near = {"near": count, "mixed": count // 3, "far": 0}[aim]
    rest = nearest_first[max(len(nearest_first) // 3, near) :] if len(nearest_first) >= 3 * count else nearest_first[near:]
    found = [*nearest_first[:near], *chance.sample(rest, min(count - near, len(rest)))]
    chance.shuffle(found)
    return found


def even_letters(count: int, chance: random.Random) -> Iterator[str]:
    """Letters of `count` options without end: every `count` of them hold each letter once."""
    while True:
        block = list(LETTERS[:count])
        chance.shuffle(block)
        yield from block


def incidence(sets: Sequence[Collection[Any]]) -> tuple[NDArray[np.float32], dict[Any, int]]:
    """[sets, members] with 1 where a set holds a member, and each member's column. Sums of these are exact, on every machine."""
    import numpy as np

    columns: dict[Any, int] = {member: number for number, member in enumerate(sorted(frozenset().union(*sets)))}
    matrix = np.zeros((len(sets), len(columns)), np.float32)
    for row, members in enumerate(sets):
        matrix[row, [columns[member] for member in members]] = 1
    return matrix, columns


def alike(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """[sets, sets]: what two sets share of all that they hold (Jaccard)."""
    import numpy as np

    shared = (matrix @ matrix.T).astype(np.float64)
    sizes = matrix.sum(axis=1, dtype=np.float64)
    return shared / np.maximum(sizes[:, None] + sizes[None, :] - shared, 1)
