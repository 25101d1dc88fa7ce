"""What each team member is worth: exact Shapley values over all coalitions, with intervals over questions.

    from medpipe.evaluation.shapley import coalitions, shapley, shapley_intervals

    roles = ("planner", "researcher", "analyst", "reporter")
    scores = {members: [score of each question with these members only] for members in coalitions(roles)}  # 16 runs
    shapley_intervals(roles, scores, 2000, 0.95, seed=0)["planner"]  # (value, low, high)

A player's value is its mean gain on joining, over all orders in which the team could form. Pure numpy, seeded, nothing read
or written. What this leaves out: sampling orders for teams with too many coalitions to run, values of pairs, what stands in
for an absent member (whoever runs the coalitions decides that, and the values depend on it), and training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.evaluation.statistics import bootstrap_mean


def coalitions(players: Sequence[str]) -> list[frozenset[str]]:
    """All 2ⁿ sets of players, from the empty one to the whole team.

    Raises:
        MedpipeError: no players, or one named twice.
    """
    if not players or len(set(players)) != len(players):
        raise MedpipeError(got=f"players {list(players)}", expected="one or more, each once", where="shapley", do="name each player once")
    return [frozenset(members) for size in range(len(players) + 1) for members in combinations(players, size)]


def shapley(players: Sequence[str], value: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Each player's Shapley value, in the unit of `value`; together they make value(all) − value(none).

    Args:
        value: what each of the 2ⁿ coalitions reaches, the empty one included.

    Raises:
        MedpipeError: a coalition missing or too many, a value that is not finite, no players, or one named twice.

    Source: L. S. Shapley, A Value for n-Person Games, in Contributions to the Theory of Games II (1953) 307.
    """
    worth = _by_item(players, {members: [number] for members, number in value.items()})
    return {player: float(gains[0]) for player, gains in worth.items()}


def shapley_intervals(
    players: Sequence[str], scores: Mapping[frozenset[str], Sequence[float]], resamples: int, confidence: float, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Each player's Shapley value of the mean score, with its percentile bootstrap interval over questions: (value, low, high).

    A Shapley value is linear in the scores, so the value of a mean is the mean of each question's values; resampling those is
    resampling questions, the same ones for all coalitions and all players. Each interval is for its player alone, not for all
    at once.

    Args:
        scores: coalition → one score per question (shape (n,)), the same questions in the same order for all 2ⁿ coalitions.

    Raises:
        MedpipeError: coalitions scored different numbers of questions, or what `shapley` and `bootstrap_mean` raise.

    Source: as `shapley`; the bootstrap as in `medpipe.evaluation.statistics`.
    """
    worth = _by_item(players, scores)
    return {player: (float(gains.mean()), *bootstrap_mean(gains.tolist(), resamples, confidence, seed)) for player, gains in worth.items()}


def _by_item(players: Sequence[str], scores: Mapping[frozenset[str], Sequence[float]]) -> dict[str, np.ndarray]:
    """Each player's Shapley value on each question, shape (n,)."""
    every = coalitions(players)
    missing, unknown = [members for members in every if members not in scores], set(scores) - set(every)
    if missing or unknown:
        wrong = f"no value for {_named(missing[0])}" if missing else f"a value for {_named(unknown.pop())}"
        raise MedpipeError(got=wrong, expected=f"all {len(every)} coalitions", where="shapley", do="run what coalitions() lists")
    reached = {members: np.asarray(scores[members], dtype=np.float64) for members in every}
    shape = reached[frozenset()].shape
    for members, values in reached.items():
        if values.ndim != 1 or not values.size or values.shape != shape or not np.isfinite(values).all():
            raise MedpipeError(
                got=f"scores of shape {values.shape} for {_named(members)}", expected="one finite score per question, as many for all",
                where="shapley", do="score all coalitions on the same questions and look for NaN",
            )  # fmt: skip
    n = len(players)
    share = [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)]  # of orders with these members in front
    return {
        player: np.sum([share[len(s)] * (reached[s | {player}] - reached[s]) for s in every if player not in s], axis=0)
        for player in players
    }


def _named(members: frozenset[str]) -> str:
    return "{" + ", ".join(sorted(members)) + "}"
