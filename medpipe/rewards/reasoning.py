"""Clinical reasoning (weight 0.05): do findings lead over a link to a conclusion?

    from medpipe.rewards.reasoning import reasoning

Source: design for this project ('clinical reasoning' of the SageMaker guide's 'Reward System').
A link (`because`, `therefore`, `suggests`, …) counts where one side speaks of the question or the evidence and the other
side adds something, so linking words alone earn nothing.
Known weaknesses: form, not validity: a wrong inference in good form counts; reasoning without any linking word is not seen.
"""

from __future__ import annotations

from itertools import pairwise

from medpipe.rewards.text import content, reads_as_prose, sentences, tokens, visible
from medpipe.rewards.wording import phrases

ENOUGH = 2  # grounded links after which more earn nothing
_LINK = phrases(
    r"""
    because|therefore|thus|hence|so that|which means|this means|as a result|consequently|since|due to|leads? to|results? in|explains?
    suggests?|indicates?|implies|points? to|consistent with|supports?|fits?|conclusion|makes? \w+ (?:more |less |un)?likely|rules? out
    argues? (?:for|against)
    """
)


def reasoning(text: str, known: str) -> float:
    """How much of findings → link → conclusion a text holds, in [0, 1].

    Three fifths for grounded links (two are enough), two fifths for how well neighbouring sentences hang together; times
    the share of linking words that link something.

    Args:
        known: what there is to reason from: question, options, evidence, earlier messages.
    """
    said = [sentence for sentence in sentences(visible(text)) if tokens(sentence)]
    given = content(known)
    links = grounded = 0
    for place, sentence in enumerate(said):
        for match in _LINK.finditer(sentence):
            links += 1
            before, after = content(sentence[: match.start()]), content(sentence[match.end() :])
            if not before and place:  # "Therefore …": the finding stands in the sentence before
                before = content(said[place - 1])
            grounded += reads_as_prose(sentence) and _joins(before, after, given)
    if not grounded:
        return 0.0
    neighbours = [bool(content(a) & content(b)) or bool(_LINK.search(b)) for a, b in pairwise(said)]
    chain = sum(neighbours) / len(neighbours) if neighbours else 0.5
    return min(1.0, grounded / ENOUGH) * (0.6 + 0.4 * chain) * (grounded / links)


def _joins(one: frozenset[str], other: frozenset[str], given: frozenset[str]) -> bool:
    """One side rests on what is given (two words, or all it has), the other adds at least one word of its own."""
    rests = len(one & given) >= min(2, len(one)) or len(other & given) >= min(2, len(other))
    return bool(one) and bool(other) and rests and bool(other - one) and bool(one - other)
