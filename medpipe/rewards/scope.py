"""Scope and certainty: where a text claims more than its sources do (some → all, may → will, often → always).

    python -c "from medpipe.rewards.scope import widened; print(widened('All patients die.', ['Some patients die.']))"

One way only: a text that claims less (`often`, `may`) is cautious, not wrong. The words are written for this project from
general English. What this leaves out: claims that are widened by leaving a hedge away (`may cause` → `causes`), which honest
summaries do all the time, and scope that no listed word carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from medpipe.rewards.text import content, sentences, tokens
from medpipe.rewards.wording import phrases, wordlist

_WEAK = wordlist("all every everyone everybody each any will must whole entire everywhere")
"""Words that widen a claim only where the source's own sentence is hedged."""
_STRONG = phrases(
    r"""
    always|certainly|definitely|surely|undoubtedly|invariably|inevitably|absolutely|unquestionably|without (?:exception|doubt|fail)
    in (?:every|all|each) (?:single )?(?:cases?|patients?|people|persons?)|no doubt|100 ?(?:%|percent)|every single|never
    """
)
"""Words that widen a claim wherever the source says the same without them."""
_NOT_WIDE = phrases(
    r"""
    (?:not|never|hardly|almost|nearly|doesn't|don't|isn't|aren't|won't) (?:\w+ )?(?:always|all|every\w*|each|any)
    after all|all (?:over|of (?:these|them|this))|at all|any (?:other|of)|or any|if any
    """
)
_HEDGED = phrases(
    r"""
    some|many|most|several|few|certain|may|might|can|could|often|usually|sometimes|commonly|generally|typically|frequently|rarely
    occasionally|likely|possibly|probably|perhaps|tends?|about|around|approximately|up to|nearly|almost|in part|partly|mainly|mostly
    a (?:number|minority|majority|part|portion|quarter|third) of|half|percent|%|not (?:all|every\w*|always)|unless|except
    """
)
ALIKE = 0.6
"""Share of the sentence's content words that a source's sentence must hold to say the same thing."""


@lru_cache(maxsize=16384)
def _wide(sentence: str) -> tuple[frozenset[str], bool, bool]:
    """(weak wide words, strong ones?, hedged?) of a sentence."""
    plain = _NOT_WIDE.sub(" ", sentence)
    return frozenset(word for word in tokens(plain) if word in _WEAK), bool(_STRONG.search(plain)), bool(_HEDGED.search(sentence))


def widened(text: str, sources: Sequence[str]) -> int:
    """How many sentences of the text hold a word for `all` or `certain` that no source sentence on the same thing holds."""
    known = [(content(sentence), *_wide(sentence)) for source in sources for sentence in sentences(source)]
    count = 0
    for sentence in sentences(text):
        weak, strong, _ = _wide(sentence)
        own = content(sentence)
        if not own or sentence.endswith("?") or not (weak or strong):
            continue
        same = [found for found in known if len(own & found[0]) >= max(2.0, ALIKE * len(own))]
        if not same or any(
            their_strong and len(own & theirs) >= ALIKE * min(len(own), len(theirs)) for theirs, _, their_strong, _ in known
        ):
            continue
        wider = weak - frozenset().union(*(their_weak for _, their_weak, _, _ in same))
        nearest = max(same, key=lambda found: len(own & found[0]) / len(own | found[0]))
        count += strong or bool(wider and nearest[3])
    return count
