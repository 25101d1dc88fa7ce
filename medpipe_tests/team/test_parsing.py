"""Reading messages: tables of what they mean, and text of any kind that must not raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.schema import LETTERS
from medpipe.team.parsing import malformed, parse_answer

PIECES = [
    "Answer:",
    "answer: ",
    "ANSWER:",
    " A",
    " B)",
    "(C)",
    " ı",
    " ſ",
    " K",
    "\n",
    "\ud800",
    "<|im_end|>",
    "I",
    "'m",
    "a fever",
    "\0",
    "²",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8)).map("".join)


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("It is gout.\nAnswer: C", 4, "C"),
        ("Answer: C.", 4, "C"),
        ("Answer: (C)", 4, "C"),
        ("Answer: C) gout", 4, "C"),
        ("Answer:C", 4, "C"),
        ("answer: c", 4, "C"),
        ("**Answer:** C", 4, None),
        ("Answer:\nC", 4, "C"),
        ("Answer: C, because of the joint", 4, "C"),
        ("Answer: C because of the joint", 4, None),
        ("Answer: B or C", 4, None),
        ("Answer: B\nThen again.\nAnswer: B", 4, "B"),
        ("Answer: B\nAnswer: C", 4, None),
        ("Answer: E", 4, None),
        ("Answer: J", 10, "J"),
        ("Answer: gout", 4, None),
        ("Answer:", 4, None),
        ("", 4, None),
        ("C", 4, None),
        ("Answer: Calcium", 4, None),
        ("Answer: A", 0, None),
        ("Answer: A fever explains it", 4, None),
        ("Answer: a clinician should judge", 4, None),
        ("Answer: I am not sure", 10, None),
        ("Answer: I'm not sure", 10, None),
        ("Answer: I", 10, "I"),
        ("Answer: I) pneumothorax", 10, "I"),
        ("Answer: A\nA fever explains it.", 4, "A"),
    ],
)
def test_the_letter_of_a_message(text: str, options: int, letter: str | None) -> None:
    assert parse_answer(text, options) == letter


@pytest.mark.parametrize(
    ("text", "options", "ended", "fault"),
    [
        ("It is gout.\nAnswer: C", 4, True, ""),
        ("It is gout.", 0, True, ""),
        ("", 0, True, "empty"),
        (" \n\t", 4, False, "empty"),
        ("It is gout.", 4, True, "no answer"),
        ("Answer: Z", 4, True, "no answer"),
        ("Answer: B\nAnswer: C", 4, True, "several answers"),
        ("It is gout.\nAnswer: C", 4, False, "cut off"),
        ("It is", 0, False, "cut off"),
        ("the pain and " * 20, 0, True, "looping"),
        ("pain " * 30 + "Answer: C", 4, True, "looping"),
        ("one two three four five six seven eight nine ten eleven twelve", 0, True, ""),
    ],
)
def test_why_a_message_cannot_be_used(text: str, options: int, ended: bool, fault: str) -> None:
    assert malformed(text, options, ended) == fault


@given(TEXTS, st.integers(0, len(LETTERS)), st.booleans())
def test_no_text_raises_and_a_letter_is_always_an_option(text: str, options: int, ended: bool) -> None:
    letter = parse_answer(text, options)
    assert letter is None or letter in LETTERS[:options]
    fault = malformed(text, options, ended)
    assert fault in ("", "empty", "looping", "cut off", "no answer", "several answers")
    if options and not fault:
        assert letter is not None


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz .\n", max_size=60), st.sampled_from(LETTERS[:10]))
def test_a_message_that_ends_by_the_rule_is_understood(body: str, letter: str) -> None:
    assert parse_answer(f"{body}\nAnswer: {letter}", 10) == letter
