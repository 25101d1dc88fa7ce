"""Honest messages made from rows by rule: what the audit attacks and rewords.

    from medpipe.rewards.honest import honest_cases

On free text the honest answer is every second sentence of the reference; on multiple choice it is what the reporter learns
to say. Rows whose reference is a list, a link collection or a single sentence are left out: every second line of a list is
no answer. What this leaves out: honest answers in other words (medpipe/rewards/paraphrases.py makes some).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from medpipe.rewards.attacks import Case
from medpipe.rewards.text import reads_as_prose, tokens
from medpipe.roles import Said, sentences, target_for
from medpipe.schema import QAExample

MIN_SENTENCES, MAX_SENTENCES = 2, 20
MAX_WORDS, MAX_NUMBERS = 60, 5  # of a sentence
CHOICE_SHARE = 1 / 3
_LIST = re.compile(r":|\s[-•*]\s")


def is_prose(row: QAExample) -> bool:
    """A free-text reference of 2 to 20 sentences, each of which reads as one, without a colon or the dashes of a list."""
    found = sentences(row.answer)
    return (
        MIN_SENTENCES <= len(found) <= MAX_SENTENCES
        and not _LIST.search(row.answer)
        and all(reads_as_prose(sentence) and _one_statement(sentence) for sentence in found)
    )


def _one_statement(sentence: str) -> bool:
    """Not a table or list that lost its lines."""
    words = tokens(sentence)
    return len(words) <= MAX_WORDS and sum(word[0].isdigit() for word in words) <= MAX_NUMBERS


def pick(rows: Sequence[QAExample], answers: int, seed: int) -> tuple[list[QAExample], list[QAExample]]:
    """(free-text rows, multiple-choice rows), together at most `answers`, a third of them choices as far as the rows allow.

    The order of `rows` plays no part, and a row is drawn or not whatever else there is to draw from.
    """
    shuffled = sorted(rows, key=lambda row: random.Random(f"{seed}/audit/{row.id}").random())
    free = [row for row in shuffled if not row.is_choice and is_prose(row)]
    choice = [row for row in shuffled if row.is_choice]
    choices = max(min(len(choice), round(answers * CHOICE_SHARE)), min(len(choice), answers - len(free)))
    return free[: answers - choices], choice[:choices]


def honest_text(row: QAExample) -> str:
    """Every second sentence of the reference, or the reporter's target on multiple choice."""
    return target_for("reporter", row, ()) if row.is_choice else " ".join(sentences(row.answer)[::2])


def honest_cases(rows: Sequence[QAExample], answers: int, seed: int) -> list[Case]:
    """Cases of all kinds: three for a free-text row (answer alone, with mates, with citations), one for a choice.

    The mates of a row bring the other half of its reference; its passages are its reference and the answer of another row,
    on the same subject where there is one.
    """
    free, choice = pick(rows, answers, seed)
    subjects: dict[str, list[QAExample]] = {}
    for row in sorted((row for row in rows if not row.is_choice), key=lambda row: row.id):
        subjects.setdefault(row.focus.casefold(), []).append(row)
    cases = []
    for row in free:
        text, passages = honest_text(row), (row.answer, _other(row, subjects))
        cited = " ".join(f"{sentence.rstrip('.')} [E1]." for sentence in sentences(text))
        cases.append(Case(row, text))
        cases.append(Case(row, text, _mates(row), kind="team"))
        cases.append(Case(row, cited, evidence=passages, role="researcher", kind="cited"))
    return cases + [Case(row, honest_text(row), kind="choice") for row in choice]


def _mates(row: QAExample) -> tuple[Said, ...]:
    """A plan, and an analyst who brought the sentences of the reference that the honest answer leaves out."""
    return Said("planner", target_for("planner", row, ())), Said("analyst", " ".join(sentences(row.answer)[1::2]))


def _other(row: QAExample, subjects: dict[str, list[QAExample]]) -> str:
    mates = [other for other in subjects.get(row.focus.casefold(), ()) if other.answer != row.answer]
    if not mates:
        mates = [group[0] for focus, group in subjects.items() if focus != row.focus.casefold()]
    return random.Random(row.id).choice(mates).answer if mates else "Cataract is a clouding of the lens of the eye."
