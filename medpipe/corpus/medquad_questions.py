"""Multiple-choice questions from MedQuAD by masking: which subject is a sentence about, once its name is taken out?

    found = generate(medquad.parse(archive, report).rows, seed=0, count=1000, options=10)     # found.rows, found.library

One question a subject (rows of one focus). The sentence comes from one answer; the focus and its synonyms in it are masked, and
a sentence in which a telling word of theirs is left, or that is said of another subject too, is not used. Options are subjects that are
asked about themselves; their library passages come from their *other* answers, never from the one that holds the sentence, nor
from one that repeats a run of its words. Of a subject's sentences it is the one that shares most specific word stems with these
passages, and it must share one: what says nothing in particular ("___ begins in childhood") can't be answered by reading.
Subjects that share a name or a concept with the right one are never distractors.
Questions take turns in asking for near distractors (the same semantic type, alike passages), mixed and far ones; the
difficulty is that of the overlap rule (medpipe/corpus/options.py).
The passages carry the scope "choice": they are parts of answers that the free-text benchmark asks for.
What this leaves out: subjects with one answer, and sentences that do not name their subject.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from medpipe.corpus.groups import keys
from medpipe.corpus.options import AIMS, Stems, alike, distractors, draw, even_letters, grade, incidence, stems
from medpipe.corpus.records import Found
from medpipe.corpus.repair import repair
from medpipe.corpus.shingles import LITTLE, word_list
from medpipe.corpus.text import compare_key, focus_key
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.roles import sentences
from medpipe.schema import LETTERS, QAExample

MASK = "___"
SENTENCE_CHARS = (60, 300)
TELLING = 6  # word stems that a masked sentence must have
SPECIFIC = 0.06  # share of the subjects up to which a stem is specific to those that use it
MOST_MASKS = 3
PASSAGE_CHARS = 320  # with the title before it: what team.evidence_chars shows of a passage
PASSAGES = 4  # of a subject
RUN = 8  # words that a passage must not share with the sentence
_MASKED_ABBREVIATION = re.compile(rf"{MASK},? \((?:[A-Z][\w-]*|{MASK})\)")
_ABBREVIATION = re.compile(rf"{MASK},? \(([A-Z][\w-]+)\)")
SHORT = 3  # letters
_UNFIT = re.compile(r"https?:|www\.|\bclick\b|\bthis (?:page|site|table)\b|[?;\n]", re.IGNORECASE)  # links, lists, questions


def generate(rows: Sequence[QAExample], seed: int, count: int, options: int) -> Found:
    """At most `count` questions, and the passages of their subjects; the same arguments give the same rows.

    Args:
        rows: MedQuAD's answered rows.
        seed: of the draw of subjects and of all choices.
        count: the most questions; a smaller count asks about a part of a larger one's subjects.
        options: of each question.

    Raises:
        MedpipeError: `count` is smaller than `options`.
        SourceUnreachable: the rows do not hold enough subjects for one question's options.
    """
    if count < options:
        raise MedpipeError(
            got=f"corpus.medquad_questions = {count}", expected=f"at least {options}, one subject per option",
            where="sources/medquad_questions", do="raise it, or lower corpus.question_options",
        )  # fmt: skip
    of: dict[str, list[QAExample]] = defaultdict(list)
    for row in rows:
        if not row.is_choice:
            of[focus_key(row.focus)].append(repair(row)[0])
    many = {key: _Subject(key, of[key]) for key in sorted(of) if len(of[key]) > 1}
    every = [many.get(key) or _Subject(key, of[key]) for key in sorted(of)]
    said = Counter(masked for subject in every for masked in {each.key for each in subject.sentences})
    used = Counter(stem for subject in every for stem in frozenset().union(*(each.stems for each in subject.sentences)))
    common = frozenset(stem for stem, number in used.items() if number > SPECIFIC * len(every))
    order = draw(many, len(many), seed, "medquad_questions")
    usable = (subject for key in order if (subject := many[key]).choose(said, common))
    subjects = sorted(islice(usable, count), key=lambda subject: subject.key)
    if len(subjects) < options:
        raise SourceUnreachable(
            got=f"{len(subjects)} subjects that can be asked about", expected=f"at least {options}, one per option",
            where="MedQuAD's answers", do="get the whole archive, or lower corpus.question_options",
        )  # fmt: skip
    near = alike(incidence([frozenset().union(*subject.stems) for subject in subjects])[0])
    letters = even_letters(options, random.Random(f"medquad/{seed}/letters"))
    made: list[QAExample] = []
    for number, subject in enumerate(subjects):
        chance = random.Random(f"medquad/{seed}/{subject.key}/options")
        fair = [other for other in range(len(subjects)) if other != number and not subject.is_also(subjects[other])]
        fair.sort(key=lambda other: (-(not subject.types.isdisjoint(subjects[other].types)) - near[number, other], other))
        if len(fair) >= options - 1:
            wrong = distractors(fair, AIMS[number % len(AIMS)], options - 1, chance)
            made.append(_row(subject, [subjects[other] for other in wrong], next(letters)))
    counts = Counter(row.difficulty for row in made)
    passages = [entry for subject in subjects for entry in subject.entries]
    notes = {
        "subjects": len(of), "subjects_with_several_answers": len(many), "subjects_drawn": len(subjects),
        "reference_passages": len(passages),
        **{level: counts[level] for level in ("easy", "medium", "hard")},
    }  # fmt: skip
    return Found(made, notes=notes, library=passages)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a row's answer with the subject's names masked."""

    row: QAExample
    text: str
    masked: str

    @cached_property
    def key(self) -> str:
        return compare_key(self.masked)

    @cached_property
    def stems(self) -> Stems:
        return stems(self.masked)


class _Piece(NamedTuple):
    """A part of an answer, and its words between spaces."""

    text: str
    words: str


@dataclass
class _Subject:
    """What MedQuAD answers about one focus; `choose` settles the sentence and with it the passages."""

    key: str
    rows: list[QAExample]
    entries: list[dict[str, Any]] = field(default_factory=list)
    chosen: _Sentence | None = None
    _cut: dict[str, list[_Piece]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.rows[0].focus

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Other names, each once."""
        every = {focus_key(name): name for row in reversed(self.rows) for name in reversed(row.synonyms)}
        every.pop(self.key, None)
        every.pop("", None)
        return tuple(every[key] for key in sorted(every))

    @cached_property
    def types(self) -> frozenset[str]:
        return frozenset(kind for row in self.rows for kind in row.semantic_types)

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(key for row in self.rows for key in keys(row))

    @cached_property
    def _mask(self) -> re.Pattern[str]:
        names = {name.strip() for name in (self.name, *self.names)}
        names |= {without for name in names if (without := re.sub(r"\s*\([^)]*\)\s*", " ", name).strip())}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})(?:'s|s|es)?(?!\w)", re.IGNORECASE)

    @cached_property
    def sentences(self) -> list[_Sentence]:
        """Every sentence with its mask, in the order of the rows."""
        return [_Sentence(row, text, self._masked(text)) for row in self.rows for text in sentences(row.answer)]

    @cached_property
    def stems(self) -> list[Stems]:
        """Of each passage."""
        return [stems(f"{entry['title']} {entry['text']}") for entry in self.entries]

    def is_also(self, other: _Subject) -> bool:
        """True if the two may be one: a name or a concept in common, or a name that holds the other one's words."""
        a, b = self._name, other._name
        return not self._keys.isdisjoint(other._keys) or bool(a and b and (a <= b or b <= a))

    def choose(self, said: Counter[str], common: Stems) -> bool:
        """Settle on a sentence that no other subject shares, and on passages without it; False where none bears on such a sentence.

        Args:
            said: how many subjects a sentence is said of, by its key.
            common: the stems that are not specific.
        """
        telling, best = self._name | (stems(" ".join(self.names)) - common), 0
        for sentence in self.sentences:
            if said[sentence.key] == 1 and sentence.stems.isdisjoint(telling) and self._fits(sentence):
                passages = self._passages(sentence, said)
                shared = max((len((sentence.stems & stems(entry["text"])) - common) for entry in passages), default=0)
                if shared > best:
                    best, self.chosen, self.entries = shared, sentence, passages
        return self.chosen is not None

    @cached_property
    def _name(self) -> Stems:
        return stems(self.name)

    @cached_property
    def _short(self) -> frozenset[str]:
        """Words of its names that are too short for a stem and tell them nevertheless: "cap myopathy"."""
        return frozenset(word for word in word_list(" ".join((self.name, *self.names))) if len(word) == SHORT and word not in LITTLE)

    def _fits(self, sentence: _Sentence) -> bool:
        """Whether it is one whole sentence of the right length that names the subject, and says something of it."""
        return (
            SENTENCE_CHARS[0] <= len(sentence.masked) <= SENTENCE_CHARS[1]
            and 1 <= sentence.masked.count(MASK) <= MOST_MASKS
            and sentence.masked[-1] == "."
            and not _UNFIT.search(sentence.text)
            and len(sentence.stems) >= TELLING
            and self._short.isdisjoint(word_list(sentence.masked))
        )

    def _masked(self, text: str) -> str:
        masked = self._mask.sub(MASK, text)
        for abbreviation in _ABBREVIATION.findall(masked):  # "___ (PCD) … PCD": named in passing
            masked = re.sub(rf"\b{re.escape(abbreviation)}(?:'s|s)?(?!\w)", MASK, masked)
        return _MASKED_ABBREVIATION.sub(MASK, masked)

    @cached_property
    def _of_row(self) -> dict[str, list[_Sentence]]:
        found: dict[str, list[_Sentence]] = {row.id: [] for row in self.rows}
        for sentence in self.sentences:
            found[sentence.row.id].append(sentence)
        return found

    def _passages(self, sentence: _Sentence, said: Counter[str]) -> list[dict[str, Any]]:
        """Pieces of the other answers, in turns: the first of each, then the second of each, up to PASSAGES."""
        words = word_list(sentence.text)
        runs = [f" {' '.join(words[place : place + RUN])} " for place in range(max(len(words) - RUN, 0) + 1)]
        others = {row.id: self._pieces(row.id, said) for row in self.rows if row.id != sentence.row.id}
        found: dict[str, dict[str, Any]] = {}
        for number, pieces in enumerate(zip_longest(*others.values()), 1):
            for id, piece in zip(others, pieces, strict=True):
                if piece is not None and len(found) < PASSAGES and not any(run in piece.words for run in runs):
                    found[piece.text] = {
                        "id": f"medquad_questions-{id}-{number}", "title": self.name, "names": list(self.names), "text": piece.text,
                        "scope": "choice",
                    }  # fmt: skip
        return list(found.values())

    def _pieces(self, row: str, said: Counter[str]) -> list[_Piece]:
        """An answer in pieces of whole sentences that fit a passage, without those that are said of other subjects too."""
        if row not in self._cut:
            room = PASSAGE_CHARS - len(f"{self.name}: ")
            texts: list[str] = []
            for each in self._of_row[row]:
                if said[each.key] == 1 and len(each.text) <= room:
                    if texts and len(texts[-1]) + 1 + len(each.text) <= room:
                        texts[-1] = f"{texts[-1]} {each.text}"
                    else:
                        texts.append(each.text)
            self._cut[row] = [_Piece(text, f" {' '.join(word_list(text))} ") for text in texts if len(stems(text)) >= TELLING]
        return self._cut[row]


def _row(subject: _Subject, wrong: Sequence[_Subject], letter: str) -> QAExample:
    assert subject.chosen is not None, "only subjects with a sentence are drawn"
    row, right = subject.chosen.row, LETTERS.index(letter)
    options = [*wrong[:right], subject, *wrong[right:]]
    kind = "condition" if row.category == "disorders" else "subject"
    return QAExample(
        id=f"medquad_questions-{row.id}", source="medquad_questions", category=row.category, qtype="identification", focus=subject.name,
        question=f'Which {kind} does this describe: "{subject.chosen.masked}"?', options=tuple(option.name for option in options),
        answer=letter, difficulty=grade(stems(subject.chosen.masked), [option.stems for option in options], right),
        rationale=subject.chosen.text, url=row.url, origin=row.origin,
        **{name: tuple(dict.fromkeys(each for other in subject.rows for each in getattr(other, name)))
           for name in ("synonyms", "cuis", "semantic_types")},
    )  # fmt: skip
