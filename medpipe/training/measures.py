"""What an iteration of co-training is measured by (docs/maporl.md, section 6): plain numbers from played episodes.

    values = measure(episodes, goals, shaped)

Names with a role (`kl/analyst`) are that role's own. A number that has nothing to stand on, such as the answers' changes where
every episode had one round, is left out rather than set to zero. Left out: what only the update knows (medpipe/training/update.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from medpipe.schema import ROLES, Role
from medpipe.team.episode import Episode
from medpipe.training.advantages import Cell
from medpipe.training.verifiers import mean_parts


def measure(episodes: Sequence[Episode], goals: Mapping[Cell, float], shaped: Mapping[Cell, float]) -> dict[str, float]:
    """All numbers of one batch of episodes.

    Args:
        episodes: played and scored.
        goals: G of every cell.
        shaped: the influence shaping within G.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    finals = [episode.final for episode in episodes]
    words = [turn.text.split() for turn in turns]
    pairs = [pair for text in words for pair in pairwise(text)]
    choice = [episode for episode in episodes if episode.question.is_choice]
    numbers = {
        "reward/team": fmean(turn.scored for turn in finals),
        "malformed": fmean(bool(turn.malformed) for turn in turns),
        "mean_length": fmean(len(turn.tokens) for turn in turns),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "rounds": fmean(episode.rounds for episode in episodes),
    }
    if choice:
        numbers["answer_accuracy"] = fmean(e.final.answer == e.question.answer for e in choice)
    numbers |= {f"reward/{name}": value for name, value in mean_parts(finals).items()}
    for role in ROLES:
        numbers |= {f"{name}/{role}": value for name, value in _of_role(role, episodes, choice).items()}
        numbers[f"return/{role}"] = fmean(goal for cell, goal in goals.items() if cell.role == role)
        numbers[f"shaping/{role}"] = fmean(bonus for cell, bonus in shaped.items() if cell.role == role)
    return numbers


def _of_role(role: Role, episodes: Sequence[Episode], choice: Sequence[Episode]) -> dict[str, float]:
    turns = [turn for episode in episodes for turn in episode.turns if turn.role == role]
    numbers = {
        "value": fmean(turn.scored for turn in turns),
        "length": fmean(len(turn.tokens) for turn in turns),
        "malformed": fmean(bool(turn.malformed) for turn in turns),
    }
    right = [[bool(row[ROLES.index(role)]) for row in episode.correct()] for episode in choice]
    if right:
        numbers["correct"] = fmean(c for rounds in right for c in rounds)
    if changes := [pair for rounds in right for pair in pairwise(rounds)]:
        numbers["wrong_to_right"] = fmean(change == (False, True) for change in changes)
        numbers["right_to_wrong"] = fmean(change == (True, False) for change in changes)
    return numbers


def tokens_of(episodes: Sequence[Episode]) -> int:
    """Tokens that were generated."""
    return sum(len(turn.tokens) for episode in episodes for turn in episode.turns)
