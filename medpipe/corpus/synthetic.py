"""Question-answer pairs and ten-option questions from the bundled knowledge base of conditions (data/synthetic).

    generate(load_conditions(Path("data/synthetic/conditions")), seed=0, per_condition=4)

The same conditions and seed give the same rows. Free-text pairs come one per field of a condition; their difficulty is a
table below. Ten-option questions are made in medpipe/corpus/choices.py. General knowledge, not medical advice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from medpipe.corpus.choices import choice_questions
from medpipe.corpus.conditions import Condition, load_conditions
from medpipe.corpus.text import in_words
from medpipe.schema import QAExample

__all__ = ["Condition", "generate", "library", "load_conditions"]


class Pair(NamedTuple):
    """How one field of a condition becomes a pair. `lead` opens the answer made from a list; text fields need none."""

    field: str
    qtype: str
    difficulty: Literal["easy", "medium", "hard"]  # what is common knowledge, what needs study, what needs clinical judgement
    questions: tuple[str, ...]
    lead: str = ""


PAIRS = (
    Pair(
        "definition", "information", "easy",
        ("What is the condition called {}?", "What kind of condition is {}?", "What is known about {}?"),
    ),
    Pair("causes", "causes", "medium", ("What are the causes of {}?", "Why do people get {}?", "What brings about {}?")),
    Pair(
        "risk_factors", "risk_factors", "medium", ("What are the risk factors for {}?", "Who is more likely to get {}?"),
        "Known risk factors for {} are",
    ),
    Pair(
        "symptoms", "symptoms", "easy",
        ("What are the symptoms of {}?", "Which complaints suggest {}?", "Which signs are typical of {}?"),
        "Typical symptoms of {} are",
    ),
    Pair(
        "red_flags", "red_flags", "medium", ("Which warning signs in {} need urgent attention?", "What are the red flags in {}?"),
        "Warning signs in {} that need urgent attention are",
    ),
    Pair("diagnosis", "diagnosis", "hard", ("How is the diagnosis of {} made?", "Which findings and tests confirm {}?")),
    Pair("treatment", "treatment", "medium", ("What are the treatments for {}?", "How do clinicians treat {}?", "What helps against {}?")),
    Pair(
        "complications", "complications", "hard", ("What are the complications of {}?", "What can {} lead to?"),
        "Possible complications of {} are",
    ),
    Pair("prevention", "prevention", "easy", ("How can {} be prevented?", "What lowers the risk of {}?")),
    Pair("prognosis", "outlook", "hard", ("What is the outlook for people with {}?", "What is the usual course of {}?")),
    Pair("seek_care", "seek_care", "easy", ("When should someone with {} seek medical care?", "Which situations in {} call for a doctor?")),
)  # fmt: skip


def library(conditions: Sequence[Condition]) -> list[dict[str, str]]:
    """The reference passages of every condition, for the evidence index: reading up is allowed, also on held-out ones."""
    return [
        {"id": f"reference-{condition.id}-{number}", "title": condition.name, "text": text}
        for condition in conditions
        for number, text in enumerate(condition.reference, 1)
    ]


def generate(conditions: Sequence[Condition], seed: int, per_condition: int) -> list[QAExample]:
    """All rows: the pairs of every condition, then `per_condition` ten-option questions about each.

    Raises:
        MedpipeError: fewer than ten conditions, or more questions asked for than a condition's facts give.
    """
    pairs = [row for condition in conditions for row in _pairs(condition, seed)]
    return pairs + choice_questions(conditions, seed, per_condition)


def _pairs(condition: Condition, seed: int) -> list[QAExample]:
    chance = random.Random(f"{seed}/{condition.id}/pairs")
    rows = []
    for pair in PAIRS:
        value = getattr(condition, pair.field)
        rows.append(
            QAExample(
                id=f"synthetic-{condition.id}-{pair.qtype}-1", source="synthetic", category=condition.specialty, focus=condition.name,
                qtype=pair.qtype, difficulty=pair.difficulty, question=chance.choice(pair.questions).format(condition.name),
                answer=f"{pair.lead.format(condition.name)} {in_words(value)}." if pair.lead else value,
            )
        )  # fmt: skip
    return rows
