"""A plain reward of the kind that earlier systems used: a contrast for the audit, and used for nothing else.

    from medpipe.rewards.plain import plain_rewards

Its parts are: cosine of the whole text to the reference, keywords of the reference counted, a bonus for sending the reader
to a doctor, team-mates named, citation words, linking words; on multiple choice the answer is right or wrong. The
weights are the project's own. There is no gate and no penalty, which is the point: docs/rewards.md shows what that is
worth. What this leaves out: everything that medpipe/rewards/compose.py adds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medpipe.config import Rewards
from medpipe.rewards.compose import COMPONENTS, Message, normalised
from medpipe.rewards.similarity import Similarity

_DOCTOR = re.compile(r"\b(?:consult|doctor|physician|professional|clinician)\b", re.I)
_MATES = re.compile(r"\b(?:planner|researcher|analyst|reporter|team)\b", re.I)
_CITES = re.compile(r"\[E\d+\]|\b(?:study|studies|evidence|research|trial)\b", re.I)
_LINKS = re.compile(r"\b(?:because|therefore|since|thus|due to|suggests|indicates)\b", re.I)
_KEYWORD = re.compile(r"[a-z]{6,}")
ENOUGH = 10  # keywords of the reference that earn the whole of relevance


def plain_rewards(messages: Sequence[Message], weights: Rewards, similarity: Similarity) -> list[float]:
    """A number in [0, 1] for each message, in order."""
    cosines = similarity.pairs([(message.text, message.question.answer_text) for message in messages])
    totals = []
    for message, cosine in zip(messages, cosines, strict=True):
        parts = _parts(message, cosine)
        shares = normalised(weights, choice=message.question.is_choice)
        totals.append(sum(shares[name] * parts[name] for name in COMPONENTS))
    return totals


def _parts(message: Message, cosine: float) -> dict[str, float]:
    text, question = message.text, message.question
    wanted = set(_KEYWORD.findall(f"{question.answer_text} {question.rationale}".lower()))
    used = len(wanted & set(_KEYWORD.findall(text.lower())))
    right = float(message.answer == question.answer)
    return {
        "accuracy": right if question.is_choice else cosine,
        "relevance": min(1.0, used / max(1, min(ENOUGH, len(wanted)))),
        "safety": 1.0 if _DOCTOR.search(text) else 0.5,
        "collaboration": 1.0 if _MATES.search(text) else 0.5,
        "evidence": 1.0 if _CITES.search(text) else 0.5,
        "reasoning": min(1.0, len(_LINKS.findall(text)) / 2),
    }
