"""Is a system right as often as it says? Calibration error, Brier score, and the bins for a reliability diagram.

    from medpipe.evaluation.calibration import brier, ece, option_probabilities, reliability

    shares = option_probabilities([-3.1, -2.4, -5.0, -4.2])  # one question's options
    confidence, predicted = max(shares), shares.index(max(shares))

Pure numpy, nothing read or written. A confidence is the probability that a system gives to its own answer; `correct` says
whether that answer was right. What this leaves out: fitting a temperature, calibration of options that were not chosen,
and intervals (resample questions with `medpipe.evaluation.statistics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError


def ece(confidences: Sequence[float], correct: Sequence[float], bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: the gap between accuracy and mean confidence, averaged over bins by their share.

    Bins as in `reliability`. With few questions it lies above 0 even for a perfectly calibrated system, since chance moves
    every bin's accuracy, and more so with more bins: compare systems at the same n and bins only.

    Args:
        confidences: shape (n,), each 0 to 1.
        correct: shape (n,), each 0 or 1.

    Raises:
        MedpipeError: nothing to score, lengths differ, a value outside the above, or fewer than one bin.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599), equations 2 and 3.
    """
    stated, right = _checked(confidences, correct, "ece")
    index = _bin_of(stated, bins, "ece")
    gaps = np.bincount(index, weights=right - stated, minlength=bins)
    return float(np.abs(gaps).sum() / stated.size)


def reliability(confidences: Sequence[float], correct: Sequence[float], bins: int = 15) -> list[dict[str, Any]]:
    """The bars of a reliability diagram: one dict per bin of equal width, from low to high, empty ones included.

    A bin holds confidences above `low` up to and including `high`; the first one also holds 0. `confidence` (mean) and
    `accuracy` are None where `n` is 0.

    Args and errors: as `ece`.

    Source: as `ece`, section 2.
    """
    stated, right = _checked(confidences, correct, "reliability")
    index = _bin_of(stated, bins, "reliability")
    bars = []
    for number in range(bins):
        here = index == number
        n = int(here.sum())
        means = (
            {"confidence": float(stated[here].mean()), "accuracy": float(right[here].mean())}
            if n
            else {"confidence": None, "accuracy": None}
        )
        bars.append({"low": number / bins, "high": (number + 1) / bins, "n": n, **means})
    return bars


def brier(confidences: Sequence[float], correct: Sequence[float]) -> float:
    """Mean squared distance of confidence and outcome, 0 (sure and right) to 1 (sure and wrong); always saying 0.5 gives 0.25.

    Of the chosen answer only, right or wrong; not the sum over all options. Unlike `ece` it can't be made small by always
    stating the average accuracy.

    Args and errors: as `ece`.

    Source: G. W. Brier, Mon. Weather Rev. 78 (1950) 1, in its form for one event.
    """
    stated, right = _checked(confidences, correct, "brier")
    return float(np.square(stated - right).mean())


def option_probabilities(log_likelihoods: Sequence[float]) -> list[float]:
    """Softmax over one question's options: log-likelihoods in nats, shape (options,), to probabilities that sum to 1.

    Safe for values of any size, since only distances to the largest count. An option at −∞ gets 0. Longer options have lower
    log-likelihoods: divide by length before where that matters.

    Raises:
        MedpipeError: no options, NaN, +∞, or every option at −∞.
    """
    logs = np.asarray(log_likelihoods, dtype=np.float64)
    if logs.ndim != 1 or not logs.size or not np.isfinite(logs.max()):  # NaN and +∞ win the maximum, and −∞ if all are
        raise MedpipeError(
            got=str(logs.tolist()), expected="one log-likelihood for each option, one of them finite", where="option_probabilities",
            do="look for NaN in the model's scores",
        )  # fmt: skip
    weights = np.exp(logs - logs.max())
    return (weights / weights.sum()).tolist()


def _bin_of(stated: np.ndarray, bins: int, where: str) -> np.ndarray:
    """Each confidence's bin, 0 to bins − 1."""
    if bins < 1:
        raise MedpipeError(got=f"{bins} bins", expected="1 or more", where=where, do="use 15, as the paper does")
    edges = np.arange(bins + 1) / bins  # k/bins rounded once, so that 0.3 is an edge of ten bins; np.linspace would miss it
    return np.maximum(np.searchsorted(edges, stated, side="left") - 1, 0)


def _checked(confidences: Sequence[float], correct: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    stated, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if stated.ndim != 1 or stated.shape != right.shape or not stated.size:
        raise MedpipeError(
            got=f"shapes {stated.shape} and {right.shape}", expected="one confidence and one outcome for each question", where=where,
            do="score at least one question",
        )  # fmt: skip
    for name, values, fits in (
        ("a confidence", stated, (stated >= 0) & (stated <= 1)),
        ("an outcome", right, (right == 0) | (right == 1)),
    ):
        if not fits.all():
            raise MedpipeError(
                got=f"{name} of {values[~fits][0]:g}", expected="confidences from 0 to 1 and outcomes 0 or 1", where=where,
                do="turn log-likelihoods into probabilities with option_probabilities",
            )  # fmt: skip
    return stated, right
