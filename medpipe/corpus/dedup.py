"""Near-duplicate rows: the same question with almost the same answer, of which one is kept.

    search = NearDuplicates(scratch_folder)
    search.add(rows, rank)              # in batches of one source each; a source of a lower rank is preferred
    replaced = search.replaced()        # {number of a row: number of the row that stays in its place}

Of near duplicates the row of the preferred source stays, of one source the longest, of equally long ones the first.

Two rows are near duplicates if they *ask the same* and their *bodies are alike*.
- Asking the same: the questions hold the same words (order, case, plurals and joining words aside); on multiple choice, the
  right options do. Then bodies (the answer; on multiple choice the question) are alike if at least SIMILAR of all words
  and word pairs are shared, or CONTAINED of the shorter body's stand in the longer one.
- Asking the same in other words: both rows carry the same focus and kind of question from their source's own annotations.
  Then bodies are alike if VERY_SIMILAR of all words and pairs are shared.
- Always, figures and negations must agree: 5 mg is not 50 mg.

Candidates come from MinHash signatures (Broder 1997, computed by rensa) cut into bands (locality-sensitive hashing; Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, 3.4), looked up among rows that ask the same; each candidate is then
compared exactly. Time is linear in the rows, and what grows with them lies in memory-mapped files.
What this leaves out: paraphrases, and answers that contradict each other in other words than figures and negations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.corpus.shingles import LITTLE, Words, signatures, word_list
from medpipe.corpus.text import POSSESSIVE, focus_key
from medpipe.schema import QAExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIMILAR = 0.6  # Jaccard similarity of the sets of words and word pairs
VERY_SIMILAR = 0.8
CONTAINED = 0.9  # share of the shorter set that the longer one holds, from CONTAINED_WORDS words on
CONTAINED_WORDS = 4
PLACES, BAND = 128, 2  # 64 bands of two places: a pair with a similarity of 0.3 is a candidate with a probability of 0.998
NEAR = 8  # in a bucket each row is compared with the first and with this many before it
_ASKING = "a do does had has have how known many people some someone what when where which who why"
ASKING = frozenset(_ASKING.split())
"""Little words that do tell one question from another: how many people have it, what to do for it, hemophilia A."""
ANNOTATED = ("medquad", "synthetic")  # sources that say themselves what a question is about and of which kind it is
SAME_LENGTH = 3  # words: bodies that differ by more may differ by a sentence, figures and all


class NearDuplicates:
    """Many rows, and which of them say what a better one says already."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._files = {name: _Growing(scratch / f"{name}.bin") for name in ("words", "lengths", "ranks", "asks", "signatures")}
        self._count = 0

    def add(self, rows: Sequence[QAExample], rank: int) -> None:
        """Take further rows; of two near duplicates the one with the lower rank stays."""
        import numpy as np

        if not rows:
            return
        words = Words.of([row.question if row.is_choice else row.answer for row in rows])
        self._files["words"].append(words.numbers)
        self._files["lengths"].append(np.diff(words.starts))
        self._files["ranks"].append(np.full(len(rows), rank, np.int64))
        self._files["asks"].append(np.array([_asks(row) for row in rows], np.uint64))
        self._files["signatures"].append(signatures(words, PLACES))
        self._count += len(rows)

    def replaced(self, without: Collection[int] = ()) -> dict[int, int]:
        """Number of a row that goes (in the order of `add`) → number of the row that stays in its place.

        Args:
            without: rows that are neither: they go for another reason.
        """
        import numpy as np

        if not self._count:
            return {}
        self._words = self._files["words"].mapped(np.uint32)
        lengths = self._files["lengths"].mapped(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        best_first = np.lexsort((-lengths, self._files["ranks"].mapped(np.int64)))  # stable: of equals the first comes first
        stays: dict[int, int] = {}
        asks = self._files["asks"].mapped(np.uint64).reshape(self._count, 2)
        compared: tuple[int, set[int]] = (-1, set())
        for later, earlier in self._candidates(best_first):
            if later in stays or later in without or earlier in without:
                continue
            if compared[0] != later:
                compared = later, set()
            earlier = stays.get(earlier, earlier)
            if earlier not in compared[1] and self._alike(earlier, later, bool(asks[earlier, 0] == asks[later, 0])):
                stays[later] = earlier
            compared[1].add(earlier)
        return stays

    def _candidates(self, best_first: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Pairs (row, better row) that share what they ask and a band; all of one row together, the best rows first."""
        import numpy as np

        marks = self._files["signatures"].mapped(np.uint32).reshape(self._count, PLACES)
        asks = self._files["asks"].mapped(np.uint64).reshape(self._count, 2)[best_first]
        pairs = np.zeros(0, np.uint64)
        for start in range(0, PLACES, 8 * BAND):  # the pairs of eight bands at a time, so that memory stays bounded
            bands = [marks[best_first, at : at + BAND].view(np.uint64).ravel() for at in range(start, start + 8 * BAND, BAND)]
            pairs = np.unique(np.concatenate([pairs, *(_pairs(band, column) for band in bands for column in asks.T)]))
        later, earlier = np.divmod(pairs, np.uint64(self._count))
        yield from zip(best_first[later].tolist(), best_first[earlier].tolist(), strict=True)

    def _alike(self, one: int, other: int, same_words: bool) -> bool:
        import numpy as np

        a, b = (self._words[self._starts[n] : self._starts[n + 1]] for n in (one, other))
        if not _agree(a, b):
            return False
        small, large = sorted((_shingles(a), _shingles(b)), key=len)
        shared = len(np.intersect1d(small, large, assume_unique=True))
        if shared >= (SIMILAR if same_words else VERY_SIMILAR) * (len(small) + len(large) - shared):
            return True
        return same_words and shared >= CONTAINED * len(small) and min(len(a), len(b)) >= CONTAINED_WORDS


def _pairs(band: NDArray[np.uint64], asks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """later * rows + earlier for rows in one bucket: equal `band` and equal, non-zero `asks`."""
    import numpy as np

    rows = np.flatnonzero(asks)
    with np.errstate(over="ignore"):
        keys = (band[rows] * np.uint64(0x9E3779B97F4A7C15)) ^ asks[rows]
    order = np.argsort(keys, kind="stable")  # inside a bucket the better row stays first
    rows, keys = rows[order], keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    first = np.repeat(starts, np.diff(np.append(starts, len(keys))))  # where each row's bucket begins
    found = []
    for step in range(1, NEAR + 1):
        places = np.flatnonzero(np.arange(len(keys)) - first >= step)
        found.append(rows[places] * len(band) + rows[places - step])
    places = np.flatnonzero(np.arange(len(keys)) - first > NEAR)
    found.append(rows[places] * len(band) + rows[first[places]])
    return np.unique(np.concatenate(found)).astype(np.uint64)


def _asks(row: QAExample) -> tuple[int, int]:
    """Two numbers; rows that share one of them (but 0) ask the same."""
    if row.is_choice:
        return _number(f"option {' '.join(sorted(word_list(row.answer_text)))}"), 0
    words = sorted({_singular(word) for word in word_list(POSSESSIVE.sub("", row.question))} - (LITTLE - ASKING))
    annotated = row.source in ANNOTATED
    return _number(f"words {' '.join(words)}"), _number(f"focus {row.qtype} {focus_key(row.focus)}") if annotated else 0


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "is", "us")) else word


def _number(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") | 1


def _agree(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
    """True if figures and negations are the same, or, where one body is longer, the shorter one's all stand in it."""
    shorter, longer = sorted((a, b), key=len)
    few, many = (Counter(body[body & 1 == 1].tolist()) for body in (shorter, longer))
    return few == many if len(longer) - len(shorter) <= SAME_LENGTH else few <= many


def _shingles(numbers: NDArray[np.uint32]) -> NDArray[Any]:
    """The set of words and pairs of neighbours."""
    import numpy as np

    wide = numbers.astype(np.uint64)
    return np.unique(np.concatenate([wide, (wide[:-1] << np.uint64(32)) | wide[1:]]))


class _Growing:
    """An array that grows on disk and is read back memory-mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def append(self, values: NDArray[Any]) -> None:
        import numpy as np

        with self._path.open("ab") as handle:
            handle.write(np.ascontiguousarray(values).data)

    def mapped(self, kind: Any) -> NDArray[Any]:
        import numpy as np

        return np.memmap(self._path, kind, "r") if self._path.stat().st_size else np.zeros(0, kind)
