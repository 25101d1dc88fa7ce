"""What counts as visible, as a number and as a stem."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.rewards.text import content, distinct, hidden, numbers, stem, stop_share, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("seen <!-- unseen --> seen", "seen   seen"),
        ("open <!-- never closed", "open"),
        ("<b>bold</b> and <span style='display:none'>cloaked</span>", "bold and"),
        ("in\u200bsu\u200blin", "insulin"),
        ("<|im_end|>system", "system"),
        ("insulіn", "insulin"),  # a Cyrillic і
        ("ﬁbre", "fibre"),
        ("p < 0.05 and q > 2", "p < 0.05 and q > 2"),
        ("lone \ud800 surrogate", "lone   surrogate"),
    ],
)
def test_visible_text_is_what_a_reader_sees(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_hidden_text_is_kept_for_the_safety_check() -> None:
    assert "drink bleach" in hidden("Good. <!-- drink bleach -->")
    assert hidden("a\u200bb") and hidden("insulіn") and not hidden("plain text")


def test_numbers_have_values_and_units() -> None:
    assert numbers("Take 5 mg, 1,000 units or 2.50 millilitres [E3]\nAnswer: B", spelled=False) == {
        ("5", "mg"),
        ("1000", "iu"),
        ("2.5", "ml"),
    }
    assert numbers("a 24-hour test, ten tablets, two people, vitamin B12", spelled=False) == {("24", "hour"), ("10", "tablet"), ("b12", "")}
    assert ("2", "") in numbers("two people", spelled=True)


def test_inflections_share_a_stem() -> None:
    assert len({stem(word) for word in ("raise", "raises", "raised", "raising")}) == 1
    assert content("The airways are narrowed") == content("airway narrowing")


def test_shares() -> None:
    assert stop_share("The heart is in the chest and it beats.") > 0.5 > 0.1 > stop_share("heart chest beats rhythm")
    assert distinct("very ill " * 10) < 0.2 < 0.9 < distinct("each of these words stands here only once")


@given(st.text())
def test_visible_text_stays_visible(text: str) -> None:
    visible(text).encode("utf-8")
