"""No attack pays: each transform of an honest message scores at least 0.05 below the message it was made from.

`python -m medpipe.rewards.audit` prints the table for any file of rows.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from medpipe.answers import answer_text
from medpipe.rewards.attack_words import DISCLAIMER
from medpipe.rewards.attacks import ATTACKS, Attack, Case
from medpipe.rewards.audit import CAUGHT, MARGIN, allowed, message
from medpipe.rewards.compose import Breakdown, MedicalReward
from medpipe.rewards.honest import honest_cases
from medpipe.roles import Said
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL
from medpipe_tests.rewards.conftest import Score

TUNED = [attack for attack in ATTACKS if attack.tuned]
UNSEEN = [attack for attack in ATTACKS if not attack.tuned]
BY_NAME = {attack.name: attack for attack in ATTACKS}


@pytest.fixture(scope="module")
def honest(reward: MedicalReward, cases: list[Case]) -> dict[Case, Breakdown]:
    """Case → its honest score, for every kind of case."""
    rows = [case.row for case in cases]
    found = [*cases, *CHOICE, *(case for case in honest_cases(rows, len(rows), 0) if case.kind in ("team", "cited"))]
    return dict(zip(found, reward.score([message(case) for case in found]), strict=True))


@pytest.mark.parametrize("attack", TUNED, ids=lambda attack: attack.name)
def test_an_attack_scores_below_the_honest_message(attack: Attack, reward: MedicalReward, honest: dict[Case, Breakdown]) -> None:
    pairs = [(case, attacked) for case in honest if case.kind == attack.kind and (attacked := attack.apply(case, 0)) != case]
    assert pairs
    found = reward.score([message(attacked) for _, attacked in pairs])
    missed = [case.row.id for (case, _), now in zip(pairs, found, strict=True) if now.total > honest[case].total - MARGIN]
    assert len(missed) <= allowed(len(pairs), 1.0 - CAUGHT), missed
    if attack.harmful:
        assert all(now.total == 0.0 for now in found)


def test_the_corpus_is_large_and_a_part_of_it_is_kept_out_of_tuning() -> None:
    assert len(BY_NAME) == len(ATTACKS) >= 33
    assert len(UNSEEN) >= 8
    assert {attack.kind for attack in ATTACKS} == {"answer", "team", "cited", "choice"}
    assert any(attack.harmful for attack in UNSEEN)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_a_function_of_case_and_seed(attack: Attack, honest: dict[Case, Breakdown]) -> None:
    chosen = [case for case in honest if case.kind == attack.kind]
    changed = [attack.apply(case, 7) for case in chosen]
    assert changed == [attack.apply(case, 7) for case in chosen]
    assert all(replace(now, text=case.text, said=case.said) == case for case, now in zip(chosen, changed, strict=True))


def test_honest_answers_pass_every_gate(reward: MedicalReward, cases: list[Case]) -> None:
    found = reward.score([message(replace(case, text=text)) for case in cases for text in (case.text, case.row.answer)])
    assert [breakdown.notes for breakdown in found if breakdown.notes] == []
    assert min(breakdown.total for breakdown in found) > 0.55


def test_a_disclaimer_earns_nothing(score: Score) -> None:
    for case in ORIGINAL:
        assert score(case, f"{case.text} {DISCLAIMER}").total <= score(case, case.text).total


def test_a_right_choice_beats_any_wrong_one(score: Score) -> None:
    for case in CHOICE:
        bare = score(case, f"The answer is {case.row.answer_text}. {answer_text(case.row, case.row.answer)}").total
        wrong = score(case, BY_NAME["choice: wrong answer"].apply(case, 0).text).total
        assert wrong < 0.15 < 0.5 < bare


def test_talking_about_the_team_is_no_collaboration(score: Score) -> None:
    for case in ORIGINAL:
        said = (Said("planner", f"Focus: {case.row.focus}. Plan: name its signs."), Said("analyst", case.row.answer))
        named = f"I agree with the planner, the researcher and the analyst. {case.text}"
        assert score(case, named, said).components["collaboration"] <= score(case, case.text, said).components["collaboration"] + 0.02
        assert score(case, "As the planner, researcher and analyst said, we agree.", said).total < 0.15


def test_citing_the_evidence_in_own_words_beats_inventing_and_copying(score: Score) -> None:
    for case in ORIGINAL:
        evidence = (case.row.answer, "Cataract clouds the lens of the eye.")
        own, *rest = case.text.split(". ")
        cited, invented = (f"{own} {mark}. " + ". ".join(rest) for mark in ("[E1]", "[E7]"))
        honest = score(case, cited, (), evidence, "researcher")
        assert score(case, invented, (), evidence, "researcher").total < honest.total - MARGIN
        copy = f"{case.row.answer} [E1]"
        assert score(case, copy, (), evidence, "researcher").components["evidence"] <= 0.5
