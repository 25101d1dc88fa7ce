"""How sure a score is: intervals for a share, a mean, and a difference on the same questions.

    from medpipe.evaluation.statistics import wilson, bootstrap_mean, paired_bootstrap

Pure numpy, seeded, nothing read or written. What this leaves out: corrections for many comparisons, intervals over
training seeds (an interval here is over questions, for one trained model), and exact tests for small counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from medpipe.errors import MedpipeError

_DRAWS_AT_ONCE = 4_000_000  # index draws held in memory at a time: 32 MB


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval (low, high) for a share of `successes` out of `n`, both ends within 0 and 1.

    Unlike the bootstrap it stays wide when every answer is right or none is, which is usual on short benchmarks.

    Raises:
        MedpipeError: n is not positive, successes is outside 0..n, or confidence outside 0..1.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; recommended for small n by R. G. Newcombe, Stat. Med. 17
    (1998) 857, method 3.
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise MedpipeError(got=f"{successes} of {n}", expected="0 ≤ successes ≤ n, n ≥ 1", where="wilson", do="score at least one question")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exactly 0 and 1 at the ends, where rounding would miss them
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def bootstrap_mean(scores: Sequence[float], resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) for the mean of `scores` (shape (n,), the scores' own unit).

    One score has no spread to resample: the interval is that score twice, and so is it for equal scores. Show n beside
    it, and use `wilson` for shares of right answers.

    Raises:
        MedpipeError: no scores, a score that is not finite, fewer than one resample, or confidence outside 0..1.

    Source: B. Efron, Ann. Stat. 7 (1979) 1; percentile method in Efron and Tibshirani, An Introduction to the Bootstrap
    (1993), chapter 13.
    """
    values = _checked(scores, resamples, confidence, "bootstrap_mean")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means = np.empty(resamples)
    for start in range(0, resamples, at_once):
        stop = min(start + at_once, resamples)
        means[start:stop] = values[generator.integers(0, len(values), size=(stop - start, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def paired_bootstrap(a: Sequence[float], b: Sequence[float], resamples: int, confidence: float, seed: int) -> tuple[float, float, float]:
    """Mean of a − b over the same questions, and its percentile bootstrap interval: (mean, low, high).

    Resampling whole questions keeps each pair together, so that a hard question is hard for both systems. With few
    questions on which the systems differ the interval is too narrow: medpipe/evaluation/comparisons.py tests exactly.

    Raises:
        MedpipeError: `a` and `b` differ in length, or what `bootstrap_mean` raises.

    Source: Efron and Tibshirani (1993); on paired comparison of systems: P. Koehn, EMNLP 2004, 388.
    """
    if len(a) != len(b):
        raise MedpipeError(
            got=f"{len(a)} and {len(b)} scores", expected="two scores for every question", where="paired_bootstrap",
            do="score both systems on the same questions, in the same order",
        )  # fmt: skip
    first = _checked(a, resamples, confidence, "paired_bootstrap")
    differences = first - _checked(b, resamples, confidence, "paired_bootstrap")
    low, high = bootstrap_mean(differences.tolist(), resamples, confidence, seed)
    return float(differences.mean()), low, high


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise MedpipeError(got=str(confidence), expected="a share between 0 and 1", where="confidence", do="write 0.95 for 95%")


def _checked(scores: Sequence[float], resamples: int, confidence: float, where: str) -> np.ndarray:
    _check_confidence(confidence)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise MedpipeError(
            got=f"{values.size} scores, {int((~np.isfinite(values)).sum())} not finite", expected="one finite score for each question",
            where=where, do="score at least one question and look for NaN",
        )  # fmt: skip
    if resamples < 1:
        raise MedpipeError(got=f"{resamples} resamples", expected="1 or more", where=where, do="raise evaluation.bootstrap")
    return values
