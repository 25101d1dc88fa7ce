"""Ten-option questions from the knowledge base: which condition fits these findings?

Distractors are chosen by clinical closeness: 1 for the same specialty, plus the share of words that the two conditions'
symptoms and risk factors have in common (Jaccard). Each question aims at the nine closest, at a mixture, or at far ones;
its difficulty is then read off what was chosen: a mean closeness of 0.45 and more is hard, 0.2 and more medium.
A condition that fits all findings shown is never a distractor, and a finding that gives the name or a synonym away is
never shown. `ask` and `fitting` also serve the cases of medpipe/corpus/synthetic.py.
What this leaves out: synonyms of findings, and prevalence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from medpipe.corpus.conditions import Condition
from medpipe.corpus.text import compare_key, in_words
from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, QAExample

OPTIONS = 10
HARD, MEDIUM = 0.45, 0.2  # mean closeness of the distractors
SAME = 0.6  # share of a finding's words that another one must hold to count as the same
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
        # A warning sign often speaks for another, graver condition: the question must not say that this one explains it.
        ("A person has had {}. In the condition that fits best, this would be a warning sign: {}. Which condition is it?",
         "Which condition presents with {}, and calls for urgent care when this appears: {}?"),
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
        asked: dict[Kind, list[frozenset[str]]] = {kind: [] for kind in KINDS}
        for number in range(per_condition):
            kind = KINDS[number % len(KINDS)]
            wording, shown = ask(condition, kind, chance, asked[kind])
            question = wording.format(*map(in_words, shown))
            findings = [finding for group in shown for finding in group]
            unfair, said = set(fitting(findings, others)), question.lower()
            fair = [other for other in others if other.id not in unfair and other.name.lower() not in said]
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
                    synonyms=condition.synonyms,
                    qtype="diagnosis",
                    difficulty="hard" if mean >= HARD else "medium" if mean >= MEDIUM else "easy",
                    question=question,
                    options=tuple(names),
                    answer=letter,
                    rationale=_rationale(condition, kind, shown),
                )
            )
    return rows


def ask(condition: Condition, kind: Kind, chance: random.Random, asked: list[frozenset[str]]) -> tuple[str, list[list[str]]]:
    """One of this kind's wordings, and findings by group of which at most half were asked together before.

    Args:
        asked: the findings of each earlier question of this kind; the new ones are added to it.

    Raises:
        MedpipeError: the condition's facts give no further question.
    """
    usable = [[finding for finding in getattr(condition, field) if not _tells(condition, finding)] for field, _ in kind.shows]
    for _ in range(TRIES):
        shown = [chance.sample(found, min(count, len(found))) for found, (_, count) in zip(usable, kind.shows, strict=True)]
        findings = frozenset(finding for group in shown for finding in group)
        if all(shown) and all(2 * len(findings & earlier) <= len(findings) for earlier in asked) and not _repeats(findings):
            asked.append(findings)
            return chance.choice(kind.questions), shown
    raise MedpipeError(
        got=f"fewer than {len(asked) + 1} different questions of the kind {kind.name}",
        expected="enough facts that do not give the name away", where=f"data/synthetic, {condition.id}",
        do="add facts or lower corpus.choice_questions_per_condition",
    )  # fmt: skip


def _distractors(others: Sequence[Condition], aim: int, chance: random.Random) -> list[Condition]:
    """Nine conditions from a list that is sorted by closeness: the closest (aim 0), a mixture (1), or far ones (2)."""
    wanted = OPTIONS - 1
    near = {0: wanted, 1: wanted // 3, 2: 0}[aim]
    rest = others[max(len(others) // 3, near) :] if len(others) >= 3 * wanted else others[near:]
    return [*others[:near], *chance.sample(rest, min(wanted - near, len(rest)))]


def _rationale(condition: Condition, kind: Kind, shown: list[list[str]]) -> str:
    findings, last = in_words(shown[0]), in_words(shown[-1])
    verb = "suggest" if len(shown[0]) > 1 else "suggests"
    return f"{findings[0].upper()}{findings[1:]} {verb} {condition.name}. {kind.second.format(last)}"


def _closeness(one: Condition, other: Condition, words: dict[str, frozenset[str]]) -> float:
    a, b = words[one.id], words[other.id]
    return (one.specialty == other.specialty) + len(a & b) / len(a | b)


def fitting(findings: Sequence[str], conditions: Sequence[Condition]) -> list[str]:
    """The ids of those conditions that all findings fit: each shares most of its words with one that is listed there."""
    wanted, _ = _stems(tuple(findings))
    found = []
    for condition in conditions:
        listed, together = _stems((*condition.symptoms, *condition.red_flags, *condition.complications, *condition.risk_factors))
        # The quick look first: nearly all conditions fall out here.
        if all(len(words & together) >= SAME * len(words) for words in wanted) and all(
            any(len(words & own) >= SAME * len(words) for own in listed) for words in wanted
        ):
            found.append(condition.id)
    return found


def _repeats(findings: Collection[str]) -> bool:
    """True if all words of one finding stand in another: "new confusion", "new confusion in an older adult"."""
    said = [set(compare_key(finding).split()) for finding in findings]
    return any(one <= other for one, other in permutations(said, 2))


def _tells(condition: Condition, finding: str) -> bool:
    """True if the finding gives the condition away: by a word of its name, or by a whole synonym."""
    said = f" {compare_key(finding)} "
    return bool(_words(condition.name) & _words(finding)) or any(f" {compare_key(each)} " in said for each in condition.synonyms)


@lru_cache(maxsize=1_000)
def _stems(findings: tuple[str, ...]) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """The stems of each finding, and of all together."""
    each = tuple(map(_words, findings))
    return each, frozenset().union(*each)


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
