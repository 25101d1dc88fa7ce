"""How an answer is read off a message: once, for the workflow, the rewards, evaluation and serving.

    parse_answer("The findings point to it. Answer: asthma (B)", ("migraine", "asthma"))     # "B"

On multiple choice a message ends with `Answer:` and one option, its name and then its letter. Parsing is strict and never raises:
a malformed message is a counted outcome, neither an exception nor a silent zero. Left out: structured formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medpipe.schema import LETTERS, QAExample

_ANSWER = re.compile(r"\bAnswer:[ \t]*([^\n]*)", re.I)
_NAME_AND_LETTER = re.compile(r"(?P<name>.*?)\s*\((?P<letter>[A-Z])\)", re.I)
_LETTER = re.compile(r"\(?([A-Z])\)?", re.I)
NAME_WORDS = 8
"""Words of an option that an answer repeats; a longer option is cut there, and its letter tells the rest."""


def answer_text(question: QAExample, letter: str) -> str:
    """How a message ends that settles on this option: `Answer: asthma (B)`."""
    words = question.options[LETTERS.index(letter)].split()
    name = " ".join(words[:NAME_WORDS]) + ("…" if len(words) > NAME_WORDS else "")
    return f"Answer: {name} ({letter})"


def parse_answer(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a message settles on; None: no answer, or several."""
    letters = {_settle(claim, options) for claim in _claims(text)}
    return letters.pop() if len(letters) == 1 else None


def split_answer(text: str) -> tuple[str, str]:
    """What a message says before its last `Answer:`, and from there on; the second is empty where there is none."""
    found = list(_ANSWER.finditer(text))
    return (text[: found[-1].start()].rstrip(), text[found[-1].start() :].strip()) if found else (text, "")


def malformed(text: str, options: Sequence[str], ended: bool, forged: bool = False) -> str:
    """Why a message can't be used, or "" for a good one.

    One of "empty", "control token", "looping", "no answer", "several answers", "cut off".

    Args:
        options: the question's; empty for free text, which needs no answer line.
        ended: the message came to its end token.
        forged: it holds a control token before its end.
    """
    words = text.split()
    if not words:
        return "empty"
    if forged:
        return "control token"
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(triples) > 8 and len(set(triples)) < 0.5 * len(triples):
        return "looping"
    if options and parse_answer(text, options) is None:
        return "several answers" if len(set(_claims(text))) > 1 else "no answer"
    return "" if ended else "cut off"


def _claims(text: str) -> list[str]:
    return [claim.strip().rstrip(".").strip() for claim in _ANSWER.findall(text)]


def _settle(claim: str, options: Sequence[str]) -> str | None:
    """The letter that one answer line names: `name (C)`, `C`, `(C)` or the name alone.

    A name that is one option's decides: a reader takes the name, and a small model gets the letter behind it wrong first. Where the
    name is no option's, the letter decides if its option begins with the name.
    """
    allowed = LETTERS[: len(options)]
    both = _NAME_AND_LETTER.fullmatch(claim)
    name, letter = (both["name"], both["letter"].upper()) if both else (claim, "")
    if named := [own for own, option in zip(allowed, options, strict=True) if _is(name, option)]:
        return named[0] if len(named) == 1 else letter if letter in named else None
    if not both and (alone := _LETTER.fullmatch(claim)):
        name, letter = "", alone[1].upper()
    return letter if letter and letter in allowed and _plain(options[LETTERS.index(letter)]).startswith(_plain(name)) else None


def _is(name: str, option: str) -> bool:
    """Whether a name is the option's, whole or cut after NAME_WORDS words."""
    cut = " ".join(option.split()[:NAME_WORDS])
    return bool(_plain(name)) and _plain(name) in (_plain(option), _plain(cut))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s…]", text.casefold()))
