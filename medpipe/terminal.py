"""Text from data or a model as a terminal may show it: what would move the cursor, colour or reorder is escaped.

    print(visible(row.question))

Line breaks and tabs stay. Left out: widths and wrapping, which rich does where a command prints tables.
"""

from __future__ import annotations

import re
from typing import Any

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of C0 and C1, those that reverse the direction of writing, and half a character, which no terminal can be sent."""


def visible(text: str) -> str:
    """The same text with every character that a terminal would obey written as its escape."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_values(value: Any) -> Any:
    """The same JSON value with every text in it made visible, for what prints its parts itself."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible_values(key): visible_values(each) for key, each in value.items()}
    return [visible_values(each) for each in value] if isinstance(value, list) else value
