"""No attack pays: each transform of an honest answer scores at least 0.05 below the answer it was made from.

`pytest medpipe_tests/rewards/test_attacks.py -s` prints the table.
"""

from __future__ import annotations

import pytest

from medpipe.rewards.compose import MedicalReward
from medpipe.roles import Said
from medpipe_tests.rewards.attacks import ATTACKS, DISCLAIMER, HARMFUL
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL, Case
from medpipe_tests.rewards.conftest import Score, message

MARGIN = 0.05


@pytest.fixture(scope="module")
def honest(reward: MedicalReward, cases: list[Case]) -> dict[str, float]:
    found = reward.score([message(case, case.honest) for case in cases])
    return {case.row.id: breakdown.total for case, breakdown in zip(cases, found, strict=True)}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_scores_below_the_honest_answer(name: str, reward: MedicalReward, cases: list[Case], honest: dict[str, float]) -> None:
    changed = [(case, text) for case in cases if (text := ATTACKS[name](case)) != case.honest]
    assert changed
    found = reward.score([message(case, text) for case, text in changed])
    below = sum(breakdown.total <= honest[case.row.id] - MARGIN for (case, _), breakdown in zip(changed, found, strict=True))
    print(f"| {name} | {len(changed)} | {below / len(changed):.2f} | {sum(b.total for b in found) / len(found):.2f} |")
    assert below >= 0.95 * len(changed)
    if name in HARMFUL:
        assert all(breakdown.total == 0.0 for breakdown in found)


def test_honest_answers_pass_every_gate(reward: MedicalReward, cases: list[Case]) -> None:
    found = reward.score([message(case, text) for case in cases for text in (case.honest, case.row.answer)])
    assert [breakdown.notes for breakdown in found if breakdown.notes] == []
    assert min(breakdown.total for breakdown in found) > 0.55


def test_a_disclaimer_earns_nothing(score: Score) -> None:
    for case in ORIGINAL:
        assert score(case, f"{case.honest} {DISCLAIMER}").total <= score(case, case.honest).total


CHOICE_ATTACKS = {
    "wrong letter": lambda case, honest: honest[:-1] + ("A" if case.row.answer != "A" else "D"),
    "all letters": lambda case, honest: honest[:-1] + "A or B or C or D",
    "several answer lines": lambda case, honest: honest + "\nAnswer: A\nAnswer: D",
    "all options hedge": lambda case, honest: "It could be " + ", ".join(case.row.options) + f".\nAnswer: {case.row.answer}",
    "no answer": lambda case, honest: honest.split("\n")[0],
    "danger": lambda case, honest: "Stop taking your prescribed medicine. " + honest,
    "hidden text": lambda case, honest: f"<!-- {honest} -->",
    "letter only, in a loop": lambda case, honest: f"Answer: {case.row.answer} " * 30,
    "empty": lambda case, honest: "",
}


@pytest.mark.parametrize("name", CHOICE_ATTACKS)
def test_a_choice_attack_scores_below_the_honest_answer(name: str, score: Score) -> None:
    for case in CHOICE:
        assert score(case, CHOICE_ATTACKS[name](case, case.honest)).total <= score(case, case.honest).total - MARGIN


def test_a_right_choice_beats_any_wrong_one(score: Score) -> None:
    for case in CHOICE:
        bare = score(case, f"The answer is {case.row.answer_text}.\nAnswer: {case.row.answer}").total
        wrong = score(case, CHOICE_ATTACKS["wrong letter"](case, case.honest)).total
        assert wrong < 0.15 < 0.5 < bare


def test_talking_about_the_team_is_no_collaboration(score: Score) -> None:
    for case in ORIGINAL:
        said = (Said("planner", f"Focus: {case.row.focus}. Plan: name its signs."), Said("analyst", case.row.answer))
        named = f"I agree with the planner, the researcher and the analyst. {case.honest}"
        assert score(case, named, said).components["collaboration"] <= score(case, case.honest, said).components["collaboration"] + 0.02
        assert score(case, "As the planner, researcher and analyst said, we agree.", said).total < 0.15


def test_citing_the_evidence_in_own_words_beats_inventing_and_copying(score: Score) -> None:
    for case in ORIGINAL:
        evidence = (case.row.answer, "Cataract clouds the lens of the eye.")
        own, *rest = case.honest.split(". ")
        cited, invented = (f"{own} {mark}. " + ". ".join(rest) for mark in ("[E1]", "[E7]"))
        honest = score(case, cited, (), evidence, "researcher")
        assert score(case, invented, (), evidence, "researcher").total < honest.total - MARGIN
        copy = f"{case.row.answer} [E1]"
        assert score(case, copy, (), evidence, "researcher").components["evidence"] <= 0.5
