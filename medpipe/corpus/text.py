"""Small text helpers that several corpus modules share: tidying, comparing, cutting.

What this leaves out: removal of markup or control tokens (text is data: whoever shows or tokenises it must treat it so).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_NOT_A_WORD = re.compile(r"[\W_]+")
POSSESSIVE = re.compile(r"['’]s\b")


def tidy(text: str) -> str:
    """Unicode NFC, every run of whitespace one space, no space before a question mark."""
    return " ".join(unicodedata.normalize("NFC", text).split()).replace(" ?", "?")


def compare_key(text: str) -> str:
    """The text without case, punctuation and spacing: two texts with equal keys count as the same."""
    return _NOT_A_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


@lru_cache(maxsize=100_000)  # the same names are asked for over and over
def focus_key(focus: str) -> str:
    """The normalised focus by which rows are split: like `compare_key`, and "Crohn's disease" equals "Crohn disease"."""
    return compare_key(POSSESSIVE.sub("", unicodedata.normalize("NFKC", focus))) or focus.strip()


def first_words(text: str, count: int = 8) -> str:
    """The first words, normalised: stands in for the focus where a source does not name one."""
    return " ".join(compare_key(text).split()[:count]) or text.strip()


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words, with an ellipsis where something was cut."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    return (kept.rpartition(" ")[0] or kept).rstrip(" ,;:") + "…"


def in_words(items: Sequence[str]) -> str:
    """`a, b and c`; with semicolons where an item holds a comma, and a comma before the last where an item holds an `and`."""
    if len(items) < 2:
        return "".join(items)
    comma = "; " if any("," in item for item in items) else ", "
    last = f"{comma}and " if any("," in item or " and " in item for item in items) else " and "
    return f"{comma.join(items[:-1])}{last}{items[-1]}"
