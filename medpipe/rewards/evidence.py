"""Evidence quality (weight 0.05): do the citations [E1], [E2] … exist, and do they say what they are cited for?

    from medpipe.rewards.evidence import evidence

Source: design for this project ('evidence quality' of the SageMaker guide's 'Reward System').
Known weaknesses: support is shared content words, numbers and directions, not entailment; nothing is said about whether
the passage itself is good evidence. Everybody reads the passages and may cite them; leaving them out is a fault only of
the roles whose task it is to cite (`asked`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medpipe.rewards.gates import claims, product
from medpipe.rewards.text import content, grams, sentences, tokens, visible

NEUTRAL = 0.5
SUPPORT = 0.5  # share of a cited sentence's content words in the passage that counts as full support
_CITED = re.compile(r"\[E(\d{1,4})\]", re.I)


def evidence(text: str, reference: str, passages: Sequence[str], *, asked: bool = True) -> float:
    """Mean support of the text's citations, invented ones counting against it, in [0, 1].

    Args:
        reference: the reference answer: a passage that shares three content words with it was there to be cited.
        passages: [E1] is the first.
        asked: False for a role that may cite and need not.

    Returns:
        `NEUTRAL` without citations where none could be expected (no passage given, none that bears on the question, or
        a role that need not cite); 0 without citations otherwise. A cited sentence copied from its passage earns at most half.
    """
    shown = visible(text)
    if not tokens(shown):
        return 0.0
    cited = cited_sentences(shown)
    if not cited:
        useful = any(len(content(passage) & content(reference)) >= 3 for passage in passages)
        return 0.0 if useful and asked else NEUTRAL
    total = 0.0
    for sentence, number in cited:
        total += _support(sentence, passages[number - 1]) if 1 <= number <= len(passages) else -1.0
    return max(0.0, total / len(cited))


def cited_sentences(text: str) -> list[tuple[str, int]]:
    """(sentence without its marks, cited number); a mark that stands alone belongs to the sentence before it."""
    found: list[tuple[str, int]] = []
    previous = ""
    for sentence in sentences(text):
        bare = " ".join(_CITED.sub(" ", sentence).split())
        leading = _CITED.match(sentence)
        if leading and previous:
            found.append((previous, int(leading.group(1))))
            sentence = sentence[leading.end() :]
        found += [(bare or previous, int(number)) for number in _CITED.findall(sentence)]
        previous = bare if tokens(bare) else previous
    return found


def _support(sentence: str, passage: str) -> float:
    own = content(sentence)
    shared = own & content(passage)
    if len(shared) < 2:
        return 0.0
    runs = grams(tokens(sentence), 5)
    known = set(grams(tokens(passage), 5))
    copied = sum(run in known for run in runs) / len(runs) if runs else 0.0
    return min(1.0, len(shared) / len(own) / SUPPORT) * product(claims(sentence, [passage])) * (1.0 - 0.5 * copied)
