"""What cleaning changes in a row's text, step by step, so that every change can be shown.

    repaired, changes = repair(row)      # changes: (field, step, before, after)

- unicode: mojibake, HTML entities, ligatures and control characters (ftfy), in all fields;
- key points, list marks, echo, page words: layout that MedQuAD's web pages left in answers;
- spaces: Unicode NFC, single spaces, none before a question mark.
No word of the content is replaced or added. What this leaves out: apostrophes that the publisher lost ("the bodys").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from medpipe.corpus.shingles import LITTLE, word_list
from medpipe.corpus.text import tidy
from medpipe.schema import QAExample

_SUSPECT = re.compile(r"[&\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # what ftfy would look at in plain ASCII
_KEY_POINTS = re.compile(r"\A\s*Key Points\s*\n.*?\n\s*\n(?=\s*\S)", re.DOTALL)
_LIST_MARK = re.compile(r"\s\s+-\s+(?=\S)")
_FIRST_MARK = re.compile(r"\A\s*-\s+(?=\S)")
_FIRST_QUESTION = re.compile(r"\A\s*([^.?!\n]{3,250}\?)\s+(?=\S)")
_PAGE_WORDS = re.compile(
    r"\(Watch the video.*?keyboard\.\)"
    r"|\bYou can use the MedlinePlus Medical Dictionary to look up the definitions for these medical terms\."
    r"|\bIf the information is available, the table below includes how often the symptom is seen in people with this condition\."
    r"|(?<![a-z] )\b(?:Please )?[Cc]lick here\b[^.]*\.(?=\s|\Z)",
    re.DOTALL,
)
_PAGE_SIGNS = ("Watch the video", "MedlinePlus Medical Dictionary", "table below", "lick here")  # spares the slow search
_NOTHING = re.compile(r"\A\W*(?:frequently asked que+stions?|see the [^.]{3,200} for (?:more )?information)\b", re.IGNORECASE)
ECHOED = 0.6  # share of the words of an answer's opening question that the row's own question holds
LONG = 400  # characters beyond the question's: such an answer says something
NEW_WORDS = 2  # telling words that an answer must have beyond its question


class Change(NamedTuple):
    """One step that changed one field."""

    field: str
    step: str
    before: str
    after: str


def repair(row: QAExample) -> tuple[QAExample, list[Change]]:
    """The row with its texts repaired, and what was changed."""
    changes: list[Change] = []

    def through(field: str, text: str, *steps: tuple[str, Callable[[str], str]]) -> str:
        for name, step in (("unicode", _unicode), *steps, ("spaces", tidy)):
            if (after := step(text)) != text:
                changes.append(Change(field, name, text, after))
                text = after
        return text

    question = through("question", row.question)
    layout = (
        ("key points", _without_key_points), ("list marks", _without_list_marks),
        ("echo", lambda text: _without_echo(text, question)), ("page words", _without_page_words),
    )  # fmt: skip
    repaired = {
        "question": question,
        "answer": through("answer", row.answer, *(() if row.is_choice else layout)),
        "focus": through("focus", row.focus) or row.focus,
        "category": through("category", row.category) or "general",
        "rationale": through("rationale", row.rationale),
        "options": tuple(through(f"option {number}", option) for number, option in enumerate(row.options, 1)),
    }
    return row.model_copy(update=repaired) if changes else row, changes


def says_nothing(question: str, answer: str) -> bool:
    """True for an answer that only repeats its question, or only names another page."""
    if _NOTHING.match(answer):
        return True
    if len(answer) > len(question) + LONG:
        return False
    return len(set(word_list(answer)) - LITTLE - set(word_list(question))) < NEW_WORDS


def names_nothing(question: str) -> bool:
    """True for a question without a word that tells what it is about ("What is it?")."""
    return not set(word_list(question)) - LITTLE


def _unicode(text: str) -> str:
    if text.isascii() and not _SUSPECT.search(text):
        return text
    import ftfy

    return ftfy.fix_text(text, uncurl_quotes=False, max_decode_length=1 << 20)


def _without_key_points(text: str) -> str:
    """Cancer.gov opens an answer with the headings of what follows."""
    return _KEY_POINTS.sub("", text, count=1)


def _without_list_marks(text: str) -> str:
    """Items stay, as sentences or parted by semicolons."""

    def joint(match: re.Match[str]) -> str:
        return " " if text[match.start() - 1] in ".!?:;," else "; "

    text = _FIRST_MARK.sub("", text)
    return _LIST_MARK.sub(joint, text)


def _without_page_words(text: str) -> str:
    """Sentences that speak of the web page: videos, tables, links."""
    return _PAGE_WORDS.sub(" ", text) if any(sign in text for sign in _PAGE_SIGNS) else text


def _without_echo(text: str, question: str) -> str:
    """GARD's answers open with the question in other words."""
    match = _FIRST_QUESTION.match(text)
    if not match:
        return text
    words, asked = set(word_list(match[1])) - LITTLE, set(word_list(question))
    return text[match.end() :] if len(words & asked) >= ECHOED * len(words) else text
