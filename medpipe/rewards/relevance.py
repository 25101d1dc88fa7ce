"""Medical relevance (weight 0.25): does the text use the medical terms that bear on the question?

    from medpipe.rewards.relevance import Lexicon, relevance

Source: design for this project ('medical relevance' of the SageMaker guide's 'Reward System'); term weights are inverse
document frequencies (Sparck Jones 1972) over the training rows.
Known weaknesses: a term is a string, so a false sentence with the right terms counts; the lexicon knows only the training
rows' focus terms and the words handed over, not a whole vocabulary of medicine; synonyms count only where it lists them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from medpipe.rewards.text import STOP, reads_as_prose, sentences, stem, tokens, visible
from medpipe.rewards.wording import wordlist
from medpipe.schema import QAExample

LONGEST = 5  # words of the longest term looked up
ENOUGH = 5  # average terms after which more earn nothing
READ = 3000  # characters of an answer that the frequencies are counted over
_GENERIC = frozenset(
    stem(word)
    for word in wordlist(
        """disease disorder syndrome condition symptom sign treatment cause risk factor type patient people person doctor clinician
        year age level severe normal common test history answer question option best following likely"""
    )
)


class Lexicon:
    """Medical terms (tuples of stems) with their specificity: log((1 + rows) / (1 + rows that hold the term)), at least 0.5.

    `names` are the terms that name one thing: whole subjects, their synonyms and the terms handed over.
    """

    def __init__(self, weights: Mapping[tuple[str, ...], float], names: Collection[tuple[str, ...]] = ()) -> None:
        self._weights, self._names = dict(weights), frozenset(names)

    @classmethod
    def from_rows(cls, rows: Sequence[QAExample], extra_terms: Sequence[str] = ()) -> Lexicon:
        """Terms are the rows' focus terms and options and `extra_terms` (names, synonyms, symptoms), and their rarer words."""
        terms: set[tuple[str, ...]] = set()
        for phrase in {row.focus for row in rows} | {option for row in rows for option in row.options} | set(extra_terms):
            words = _words(phrase)
            terms.update((word,) for word in words if _may_stand_alone(word))
            if 2 <= len(words) <= LONGEST:
                terms.add(tuple(words))
        whole = {row.focus for row in rows} | {name for row in rows for name in row.synonyms} | set(extra_terms)
        names = {tuple(words) for name in whole if 0 < len(words := _words(name)) <= LONGEST and (words[1:] or _may_stand_alone(words[0]))}
        seen: Counter[tuple[str, ...]] = Counter()
        for row in rows:
            seen.update(_find(_words(f"{row.question} {row.answer_text[:READ]}"), terms))
        return cls({term: max(0.5, math.log((1 + len(rows)) / (1 + seen[term]))) for term in terms}, names)

    def __len__(self) -> int:
        return len(self._weights)

    def find(self, text: str) -> set[tuple[str, ...]]:
        """The terms that a text holds, each once."""
        return _find(_words(visible(text)), self._weights)

    def names_in(self, text: str) -> set[tuple[str, ...]]:
        """The names that a text holds, each once."""
        return _find(_words(visible(text)), self._names)

    def weight(self, term: tuple[str, ...]) -> float:
        """A term's specificity; 1.0 for one that the lexicon does not know."""
        return self._weights.get(term, 1.0)

    def bearing(self, question: QAExample) -> set[tuple[str, ...]]:
        """Terms that bear on the question: its own, its focus', its right option's and reference's."""
        found = self.find(" . ".join((question.question, question.focus, question.answer_text, question.rationale)))
        return found | {(word,) for word in _words(question.focus) if _may_stand_alone(word)}


def relevance(text: str, question: QAExample, lexicon: Lexicon) -> float:
    """Share of enough bearing terms that the text uses in sentences, in [0, 1].

    Each term counts once; a term that the question itself holds counts half. A sentence gives credit for at most one term
    in three words and only where it reads as a sentence, and sentences without a bearing term dilute. So neither stuffing
    nor padding pays. 0 for a text (or a question) without bearing terms.
    """
    bearing = lexicon.bearing(question)
    said = sentences(visible(text))
    if not bearing or not said:
        return 0.0
    own = lexicon.find(question.question)
    worth = {term: lexicon.weight(term) * (0.5 if term in own else 1.0) for term in bearing}
    credited: set[tuple[str, ...]] = set()
    useful = 0
    for sentence in said:
        hits = lexicon.find(sentence) & bearing if reads_as_prose(sentence) else set()
        useful += bool(hits)
        new = sorted(hits - credited, key=lambda term: (-worth[term], term))
        credited.update(new[: max(1, len(tokens(sentence)) // 3)])
    enough = min(ENOUGH, len(bearing)) * sum(worth.values()) / len(worth)
    return min(1.0, sum(worth[term] for term in credited) / enough) * math.sqrt(useful / len(said))


def _may_stand_alone(word: str) -> bool:
    return len(word) >= 4 and word not in _GENERIC


def _words(text: str) -> list[str]:
    return [stem(word) for word in tokens(text) if word not in STOP]


def _find(words: Sequence[str], terms: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {run for size in range(1, LONGEST + 1) for i in range(len(words) - size + 1) if (run := tuple(words[i : i + size])) in terms}
