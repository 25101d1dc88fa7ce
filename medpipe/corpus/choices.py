"""Ten-option questions from the knowledge base: which condition fits these findings?

Distractors are chosen by clinical closeness: 1 for the same specialty, plus the share of words that the two conditions'
symptoms and risk factors have in common (Jaccard). Each question aims at the nine closest, at a mixture, or at far ones;
its difficulty is then read off what was chosen: a mean closeness of 0.45 and more is hard, 0.2 and more medium.
A condition that fits all findings shown is never a distractor, and a finding that gives the name away is never shown.
What this leaves out: synonyms of findings, and prevalence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from medpipe.corpus.conditions import Condition
from medpipe.corpus.text import in_words
from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, QAExample

OPTIONS = 10
HARD, MEDIUM = 0.45, 0.2  # mean closeness of the distractors
TRIES = 200  # draws of findings before a condition counts as exhausted
_GENERIC = {"acute", "chronic", "disease", "disorder", "syndrome", "infection", "generalized", "type", "history", "with", "from", "after"}


class Kind(NamedTuple):
    """One way to ask: how many findings of which field are shown, and in which words."""

    name: str
    shows: tuple[tuple[str, int], ...]
    questions: tuple[str, ...]  # filled with one text per entry of `shows`
    second: str = ""  # second sentence of the rationale, filled with the last of them


KINDS = (
    Kind(
        "picture", (("symptoms", 3), ("risk_factors", 1)),
        ("A person presents with {}; a known risk factor is {}. Which condition fits best?",
         "Which condition best fits this picture: {}, with this risk factor: {}?"),
        "A known risk factor for it: {}.",
    ),
    Kind(
        "warning", (("symptoms", 2), ("red_flags", 1)),
        ("A person has had {}. Now there is a warning sign: {}. Which condition explains this best?",
         "Which condition explains {} best, when this warning sign appears: {}?"),
        "A warning sign in it: {}.",
    ),
    Kind(
        "complications", (("symptoms", 2), ("complications", 1)),
        ("Which condition shows itself with {} and can lead to this complication: {}?",
         "A person reports {}. Left alone, this may lead to: {}. Which condition is most likely?"),
        "A possible complication of it: {}.",
    ),
    Kind(
        "risks", (("symptoms", 2), ("risk_factors", 2)),
        ("A person reports {}. The history holds {}. What is the most likely condition?",
         "Which condition is most likely in someone who reports {} and has these risk factors: {}?"),
        "Known risk factors for it: {}.",
    ),
)  # fmt: skip


def choice_questions(conditions: Sequence[Condition], seed: int, per_condition: int) -> list[QAExample]:
    """`per_condition` questions with ten options about each condition; the right letters are spread evenly.

    Raises:
        MedpipeError: fewer than ten conditions, or more questions asked for than the facts give.
    """
    if len(conditions) < OPTIONS:
        raise MedpipeError(
            got=f"{len(conditions)} conditions", expected=f"at least {OPTIONS}, one per option", where="data/synthetic", do="add conditions"
        )  # fmt: skip
    letters = _even_letters(random.Random(f"{seed}/letters"))
    words = {condition.id: _words(" ".join(condition.symptoms + condition.risk_factors)) for condition in conditions}
    rows = []
    for index, condition in enumerate(conditions):
        chance = random.Random(f"{seed}/{condition.id}/choices")
        close = {other.id: _closeness(condition, other, words) for other in conditions if other.id != condition.id}
        others = sorted((other for other in conditions if other.id != condition.id), key=lambda other: (-close[other.id], other.id))
        asked: set[str] = set()
        for number in range(per_condition):
            kind = KINDS[number % len(KINDS)]
            question, shown = _ask(condition, kind, chance, asked)
            findings = [finding for group in shown for finding in group]
            fair = [other for other in others if not _fits(other, findings) and other.name.lower() not in question.lower()]
            wrong = _distractors(fair, (index + number) % 3, chance)
            if len(wrong) < OPTIONS - 1:
                raise MedpipeError(
                    got=f"{len(wrong)} conditions that do not fit {findings}", expected=f"{OPTIONS - 1} distractors",
                    where=f"data/synthetic, {condition.id}", do="add conditions, or tell the findings apart",
                )  # fmt: skip
            mean = sum(close[other.id] for other in wrong) / len(wrong)
            names = [other.name for other in wrong]
            chance.shuffle(names)
            letter = next(letters)
            names.insert(LETTERS.index(letter), condition.name)
            rows.append(
                QAExample(
                    id=f"synthetic-{condition.id}-choice_{kind.name}-{number // len(KINDS) + 1}",
                    source="synthetic",
                    category=condition.specialty,
                    focus=condition.name,
                    qtype="diagnosis",
                    difficulty="hard" if mean >= HARD else "medium" if mean >= MEDIUM else "easy",
                    question=question,
                    options=tuple(names),
                    answer=letter,
                    rationale=_rationale(condition, kind, shown),
                )
            )
    return rows


def _ask(condition: Condition, kind: Kind, chance: random.Random, asked: set[str]) -> tuple[str, list[list[str]]]:
    """A question of this kind about findings that were not asked together before, and those findings by group."""
    name = _words(condition.name)
    for _ in range(TRIES):
        shown = []
        for field, count in kind.shows:
            usable = [finding for finding in getattr(condition, field) if not name & _words(finding)]
            shown.append(chance.sample(usable, min(count, len(usable))))
        key = f"{kind.name} {sorted(finding for group in shown for finding in group)}"
        if all(shown) and key not in asked:
            asked.add(key)
            return chance.choice(kind.questions).format(*map(in_words, shown)), shown
    raise MedpipeError(
        got=f"fewer than {len(asked) + 1} different questions", expected="enough facts that do not give the name away",
        where=f"data/synthetic, {condition.id}", do="lower corpus.choice_questions_per_condition or add facts",
    )  # fmt: skip


def _distractors(others: Sequence[Condition], aim: int, chance: random.Random) -> list[Condition]:
    """Nine conditions from a list that is sorted by closeness: the closest (aim 0), a mixture (1), or far ones (2)."""
    wanted = OPTIONS - 1
    near = {0: wanted, 1: wanted // 3, 2: 0}[aim]
    rest = others[max(len(others) // 3, near) :] if len(others) >= 3 * wanted else others[near:]
    return [*others[:near], *chance.sample(rest, min(wanted - near, len(rest)))]


def _rationale(condition: Condition, kind: Kind, shown: list[list[str]]) -> str:
    findings, last = in_words(shown[0]), in_words(shown[-1])
    verb = "point" if len(shown[0]) > 1 else "points"
    return f"{findings[0].upper()}{findings[1:]} {verb} to {condition.name}. {kind.second.format(last)}"


def _closeness(one: Condition, other: Condition, words: dict[str, frozenset[str]]) -> float:
    a, b = words[one.id], words[other.id]
    return (one.specialty == other.specialty) + len(a & b) / len(a | b)


def _fits(condition: Condition, findings: Sequence[str]) -> bool:
    """True if each finding shares most of its words with one that is listed for this condition."""
    listed = _stems((*condition.symptoms, *condition.red_flags, *condition.complications, *condition.risk_factors))
    return all(any(len(words & own) >= 0.6 * len(words) for own in listed) for words in _stems(tuple(findings)))


@lru_cache(maxsize=1_000)
def _stems(findings: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    return tuple(map(_words, findings))


@lru_cache(maxsize=10_000)  # the same phrases are compared over and over
def _words(text: str) -> frozenset[str]:
    """Stems (first five letters) of the words that carry meaning."""
    return frozenset(word[:5] for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _GENERIC)


def _even_letters(chance: random.Random) -> Iterator[str]:
    """Letters of the options without end: every ten of them hold each letter once."""
    while True:
        block = list(LETTERS[:OPTIONS])
        chance.shuffle(block)
        yield from block
