"""Rows with a known truth to plant among others: near duplicates, rows that only look like ones, leaked exam questions.

    near, hard = near_duplicates(rows, 500, seed=0), hard_negatives(rows, 200, seed=0)
    score(near, hard, gone)         # gone: id of each dropped row → id of the row that stays for it

The same rows, count and seed give the same planted rows; kinds take turns. Used by the tests and by bench/.
"""

from __future__ import annotations

import random
import re
import string
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from medpipe.corpus.shingles import word_list
from medpipe.corpus.text import focus_key
from medpipe.schema import LETTERS, QAExample

EXCHANGES = 0.03  # per word of the answer; each moves two words
COMMA_EVERY = 6  # words
APART = 0.5  # answers that share fewer of the shorter one's words say different things

SENTENCES = (
    "More information is available from health care professionals.",
    "Many organisations offer support to patients and their families.",
    "Research on this subject goes on in several countries.",
    "This text serves general education and does not replace medical care.",
    "Knowledge about this subject has grown over the past decades.",
    "Terms used here are explained in most medical dictionaries.",
)
OTHER_QUESTIONS = (  # kind of question, wording
    ("inheritance", "Is {} inherited?"),
    ("research", "What research is being done on {}?"),
    ("history", "Who first described {}?"),
    ("names", "Which other names does {} go by?"),
    ("animals", "Do animals get {}?"),
    ("frequency", "How common is {} worldwide?"),
)


class Planted(NamedTuple):
    """A planted row, the id of the row (of the benchmark's item) that it was made from, and how it was made."""

    row: QAExample
    original: str
    kind: str


class Score(NamedTuple):
    """How many planted near duplicates were found, and how many hard negatives were taken for ones."""

    found: int
    false: int
    recall: float
    precision: float


def near_duplicates(rows: Sequence[QAExample], count: int, seed: int) -> list[Planted]:
    """Copies of different free-text rows, each changed in a way that says nothing else.

    Raises:
        ValueError: there are fewer than `count` free-text rows.
    """
    chance = random.Random(f"near/{seed}")
    makers: tuple[tuple[str, Callable[[QAExample, random.Random], tuple[str, str]]], ...] = (
        ("word swaps", _words_swapped), ("case", _case), ("punctuation", _punctuation), ("sentence added", _sentence_added),
    )  # fmt: skip
    planted = []
    for number, row in enumerate(chance.sample([row for row in rows if not row.is_choice], count)):
        kind, make = makers[number % len(makers)]
        question, answer = make(row, chance)
        copy = row.model_copy(update={"id": f"{row.id}-near-{number}", "question": question, "answer": answer})
        planted.append(Planted(copy, row.id, kind))
    return planted


def hard_negatives(rows: Sequence[QAExample], count: int, seed: int) -> list[Planted]:
    """Rows that look like one of the free-text rows and say something else: they must stay, and so must the original.

    Raises:
        ValueError: the rows don't give `count` of them.
    """
    chance = random.Random(f"hard/{seed}")
    free = [row for row in rows if not row.is_choice]
    known = _Known(free)
    makers: tuple[tuple[str, Callable[[QAExample, _Known, random.Random], dict[str, object] | None]], ...] = (
        ("other focus", _other_focus), ("number", _other_number), ("negation", _negated),
        ("other answer", _other_answer), ("other question", _other_question),
    )  # fmt: skip
    planted: list[Planted] = []
    waiting = chance.sample(free, len(free))
    while len(planted) < count:
        kind, make = makers[len(planted) % len(makers)]
        made = ((row, changes) for row in waiting if (changes := make(row, known, chance)) is not None)
        row, changes = next(made, (None, None))
        if row is None or changes is None:
            raise ValueError(f"got {len(free)} rows, expected ones that give {count} hard negatives, in kind {kind!r}: plant fewer")
        waiting.remove(row)
        planted.append(Planted(row.model_copy(update={**changes, "id": f"{row.id}-hard-{len(planted)}"}), row.id, kind))
    return planted


def exam_leaks(items: Sequence[QAExample], count: int, seed: int, hosts: Sequence[QAExample] = ()) -> list[Planted]:
    """Free-text rows that show a benchmark's question; every item is shown in every way before one is shown twice so.

    Args:
        items: the benchmark's rows.
        count: rows to make.
        seed: for the choice of items and hosts.
        hosts: free-text rows that the questions are put into; without them, made-up ones.
    """
    chance = random.Random(f"leaks/{seed}")
    order = chance.sample(list(items), len(items))
    kinds = ("verbatim", "bare", "embedded", "options")
    planted = []
    for number in range(count):
        item, kind = order[number % len(order)], kinds[(number + number // len(order)) % len(kinds)]
        host = chance.choice(hosts) if hosts else QAExample(
            id="made-up", source="custom", focus=f"made-up focus {number}", question="What do libraries lend to their readers?",
            answer=f"Libraries lend books to readers. Branch {number} also lends films, games and tools to people who live nearby.",
        )  # fmt: skip
        question, answer = host.question, host.answer
        if kind == "verbatim":
            question = item.question
        elif kind == "bare":
            question = _recased(item.question, chance).translate(str.maketrans("", "", string.punctuation))
        elif kind == "embedded":
            words = host.answer.split()
            answer = " ".join([*words[: len(words) // 2], item.question, *words[len(words) // 2 :]])
        else:
            question = " ".join([item.question, *(f"({letter}) {text}" for letter, text in zip(LETTERS, item.options, strict=False))])
        leak = host.model_copy(update={"id": f"{host.id}-leak-{number}", "question": question, "answer": answer})
        planted.append(Planted(leak, item.id, kind))
    return planted


def score(near: Sequence[Planted], hard: Sequence[Planted], gone: Mapping[str, str]) -> Score:
    """Judge what a search dropped.

    A near duplicate counts as found where it or its original is gone; a hard negative counts as false where it is gone, or
    any row is gone for its sake.

    Args:
        near: planted near duplicates.
        hard: planted hard negatives.
        gone: id of each dropped row → id of the row that stays for it, or "" where that is not told.
    """
    found = sum(each.row.id in gone or each.original in gone for each in near)
    stays = set(gone.values())
    false = sum(each.row.id in gone or each.row.id in stays for each in hard)
    return Score(found, false, found / len(near), found / (found + false) if found else 0.0)


class _Known:
    """What the rows hold, by focus."""

    def __init__(self, rows: Sequence[QAExample]) -> None:
        self.foci = sorted({row.focus for row in rows})
        self.of: defaultdict[str, list[QAExample]] = defaultdict(list)
        for row in rows:
            self.of[focus_key(row.focus)].append(row)

    def kinds(self, focus: str) -> set[str]:
        return {row.qtype for row in self.of[focus_key(focus)]}


def _words_swapped(row: QAExample, chance: random.Random) -> tuple[str, str]:
    answer, question = row.answer.split(), row.question.split()
    for _ in range(max(1, round(EXCHANGES * len(answer)))):
        _exchange(answer, *chance.choice(_different(answer, chance)))
    places = [place for place in range(len(question) - 1) if question[place] != question[place + 1]]
    if places:
        place = chance.choice(places)
        _exchange(question, place, place + 1)
    return " ".join(question), " ".join(answer)


def _different(words: list[str], chance: random.Random) -> list[tuple[int, int]]:
    """Pairs of places, one of them random, at which different words stand; places 0 and 0 where all are the same."""
    one = chance.randrange(len(words))
    return [(one, other) for other in range(len(words)) if words[other] != words[one]] or [(0, 0)]


def _exchange(words: list[str], one: int, other: int) -> None:
    words[one], words[other] = words[other], words[one]


def _case(row: QAExample, chance: random.Random) -> tuple[str, str]:
    return _recased(row.question, chance), _recased(row.answer, chance)


def _recased(text: str, chance: random.Random) -> str:
    return chance.choice((str.upper, str.lower, str.title))(text)


def _punctuation(row: QAExample, chance: random.Random) -> tuple[str, str]:
    """Every mark a space, or commas and an exclamation mark more."""
    if chance.random() < 0.5:
        return re.sub(r"[^\w\s]", " ", row.question), re.sub(r"[^\w\s]", " ", row.answer)
    words = row.answer.split()
    return f"{row.question}!", " ".join(f"{word}," if place % COMMA_EVERY == 1 else word for place, word in enumerate(words))


def _sentence_added(row: QAExample, chance: random.Random) -> tuple[str, str]:
    sentence = chance.choice(SENTENCES)
    return row.question, f"{row.answer} {sentence}" if chance.random() < 0.5 else f"{sentence} {row.answer}"


def _other_focus(row: QAExample, known: _Known, chance: random.Random) -> dict[str, object] | None:
    """The same sentences about another disease, one that has no row of this kind where there is such a disease."""
    name = re.compile(rf"\b{re.escape(row.focus)}\b", re.IGNORECASE)
    if not name.search(row.question) or not name.search(row.answer):
        return None
    drawn = [focus for focus in chance.sample(known.foci, min(30, len(known.foci))) if focus_key(focus) != focus_key(row.focus)]
    other = next((focus for focus in drawn if row.qtype not in known.kinds(focus)), drawn[0])
    question, answer = (name.sub(lambda _: other, text) for text in (row.question, row.answer))
    return {"question": question, "answer": answer, "focus": other, "synonyms": (), "cuis": ()}


def _other_number(row: QAExample, known: _Known, chance: random.Random) -> dict[str, object] | None:
    numbers = list(re.finditer(r"\b\d+\b", row.answer))
    if not numbers:
        return None
    found = chance.choice(numbers)
    new = next(str(int(found[0]) + step) for step in range(1, 10_000) if str(int(found[0]) + step) not in row.answer)
    return {"answer": f"{row.answer[: found.start()]}{new}{row.answer[found.end() :]}"}


def _negated(row: QAExample, known: _Known, chance: random.Random) -> dict[str, object] | None:
    verbs = list(re.finditer(r"\b(?:is|are|was|were)\b(?! not\b)", row.answer))
    if not verbs:
        return None
    end = chance.choice(verbs).end()
    return {"answer": f"{row.answer[:end]} not{row.answer[end:]}"}


def _other_answer(row: QAExample, known: _Known, chance: random.Random) -> dict[str, object] | None:
    """The answer of another kind of question about the same focus, unlike every answer that the own kind has."""
    same_focus = known.of[focus_key(row.focus)]
    own = [other.answer for other in same_focus if other.qtype == row.qtype]
    others = [other.answer for other in same_focus if other.qtype != row.qtype and all(_apart(other.answer, answer) for answer in own)]
    return {"answer": chance.choice(others)} if others else None


def _apart(one: str, other: str) -> bool:
    a, b = set(word_list(one)), set(word_list(other))
    return len(a & b) < APART * min(len(a), len(b))


def _other_question(row: QAExample, known: _Known, chance: random.Random) -> dict[str, object] | None:
    kinds = known.kinds(row.focus)
    free = [(kind, wording) for kind, wording in OTHER_QUESTIONS if kind not in kinds]
    if not free:
        return None
    kind, wording = chance.choice(free)
    return {"question": wording.format(row.focus), "qtype": kind}
