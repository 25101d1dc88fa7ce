"""Calibration numbers agree with hand counts, and tell a system that knows what it knows from one that boasts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.evaluation.calibration import brier, ece, option_probabilities, reliability


def test_ece_and_bins_by_hand():
    confidences, correct = [0.95, 0.85, 0.92, 0.55, 0.52, 0.1], [1, 0, 1, 1, 0, 0]
    # ten bins: (0.9, 1] holds 0.95 and 0.92, both right: gap 0.065; (0.8, 0.9] 0.85, wrong: 0.85;
    # (0.5, 0.6] 0.55 and 0.52, one right: 0.035; (0, 0.1] 0.1, wrong: 0.1
    assert ece(confidences, correct, bins=10) == pytest.approx((2 * 0.065 + 0.85 + 2 * 0.035 + 0.1) / 6)
    bars = reliability(confidences, correct, 10)
    assert [bar["n"] for bar in bars] == [1, 0, 0, 0, 0, 2, 0, 0, 1, 2]
    assert bars[5] == {"low": 0.5, "high": 0.6, "n": 2, "confidence": pytest.approx(0.535), "accuracy": 0.5}
    assert bars[1] == {"low": 0.1, "high": 0.2, "n": 0, "confidence": None, "accuracy": None}


@pytest.mark.parametrize("bins", [1, 3, 7, 10, 15, 20])
def test_bins_are_closed_on_the_right_and_the_first_holds_0(bins):
    edges = [k / bins for k in range(bins + 1)]
    assert [bar["n"] for bar in reliability(edges, [0] * len(edges), bins)] == [2] + [1] * (bins - 1)
    just_above = [math.nextafter(edge, 1) for edge in edges[:-1]]
    assert [bar["n"] for bar in reliability(just_above, [0] * bins, bins)] == [1] * bins


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_ece_is_what_the_reliability_bars_show(answers, bins):
    confidences, correct = [stated for stated, _ in answers], [float(right) for _, right in answers]
    bars = reliability(confidences, correct, bins)
    assert sum(bar["n"] for bar in bars) == len(answers)
    gap = sum(bar["n"] * abs(bar["accuracy"] - bar["confidence"]) for bar in bars if bar["n"]) / len(answers)
    assert ece(confidences, correct, bins) == pytest.approx(gap, abs=1e-12)
    assert 0 <= gap <= 1


def test_calibrated_answers_have_almost_no_error_and_boasting_shows():
    generator = np.random.default_rng(0)
    stated = generator.uniform(0.25, 1, 200_000)
    honest, boasting = generator.random(200_000) < stated, generator.random(200_000) < stated - 0.2
    assert ece(stated.tolist(), honest.tolist()) < 0.005
    assert ece(stated.tolist(), boasting.tolist()) == pytest.approx(0.2, abs=0.01)
    assert brier(stated.tolist(), honest.tolist()) < brier(stated.tolist(), boasting.tolist())
    assert brier(stated.tolist(), honest.tolist()) == pytest.approx((stated * (1 - stated)).mean(), abs=0.002)  # its least possible value


def test_few_questions_raise_the_error_of_a_calibrated_system():
    generator = np.random.default_rng(1)
    few = []
    for _ in range(50):
        stated = generator.uniform(0.25, 1, 60)
        few.append(ece(stated.tolist(), (generator.random(60) < stated).tolist()))
    assert np.mean(few) > 0.08  # why systems are compared at equal n only


def test_brier_by_hand():
    assert brier([1, 0, 0.5, 0.8], [1, 1, 0, 1]) == pytest.approx((0 + 1 + 0.25 + 0.04) / 4)


def test_option_probabilities_are_a_softmax_of_any_size():
    assert option_probabilities([math.log(0.1), math.log(0.6), math.log(0.3)]) == pytest.approx([0.1, 0.6, 0.3])
    assert option_probabilities([-1e6, -1e6 - math.log(3)]) == pytest.approx([0.75, 0.25])
    assert option_probabilities([1e4, -1e4, -math.inf]) == [1.0, 0.0, 0.0]
    assert option_probabilities([-7.0]) == [1.0]


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=10), st.floats(-1e3, 1e3))
def test_option_probabilities_sum_to_1_and_heed_distances_only(logs, shift):
    shares = option_probabilities(logs)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert shares == pytest.approx(option_probabilities([log + shift for log in logs]), abs=1e-6)
    assert shares[logs.index(max(logs))] == max(shares)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ece([], []), r"shapes \(0,\)"),
        (lambda: ece([0.5], [1, 0]), r"shapes \(1,\) and \(2,\)"),
        (lambda: ece([-3.2], [1]), "a confidence of -3.2"),
        (lambda: ece([math.nan], [1]), "a confidence of nan"),
        (lambda: brier([0.5], [0.5]), "an outcome of 0.5"),
        (lambda: reliability([0.5], [1], 0), "0 bins"),
        (lambda: option_probabilities([]), "one log-likelihood for each option"),
        (lambda: option_probabilities([-1.0, math.nan]), "look for NaN"),
        (lambda: option_probabilities([-1.0, math.inf]), "inf"),
        (lambda: option_probabilities([-math.inf, -math.inf]), "one of them finite"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(call, says):
    with pytest.raises(MedpipeError, match=says):
        call()
