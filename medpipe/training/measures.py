"""What an iteration of co-training is measured by (docs/maporl.md, section 6): plain numbers from played episodes.

    values = measure(batches, goals, shaped)

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
from medpipe.training.update import Batch
from medpipe.training.verifiers import mean_parts


def measure(batches: Sequence[Batch], goals: Mapping[Cell, float], shaped: Mapping[Cell, float]) -> dict[str, float]:
    """All numbers of the episodes of an iteration.

    Args:
        batches: played and scored.
        goals: G of every cell.
        shaped: the influence shaping within G.
    """
    episodes = [episode for batch in batches for episode in batch.episodes]
    turns = [turn for batch in batches for episode in batch.episodes for _, turn in batch.cells(episode)]
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
        numbers["answer_accuracy"] = fmean(e.final.answer == e.question.answer and not e.final.malformed for e in choice)
    numbers |= {f"reward/{name}": value for name, value in mean_parts(finals).items()}
    spoke: list[Role] = [role for role in ROLES if any(role in episode.roles for episode in episodes)]
    for role in spoke:
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
    right = [[bool(row[episode.roles.index(role)]) for row in episode.correct()] for episode in choice]
    if right:
        numbers["correct"] = fmean(c for rounds in right for c in rounds)
    if changes := [pair for rounds in right for pair in pairwise(rounds)]:
        numbers["wrong_to_right"] = fmean(change == (False, True) for change in changes)
        numbers["right_to_wrong"] = fmean(change == (True, False) for change in changes)
    if role != "planner" and (copies := [_copies(role, episode) for episode in choice if "planner" in episode.roles]):
        numbers["copies_planner"] = fmean(copies)
    return numbers


def _copies(role: Role, episode: Episode) -> bool:
    """Whether the role's first message settles on the planner's option."""
    first = episode.turn(0, "planner").answer
    return first is not None and episode.turn(0, role).answer == first


def tokens_of(batches: Sequence[Batch]) -> int:
    """Tokens that were generated: of alternatives at one context, what stands behind it."""
    total = 0
    for batch in batches:
        for episode in batch.episodes:
            kept = 0 if batch.learns is None else [turn.role for turn in episode.turns].index(batch.learns)
            total += sum(len(turn.tokens) for turn in episode.turns[kept:])
    return total
