"""Is one system better than another, and is it still so after asking the same of several pairs?

    from medpipe.evaluation.comparisons import compare, holm, mcnemar, not_worse

    rows = compare({"team": [1, 0, 1, …], "agent": [0, 0, 1, …]}, [("team", "agent")], 2000, 0.95, seed=0, binary=True)
    [(row.mean, row.low, row.high, row.holm_p, row.significant) for row in rows]

A difference counts as shown only if two accounts agree: an exact test (McNemar's for right and wrong answers, a sign-flip
test for other scores) with Holm's correction over all pairs asked about, and the paired bootstrap interval of
`medpipe.evaluation.statistics`. Pure numpy, seeded, nothing read or written. What this leaves out: training seeds (all
this is over questions, for one trained model), intervals that hold for all pairs at once (each is for its pair alone),
and which pairs to ask about: name them before looking at scores, and hand over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.evaluation.statistics import paired_bootstrap

_SIGNS_AT_ONCE = 4_000_000  # signs held in memory at a time: 32 MB
_ROUNDING = 1e-9  # relative; sums of the same numbers in another order may differ by less


@dataclass(frozen=True)
class McNemar:
    """Questions that only `a` answered right, that only `b` did, and the exact two-sided p value of the two counts."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """System `a` minus system `b` on the same n questions. `mean`, `low`, `high` are in the scores' own unit.

    `only_a` and `only_b` are McNemar's counts, None where scores are not right or wrong. `p` is for this pair alone, `holm_p` after
    correction over all pairs of the call. `significant` says that they differ; the sign of `mean` says which way.
    """

    a: str
    b: str
    n: int
    mean: float
    low: float
    high: float
    only_a: int | None
    only_b: int | None
    p: float
    holm_p: float
    significant: bool


@dataclass(frozen=True)
class NotWorse:
    """Whether `a` is at most `margin` worse than `b`: it is shown where `bound`, the least plausible a − b, lies above −margin."""

    n: int
    mean: float
    bound: float
    margin: float
    shown: bool


def mcnemar(a: Sequence[float], b: Sequence[float]) -> McNemar:
    """Exact test that two systems are equally often right; `a` and `b` hold 0 or 1 for the same questions, shape (n,).

    Only questions on which they differ count: without a difference each of these falls to either side by a fair coin. p is the
    binomial's two-sided tail, exact in whole numbers, without the mid-p shortening; 1 where the systems never differ.

    Raises:
        MedpipeError: no scores, lengths differ, or a score other than 0 and 1.

    Source: Q. McNemar, Psychometrika 12 (1947) 153; for classifiers: T. G. Dietterich, Neural Computation 10 (1998) 1895.
    """
    first, second = _right_or_wrong(a, b, "mcnemar")
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_a + only_b
    ways = term = 1  # of `apart` fair coins, with at most k heads
    for k in range(min(only_a, only_b)):
        term = term * (apart - k) // (k + 1)
        ways += term
    return McNemar(only_a, only_b, min(1.0, 2 * ways / 2**apart))


def sign_flip(a: Sequence[float], b: Sequence[float], resamples: int, seed: int) -> float:
    """Two-sided permutation p value that the mean of a − b is 0, for scores of any unit, shape (n,) each.

    Without a difference between the systems each question's a − b could as well have had the other sign. p is the share of
    `resamples` random sign patterns, with the observed one counted among them (+1), that give a mean at least as far from 0; so it
    is never 0 and never too small for want of resamples.

    Raises:
        MedpipeError: no scores, lengths differ, a score that is not finite, or fewer than one resample.

    Source: R. A. Fisher, The Design of Experiments (1935), chapter III; the +1: B. Phipson and G. K. Smyth, Stat. Appl.
    Genet. Mol. Biol. 9 (2010) 39.
    """
    if resamples < 1:
        raise MedpipeError(got=f"{resamples} resamples", expected="1 or more", where="sign_flip", do="raise evaluation.bootstrap")
    first, second = _paired(a, b, "sign_flip")
    differences = first - second
    differences = differences[differences != 0]  # a zero has no sign to flip
    if not differences.size:
        return 1.0
    total, scale = float(differences.sum()), float(np.abs(differences).sum())
    generator = np.random.default_rng(seed)
    at_once = max(1, _SIGNS_AT_ONCE // differences.size)
    as_far = 0
    for start in range(0, resamples, at_once):
        flipped = generator.random((min(at_once, resamples - start), differences.size)) < 0.5
        sums = total - 2 * (flipped @ differences)
        as_far += int((np.abs(sums) >= abs(total) - _ROUNDING * scale).sum())  # a tie counts, also if rounding hides it
    return (1 + as_far) / (resamples + 1)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values of a family of tests, under the same names in the same order: compare each with the level for the family.

    The chance of even one false alarm in the family stays at that level, whatever the tests have to do with each other.

    Raises:
        MedpipeError: a p value outside 0..1 or NaN.

    Source: S. Holm, Scand. J. Statist. 6 (1979) 65.
    """
    for name, p in ps.items():
        if not 0 <= p <= 1:
            raise MedpipeError(got=f"p = {p} for {name}", expected="a p value between 0 and 1", where="holm", do="look for NaN")
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        highest = min(1.0, max(highest, (len(ps) - rank) * ps[name]))  # never below a smaller p's
        adjusted[name] = highest
    return {name: adjusted[name] for name in ps}


def compare(
    scores: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], resamples: int, confidence: float, seed: int, binary: bool
) -> list[Comparison]:
    """Each pair (a, b) compared on the same questions; Holm's correction runs over all `pairs`, in whose order the rows come.

    `significant` asks for both: Holm's p below 1 − confidence, and the interval of the difference without 0. The interval is for
    its own pair, not for the family. All pairs use the same seed, so they are judged on the same resampled questions.

    Args:
        scores: system → one score per question (shape (n,)), questions in the same order for all systems.
        pairs: the whole family of comparisons, each named once; (a, b) and (b, a) are the same.
        resamples: bootstrap draws, and sign patterns where not binary.
        binary: scores are 1 (right) or 0 (wrong); then p is McNemar's, else that of the sign-flip test.

    Raises:
        MedpipeError: a system without scores, a pair given twice or of one system with itself, too few resamples for any pair
            to become significant, or what `paired_bootstrap` and `mcnemar` raise.
    """
    _check_pairs(scores, pairs)
    if not binary and pairs and 0 < confidence < 1 <= resamples and not _below(len(pairs) / (resamples + 1), confidence):
        raise MedpipeError(
            got=f"{resamples} resamples for {len(pairs)} pairs", expected=f"a p below {1 - confidence:.3g} within reach",
            where="compare", do="raise evaluation.bootstrap",
        )  # fmt: skip
    intervals, counts, ps = [], [], {}
    for number, (a, b) in enumerate(pairs):
        intervals.append(paired_bootstrap(scores[a], scores[b], resamples, confidence, seed))
        tested = mcnemar(scores[a], scores[b]) if binary else None
        counts.append((tested.only_a, tested.only_b) if tested else (None, None))
        ps[str(number)] = tested.p if tested else sign_flip(scores[a], scores[b], resamples, seed)
    rows = []
    for (a, b), (mean, low, high), (only_a, only_b), p, adjusted in zip(
        pairs, intervals, counts, ps.values(), holm(ps).values(), strict=True
    ):
        significant = _below(adjusted, confidence) and not low <= 0 <= high
        rows.append(Comparison(a, b, len(scores[a]), mean, low, high, only_a, only_b, p, adjusted, significant))
    return rows


def not_worse(
    a: Sequence[float], b: Sequence[float], margin: float, resamples: int, confidence: float, seed: int, binary: bool
) -> NotWorse:
    """Whether `a` is shown to be less than `margin` worse than `b` on the same questions: one-sided, at `confidence`.

    The bound is Tango's score bound where `binary`, since the bootstrap knows no doubt where two systems never differ: on five
    equal answers its bound would be 0. Otherwise it is the lower end of the paired bootstrap interval, which is too narrow with
    few questions: show n beside it. "Not shown" is not "worse".

    Args:
        margin: the largest loss that would not matter, in the scores' unit, above 0; choose it before looking at scores.
        resamples, seed: for the bootstrap, unused where `binary`.
        confidence: one-sided, above 0.5: 0.95 leaves 5% below the bound.

    Raises:
        MedpipeError: margin or confidence outside these, or what `paired_bootstrap` and `mcnemar` raise.

    Source: T. Tango, Stat. Med. 17 (1998) 891; on margins: G. Piaggio et al., JAMA 308 (2012) 2594.
    """
    if not 0 < margin < math.inf:
        raise MedpipeError(
            got=f"a margin of {margin}", expected="a number above 0", where="not_worse", do="name the loss that would not matter"
        )
    if not 0.5 < confidence < 1:
        raise MedpipeError(got=str(confidence), expected="a share between 0.5 and 1", where="not_worse", do="write 0.95 for 95%")
    if binary:
        counted = mcnemar(a, b)
        mean, bound = (counted.only_a - counted.only_b) / len(a), _tango_low(counted.only_a, counted.only_b, len(a), confidence)
    else:
        mean, bound, _ = paired_bootstrap(a, b, resamples, 2 * confidence - 1, seed)
    return NotWorse(len(a), mean, bound, margin, bound > -margin)


def _tango_low(only_a: int, only_b: int, n: int, confidence: float) -> float:
    """Largest loss of a against b that the counts do not reject: where the score statistic falls to the normal quantile."""
    z = NormalDist().inv_cdf(confidence)
    observed = (only_a - only_b) / n

    def rejected(delta: float) -> bool:
        """Whether a true difference `delta` is too low for the counts. `only_b_share` is its likeliest P(only b) given delta."""
        half = ((2 * n - only_a + only_b) * delta - only_a - only_b) / (4 * n)
        only_b_share = math.sqrt(max(0.0, half * half + only_b * delta * (1 - delta) / (2 * n))) - half
        variance = max(0.0, 2 * only_b_share + delta * (1 - delta)) / n
        return observed - delta > z * math.sqrt(variance)

    low, high = -1.0, observed
    for _ in range(60):  # halvings: down to the last bit of a double
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def _below(p: float, confidence: float) -> bool:
    return p < 1 - confidence - 1e-12  # so that 1 − 0.95, which is 0.05000000000000004, does not let a p of 0.05 pass


def _check_pairs(scores: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]) -> None:
    for number, (a, b) in enumerate(pairs):
        where = f"pair {number + 1} of compare"
        if a not in scores or b not in scores:
            raise MedpipeError(got=f"{a} and {b}", expected=f"two of {', '.join(scores)}", where=where, do="hand over the scores of both")
        if a == b or {a, b} in [{*pair} for pair in pairs[:number]]:
            raise MedpipeError(got=f"{a} and {b}", expected="two systems, once", where=where, do="name each comparison once")


def _paired(a: Sequence[float], b: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not first.size or not np.isfinite(first).all() or not np.isfinite(second).all():
        raise MedpipeError(
            got=f"scores of shapes {first.shape} and {second.shape}", expected="two finite scores for every question", where=where,
            do="score both systems on the same questions, in the same order, and look for NaN",
        )  # fmt: skip
    return first, second


def _right_or_wrong(a: Sequence[float], b: Sequence[float], where: str) -> tuple[np.ndarray, np.ndarray]:
    both = _paired(a, b, where)
    for values in both:
        other = values[(values != 0) & (values != 1)]
        if other.size:
            raise MedpipeError(got=f"a score of {other[0]:g}", expected="0 or 1", where=where, do="pass binary=False for other scores")
    return both[0] == 1, both[1] == 1
