"""What a message says, read strictly: parsing never raises, and what can't be read is counted.

A malformed message is a counted outcome, neither an exception nor a silent zero. Left out: structured formats.
"""

from __future__ import annotations

import re

from medpipe.schema import LETTERS

# No word may follow on the line: "A fever" and "I'm not sure" name no option. The same for all letters, so that none is favoured.
_ANSWER = re.compile(r"\bAnswer:\s*\(?([A-Z])\b(?!['’]|[ \t]+\w)", re.I)


def parse_answer(text: str, options: int) -> str | None:
    """The one letter a message settles on, or None: no answer, an impossible letter, or several different ones."""
    letters = {letter.upper() for letter in _ANSWER.findall(text)}
    return letters.pop() if len(letters) == 1 and letters <= set(LETTERS[:options]) else None


def malformed(text: str, options: int, ended: bool) -> str:
    """Why a message can't be used: "empty", "looping", "cut off", "no answer", "several answers"; or "" for a good one."""
    words = text.split()
    if not words:
        return "empty"
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(triples) > 8 and len(set(triples)) < 0.5 * len(triples):
        return "looping"
    if options and parse_answer(text, options) is None:
        return "several answers" if len(_ANSWER.findall(text)) > 1 else "no answer"
    return "" if ended else "cut off"
