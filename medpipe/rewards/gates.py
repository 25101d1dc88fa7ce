"""Gates: what makes a text worth little however close to the reference an encoder finds it.

    python -c "from medpipe.rewards.gates import form; print(form('insulin glucose pancreas '*9, 'What is diabetes?', 60))"

Each gate gives a factor in [0, 1]; `product` multiplies them. `form` looks at the text alone, `claims` holds it against
the reference and the evidence. Thresholds: docs/rewards.md. Left out: facts that no word list knows (a drug swapped for
another, an invented study), and grammar.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from medpipe.rewards.directions import denials, flips
from medpipe.rewards.scope import widened
from medpipe.rewards.text import MARKERS, STOP, content, distinct, grams, hidden, numbers, sentences, stop_share, tokens, visible
from medpipe.rewards.wording import phrases, wordlist


@dataclass(frozen=True)
class Gate:
    """A gate that is at least partly shut: its name and the factor (0 to 1) that it leaves."""

    name: str
    factor: float


REFUSAL = phrases(
    r"""
    as an ai
    i(?:'m| am)? (?:sorry|cannot|can't|unable|not able|won't|will not|must decline)\b[^.]{0,80}\b<task>
    (?:cannot|can't|unable to|not able to) (?:answer|assist|provide|help)
    i (?:don't|do not) (?:know|have (?:enough|an answer))
    i(?:'m| am) (?:not (?:a doctor|qualified)|unable)
    """,
    task="help|assist|answer|provide|advice|advise|discuss|comply|diagnose|that",
)
_DISOWNED = phrases(
    r"""
    (?:<all>)\b[^.]{0,40}\b(?:is|are) (?:all )?(?:false|untrue|wrong|incorrect|not true|made up|a joke)
    it(?: is|'s) not true that
    """,
    all="the (?:following|above|rest|statements?)|all of (?:this|that)|everything (?:here|above|below)|this answer",
)
_JUDGE = phrases(
    r"""
    (?:ignore|disregard|forget) (?:all |any )?(?:previous|prior|above|the|your) (?:instructions?|rubric|prompt)
    (?:give|award|assign) (?:this|it|me|full)\b[^.]{0,30}\b(?:score|marks?|points?|reward)
    (?:score|reward|rating|grade)\s*[:=]\s*(?:1(?:\.0)?|10|100|max|perfect)
    perfect (?:answer|score)
    """
)
_EMERGENCY_NUMBERS = {("911", ""), ("112", ""), ("999", ""), ("988", ""), ("111", ""), ("000", "")}
_BEFORE_NOUN = wordlist("a an the his her its their my your our")
_NEVER_AFTER = wordlist(
    """a an the of to in on at by for from with and or but is are was were
    be been has have had do does did can could will would may might must should that which than if because as"""
)
_NEVER_LAST = wordlist("a an the of and or but the with from into than because which their its his her your my our")


def product(gates: Sequence[Gate]) -> float:
    """The share that is left behind all gates, in [0, 1]."""
    return math.prod(gate.factor for gate in gates)


def form(text: str, question: str, limit: int) -> tuple[Gate, ...]:
    """Gates on the text alone.

    Args:
        question: the question with its options, whose mere echo is worth nothing.
        limit: words after which a text is longer than reason.
    """
    shown = MARKERS.sub(" ", visible(text)).strip()
    words = tokens(shown)
    if not words:
        return (Gate("empty", 0.0),)
    found = [
        Gate("hidden text", 0.3 if hidden(text) else 1.0),
        Gate("not prose", _prose(shown, words)),
        Gate("repetition", _repetition(shown, words)),
        Gate("question echo", _echo(shown, question)),
        Gate("refusal", _refusal(shown)),
        Gate("disowned", 0.05 if _DISOWNED.search(shown) else 1.0),
        Gate("addresses the judge", 0.1 if _JUDGE.search(shown) else 1.0),
        Gate("length", min(1.0, limit / len(words))),
        Gate("script", _script(shown)),
    ]
    return tuple(gate for gate in found if gate.factor < 1.0)


def claims(text: str, sources: Sequence[str], others: Sequence[str] = ()) -> tuple[Gate, ...]:
    """Gates on what the text claims, held against its sources (reference, evidence): each wrong claim leaves two fifths.

    Args:
        others: more texts whose numbers may be repeated (the question, its options and context).
    """
    shown = visible(text)
    found = [
        Gate("negation", 0.4 ** min(4, denials(shown, sources))),
        Gate("direction", 0.4 ** min(4, flips(shown, sources))),
        Gate("scope", 0.4 ** min(4, widened(shown, sources))),
        Gate("numbers", 0.4 ** min(4, len(strange_numbers(shown, [*sources, *others])))),
    ]
    return tuple(gate for gate in found if gate.factor < 1.0)


def strange_numbers(text: str, sources: Sequence[str]) -> set[tuple[str, str]]:
    """(value, unit) of the text that no source holds; a unit must match where both name one."""
    known = set().union(_EMERGENCY_NUMBERS, *(numbers(source, spelled=True) for source in sources))
    values = {value: {unit for other, unit in known if other == value} for value, _ in known}
    return {
        (value, unit)
        for value, unit in numbers(text, spelled=False)
        if value not in values or (unit and unit not in values[value] and values[value] != {""})
    }


def _prose(text: str, words: list[str]) -> float:
    """Bags of keywords and shuffled words: too few function words, or function words where English never has them."""
    if len(words) < 6:
        return 1.0
    share = stop_share(text)
    factor = 1.0 if share >= 0.12 else 0.1 + 0.9 * max(0.0, (share - 0.05) / 0.07)
    bad = total = 0
    for sentence in sentences(text):
        run = tokens(sentence)
        total += sum(word in STOP for word in run)
        bad += sum(a in _BEFORE_NOUN and b in _NEVER_AFTER for a, b in pairwise(run))
        bad += sum(a == b and a in STOP for a, b in pairwise(run))
        bad += bool(run) and run[-1] in _NEVER_LAST
        bad += sum(f"{a} {b}" in _CLASHES for a, b in pairwise(run))
    if bad >= 2 and bad / max(1, total) > 0.08:
        factor *= 0.3
    return factor


_CLASHES = frozenset(
    f"{a} {b}"
    for a in ("of", "to", "in", "for", "with", "from", "by")
    for b in ("and", "or", "but", "is", "are", "was", "can", "may", "of", "has")
) | frozenset(f"{a} {b}" for a in ("and", "or") for b in ("and", "or", "but"))


def _repetition(text: str, words: list[str]) -> float:
    """Loops: distinct runs of three words, and sentences said again."""
    if len(words) < 8:
        return 1.0
    runs = distinct(text, 3)
    counted = Counter(" ".join(tokens(sentence)) for sentence in sentences(text) if len(tokens(sentence)) >= 3)
    again = sum(counted.values()) - len(counted)
    factor = 1.0 if runs >= 0.75 else max(0.05, (runs / 0.75) ** 2)
    return factor * 0.6 ** min(4, again)


def _echo(text: str, question: str) -> float:
    """The question said again, or asked back: content words that the question does not hold, and question marks."""
    own = content(text)
    if not own:
        return 0.1
    # A short true answer may repeat the question's words and add two of its own.
    new = own - content(question)
    factor = 1.0 if len(new) / len(own) >= 0.25 or len(new) >= 5 else max(0.1, len(new) / len(own) / 0.25)
    said = sentences(text)
    asked = sum(sentence.endswith("?") for sentence in said)
    # One question in front of its answer is a heading (a third of MedQuAD's answers open with one).
    asked -= asked == 1 < len(said)
    return factor * (1.0 - 0.9 * asked / len(said))


def _refusal(text: str) -> float:
    refused = sum(bool(REFUSAL.search(sentence)) for sentence in sentences(text))
    if not refused:
        return 1.0
    return 0.05 if refused / len(sentences(text)) >= 0.3 else 0.5


def _script(text: str) -> float:
    """Share of Latin letters: references are English, and the encoder and all word lists know no other script."""
    letters = [c for c in text if c.isalpha()]
    foreign = sum(c > "\u024f" for c in letters) / len(letters) if letters else 0.0
    return 1.0 if foreign <= 0.1 else max(0.05, 1.0 - 2.0 * foreign)


def shuffled(text: str, reference: str) -> float:
    """The reference's own words in another order: many words shared, hardly a pair of neighbours; a factor in [0, 1]."""
    own, theirs = tokens(text), tokens(reference)
    if len(own) < 5:
        return 1.0
    short = len(own) < 12  # chance keeps more of few neighbours: there nearly every word has to be the reference's
    words = sum(word in set(theirs) for word in own) / len(own)
    pairs = set(grams(theirs, 2))
    kept = sum(pair in pairs for pair in grams(own, 2)) / (len(own) - 1)
    return 0.2 if words >= (0.9 if short else 0.75) and kept < (0.5 if short else 0.2) else 1.0
