"""Return of every cell (t, a) and the influence shaping, in the notation of docs/maporl.md (sections 2 and 3).

Source: Park et al., arXiv 2502.18439. Pure functions over lists of rounds: `[t][a]`, where t runs over the rounds that
happened only. Rounds that never happened are simply not there.
"""

from __future__ import annotations

from collections.abc import Sequence

Cells = Sequence[Sequence[float]]


def returns(values: Cells, gamma: float, usable: Sequence[Sequence[bool]] | None = None) -> list[list[float]]:
    """R[t][a]: own score now, the team's mean score later, discounted and renormalised.

    Args:
        values: V[t][a] in [0, 1], shape (L rounds that happened, A agents).
        gamma: discount γ in [0, 1].
        usable: False for a message that can't be used: it counts in its own cell only, and not in the team's mean (ours, not the
            paper's). A round without a usable message has the mean 0.
    """
    rounds = len(values)
    kept = [[v for v, good in zip(row, usable[t] if usable else [True] * len(row), strict=True) if good] for t, row in enumerate(values)]
    means = [sum(row) / len(row) if row else 0.0 for row in kept]
    out = []
    for t, row in enumerate(values):
        weights = [gamma ** (u - t) for u in range(t, rounds)]
        later = sum(w * means[u] for w, u in zip(weights[1:], range(t + 1, rounds), strict=True))
        out.append([(value + later) / sum(weights) for value in row])
    return out


def with_team_share(returned: Cells, final: float, share: float) -> list[list[float]]:
    """R'[t][a] = (1 - s) R[t][a] + s V_final: everybody is paid for the team's answer too (docs/maporl.md; ours, not the paper's).

    Args:
        returned: R[t][a] from `returns`.
        final: the score of the team's answer, the last message of the last round that happened.
        share: s in [0, 1]; 0 gives the paper.
    """
    return [[(1 - share) * value + share * final for value in row] for row in returned]


def shaping(correct: Cells, alpha0: float, alpha1: float, beta0: float, beta1: float) -> list[list[float]]:
    """Influence shaping of each cell on a multiple-choice question, added once and undiscounted.

    Args:
        correct: c[t][a] in {0, 1}, shape (L, A).
        alpha0: weight of own changes against the others (drew the truth out of wrong answers, broke away into an error).
        alpha1: weight of own changes with the others (took a correct hint, let itself be misled).
        beta0: weight of the others' changes in spite of me.
        beta1: weight of the others' changes because of me (persuaded, misled).
    """
    rounds, agents = len(correct), len(correct[0]) if correct else 0
    out = [[0.0] * agents for _ in range(rounds)]
    for t in range(rounds):
        for a in range(agents):
            others = [_side(_mean_without(row, a)) for row in correct]
            mine = [_side(row[a]) for row in correct]
            if t >= 1:
                out[t][a] += _change(mine[t - 1], mine[t], with_=others[t - 1], agree=alpha1, against=alpha0)
            if t <= rounds - 2:
                out[t][a] += _change(others[t], others[t + 1], with_=mine[t], agree=beta1, against=beta0)
    return out


def _change(before: int, after: int, *, with_: int, agree: float, against: float) -> float:
    """What a change from before to after is worth; `with_` is the other side's stand at the time before.

    Becoming right pays `agree` where the other side was right and `against` where it was wrong; becoming wrong costs
    `agree` where the other side was wrong and `against` where it was right. Ties (0) give nothing.
    """
    if before == 0 or after == 0 or before == after or with_ == 0:
        return 0.0
    size = agree if with_ == after else against
    return size if after == 1 else -size


def _side(share: float) -> int:
    """+1 right, −1 wrong, 0 a tie."""
    return (share > 0.5) - (share < 0.5)


def _mean_without(row: Sequence[float], a: int) -> float:
    rest = [value for index, value in enumerate(row) if index != a]
    return sum(rest) / len(rest) if rest else 0.5
