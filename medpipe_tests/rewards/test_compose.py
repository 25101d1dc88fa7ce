"""The sum, its weights, its rule against rescue, and that nothing ever leaves [0, 1]."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpipe.config import Rewards
from medpipe.rewards.compose import COMPONENTS, FLOOR, Breakdown, MedicalReward, combine, normalised
from medpipe.roles import Said, mates_before, target_for
from medpipe.schema import ROLES
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL, Case
from medpipe_tests.rewards.conftest import Score, message

RAW = {"accuracy": 0.8, "relevance": 0.6, "safety": 1.0, "collaboration": 0.4, "evidence": 0.5, "reasoning": 0.2}


def test_weights_sum_to_one() -> None:
    free, choice = normalised(Rewards(), choice=False), normalised(Rewards(), choice=True)
    assert sum(free.values()) == pytest.approx(1) == sum(choice.values())
    assert free["accuracy"] == pytest.approx(0.35)
    assert choice["accuracy"] == pytest.approx(0.70 / 1.35)


def test_golden_sum() -> None:
    # All components of a right, ungated answer count in full: .35 + .25*.6 + .15 + .15*.4 + .05*.5 + .05*.2 = 0.745
    assert combine({**RAW, "accuracy": 1.0}, Rewards(), choice=False).total == pytest.approx(0.745)
    # The others count .15 + .85*.8 = .83 of themselves: .35*.8 + .83*.395 = 0.60785
    assert combine(RAW, Rewards(), choice=False).total == pytest.approx(0.60785)
    # Multiple choice: (.7 + .395) / 1.35
    assert combine({**RAW, "accuracy": 1.0}, Rewards(), choice=True).total == pytest.approx(1.095 / 1.35)
    assert combine({**RAW, "accuracy": 1.0}, Rewards(), choice=False, severity=0.1).total == pytest.approx(0.445)
    assert combine({**RAW, "accuracy": 1.0}, Rewards(), choice=False, severity=0.4).total == 0.0


def test_other_components_do_not_rescue_a_wrong_or_gated_text() -> None:
    full = dict.fromkeys(COMPONENTS, 1.0)
    assert combine({**full, "accuracy": 0.0}, Rewards(), choice=False).total == pytest.approx(FLOOR * 0.65)
    assert combine({**full, "accuracy": 0.0}, Rewards(), choice=False, gate=0.0).total == 0.0


def test_a_breakdown_adds_up(score: Score) -> None:
    for case in (*ORIGINAL, *CHOICE):
        found = score(case, case.text)
        weights = normalised(Rewards(), choice=case.row.is_choice)
        assert sum(weights[name] * found.components[name] for name in COMPONENTS) - found.penalty == pytest.approx(found.total)


def test_a_batch_scores_like_its_messages_alone(reward: MedicalReward, score: Score) -> None:
    found = reward.score([message(case, case.text) for case in ORIGINAL])
    assert [b.total for b in found] == pytest.approx([score(case, case.text).total for case in ORIGINAL], abs=1e-3)
    assert reward.score([]) == []


def test_an_empty_text_is_worth_nothing(score: Score) -> None:
    for text in ("", " \n", "\u200b", "<!-- x -->", "<|im_end|>", "..."):
        assert score(ORIGINAL[0], text) == Breakdown(dict.fromkeys(COMPONENTS, 0.0), 0.0, 0.0, ("empty",))


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_is_taught_to_say_passes_the_gates(role, score: Score) -> None:
    for case in (*ORIGINAL, *CHOICE):
        evidence = (case.row.rationale or case.row.answer, "Cataract clouds the lens of the eye.")
        text = target_for(role, case.row, evidence)
        said = mates_before(case.row, evidence)[1][: ROLES.index(role)]
        found = score(case, text, said, evidence, role)
        assert found.notes == ()
        assert found.total > 0


def test_a_missing_emergency_advice_is_the_reporters_fault_alone(score: Score) -> None:
    row = ORIGINAL[3].row.model_copy(update={"question": "My leg swelled and I suddenly can't breathe. What is it?"})
    case = Case(row, "Deep vein thrombosis is a clot in a deep vein of the leg.")
    assert score(case, case.text, role="reporter").penalty > 0 == score(case, case.text, role="planner").penalty


WORDS = [
    *ORIGINAL[0].text.split(),
    "not",
    "500",
    "mg",
    "[E1]",
    "[E99]",
    "<!--",
    "-->",
    "Answer:",
    "C",
    "Graves disease (B)",
    "because",
    "?",
    "<|im_end|>",
    "\u200b",
]
TEXT = st.one_of(st.text(st.characters(), max_size=300), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=TEXT, mate=TEXT, passage=TEXT, role=st.sampled_from(ROLES), which=st.sampled_from([ORIGINAL[0], CHOICE[0]]))
def test_every_component_is_finite_and_in_bounds(score: Score, text: str, mate: str, passage: str, role, which: Case) -> None:
    found = score(which, text, (Said("planner", mate),), (passage,), role)
    assert set(found.components) == set(COMPONENTS)
    for value in (*found.components.values(), found.total):
        assert math.isfinite(value) and 0.0 <= value <= 1.0
    assert math.isfinite(found.penalty) and found.penalty >= 0.0
