"""No target leaks into an input, over all rows of the bundled corpus' training part with the evidence they are trained on.

What of a target stands in an input by design is said in docs/roles.md, which is held here to what its command prints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from medpipe.roles import (
    CAUTION,
    EMERGENCY,
    MEDICINES,
    NO_EVIDENCE,
    Said,
    prompt_for,
    question_text,
    reference_said,
    reference_verdict,
    sentences,
    target_for,
    words,
)
from medpipe.schema import LETTERS, ROLES, QAExample, Role
from medpipe.team.parsing import parse_answer
from medpipe.training import lessons
from medpipe_tests.tiny_team import DATA, choice_row, text_row


@dataclass(frozen=True)
class Lesson:
    """What a role reads and learns to say; `shown` is without the analyst's message, which holds the answer by design."""

    role: Role
    row: QAExample
    evidence: Sequence[str]
    shown: str
    target: str  # without the letter
    said: Sequence[Said]


def taught(row: QAExample, evidence: Sequence[str]) -> list[Lesson]:
    said, verdict = reference_said("reporter", row, evidence), reference_verdict(row, evidence)
    targets = [target_for(role, row, evidence).partition("\nAnswer:")[0] for role in ROLES]
    return [
        Lesson(role, row, evidence, prompt_for(role, row, evidence, said[: min(number, 2)], verdict)[1]["content"], target, said[:number])
        for number, (role, target) in enumerate(zip(ROLES, targets, strict=True))
    ]


def found_in(lesson: Lesson, text: str) -> list[str]:
    """Sentences of a text that stand in what the role reads. One that only repeats the question tells nothing."""
    parts = [part.rstrip(".") for part in sentences(text)]
    return [part for part in parts if part in lesson.shown and len(words(part) - words(lesson.row.question)) > 2]


def leaks(lesson: Lesson) -> list[str]:
    """Sentences of the reference, or of a choice question's rationale, in what the role reads."""
    return found_in(lesson, lesson.row.rationale if lesson.row.is_choice else lesson.row.answer)


@pytest.fixture(scope="module")
def bundled() -> tuple[list[Lesson], str]:
    """All lessons, and the page of examples."""
    rows, index = lessons.bundled(DATA)
    pairs = zip(rows, lessons.passages(rows, index), strict=True)
    return [lesson for row, evidence in pairs for lesson in taught(row, evidence)], lessons.page(rows, index)


def test_no_role_reads_a_sentence_of_what_it_should_find_out(bundled: tuple[list[Lesson], str]) -> None:
    assert len(bundled[0]) > 10_000
    assert [(lesson.row.id, lesson.role, leak) for lesson in bundled[0] for leak in leaks(lesson)] == []


def test_a_planted_leak_is_seen() -> None:
    for row in (text_row(), choice_row(rationale="Wheezing and short breath at night point to asthma.")):
        answered = taught(row, [f"asthma: {row.rationale or row.answer}"])
        assert {lesson.role for lesson in answered if leaks(lesson)} >= {"researcher", "analyst", "reporter"}  # the last by a citation
        told = row.model_copy(update={"context": (row.rationale or row.answer,)})
        assert {lesson.role for lesson in taught(told, []) if leaks(lesson)} == set(ROLES)


def test_what_a_role_says_is_new_but_for_what_it_quotes_by_design(bundled: tuple[list[Lesson], str]) -> None:
    for lesson in bundled[0]:
        if lesson.role == "planner":
            named = f"Focus: {lesson.row.focus}." in lesson.target
            assert not named or words(lesson.row.focus) & words(lesson.row.question)
        elif lesson.role == "researcher":
            quotes = [quote.strip("…") for quote in re.split(r" \[E\d\]\.\s*", lesson.target) if quote]
            read = " ".join(lesson.evidence)
            bare = [quote if quote in read else quote.partition(": ")[2].strip("…") for quote in quotes]  # without the subject's name
            assert lesson.target == NO_EVIDENCE or all(quote and quote in read for quote in bare)
        elif lesson.role == "analyst":
            assert found_in(lesson, lesson.target.partition("Conclusion: ")[2]) == []
        else:
            own = " ".join(part for part in sentences(lesson.target) if part not in (EMERGENCY, CAUTION, MEDICINES))
            assert found_in(lesson, own) == []
            copied = [part for part in sentences(own) if part.rstrip(".") in lesson.said[-1].text]
            assert len(copied) <= 2  # how the reference begins, which the analyst concludes


def test_on_choice_questions_no_message_and_no_agreement_tells_the_right_letter(bundled: tuple[list[Lesson], str]) -> None:
    right: dict[str, list[bool]] = {name: [] for name in ("planner", "researcher", "both", "cited", "verdict")}
    for lesson in bundled[0]:
        row = lesson.row
        if not row.is_choice or lesson.role != "analyst":
            continue
        letters = [parse_answer(message.text, len(row.options)) for message in lesson.said]
        verdict = re.findall(r"Previous round: the team answered ([A-Z])\.", lesson.shown)
        assert {*letters, *verdict} <= set(LETTERS[: len(row.options)])
        assert len({*letters, *verdict} - {row.answer}) <= 1  # one and the same wrong letter
        for name, answers in (("planner", letters[:1]), ("researcher", letters[1:]), ("verdict", verdict)):
            right[name] += [letter == row.answer for letter in answers]
        right["both"] += [letters[0] == row.answer] if letters[0] == letters[1] else []
        right["cited"] += [letters[1] == row.answer] if "[E" in lesson.said[1].text else []
    shares = {name: sum(hits) / len(hits) for name, hits in right.items()}
    assert all(0.4 < share < 0.6 for share in shares.values()), shares
    assert min(map(len, right.values())) > 200


def test_the_page_on_the_roles_is_what_the_command_prints(bundled: tuple[list[Lesson], str]) -> None:
    """Print it anew with `python -m medpipe.training.lessons > docs/roles.md`."""
    assert (DATA.parent / "docs" / "roles.md").read_text(encoding="utf-8") == bundled[1]
    assert "not medical advice" in bundled[1]
    shown = [lesson for lesson in bundled[0] if lesson.row.id in lessons.SHOWN]
    assert len(shown) == 2 * len(ROLES)
    assert all(question_text(lesson.row) in bundled[1] and lesson.target in bundled[1] for lesson in shown)
