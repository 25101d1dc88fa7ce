"""Questions for the finished models: ours are fit to be asked, and what a user gives is asked as given or refused with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from medpipe.errors import MedpipeError
from medpipe.questions import BUILT_IN, MOST_CHARS, read_questions, to_questions
from medpipe.schema import LETTERS


def test_our_questions_are_of_both_kinds_with_an_emergency_and_a_dose_in_each() -> None:
    assert len({q.id for q in BUILT_IN}) == len(BUILT_IN) == 10
    for kind in ([q for q in BUILT_IN if q.options], [q for q in BUILT_IN if not q.options]):
        text = " ".join(" ".join([q.question, *q.options]) for q in kind)
        assert len(kind) == 5 and "emergency" in text and "dose" in text
    assert len({q.answer for q in BUILT_IN if q.options}) == 4  # no letter is right most of the time
    assert all(q.answer in LETTERS[: len(q.options)] for q in BUILT_IN if q.options and q.answer)


def test_our_questions_are_about_nobody() -> None:
    for question in BUILT_IN:
        assert not re.search(r"\b(I|me|my|we|our|you|your|should)\b", " ".join([question.question, *question.options]))


def test_no_role_sees_the_answer() -> None:
    from medpipe.answers import question_lines

    question = to_questions([{"question": "Which one?", "options": ["red", "blue"], "answer": "B"}])[0]
    assert question.answer == "B"
    assert question.row() == question.model_copy(update={"answer": None}).row()
    assert question_lines(question.row()) == "Question: Which one?\nOptions:\nred (A)\nblue (B)"


def test_texts_and_rows_become_questions_and_other_fields_are_not_read() -> None:
    given = [
        "  What is sepsis?\n",
        {"question": "Which?", "options": ["a", "b"], "answer": " b ", "category": "x"},
        {"question": "Q", "answer": "text"},
    ]
    text, choice, reference = to_questions(given)
    assert (text.question, text.options, text.answer, text.id) == ("What is sepsis?", (), None, "1")
    assert (choice.options, choice.answer) == (("a", "b"), "B")
    assert reference.answer is None  # a reference to a free-text question is not compared with anything


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "got no question"),
        ("What is sepsis?", "got one str"),
        (["fine", " \t "], "got an empty question, expected a text, in questions, number 2"),
        ([{"text": "x"}], "got an empty question"),
        ([7], "got int"),
        ([{"question": 7}], "got question of type int"),
        (["x" * (MOST_CHARS + 1)], f"got {MOST_CHARS + 1:,} characters"),
        ([{"question": "q", "options": ["y" * MOST_CHARS, "z"]}], "characters"),
        ([{"question": "q", "options": ["one"]}], "got 1 options"),
        ([{"question": "q", "options": [str(n) for n in range(27)]}], "got 27 options"),
        ([{"question": "q", "options": ["same", "same "]}], "got an option twice"),
        ([{"question": "q", "options": ["a", ""]}], "got an empty option"),
        ([{"question": "q", "options": "a|b"}], "got options of type str"),
        ([{"question": "q", "options": ["a", "b"], "answer": "C"}], "got answer 'C', expected a letter from A to B, or none"),
        ([{"question": "q", "options": ["a", "b"], "answer": ""}], "got answer ''"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_with_its_place(given: Any, told: str) -> None:
    with pytest.raises(MedpipeError, match=re.escape(told)):
        to_questions(given)


def test_a_lone_surrogate_becomes_a_question_mark_that_can_be_written() -> None:
    assert to_questions(["What is \ud800?"])[0].question == "What is ??"


def test_a_text_file_has_one_question_a_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes("\ufeffWhat is sepsis?\r\n\r\n  Was ist Röteln\u2028krank? \n".encode())
    assert [q.question for q in read_questions(path)] == ["What is sepsis?", "Was ist Röteln\u2028krank?"]


def test_a_json_file_has_one_row_or_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "line\u2028end?", "options": ["a", "b"]}, "What is sepsis?"]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert [(q.question, q.options) for q in read_questions(path)] == [("line\u2028end?", ("a", "b")), ("What is sepsis?", ())]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("q.jsonl", b'"one"\n\n{"question": }\n', "q.jsonl, line 3"),
        ("q.jsonl", b"[" * 100_000, "q.jsonl, line 1"),
        ("q.jsonl", b'{"question": ""}', "q.jsonl, line 1"),
        ("q.txt", b"caf\xe9", "got bytes that are not UTF-8"),
        ("q.txt", b" \n\n", "got no question"),
        ("q.csv", b"question\n", "expected a .txt or .jsonl file"),
        ("gone.txt", None, "got No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MedpipeError, match=re.escape(told)):
        read_questions(tmp_path / name)
