"""Comparisons agree with independent references, find a planted gain at the size of MedQA's test, and stay quiet without one."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, multinomial, norm, permutation_test

from medpipe.errors import MedpipeError
from medpipe.evaluation.comparisons import compare, holm, mcnemar, not_worse, sign_flip
from medpipe.evaluation.statistics import paired_bootstrap

QUESTIONS = 1273  # MedQA's test questions
APART = 0.18  # share of questions on which two teams of one base score differently
RIGHT = 0.4  # the reference team's accuracy; with these, two teams' scores correlate at about 0.64
DRAWS = 60  # bootstrap draws in simulations: few, which makes the interval laxer, so the exact p has to keep false alarms down


def scored(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple[list[float], list[float]]:
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * both + [0.0] * neither
    b = [0.0] * only_a + [1.0] * only_b + [1.0] * both + [0.0] * neither
    return a, b


def reference_team(generator: np.random.Generator) -> np.ndarray:
    return generator.random(QUESTIONS) < RIGHT


def changed_team(generator: np.random.Generator, reference: np.ndarray, gain: float) -> np.ndarray:
    """The reference's answers, changed on APART of the questions, so that accuracy rises by `gain`."""
    lost, won = (APART - gain) / 2 / RIGHT, (APART + gain) / 2 / (1 - RIGHT)
    return reference ^ (generator.random(QUESTIONS) < np.where(reference, lost, won))


def simulated(gain: float, teams: int, trials: int, seed: int):
    """Rows of `compare` for each trial: `teams` changed teams against their reference."""
    generator = np.random.default_rng(seed)
    names = [f"team {number}" for number in range(teams)]
    for trial in range(trials):
        reference = reference_team(generator)
        scores = {name: changed_team(generator, reference, gain).astype(float) for name in names} | {"reference": reference.astype(float)}
        yield compare(scores, [(name, "reference") for name in names], DRAWS, 0.95, trial, binary=True)  # pyright: ignore[reportArgumentType]


def test_a_gain_of_5_points_is_found_in_nearly_every_simulation():
    found = sum(row.significant and row.mean > 0 for (row,) in simulated(0.05, 1, 200, seed=1))
    assert found >= 190, found  # McNemar's exact power here is 98.7%: 197 of 200 expected


def test_no_gain_raises_a_false_alarm_in_at_most_5_percent_of_simulations():
    alarms = sum(row.significant for (row,) in simulated(0.0, 1, 400, seed=2))
    assert alarms <= 20, alarms  # 4.3% at most, by the exact test's size: 17 of 400 expected


def test_no_gain_of_three_teams_raises_any_false_alarm_in_at_most_5_percent_of_simulations():
    rows = list(simulated(0.0, 3, 400, seed=3))
    families = sum(any(row.significant for row in family) for family in rows)
    uncorrected = sum(any(row.p < 0.05 for row in family) for family in rows)
    limit = binom.ppf(0.999, 400, 0.05)  # 35: a true rate of 5% goes above it once in 900 runs
    assert families <= limit < uncorrected, (families, uncorrected)  # so that the simulation would notice a missing correction


@pytest.mark.parametrize("apart", [0, 1, 5, 6, 25, 100, 229])
def test_mcnemar_is_the_exact_binomial_test_and_keeps_its_level(apart):
    rejected = 0.0
    for only_a in range(apart + 1):
        tested = mcnemar(*scored(only_a, apart - only_a, both=3, neither=2))
        exact = binomtest(only_a, apart).pvalue if apart else 1.0
        assert (tested.only_a, tested.only_b) == (only_a, apart - only_a)
        assert tested.p == pytest.approx(exact, rel=1e-9)
        rejected += binom.pmf(only_a, apart, 0.5) * (tested.p < 0.05)
    assert rejected <= 0.05  # summed over every possible outcome, not simulated
    assert (rejected > 0) == (apart >= 6)


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.05]), max_size=7))
@settings(deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(ps):
    """By closed testing: a test's adjusted p is the worst Bonferroni p over all sets of tests that contain it."""
    family = {f"test {number}": p for number, p in enumerate(ps)}
    adjusted = holm(family)
    assert list(adjusted) == list(family)
    for name in family:
        others = [other for other in family if other != name]
        sets = [(name, *more) for size in range(len(family)) for more in itertools.combinations(others, size)]
        assert adjusted[name] == pytest.approx(max(min(1.0, len(some) * min(family[other] for other in some)) for some in sets))
    in_order = sorted(family, key=lambda name: family[name])
    assert all(adjusted[low] <= adjusted[high] <= 1 for low, high in itertools.pairwise(in_order))


def test_sign_flip_agrees_with_all_sign_patterns_and_counts_ties():
    generator = np.random.default_rng(4)
    for values in (generator.normal(0.4, 1, 10), np.array([0.1, 0.2, 0.3, -0.1, 0.2, 0.3, 0.7])):  # the second is full of ties
        a, b = values.tolist(), [0.0] * len(values)
        exact = permutation_test((a, b), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=2**10).pvalue
        assert sign_flip(a, b, 20_000, 0) == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
        assert sign_flip(b, a, 20_000, 0) == sign_flip(a, b, 20_000, 0)


def test_sign_flip_is_never_0_and_is_1_without_a_difference(monkeypatch):
    far, near = np.arange(1.0, 41.0).tolist(), [0.0] * 40
    assert sign_flip(far, near, 999, 0) == 1 / 1000
    assert sign_flip(far, far, 999, 0) == 1.0
    mixed = np.random.default_rng(5).normal(0.2, 1, 30).tolist()
    whole = sign_flip(mixed, near[:30], 500, 0)
    monkeypatch.setattr("medpipe.evaluation.comparisons._SIGNS_AT_ONCE", 30 * 7)
    assert sign_flip(mixed, near[:30], 500, 0) == whole  # memory blocks change nothing


def test_compare_gives_each_pair_its_difference_interval_counts_and_corrected_p():
    generator = np.random.default_rng(6)
    scores = {name: generator.binomial(1, share, 150).astype(float).tolist() for name, share in (("x", 0.8), ("y", 0.5), ("z", 0.5))}
    rows = compare(scores, [("x", "y"), ("z", "y")], 500, 0.95, 0, binary=True)
    for row in rows:
        assert (row.mean, row.low, row.high) == paired_bootstrap(scores[row.a], scores[row.b], 500, 0.95, 0)
        counted = mcnemar(scores[row.a], scores[row.b])
        assert (row.n, row.only_a, row.only_b, row.p) == (150, counted.only_a, counted.only_b, counted.p)
    assert [row.holm_p for row in rows] == list(holm({row.a: row.p for row in rows}).values())
    assert [row.significant for row in rows] == [True, False]
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))[0]["a"] == "x"
    assert compare(scores, [], 500, 0.95, 0, binary=True) == []


def test_scores_between_0_and_1_are_compared_by_sign_flips():
    generator = np.random.default_rng(7)
    hard = generator.random(60)
    scores = {
        "b": hard.tolist(),
        "a": (hard + generator.normal(0.05, 0.1, 60)).tolist(),
        "c": (hard + generator.normal(0, 0.1, 60)).tolist(),
    }
    better, same = compare(scores, [("a", "b"), ("c", "b")], 1000, 0.95, 0, binary=False)
    assert better.significant and better.mean > 0 and better.p == sign_flip(scores["a"], scores["b"], 1000, 0)
    assert not same.significant and same.only_a is None


def test_significance_needs_both_the_test_and_the_interval():
    a, b = scored(5, 0)  # a clean sweep of five: the interval is [1, 1], the exact p 0.0625
    (row,) = compare({"a": a, "b": b}, [("a", "b")], 200, 0.95, 0, binary=True)
    assert row.low == 1.0 and row.p == 0.0625 and not row.significant
    (at_the_level,) = compare({"a": a, "b": b}, [("a", "b")], 200, 1 - 0.0625, 0, binary=True)
    assert not at_the_level.significant  # "below", not "at"
    gains_and_a_loss = [0.1] * 31 + [-1.0]  # one question decides how sure the mean is: the interval sees it, sign flips hardly
    (row,) = compare({"a": gains_and_a_loss, "b": [0.0] * 32}, [("a", "b")], 2000, 0.95, 0, binary=False)
    assert row.p < 0.05 and row.low < 0 < row.mean and not row.significant


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(1, 7, 21), (12, 2, 50), (0, 0, 5), (0, 5, 5), (40, 20, 160), (100, 90, 1273)])
def test_not_worse_gives_tangos_bound_checked_by_maximising_the_likelihood(only_a, only_b, n):
    bound = not_worse(*scored(only_a, only_b, neither=n - only_a - only_b), 0.05, 1, 0.95, 0, binary=True).bound

    def minus_likelihood(q: float) -> float:
        cells = ((only_a, q + bound), (only_b, q), (n - only_a - only_b, 1 - 2 * q - bound))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

    if only_b == n:
        assert bound == -1.0
        return
    q = minimize_scalar(minus_likelihood, bounds=(max(0.0, -bound), (1 - bound) / 2), method="bounded", options={"xatol": 1e-12}).x
    statistic = ((only_a - only_b) / n - bound) / math.sqrt((2 * q + bound - bound**2) / n)
    assert statistic == pytest.approx(norm.ppf(0.95), abs=1e-4)


def test_not_worse_is_claimed_falsely_about_5_percent_of_the_time_at_the_margin():
    n, margin, apart = 60, 0.1, 0.3
    cells = [(only_a, only_b) for only_a in range(n + 1) for only_b in range(n + 1 - only_a)]
    chance = multinomial.pmf([(*cell, n - sum(cell)) for cell in cells], n, [(apart - margin) / 2, (apart + margin) / 2, 1 - apart])
    likely = [(cell, share) for cell, share in zip(cells, chance, strict=True) if share > 1e-7]
    shown = sum(share for (x, y), share in likely if not_worse(*scored(x, y, neither=n - x - y), margin, 1, 0.95, 0, binary=True).shown)
    assert 0.03 < shown < 0.06  # exact, over every likely outcome


def test_not_worse_needs_enough_questions_even_without_any_difference():
    few = not_worse(*scored(0, 0, both=3, neither=2), 0.05, 100, 0.95, 0, binary=True)
    many = not_worse(*scored(0, 0, both=500, neither=500), 0.05, 100, 0.95, 0, binary=True)
    assert not few.shown and few.bound == pytest.approx(-0.351, abs=1e-3) and few.mean == 0
    assert many.shown and -0.003 < many.bound < 0 and many.n == 1000
    worse = not_worse(*scored(90, 153, both=1030), 0.02, 100, 0.95, 0, binary=True)
    assert not worse.shown and worse.bound < worse.mean < -0.02


def test_not_worse_of_other_scores_is_the_bootstraps_lower_bound():
    generator = np.random.default_rng(8)
    a, b = generator.normal(0.5, 0.1, (2, 200)).tolist()
    result = not_worse(a, b, 0.05, 500, 0.95, 0, binary=False)
    assert (result.mean, result.bound) == pytest.approx(paired_bootstrap(a, b, 500, 0.9, 0)[:2]) and result.shown
    assert not not_worse(a, b, -result.bound, 500, 0.95, 0, binary=False).shown  # "above", not "at"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mcnemar([1, 0], [1]), r"\(2,\) and \(1,\)"),
        (lambda: mcnemar([], []), r"\(0,\)"),
        (lambda: mcnemar([1, 0.5], [1, 0]), "a score of 0.5"),
        (lambda: mcnemar([1, math.nan], [1, 0]), "look for NaN"),
        (lambda: sign_flip([1.0], [0.0], 0, 0), "0 resamples"),
        (lambda: holm({"x": 0.1, "y": math.nan}), "p = nan for y"),
        (lambda: holm({"x": 1.2}), "p = 1.2 for x"),
        (lambda: compare({"a": [1.0]}, [("a", "b")], 99, 0.95, 0, True), "a and b"),
        (lambda: compare({"a": [1.0], "b": [0.0]}, [("a", "b"), ("b", "a")], 99, 0.95, 0, True), "name each comparison once"),
        (lambda: compare({"a": [1.0], "b": [0.0]}, [("a", "a")], 99, 0.95, 0, True), "two systems, once"),
        (lambda: compare({"a": [1.0], "b": [0.5]}, [("a", "b")], 19, 0.95, 0, False), "19 resamples for 1 pairs"),
        (lambda: compare({"a": [1.0], "b": [0.5]}, [("a", "b")], 99, 95, 0, False), "write 0.95 for 95%"),
        (lambda: not_worse([1.0], [1.0], 0.0, 99, 0.95, 0, True), "a margin of 0.0"),
        (lambda: not_worse([1.0], [1.0], 0.1, 99, 0.5, 0, True), "between 0.5 and 1"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(call, says):
    with pytest.raises(MedpipeError, match=says):
        call()
