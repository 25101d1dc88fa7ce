"""Collaboration (weight 0.15): does the text build on what earlier roles said in this round?

    from medpipe.rewards.collaboration import collaboration

Source: design for this project ('collaboration' of the SageMaker guide's 'Reward System').
What counts: content words that team-mates brought and the question did not, used in words of one's own. Naming roles
earns nothing, nor does repeating a team-mate.
Whoever speaks first (the planner) has nobody to build on and gets `NEUTRAL`: no incentive either way.
Known weaknesses: using a team-mate's *wrong* content counts the same (the accuracy factor of medpipe/rewards/compose.py
answers that); words are compared, not ideas, so a thorough paraphrase may look like no use at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from medpipe.rewards.text import content, grams, stem, tokens
from medpipe.rewards.wording import wordlist
from medpipe.roles import Said

NEUTRAL = 0.5
ENOUGH = 6  # content words of team-mates after which more earn nothing
RUN = 4  # words in a row that make a copy
QUOTED = 0.4  # the most that words in copied runs can earn
_TALK = frozenset(
    stem(word)
    for word in wordlist(
        """planner researcher analyst reporter team teammate colleague role agree agrees agreed said says say told mention mentioned
        according thank great good work plan planned type focus look list finding findings conclusion passage evidence cite cited
        answer answers option question best bear bears fit fits research analysis analyse report provide provided note noted"""
    )
)
"""Words about the talk itself: using them is no use of anybody's content."""


def collaboration(text: str, question: str, said: Sequence[Said]) -> float:
    """Share of enough team-mates' content that the text uses beyond copying, in [0, 1].

    Args:
        question: the question with its options; its words belong to nobody.
        said: earlier messages of this round.

    Returns:
        `NEUTRAL` where nobody spoke before or nobody brought anything of their own; 0 for a copy of a message.
    """
    own_words = tokens(text)
    if not own_words:
        return 0.0
    if not any(tokens(message.text) for message in said):
        return NEUTRAL
    theirs = {run for message in said for run in grams(tokens(message.text), RUN)}
    copied: set[int] = set()
    for place, run in enumerate(grams(own_words, RUN)):
        if run in theirs:
            copied.update(range(place, place + RUN))
    if len(copied) >= 0.9 * len(own_words) or any(tokens(message.text) == own_words for message in said):
        return 0.0
    offered = frozenset().union(*(content(message.text) for message in said)) - content(question) - _TALK
    if not offered:
        return NEUTRAL
    free = {stem(word) for place, word in enumerate(own_words) if place not in copied} & offered
    quoted = {stem(own_words[place]) for place in copied} & offered - free
    enough = min(ENOUGH, len(offered))
    return min(1.0, len(free) / enough + QUOTED * min(1.0, len(quoted) / enough))
