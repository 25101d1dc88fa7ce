"""Accuracy (weight 0.35): is the answer what the reference says?

    from medpipe.rewards.accuracy import comparisons, text_accuracy, choice_accuracy

Source: design for this project; semantic similarity and exact match as in the SageMaker guide's 'Reward System'.
Free text: cosine measures topic, not truth (measured: a fully negated reference scores 0.98), so it is taken sentence by
sentence over the whole text, stretched and capped, and stands behind the gates of medpipe/rewards/gates.py.
Multiple choice: the letter that medpipe/answers.py reads is the key's, or it is not.
Known weaknesses: a false statement in words that no list knows (one drug swapped for another) still counts as near its
topic; an honest answer that draws on facts the reference lacks scores low; English only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from medpipe.answers import claims, parse_answer
from medpipe.rewards.text import MARKERS, content, sentences, tokens, visible
from medpipe.rewards.wording import phrases
from medpipe.schema import LETTERS, QAExample

PIECE = 240  # characters of one comparison: below the encoder's 256 tokens however odd the text
LEAD = 8  # reference pieces that an answer is asked to cover: what a reporter's token budget can say
FLOOR, CAP = 0.30, 0.90  # cosines between unrelated medical sentences, and between honest paraphrases
_RULED_OUT = phrases(
    r"""
    not|no|unlike|unlikely|less likely|rather than|instead of|rules? out|ruled out|excludes?|against|without|neither|nor|\w+n't
    """
)


def pieces(text: str) -> list[str]:
    """The visible text as sentences, long ones cut into parts of at most `PIECE` characters, so that nothing is unseen."""
    parts: list[str] = []
    for sentence in sentences(MARKERS.sub(" ", visible(text))):
        while len(sentence) > PIECE:
            cut = sentence.rfind(" ", 1, PIECE)
            cut = cut if cut > 0 else PIECE
            parts.append(sentence[:cut].strip())
            sentence = sentence[cut:].strip()
        parts.append(sentence)
    return [part for part in parts if tokens(part)]


def comparisons(text: str, reference: str) -> list[tuple[str, str]]:
    """Every (piece of the text, piece of the reference) that `text_accuracy` will look up."""
    theirs = pieces(reference)
    return [(mine, other) for mine in dict.fromkeys(pieces(text)) for other in theirs]


def text_accuracy(text: str, reference: str, cosines: Mapping[tuple[str, str], float]) -> float:
    """Free text: half precision, half coverage, before gates; a float in [0, 1].

    Precision is the mean over the text's pieces of their best match in the reference, so anything appended lowers it.
    Coverage is the mean over the reference's first `LEAD` pieces of their best match in the text.

    Args:
        cosines: similarity of each pair of `comparisons(text, reference)`.
    """
    mine, theirs = pieces(text), pieces(reference)
    if not mine or not theirs:
        return 0.0
    precision = _mean([max(_stretch(cosines[piece, other]) for other in theirs) for piece in mine])
    coverage = _mean([max(_stretch(cosines[piece, other]) for piece in mine) for other in theirs[:LEAD]])
    return 0.5 * precision + 0.5 * coverage


def choice_accuracy(text: str, question: QAExample, answer: str | None) -> float:
    """Multiple choice: 1.0 where the parsed letter is the key's and the text settles on one option, else 0.0."""
    return float(answer == question.answer and not unsettled(text, question))


def unsettled(text: str, question: QAExample) -> bool:
    """True for a text whose visible answer lines don't settle on one option, or that names all options without ruling any out."""
    shown = visible(text)
    if claims(shown) and parse_answer(shown, [visible(option) for option in question.options]) is None:
        return True
    said = [sentence for sentence in sentences(shown) if not _RULED_OUT.search(sentence)]
    named = sum(
        any(_names(sentence, letter, option) for sentence in said) for letter, option in zip(LETTERS, question.options, strict=False)
    )
    return len(question.options) > 2 and named == len(question.options)


def _names(sentence: str, letter: str, option: str) -> bool:
    """The option's words, or its letter as a letter, stand in the sentence (`A` only in brackets or before one: the article)."""
    wanted = content(option)
    if wanted and wanted <= content(sentence):
        return True
    return bool(
        re.search(rf"\(?\b{letter}\)|\boption {letter}\b|\b{letter}\b(?=\s*(?:,|/|or\b|and\b))|(?:\bor|\band|,|/)\s*{letter}\b", sentence)
    )


def _stretch(cosine: float) -> float:
    return min(1.0, max(0.0, (cosine - FLOOR) / (CAP - FLOOR)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
