"""How a question is written out, and how an answer is read off a message: once, for the team, the rewards, evaluation and serving.

    parse_answer("The findings point to it. Answer: asthma (B)", ("migraine", "asthma"))     # "B"

On multiple choice a message ends with `Answer:` and one option, its name and then its letter, as the options stand in the question.
Parsing is strict and never raises: a malformed message is a counted outcome, neither an exception nor a silent zero.
Left out: structured formats, and options that hold the word `Answer:` themselves, which can't be told from a second answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medpipe.schema import LETTERS, QAExample

_ANSWER = re.compile(r"\bAnswer:[ \t]*((?:(?!\bAnswer:)[^\n])*)", re.I)
_NAME_AND_LETTER = re.compile(r"(?P<name>.*?)\s*\((?P<letter>[A-Za-z])\)")
SYSTEM = "Planner, researcher, analyst and reporter answer a medical question together."
CHOOSE, WRITE = "Choose one option: end with Answer: and its name.", "No options: write the answer."
"""The header's first and last lines. The last says what kind of answer is wanted, next to the turns, where a small model looks."""
NAME_CHARS = 48
"""Characters of an option that an answer repeats; a longer option is cut there, and its letter tells the rest."""


def option_text(question: QAExample, letter: str) -> str:
    """An option as it stands in a question: `asthma (B)`."""
    return f"{question.options[LETTERS.index(letter)]} ({letter})"


def question_lines(question: QAExample) -> str:
    """Context passages (PubMedQA), the question and its options, one a line."""
    parts = [*question.context, f"Question: {question.question}"]
    if question.is_choice:
        parts += ["Options:", *(option_text(question, letter) for letter in LETTERS[: len(question.options)])]
    return "\n".join(parts)


def answer_text(question: QAExample, letter: str) -> str:
    """How a message ends that settles on this option: `Answer: asthma (B)`."""
    return f"Answer: {short_name(question.options[LETTERS.index(letter)])} ({letter})"


def short_name(option: str) -> str:
    """An option as answers repeat it. A long one is cut between words or behind a hyphen: some diseases' names have few blanks."""
    name = " ".join(option.split())
    if len(name) <= NAME_CHARS:
        return name
    ends = [found.end() for found in re.finditer(r"-|(?= )", name) if found.end() <= NAME_CHARS]
    return name[: ends[-1] if ends else NAME_CHARS].rstrip(" ,;:-") + "…"


def parse_answer(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a message settles on; None: no answer, or several."""
    letters = {_settle(claim, options) for claim in claims(text)}
    return letters.pop() if len(letters) == 1 else None


def claims(text: str) -> list[str]:
    """What stands behind each `Answer:`, up to the next one or the line's end."""
    return [claim.strip().rstrip(".").strip() for claim in _ANSWER.findall(text)]


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
        return "several answers" if len(set(claims(text))) > 1 else "no answer"
    return "" if ended else "cut off"


def _settle(claim: str, options: Sequence[str]) -> str | None:
    """The letter that one answer names: `name (C)`, `C`, `(C)` or the name alone.

    A name that is one option's decides, whatever letter stands behind it: a reader takes the name, and a small model gets the
    letter wrong first. Where the name is no option's (`IBS (F)`), the letter decides.
    """
    lettered = list(zip(LETTERS, options, strict=False))
    named = [letter for letter, option in lettered if claim and _plain(claim) == _plain(option)]
    if both := _NAME_AND_LETTER.fullmatch(claim):
        letter = both["letter"].upper()
        name = _plain(both["name"])
        if any(letter == own and (not both["name"] or _is(both["name"], option)) for own, option in lettered):
            return letter  # name and letter: what the format asks for goes before any other reading
        by_name = [own for own, option in lettered if _is(both["name"], option)]
        if named or by_name:
            return (named or by_name)[0] if len(named or by_name) == 1 else None
        others = [_plain(option) for own, option in lettered if own != letter]
        hedges = _NAME_AND_LETTER.search(both["name"]) or any(other and other in name for other in others)
        return letter if not hedges and letter in LETTERS[: len(options)] else None
    if len(claim) == 1 and claim.upper() in LETTERS[: len(options)]:
        return claim.upper() if named in ([], [claim.upper()]) else None  # options may be called "A" and "B" themselves
    return named[0] if len(named) == 1 else None


def _is(name: str, option: str) -> bool:
    """Whether a name is the option's, whole or as answers cut it."""
    return _plain(name) in (_plain(option), _plain(short_name(option)))


def _plain(text: str) -> str:
    """Words and marks alone: case, blanks, a cut's `…` and a last full stop tell nothing."""
    return " ".join(re.findall(r"\w+|[^\w\s…]", text.casefold().rstrip(" .…")))
