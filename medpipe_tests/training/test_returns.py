"""Returns and influence shaping against the golden numbers of docs/maporl.md, and the properties they must hold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.training.returns import returns, shaping, with_team_share

GOLDEN = (1.0, 2.0, 4.0, 8.0)
"""α0, α1, β0, β1 of the golden cases: powers of two, so that every sum tells its parts."""

Grid = list[list[float]]


def grids(values: st.SearchStrategy[float], most_rounds: int = 5) -> st.SearchStrategy[Grid]:
    """[t][a] with 1 to 5 rounds and 1 to 5 agents."""
    return st.integers(1, 5).flatmap(
        lambda agents: st.lists(st.lists(values, min_size=agents, max_size=agents), min_size=1, max_size=most_rounds)
    )


BITS = grids(st.sampled_from([0.0, 1.0]))
SCORES = grids(st.floats(0.0, 1.0))
WEIGHTS = st.tuples(*[st.floats(0.0, 10.0)] * 4)


def released(correct: Sequence[Sequence[float]], a0: float, a1: float, b0: float, b1: float) -> Grid:
    """The shaping as the authors' released code does it: the β signs the other way round, and none looking ahead from round 0."""
    back, ahead = shaping(correct, a0, a1, 0.0, 0.0), shaping(correct, 0.0, 0.0, b0, b1)
    return [[b - (f if t else 0.0) for b, f in zip(*rows, strict=True)] for t, rows in enumerate(zip(back, ahead, strict=True))]


def released_returns(values: Grid, gamma: float, rounds: int) -> Grid:
    """Its returns: rounds that did not happen count as rounds in which everybody scored 0."""
    return returns(values + [[0.0] * len(values[0])] * (rounds - len(values)), gamma)[: len(values)]


def test_the_golden_returns() -> None:
    found = returns([[1, 0], [1, 0], [1, 1]], 0.3)
    assert [[round(value, 4) for value in row] for row in found] == [[0.8921, 0.1727], [1.0, 0.2308], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([[1, 0], [1, 1]], [[8, 0], [0, 2]]),
        ([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], [[8, 4, 4, 4], [0, 1, 1, 0], [0, 0, 0, 2]]),
        ([[1, 1], [1, 1]], [[0, 0], [0, 0]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[0, 1], [0, 0]], [[-8, 0], [0, -2]]),  # agent 1 let itself be misled by agent 0
        ([[1, 1], [1, 0]], [[-4, 0], [0, -1]]),  # agent 1 broke away into an error
        ([[0, 0], [0, 1]], [[4, 0], [0, 1]]),  # agent 1 drew the truth out of a wrong answer
        ([[1, 0], [0, 1]], [[8, -8], [-2, 2]]),  # they swap sides: each persuaded the other
        ([[1, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]),  # ties on the other side pay nothing
        ([[1, 0]], [[0, 0]]),  # one round: nothing changed
        ([], []),
    ],
)  # fmt: skip
def test_the_golden_shaping_and_each_case_by_hand(correct: Grid, expected: Grid) -> None:
    assert shaping(correct, *GOLDEN) == expected


# --- ours, not the paper's: the team's answer in every return, and mates whose messages can't be used


@pytest.mark.parametrize(
    ("scores", "expected"), [([1, 0, 1, 1], [1, 0.5, 1, 1]), ([1, 0, 1, 0], [0.5, 0, 0.5, 0]), ([0, 0, 0, 1], [0.5, 0.5, 0.5, 1])]
)
def test_the_golden_team_share(scores: list[float], expected: list[float]) -> None:
    """One round, s = ½: the reporter's V is the team's."""
    assert with_team_share(returns([scores], 0.3), scores[-1], 0.5) == [expected]


@given(values=SCORES, gamma=st.floats(0.0, 1.0), share=st.floats(0.0, 1.0))
def test_a_share_of_zero_is_the_paper_and_of_one_the_teams_answer_alone(values: Grid, gamma: float, share: float) -> None:
    plain, final = returns(values, gamma), values[-1][-1]
    assert with_team_share(plain, final, 0.0) == plain
    assert with_team_share(plain, final, 1.0) == [[final] * len(row) for row in values]
    for row, own in zip(with_team_share(plain, final, share), plain, strict=True):
        assert all(min(r, final) - 1e-9 <= mixed <= max(r, final) + 1e-9 for mixed, r in zip(row, own, strict=True))


def test_the_golden_return_beside_a_mate_that_cannot_be_used() -> None:
    """As the golden return, but agent 1's message of round 1 is malformed: its 0 no longer halves what agent 0 gets for round 0."""
    found = returns([[1, 0], [1, 0], [1, 1]], 0.3, [[True, True], [True, False], [True, True]])
    weight = 1 + 0.3 + 0.09
    assert found[0] == pytest.approx([(1 + 0.3 * 1 + 0.09) / weight, (0 + 0.3 * 1 + 0.09) / weight])
    assert found[1:] == [[pytest.approx(1.0), pytest.approx(0.3 / 1.3)], [1.0, 1.0]]


@given(values=SCORES, gamma=st.floats(0.0, 1.0), chance=st.randoms())
def test_what_cannot_be_used_counts_in_its_own_cell_only(values: Grid, gamma: float, chance) -> None:
    t, a = chance.randrange(len(values)), chance.randrange(len(values[0]))
    usable = [[(u, b) != (t, a) for b in range(len(row))] for u, row in enumerate(values)]
    other = [[1.0 - value if (u, b) == (t, a) else value for b, value in enumerate(row)] for u, row in enumerate(values)]
    one, two = returns(values, gamma, usable), returns(other, gamma, usable)
    assert [(u, b) for u, row in enumerate(one) for b in range(len(row)) if one[u][b] != two[u][b]] in ([(t, a)], [])
    assert returns(values, gamma, [[True] * len(row) for row in values]) == returns(values, gamma)


def test_a_round_in_which_nothing_can_be_used_is_worth_nothing_to_the_rounds_before() -> None:
    assert returns([[1.0, 1.0], [0.0, 0.0]], 1.0, [[True, True], [False, False]]) == [[0.5, 0.5], [0.0, 0.0]]


@given(values=SCORES)
def test_without_a_future_the_return_is_the_own_score(values: Grid) -> None:
    assert returns(values, 0.0) == values
    assert returns(values, 0.7)[-1] == pytest.approx(values[-1])


@given(values=SCORES, gamma=st.floats(0.0, 1.0))
def test_returns_stay_between_the_scores(values: Grid, gamma: float) -> None:
    flat = [value for row in values for value in row]
    assert all(min(flat) - 1e-9 <= r <= max(flat) + 1e-9 for row in returns(values, gamma) for r in row)


@given(values=SCORES, gamma=st.floats(0.0, 1.0), chance=st.randoms())
def test_permuting_agents_permutes_the_returns(values: Grid, gamma: float, chance) -> None:
    order = chance.sample(range(len(values[0])), len(values[0]))
    mixed = returns([[row[a] for a in order] for row in values], gamma)
    for row, other in zip(returns(values, gamma), mixed, strict=True):
        assert [row[a] for a in order] == pytest.approx(other)


@given(correct=BITS, weights=WEIGHTS, chance=st.randoms())
def test_permuting_agents_permutes_the_shaping(correct: Grid, weights: tuple[float, ...], chance) -> None:
    order = chance.sample(range(len(correct[0])), len(correct[0]))
    mixed = shaping([[row[a] for a in order] for row in correct], *weights)
    assert [[row[a] for a in order] for row in shaping(correct, *weights)] == mixed


@given(correct=BITS)
def test_zero_weights_give_exactly_zero(correct: Grid) -> None:
    assert shaping(correct, 0.0, 0.0, 0.0, 0.0) == [[0.0] * len(correct[0])] * len(correct)


def others_turn(correct: Grid, t: int, a: int, before: bool, after: bool) -> bool:
    """Whether the others' majority goes from `before` to `after` between t and t + 1."""
    if t + 1 >= len(correct) or len(correct[0]) < 2:
        return False
    shares = [sum(v for b, v in enumerate(correct[u]) if b != a) / (len(correct[0]) - 1) for u in (t, t + 1)]
    return 0.5 not in shares and (shares[0] > 0.5) == before and (shares[1] > 0.5) == after


@given(correct=BITS, beta0=st.floats(0.0, 10.0), beta1=st.floats(0.0, 10.0))
def test_persuading_to_the_truth_is_never_penalised_and_misleading_never_paid(correct: Grid, beta0: float, beta1: float) -> None:
    ahead = shaping(correct, 0.0, 0.0, beta0, beta1)
    for t, row in enumerate(correct):
        for a, mine in enumerate(row):
            if others_turn(correct, t, a, before=False, after=True):
                assert ahead[t][a] == (beta1 if mine else beta0)
            elif others_turn(correct, t, a, before=True, after=False):
                assert ahead[t][a] == -(beta0 if mine else beta1)
            else:
                assert ahead[t][a] == 0.0


@given(correct=BITS, alpha0=st.floats(0.0, 10.0), alpha1=st.floats(0.0, 10.0))
def test_becoming_right_is_never_penalised_and_becoming_wrong_never_paid(correct: Grid, alpha0: float, alpha1: float) -> None:
    back = shaping(correct, alpha0, alpha1, 0.0, 0.0)
    assert back[0] == [0.0] * len(correct[0])
    for before, now, row in zip(correct, correct[1:], back[1:], strict=False):
        for was, is_, bonus in zip(before, now, row, strict=True):
            assert bonus * (is_ - was) >= 0.0 and (is_ != was or bonus == 0.0)


@given(values=SCORES, gamma=st.floats(0.01, 1.0), missing=st.integers(1, 3))
def test_rounds_that_did_not_happen_change_nothing_here_and_cost_in_the_released_code(values: Grid, gamma: float, missing: int) -> None:
    """The last round that happened is worth exactly its own score; a sentinel for missing rounds would pull it down."""
    assert returns(values, gamma)[-1] == values[-1]
    padded = released_returns(values, gamma, len(values) + missing)
    assert all(low <= real and (low < real or real < 1e-9) for low, real in zip(padded[-1], values[-1], strict=True))


def test_a_later_round_reaches_back_only_through_what_the_definition_says() -> None:
    """Rounds t and t + 1 decide the shaping of round t's agents; round t + 2 does not."""
    one, other = (shaping([[1, 0], [1, 1], last], *GOLDEN) for last in ([1, 1], [0, 0]))
    assert one[0] == other[0] == [8, 0]
    assert one[1] != other[1]


def test_the_released_code_pays_the_opposite() -> None:
    """Why this project does not follow it: persuading to the truth costs there, misleading pays, and round 0 is left out."""
    persuades = [[0, 0], [1, 0], [1, 1]]
    misleads = [[1, 1], [0, 1], [0, 0]]
    assert shaping(persuades, *GOLDEN)[1][0] > 0 > released(persuades, *GOLDEN)[1][0] - shaping(persuades, 1.0, 2.0, 0.0, 0.0)[1][0]
    assert shaping(misleads, 0, 0, 4.0, 8.0)[1][0] == -8.0 and released(misleads, 0, 0, 4.0, 8.0)[1][0] == 8.0
    assert shaping([[1, 0], [1, 1]], *GOLDEN)[0] == [8, 0] and released([[1, 0], [1, 1]], *GOLDEN)[0] == [0, 0]
    early = [[1.0, 1.0]]  # all right at once, so the episode ends: the released code counts three more rounds as wrong
    assert returns(early, 0.3) == [[1.0, 1.0]]
    assert released_returns(early, 0.3, 4)[0][0] == pytest.approx(1 / (1 + 0.3 + 0.09 + 0.027))
