"""Training rows that show a benchmark's question: found, named, and kept out of the corpus.

    test_items = Items.of(benchmark_rows)
    matches = test_items.matches(rows)          # {number of a row: Match}

A row matches a benchmark's item if any of these holds; the first that does is reported.
- same question: equal words in equal order.
- shared run: RUN words in a row of the item's question, or CONTEXT_RUN of its context (the length that GPT-3's authors used:
  Brown et al. 2020, arXiv 2005.14165, appendix C), stand anywhere in the row. A question with fewer words than RUN, down to
  SHORTEST, counts as one run. Runs that COMMON or more items share ("which of the following is the most likely") are exam
  style, not content.
- similar question: at least SIMILAR of all words and word pairs of both questions are shared (MinHash first, then exactly).
What this leaves out: paraphrases and translations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medpipe.corpus.shingles import Words, signatures, word_list
from medpipe.schema import QAExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUN, CONTEXT_RUN, SHORTEST = 8, 13, 5  # words
COMMON = 5  # items
SIMILAR = 0.6
SIMILAR_WORDS = 8  # a shorter question is too little to be similar by chance alone
PLACES, BAND = 128, 4


@dataclass(frozen=True)
class Match:
    """What a row shares with a benchmark."""

    benchmark: str
    item: str
    how: str  # "same question", "shared run" or "similar question"
    words: str  # the words that are shared, or the item's question


@dataclass(frozen=True)
class Items:
    """The benchmarks' questions, ready to be looked for."""

    rows: tuple[QAExample, ...]
    questions: dict[tuple[str, ...], int]  # a question's words → item
    runs: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]]  # length → sorted hashes of runs, and each one's item
    words: Words
    marks: NDArray[np.uint32]  # [items, PLACES]

    @classmethod
    def of(cls, rows: Sequence[QAExample]) -> Items:
        """Prepare the items of all benchmarks."""
        import numpy as np

        questions: dict[tuple[str, ...], int] = {}
        for number, row in enumerate(rows):
            questions.setdefault(tuple(word_list(row.question)), number)
        questions.pop((), None)
        contexts = [(number, text) for number, row in enumerate(rows) for text in row.context]
        owner = np.array([number for number, _ in contexts], np.int64)
        hashes, text_of = Words.of([text for _, text in contexts]).runs(CONTEXT_RUN)
        runs = {CONTEXT_RUN: _rare(hashes, owner[text_of])}
        asked = Words.of([row.question for row in rows])
        runs[RUN] = _rare(*asked.runs(RUN))
        lengths = np.diff(asked.starts)
        for length in range(SHORTEST, RUN):
            hashes, item = asked.runs(length)
            whole = lengths[item] == length
            runs[length] = _rare(hashes[whole], item[whole])
        return cls(tuple(rows), questions, runs, asked, signatures(asked, PLACES))

    def matches(self, rows: Sequence[QAExample]) -> dict[int, Match]:
        """Number of each contaminated row → what it shares."""
        found: dict[int, Match] = {}
        if not self.rows or not rows:
            return found
        for number, row in enumerate(rows):
            item = self.questions.get(tuple(word_list(row.question)))
            if item is not None:
                found[number] = self._match(item, "same question", row.question)
        texts = [" ".join((row.question, *row.options, row.answer, row.rationale, *row.context)) for row in rows]
        words = Words.of(texts)
        for length in sorted(self.runs, reverse=True):
            for number, item, place in _shared(words, length, *self.runs[length]):
                if number not in found:
                    shared = " ".join(word_list(texts[number])[place : place + length])
                    found[number] = self._match(item, "shared run", shared)
        for number, item in self._similar([row.question for row in rows]):
            found.setdefault(number, self._match(item, "similar question", self.rows[item].question))
        return found

    def _match(self, item: int, how: str, words: str) -> Match:
        row = self.rows[item]
        return Match(row.source, row.id, how, words)

    def _similar(self, questions: list[str]) -> list[tuple[int, int]]:
        """(row, item) whose questions share at least SIMILAR of their words and pairs."""
        import numpy as np

        words = Words.of(questions)
        marks = signatures(words, PLACES)
        enough = np.diff(words.starts) >= SIMILAR_WORDS
        pairs: set[tuple[int, int]] = set()
        for start in range(0, PLACES, BAND):
            ours, theirs = (np.ascontiguousarray(each[:, start : start + BAND]).view("V16").ravel() for each in (marks, self.marks))
            shared = np.intersect1d(ours[enough], theirs)
            for value in shared:
                items = np.flatnonzero(theirs == value).tolist()
                pairs.update((row, item) for row in np.flatnonzero((ours == value) & enough).tolist() for item in items)
        return sorted((row, item) for row, item in pairs if _jaccard(words, row, self.words, item) >= SIMILAR)


def _rare(hashes: NDArray[np.uint64], item: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Runs that fewer than COMMON items hold, sorted, each with the first item that holds it."""
    import numpy as np

    order = np.lexsort((item, hashes))
    hashes, item = hashes[order], item[order]
    new_pair = np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (item[1:] != item[:-1])])[: len(hashes)]
    hashes, item = hashes[new_pair], item[new_pair]
    values, first, items = np.unique(hashes, return_index=True, return_counts=True)
    return values[items < COMMON], item[first][items < COMMON]


def _shared(words: Words, length: int, known: Any, item: Any) -> list[tuple[int, int, int]]:
    """(text, item, place of the first shared run in the text) for the texts that hold a known run."""
    import numpy as np

    hashes, text = words.runs(length)
    if not len(known) or not len(hashes):
        return []
    place = np.searchsorted(known, hashes)
    place[place == len(known)] = 0
    hits = np.flatnonzero(known[place] == hashes)
    texts, first = np.unique(text[hits], return_index=True)
    begins = np.searchsorted(text, texts)  # where each text's runs begin
    return [(int(t), int(item[place[hits[f]]]), int(hits[f] - b)) for t, f, b in zip(texts, first, begins, strict=True)]


def _jaccard(a: Words, i: int, b: Words, j: int) -> float:
    one, other = (_set(words.numbers[words.starts[n] : words.starts[n + 1]].tolist()) for words, n in ((a, i), (b, j)))
    return len(one & other) / len(one | other) if one | other else 0.0


def _set(numbers: list[int]) -> set[Any]:
    return {*numbers, *pairwise(numbers)}
