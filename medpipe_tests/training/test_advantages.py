"""Advantages against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from statistics import pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.training.advantages import FLOOR, Cell, flat_questions, leave_one_out, normalise, whiten

TARGETS = st.dictionaries(
    st.builds(Cell, st.sampled_from("pq"), st.integers(0, 3), st.sampled_from(["planner", "reporter"]), st.integers(0, 1)), st.floats(-5, 5)
)


def group(*values: float, question: str = "q", role: str = "planner", round_: int = 0) -> dict[Cell, float]:
    return {Cell(question, sample, role, round_): value for sample, value in enumerate(values)}


def test_each_sample_is_compared_with_the_mean_of_the_others() -> None:
    assert list(leave_one_out(group(1.0, 0.0, 0.5)).values()) == pytest.approx([0.75, -0.75, 0.0])
    assert list(leave_one_out(group(1.0, 0.0)).values()) == [1.0, -1.0]


def test_questions_roles_and_rounds_are_never_compared_with_each_other() -> None:
    groups = [group(1, 0), group(9, 8, question="r"), group(5, 5, role="analyst"), group(3, 1, round_=1)]
    together = leave_one_out({cell: value for one in groups for cell, value in one.items()})
    assert together == {cell: value for one in groups for cell, value in leave_one_out(one).items()}


def test_a_cell_that_no_other_sample_reached_teaches_nothing() -> None:
    late = {Cell("q", 2, "planner", 3): 7.0}
    assert leave_one_out(group(1.0, 0.0) | late)[Cell("q", 2, "planner", 3)] == 0.0


@given(targets=TARGETS)
def test_a_groups_advantages_sum_to_zero(targets: dict[Cell, float]) -> None:
    sums: dict[tuple, float] = {}
    for cell, value in leave_one_out(targets).items():
        key = (cell.question, cell.role, cell.round)
        sums[key] = sums.get(key, 0.0) + value
    assert all(abs(total) < 1e-9 for total in sums.values())


@given(targets=TARGETS, shift=st.floats(-3, 3))
def test_a_constant_added_to_every_target_changes_nothing(targets: dict[Cell, float], shift: float) -> None:
    shifted = leave_one_out({cell: value + shift for cell, value in targets.items() if len(targets) > 0})
    alone = {c for c in targets if sum(o[0] == c[0] and o[2:] == c[2:] for o in targets) == 1}
    for cell, value in leave_one_out(targets).items():
        assert shifted[cell] == pytest.approx(value, abs=1e-9) and (cell not in alone or value == 0.0)


def spread(values: dict[Cell, float], role: str = "planner", round_: int = 0) -> float:
    return pstdev(value for cell, value in values.items() if (cell.role, cell.round) == (role, round_))


def test_the_spread_becomes_one_per_role_and_round() -> None:
    scaled = normalise(group(4.0, -4.0, 2.0, -2.0) | group(0.3, -0.3, role="analyst") | group(30.0, -30.0, round_=1))
    for role, round_ in (("planner", 0), ("analyst", 0), ("planner", 1)):
        assert spread(scaled, role, round_) == pytest.approx(1.0)
    assert scaled[Cell("q", 0, "planner", 0)] == pytest.approx(4 / 10**0.5)


def test_the_mean_of_leave_one_out_advantages_is_left_alone() -> None:
    assert list(normalise(group(3.0, 1.0)).values()) == [3.0, 1.0]
    assert list(whiten(group(3.0, 1.0)).values()) == [1.0, -1.0]


@pytest.mark.parametrize("scale", [normalise, whiten])
def test_a_difference_that_is_mostly_noise_is_no_full_step(scale: Callable[[dict[Cell, float]], dict[Cell, float]]) -> None:
    assert list(scale(group(1e-4, -1e-4)).values()) == pytest.approx([1e-3, -1e-3])
    assert list(scale(group(0.05, -0.05)).values()) == pytest.approx([0.5, -0.5])
    at_the_floor, above = (spread(scale(group(value, -value))) for value in (FLOOR, 2 * FLOOR))
    assert at_the_floor == pytest.approx(1.0) and above == pytest.approx(1.0)


@given(targets=TARGETS)
def test_scaling_keeps_signs_and_order_and_never_blows_up(targets: dict[Cell, float]) -> None:
    raw = leave_one_out(targets)
    for cell, value in normalise(raw).items():
        assert value * raw[cell] >= 0.0 and abs(value) <= abs(raw[cell]) / FLOOR + 1e-9


def test_a_group_without_spread_stays_zero() -> None:
    assert normalise(group(0.0, 0.0)) == whiten(group(0.7, 0.7)) == group(0.0, 0.0)
    assert normalise({}) == whiten({}) == {}


def test_a_question_is_flat_when_all_its_samples_fared_alike_in_every_role_and_round() -> None:
    flat = group(1, 1) | group(0.2, 0.2, role="analyst") | group(3, 3, round_=1)
    teaching = group(1, 1, question="r") | group(0.2, 0.3, role="analyst", question="r")
    late = group(1, 1, question="s") | group(0, 1, round_=1, question="s")
    assert flat_questions(flat | teaching | late) == {"q"}
    assert flat_questions(group(1, 1 + 1e-7)) == {"q"} and flat_questions(group(1, 1 + 1e-5)) == set()
    assert flat_questions(group(5)) == {"q"} and flat_questions({}) == set()  # one sample alone teaches nothing
