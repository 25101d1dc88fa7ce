"""Shapley values keep their axioms, agree with all orders of joining, and their intervals cover what they claim to."""

import itertools
import math

import numpy as np
import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluation.shapley import coalitions, shapley, shapley_intervals
from medpipe.schema import ROLES

EMPTY = frozenset[str]()


def game(seed: int, players: tuple[str, ...] = ROLES) -> dict[frozenset[str], float]:
    generator = np.random.default_rng(seed)
    return {members: float(generator.normal()) for members in coalitions(players)}


def test_the_four_roles_have_16_coalitions():
    assert len(coalitions(ROLES)) == len(set(coalitions(ROLES))) == 16
    assert coalitions(ROLES)[0] == EMPTY and coalitions(ROLES)[-1] == frozenset(ROLES)


def test_a_hand_computed_game():
    value = {EMPTY: 0.2, frozenset("a"): 0.5, frozenset("b"): 0.3, frozenset("ab"): 0.8}
    assert shapley("ab", value) == pytest.approx({"a": (0.3 + 0.5) / 2, "b": (0.1 + 0.3) / 2})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_values_are_the_mean_gain_over_all_orders_of_joining(n):
    players = tuple("abcde"[:n])
    value = game(n, players)
    gains = {player: [] for player in players}
    for order in itertools.permutations(players):
        for place, player in enumerate(order):
            gains[player].append(value[frozenset(order[: place + 1])] - value[frozenset(order[:place])])
    assert shapley(players, value) == pytest.approx({player: np.mean(gains[player]) for player in players})


def test_axioms():
    first, second = game(1), game(2)
    values = shapley(ROLES, first)
    assert sum(values.values()) == pytest.approx(first[frozenset(ROLES)] - first[EMPTY])  # efficiency
    both = shapley(ROLES, {members: 2 * first[members] - 3 * second[members] for members in first})
    assert both == pytest.approx({role: 2 * values[role] - 3 * shapley(ROLES, second)[role] for role in ROLES})  # linearity
    planner, researcher, analyst, reporter = ROLES
    blind = {members: first[frozenset(reporter if role == planner else role for role in members)] for members in first}
    alike = shapley(ROLES, {members: blind[members] + 0.1 * ({planner, reporter} <= members) for members in first})
    assert alike[planner] == pytest.approx(alike[reporter])  # symmetry: the two stand in for each other everywhere
    assert not math.isclose(alike[researcher], alike[analyst])
    dummy = shapley(ROLES, {members: first[members - {analyst}] + 0.25 * (analyst in members) for members in first})
    assert dummy[analyst] == pytest.approx(0.25)  # adds the same to every coalition, and gets just that
    assert shapley(tuple(reversed(ROLES)), first) == pytest.approx(values)  # the order of names is of no account


def item_scores(n: int, seed: int) -> dict[frozenset[str], list[float]]:
    """Right answers of each coalition: a question is as hard for all; planner +0, researcher +.05, analyst +.1, reporter +.2."""
    ease = np.random.default_rng(seed).random(n)
    worth: dict[str, float] = dict(zip(ROLES, (0.0, 0.05, 0.1, 0.2), strict=True))
    return {members: (ease < 0.3 + sum(worth[role] for role in members)).astype(float).tolist() for members in coalitions(ROLES)}


def test_intervals_lie_around_the_values_of_the_means_and_sum_up():
    scores = item_scores(400, 0)
    result = shapley_intervals(ROLES, scores, 500, 0.95, 0)
    means = {members: float(np.mean(values)) for members, values in scores.items()}
    assert {role: value for role, (value, _, _) in result.items()} == pytest.approx(shapley(ROLES, means))
    assert all(low <= value <= high for value, low, high in result.values())
    assert sum(value for value, _, _ in result.values()) == pytest.approx(means[frozenset(ROLES)] - means[EMPTY])
    assert result["planner"] == (0, 0, 0) and result["reporter"][1] > result["researcher"][2]
    assert result == shapley_intervals(ROLES, scores, 500, 0.95, 0)
    assert result != shapley_intervals(ROLES, scores, 500, 0.95, 1)


def test_an_interval_is_that_of_resampling_whole_questions():
    """Against the long way: resample questions, take every coalition's mean anew, solve that game."""
    scores, n, draws = item_scores(150, 1), 150, 400
    generator, again = np.random.default_rng(9), []
    for _ in range(draws):
        rows = generator.integers(0, n, n)
        again.append(shapley(ROLES, {members: float(np.asarray(values)[rows].mean()) for members, values in scores.items()})["reporter"])
    _, low, high = shapley_intervals(ROLES, scores, draws, 0.95, 9)["reporter"]
    assert (low, high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])))


def test_intervals_cover_the_true_value_in_about_95_percent_of_simulations():
    covered, trials = 0, 200
    for trial in range(trials):
        _, low, high = shapley_intervals(ROLES, item_scores(200, trial), 200, 0.95, trial)["reporter"]
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / trials <= 0.99, covered


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: shapley("ab", {EMPTY: 0.0, frozenset("a"): 1.0, frozenset("ab"): 1.0}), r"no value for \{b\}"),
        (lambda: shapley("a", {EMPTY: 0.0, frozenset("a"): 1.0, frozenset("c"): 1.0}), r"a value for \{c\}"),
        (lambda: shapley("a", {EMPTY: 0.0, frozenset("a"): math.nan}), "look for NaN"),
        (lambda: shapley("aa", {EMPTY: 0.0, frozenset("a"): 1.0}), "name each player once"),
        (lambda: shapley((), {EMPTY: 0.0}), r"players \[\]"),
        (lambda: shapley_intervals("a", {EMPTY: [0.0], frozenset("a"): [1.0, 0.0]}, 9, 0.95, 0), "the same questions"),
        (lambda: shapley_intervals("a", {EMPTY: [], frozenset("a"): []}, 9, 0.95, 0), "one finite score per question"),
        (lambda: shapley_intervals("a", {EMPTY: [0.0], frozenset("a"): [1.0]}, 0, 0.95, 0), "0 resamples"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(call, says):
    with pytest.raises(MedpipeError, match=says):
        call()
