"""What the reward's components read: the text a person would see, and its words, numbers, negations and repetition.

    python -c "from medpipe.rewards.text import visible; print(visible('a<!-- hidden -->b'))"

Everything here is a pure function over strings. What this leaves out: real parsing of grammar (English only, by word
lists and a light stemmer), and rendering of HTML or Markdown beyond the ways of hiding text that are named here.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from medpipe.rewards.wording import wordlist
from medpipe.roles import sentences

__all__ = [
    "MARKERS",
    "STOP",
    "abbreviations",
    "clauses",
    "content",
    "distinct",
    "grams",
    "hidden",
    "numbers",
    "reads_as_prose",
    "sentences",
    "spelled_out",
    "stem",
    "stop_share",
    "tokens",
    "visible",
]

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style|template)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.S | re.I)
_CLOAKED = re.compile(
    r"<(\w+)\b[^<>]*(?:display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|\shidden\b)[^<>]*>.*?(?:</\1\s*>|\Z)", re.S | re.I
)
_CONTROL = re.compile(r"<\|[^|<>]{0,40}\|>")
_BLOCK_TAG = re.compile(r"</?(?:p|br|div|li|ul|ol|h[1-6]|tr|td|table|hr)\b[^<>]{0,300}>", re.I)
_TAG = re.compile(r"</?[a-z][^<>]{0,300}>", re.I)
_ZERO_WIDTH = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\u00ad\ufeff\U000e0000-\U000e007f]")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,]\d+)*")
_LOOKALIKE = str.maketrans("аеорсухіјѕԁһӏοАВЕЅКМНОРСТІЈХУ", "aeopcyxijsdhloABESKMHOPCTIJXY")
"""Cyrillic and Greek letters that look like Latin ones; applied only to words that also hold Latin letters."""
_MIXED = re.compile(r"[^\W\d_]*(?:[a-z][Ѐ-ӿԀ-ԯο]|[Ѐ-ӿԀ-ԯο][a-z])[^\W\d_]*", re.I)

STOP = wordlist(
    """a about above after again against all also although am an and any are as at be because been before being below
    between both but by can cannot could did do does doing don't down during each either few for from further had has
    have having he her here hers him his how however i if in into is isn't it its itself just may me might more most
    much must my neither no nor not now of off often on once one only or other our out over own per rather same she
    should since so some such than that the their them then there these they this those through thus to too two under
    until up upon us usually very was we well were what when where whether which while who whom whose why will with
    within without would yes yet you your"""
)
"""Function words: about two fifths of English prose, close to none of a bag of keywords."""

_NUMBER_WORDS = {
    w: str(n)
    for n, w in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"))
}
_NUMBER_WORDS |= {"twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "ninety": "90", "hundred": "100"}
_UNIT = (
    r"%|percent|mg|milligrams?|mcg|micrograms?|g|grams?|kg|kilograms?|ml|millilit(?:re|er)s?|l|lit(?:re|er)s?|mmol/l|"
    r"mg/dl|mm ?hg|units?|iu|"
    r"tablets?|pills?|capsules?|doses?|times|seconds?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|cm|mm|degrees?|°c|°f"
)
_NUMBER = re.compile(rf"(?<![a-z\d.,])(?<![a-z]-)(\d+(?:,\d{{3}})*(?:\.\d+)?)(?:[ -]?({_UNIT})(?![a-z]))?", re.I)
_NAMED = re.compile(r"\b([a-z]{1,5})-?(\d{1,3})\b(?![.,]\d)", re.I)
"""Names with a number in them: H2, B12, T4, COVID-19."""
_SPELLED = re.compile(rf"\b({'|'.join(_NUMBER_WORDS)})(?:[ -]({_UNIT})(?![a-z]))?\b", re.I)
_UNIT_NAMES = {
    "percent": "%", "milligram": "mg", "microgram": "mcg", "gram": "g", "kilogram": "kg", "milliliter": "ml", "millilitre": "ml",
    "liter": "l", "litre": "l", "min": "minute", "hr": "hour", "mm hg": "mmhg", "unit": "iu",
}  # fmt: skip
MARKERS = re.compile(r"\[E\d+\]|^\s*\d{1,2}[.)]\s|\banswer\s*:|\([A-Z]\)", re.I | re.M)
"""Citations, numbers of list items, and what marks an answer, `Answer:` and `(B)`: form, not content."""
_CLAUSE = re.compile(r"[,;:()]|\b(?:but|although|while|whereas|however|unless|if|when|because)\b", re.I)
_DEFINED = re.compile(r"((?:[\w'-]+ ){1,8})\(([A-Z]{2,7})s?\)")
"""A name and its initials in brackets."""


@lru_cache(maxsize=4096)
def visible(text: str) -> str:
    """The text as a reader would see it: no comments, tags, cloaked elements, control tokens or zero-width characters; NFKC.

    Letters that only look Latin become Latin in words that mix the scripts. Lone surrogates and control characters go.
    """
    text = _CONTROL.sub(" ", _CLOAKED.sub(" ", _COMMENT.sub(" ", text)))
    text = html.unescape(_TAG.sub("", _BLOCK_TAG.sub(" ", text)))
    text = unicodedata.normalize("NFKC", _ZERO_WIDTH.sub("", text)).replace("\u2019", "'")
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\n\t" else c for c in text)
    return _MIXED.sub(lambda match: match.group().translate(_LOOKALIKE), text).strip()


def hidden(text: str) -> str:
    """What `visible` took away and a reader may still meet: comments' and cloaked elements' words, a mark per trick used."""
    found = [match.group() for pattern in (_COMMENT, _CLOAKED, _CONTROL) for match in pattern.finditer(text)]
    found += ["(zero-width characters)"] if _ZERO_WIDTH.search(html.unescape(text).strip("\ufeff")) else []
    found += ["(look-alike letters)"] if _MIXED.search(text) else []
    return " ".join(re.sub(r"<!--|-->|</?[a-z][^<>]*>", " ", part).strip() or "(empty)" for part in found)


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers of the visible text, in order."""
    return list(_tokens(text))


@lru_cache(maxsize=16384)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(visible(text).lower()))


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A light stemmer: enough that `raises`, `raised` and `raising` are one word."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed", "ly"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


def stems(text: str) -> list[str]:
    """Stems of the content words, in order: no function words, no numbers, three letters or more."""
    return [stem(word) for word in tokens(text) if len(word) > 2 and word not in STOP and not word[0].isdigit()]


def content(text: str) -> frozenset[str]:
    """The set of stems of the content words."""
    return _content(text)


@lru_cache(maxsize=16384)
def _content(text: str) -> frozenset[str]:
    return frozenset(stems(text))


@lru_cache(maxsize=16384)
def numbers(text: str, *, spelled: bool) -> frozenset[tuple[str, str]]:
    """(value, unit) of every number; unit "" where there is none. Citations, list markers and answer letters don't count.

    Args:
        spelled: count `two` as 2 too; otherwise only where a unit follows (`ten mg`).
    """
    text = MARKERS.sub(" ", visible(text))
    found = {(_value(match.group(1)), _unit(match.group(2))) for match in _NUMBER.finditer(text)}
    found |= {(match.group(1).lower() + match.group(2), "") for match in _NAMED.finditer(text)}
    for match in _SPELLED.finditer(text):
        if spelled or match.group(2):
            found.add((_NUMBER_WORDS[match.group(1).lower()], _unit(match.group(2))))
    return frozenset(found)


def _value(digits: str) -> str:
    plain = digits.replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain.lstrip("0") or "0"


def _unit(unit: str | None) -> str:
    name = (unit or "").lower()
    name = name if name in ("mg", "g", "l", "°c") else name.removesuffix("s")
    return _UNIT_NAMES.get(name, name)


def clauses(sentence: str) -> list[str]:
    """Split a sentence where a negation's reach ends: at commas, colons, brackets, `but`, `if` and their like."""
    return [part for part in _CLAUSE.split(sentence) if part.strip()]


def abbreviations(text: str) -> dict[str, str]:
    """Initials that a text explains, and what they stand for: `deep vein thrombosis (DVT)`."""
    found: dict[str, str] = {}
    for match in _DEFINED.finditer(text):
        words, short = match.group(1).split(), match.group(2)
        for size in range(1, len(words) + 1):
            if initials_of(" ".join(words[-size:])) == short:
                found.setdefault(short, " ".join(words[-size:]))
                break
    return found


def initials_of(name: str) -> str:
    """First letters of a name's words: `deep vein thrombosis` gives DVT."""
    return "".join(part[0] for part in re.findall(r"[A-Za-z]+", name)).upper()


def spelled_out(text: str, meanings: Mapping[str, str]) -> str:
    """The text with initials written out, except where they stand in brackets."""
    if not meanings:
        return text
    pattern = re.compile(rf"(?<!\()\b({'|'.join(map(re.escape, meanings))})(?:s\b|\b)")
    return pattern.sub(lambda match: meanings[match.group(1)], text)


def stop_share(text: str) -> float:
    """Share of function words among the words; 0 for an empty text."""
    found = [word for word in tokens(text) if not word[0].isdigit()]
    return sum(word in STOP for word in found) / len(found) if found else 0.0


def grams(words: list[str], size: int) -> list[tuple[str, ...]]:
    """All runs of `size` neighbouring words."""
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def distinct(text: str, size: int = 3) -> float:
    """Distinct runs of `size` words over all of them, in [0, 1]; 1 for a text shorter than that."""
    runs = grams(tokens(text), size)
    return len(set(runs)) / len(runs) if runs else 1.0


def reads_as_prose(sentence: str) -> bool:
    """True for something that could be a sentence: four words or more, a fifth of them function words."""
    return len(tokens(sentence)) >= 4 and stop_share(sentence) >= 0.2
