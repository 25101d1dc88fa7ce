"""Intervals agree with published values, cover what they claim to cover, and refuse what has no answer."""

import math

import numpy as np
import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluation.statistics import bootstrap_mean, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_the_values_of_newcombe_1998_table_1(successes, n, low, high):
    assert wilson(successes, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 4, 16, 244])
def test_wilson_stays_inside_0_and_1_and_is_symmetric(n):
    for successes in range(n + 1):
        low, high = wilson(successes, n, 0.95)
        mirrored = wilson(n - successes, n, 0.95)
        assert 0 <= low <= successes / n <= high <= 1
        assert (1 - high, 1 - low) == pytest.approx(mirrored)
    assert wilson(0, n, 0.95)[0] == 0.0 and wilson(n, n, 0.95)[1] == 1.0
    assert wilson(0, n, 0.95)[1] > 0.01  # no answer right is still no proof of zero


def test_wilson_covers_95_percent_on_average_over_shares():
    n, coverage = 16, []
    for share in np.linspace(0.02, 0.98, 97):
        inside = [low <= share <= high for low, high in (wilson(k, n, 0.95) for k in range(n + 1))]
        pmf = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        coverage.append(float(np.dot(inside, pmf)))
    assert 0.94 < np.mean(coverage) < 0.97  # computed exactly from the binomial, not simulated


def test_bootstrap_mean_covers_about_95_percent_of_simulated_samples():
    generator, truth, covered, trials = np.random.default_rng(1), 0.3, 0, 400
    for trial in range(trials):
        low, high = bootstrap_mean(generator.beta(3, 7, size=40).tolist(), 400, 0.95, trial)
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.98


def test_bootstrap_mean_matches_the_normal_approximation_on_a_large_sample():
    scores = np.random.default_rng(2).normal(0.5, 0.2, size=2000)
    half = 1.96 * scores.std() / math.sqrt(2000)
    assert bootstrap_mean(scores.tolist(), 4000, 0.95, 0) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=1e-3)


def test_bootstrap_is_seeded_and_handles_one_score():
    scores = [0.1, 0.4, 0.9, 0.2]
    assert bootstrap_mean(scores, 500, 0.95, 7) == bootstrap_mean(scores, 500, 0.95, 7)
    assert bootstrap_mean(scores, 500, 0.95, 7) != bootstrap_mean(scores, 500, 0.95, 8)
    assert bootstrap_mean([0.7], 500, 0.95, 0) == (0.7, 0.7)


def test_memory_blocks_do_not_change_the_result(monkeypatch):
    scores = np.random.default_rng(3).random(50).tolist()
    whole = bootstrap_mean(scores, 300, 0.95, 0)
    monkeypatch.setattr("medpipe.evaluation.statistics._DRAWS_AT_ONCE", 50 * 7)
    assert bootstrap_mean(scores, 300, 0.95, 0) == whole


def test_pairing_finds_a_small_gain_that_unpaired_intervals_hide():
    difficulty = np.random.default_rng(4).random(60)
    a, b = (difficulty + 0.05).tolist(), difficulty.tolist()
    mean, low, high = paired_bootstrap(a, b, 1000, 0.95, 0)
    assert mean == pytest.approx(0.05) and low == pytest.approx(0.05) and high == pytest.approx(0.05)
    assert bootstrap_mean(a, 1000, 0.95, 0)[0] < bootstrap_mean(b, 1000, 0.95, 0)[1]


def test_paired_bootstrap_covers_a_true_difference_of_zero():
    generator, covered, trials = np.random.default_rng(5), 0, 400
    for trial in range(trials):
        a, b = generator.binomial(1, 0.4, size=(2, 50)).astype(float)
        _, low, high = paired_bootstrap(a.tolist(), b.tolist(), 400, 0.95, trial)
        covered += low <= 0 <= high
    assert 0.90 <= covered / trials <= 0.99


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wilson(1, 0, 0.95), "1 of 0"),
        (lambda: wilson(3, 2, 0.95), "3 of 2"),
        (lambda: wilson(1, 2, 95), "write 0.95 for 95%"),
        (lambda: bootstrap_mean([], 10, 0.95, 0), "0 scores"),
        (lambda: bootstrap_mean([0.1, math.nan], 10, 0.95, 0), "1 not finite"),
        (lambda: bootstrap_mean([0.1], 0, 0.95, 0), "0 resamples"),
        (lambda: paired_bootstrap([1.0], [1.0, 0.0], 10, 0.95, 0), "1 and 2 scores"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(call, says):
    with pytest.raises(MedpipeError, match=says):
        call()
