"""Text helpers, by tables of input and output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.corpus.text import clip, first_words, focus_key, in_words, tidy


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a and b", "c"], "a and b, and c"),
        (["a, b", "c", "d"], "a, b; c; and d"),
    ],
)
def test_in_words(items: list[str], text: str) -> None:
    assert in_words(items) == text


@given(st.text(max_size=80), st.integers(2, 40))
def test_clip_keeps_to_its_limit(text: str, limit: int) -> None:
    assert len(clip(text, limit)) <= limit
    assert clip(text, 80) == text


@given(st.text(max_size=60))
def test_tidy_twice_changes_nothing(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


def test_keys() -> None:
    assert focus_key("  Parkinson’s   Disease ") == focus_key("parkinson disease") == "parkinson disease"
    assert focus_key("???") == "???"
    assert first_words("A 50-year-old man, with pain in the chest and arm") == "a 50 year old man with pain in"
