"""Question-answer pairs and ten-option questions from the bundled knowledge base of conditions (data/synthetic).

    generate(load_conditions(Path("data/synthetic/conditions")), seed=0, per_condition=7)

The same conditions and seed give the same rows. Free-text pairs ask for one field of a condition, for two that belong
together, or which condition a short case fits; the tables below say how, and how difficult each is. Ten-option questions
are made in medpipe/corpus/choices.py. Every row tells facts of one condition, its focus. General knowledge, not medical advice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from medpipe.corpus.choices import Kind, ask, choice_questions, fitting
from medpipe.corpus.conditions import Condition, load_conditions
from medpipe.corpus.text import in_words
from medpipe.schema import QAExample

__all__ = ["Condition", "generate", "library", "load_conditions"]

Difficulty = Literal["easy", "medium", "hard"]
DRAWS = 50  # of findings for a case, before it counts as one that can't be told from another condition

DIFFICULTY: dict[Difficulty, tuple[str, ...]] = {
    "easy": ("definition", "symptoms", "prevention", "seek_care"),  # common knowledge
    "medium": ("causes", "risk_factors", "red_flags", "treatment"),  # needs study
    "hard": ("diagnosis", "complications", "prognosis"),  # needs clinical judgement
}
"""How difficult it is to know a field; a pair of two fields is as difficult as the harder one, a case is hard."""

LEADS = {
    "risk_factors": "Known risk factors for {} are",
    "symptoms": "Typical symptoms of {} are",
    "red_flags": "Warning signs in {} that need urgent attention are",
    "complications": "Possible complications of {} are",
}
"""The words that open the sentence made from a list; the other fields are sentences already."""


class Pair(NamedTuple):
    """One or two fields of a condition as a question and its answer. A question's wording fits names in singular and plural."""

    fields: tuple[str, ...]
    qtype: str
    questions: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The last part of the row's id."""
        return self.qtype if len(self.fields) == 1 else "_and_".join(self.fields)

    @property
    def difficulty(self) -> Difficulty:
        """By the hardest field."""
        return next(level for level in ("hard", "medium", "easy") if set(self.fields) & set(DIFFICULTY[level]))


PAIRS = (
    Pair(
        ("definition",), "information",
        ("What is the condition called {}?", "What kind of condition is {}?", "What is known about {}?"),
    ),
    Pair(("causes",), "causes", ("What are the causes of {}?", "Why do people get {}?", "What brings about {}?")),
    Pair(("risk_factors",), "risk_factors", ("What are the risk factors for {}?", "Who is more likely to get {}?")),
    Pair(
        ("symptoms",), "symptoms",
        ("What are the symptoms of {}?", "Which complaints suggest {}?", "Which signs are typical of {}?"),
    ),
    Pair(("red_flags",), "red_flags", ("Which warning signs in {} need urgent attention?", "What are the red flags in {}?")),
    Pair(("diagnosis",), "diagnosis", ("How is the diagnosis of {} made?", "Which findings and tests confirm {}?")),
    Pair(("treatment",), "treatment", ("What are the treatments for {}?", "How do clinicians treat {}?", "What helps against {}?")),
    Pair(("complications",), "complications", ("What are the complications of {}?", "What can {} lead to?")),
    Pair(("prevention",), "prevention", ("How can {} be prevented?", "What lowers the risk of {}?")),
    Pair(("prognosis",), "outlook", ("What is the outlook for people with {}?", "What is the usual course of {}?")),
    Pair(("seek_care",), "seek_care", ("When should someone with {} seek medical care?", "Which situations in {} call for a doctor?")),
    Pair(
        ("definition", "causes"), "information",
        ("How is the condition called {} defined, and how does it come about?", "What is meant by {}, and what lies behind the condition?"),
    ),
    Pair(
        ("risk_factors", "prevention"), "prevention",
        ("Who tends to get {}, and what protects against the condition?", "What makes {} more likely, and which measures protect people?"),
    ),
    Pair(
        ("symptoms", "diagnosis"), "diagnosis",
        ("How can {} be recognised, and how is the diagnosis confirmed?",
         "Which symptoms raise the suspicion of {}, and how is the diagnosis then made?"),
    ),
    Pair(
        ("symptoms", "red_flags"), "symptoms",
        ("What are the usual symptoms of {}, and which signs are alarming?",
         "Which symptoms can be expected in {}, and which signs mean danger?"),
    ),
    Pair(
        ("red_flags", "seek_care"), "seek_care",
        ("Which signs in {} are alarming, and when is medical help needed?", "What counts as a warning sign in {}, and when is care due?"),
    ),
    Pair(
        ("treatment", "complications"), "treatment",
        ("How can {} be treated, and which complications are possible?",
         "What does treatment of {} consist of, and which complications may occur?"),
    ),
    Pair(
        ("prognosis", "complications"), "outlook",
        ("What is the long-term outlook in {}, and which complications can arise?",
         "Which course can be expected in {}, and what may complicate it?"),
    ),
)  # fmt: skip


class Case(NamedTuple):
    """A short case: the findings shown and the question, then the field that the answer ends with."""

    kind: Kind
    ends: str


CASES = (
    Case(
        Kind(
            "case_picture", (("symptoms", 2), ("risk_factors", 2)),
            ("Someone has these findings: {}. Risk factors: {}. Which condition fits, and how is the diagnosis confirmed?",
             "Risk factors in the history: {1}. Findings now: {0}. Which condition does this suggest, and how is it confirmed?"),
            "Known risk factors for it include {}.",
        ),
        "diagnosis",
    ),
    Case(
        Kind(
            "case_warning", (("symptoms", 2), ("red_flags", 1)),
            ("Someone has these findings: {}. In the condition they suggest, this is a warning sign: {}. Which condition is it, "
             "and how is it diagnosed?",
             "The findings: {}. A sign that would call for urgent care: {}. Which condition fits best, and how is it confirmed?"),
            "Signs that call for urgent care in it include {}.",
        ),
        "diagnosis",
    ),
    Case(
        Kind(
            "case_treatment", (("symptoms", 3), ("complications", 1)),
            ("The picture: {}. One possible complication: {}. Which condition is this, and how is it treated?",
             "Someone shows these findings: {}. A complication that can follow: {}. Which condition fits best, and how is it treated?"),
            "Its possible complications include {}.",
        ),
        "treatment",
    ),
)  # fmt: skip


def library(conditions: Sequence[Condition]) -> list[dict[str, str]]:
    """The reference passages of every condition, for the evidence index: reading up is allowed, also on held-out ones."""
    return [
        {"id": f"reference-{condition.id}-{number}", "title": condition.name, "text": text}
        for condition in conditions
        for number, text in enumerate(condition.reference, 1)
    ]


def generate(conditions: Sequence[Condition], seed: int, per_condition: int) -> list[QAExample]:
    """All rows: pairs and cases of every condition, then `per_condition` ten-option questions about each.

    A case is left out where every choice of its findings fits another condition too.

    Raises:
        MedpipeError: fewer than ten conditions, or more questions asked for than a condition's facts give.
    """
    choices = choice_questions(conditions, seed, per_condition)
    return [row for condition in conditions for row in (*_pairs(condition, seed), *_cases(condition, conditions, seed))] + choices


def _pairs(condition: Condition, seed: int) -> list[QAExample]:
    chance = random.Random(f"{seed}/{condition.id}/pairs")
    return [
        _row(
            condition, pair.kind, pair.qtype, pair.difficulty, chance.choice(pair.questions).format(condition.name),
            " ".join(_told(condition, field) for field in pair.fields),
        )
        for pair in PAIRS
    ]  # fmt: skip


def _cases(condition: Condition, conditions: Sequence[Condition], seed: int) -> list[QAExample]:
    others = [other for other in conditions if other.id != condition.id]
    rows = []
    for kind, ends in CASES:
        chance = random.Random(f"{seed}/{condition.id}/{kind.name}")
        for _ in range(DRAWS):
            wording, (symptoms, further) = ask(condition, kind, chance, [])
            if not fitting([*symptoms, *further], others):
                answer = (
                    f"The condition that fits is {condition.name}, and these findings point to it: {_phrases(symptoms)}. "
                    f"{kind.second.format(_phrases(further))} {_told(condition, ends)}"
                )
                question = wording.format(_phrases(symptoms), _phrases(further))
                rows.append(_row(condition, kind.name, "case", "hard", question, answer))
                break
    return rows


def _phrases(items: Sequence[str]) -> str:
    """`in_words`, but two long phrases do not run together: "fever that returns at night, and pain on breathing in"."""
    if len(items) != 2 or "," in "".join(items) or max(len(item.split()) for item in items) < 4:
        return in_words(items)
    return ", and ".join(items)


def _told(condition: Condition, field: str) -> str:
    """A field as one or more sentences."""
    value = getattr(condition, field)
    return f"{LEADS[field].format(condition.name)} {in_words(value)}." if field in LEADS else value


def _row(condition: Condition, kind: str, qtype: str, difficulty: Difficulty, question: str, answer: str) -> QAExample:
    return QAExample(
        id=f"synthetic-{condition.id}-{kind}", source="synthetic", category=condition.specialty, focus=condition.name,
        synonyms=condition.synonyms, qtype=qtype, difficulty=difficulty, question=question, answer=answer,
    )  # fmt: skip
