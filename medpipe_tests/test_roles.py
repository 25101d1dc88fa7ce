"""The four roles: what each one learns to say, and what each one gets to see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.roles import (
    ALONE,
    ANSWER_RULE,
    CAUTION,
    EMERGENCY,
    PLANS,
    SYSTEM,
    Said,
    prompt_for,
    question_text,
    reference_said,
    sentences,
    target_for,
)
from medpipe.schema import ROLES, QAExample, Role
from medpipe_tests.tiny_team import choice_row, text_row

PASSAGES = [
    "gout: Gout is a painful joint disease with high uric acid.",
    "asthma: Wheezing and short breath at night point to asthma. It often starts in childhood.",
]


def user_text(role: Role | None, row: QAExample, evidence=PASSAGES, said=(), verdict="") -> str:
    messages = prompt_for(role, row, evidence, said, verdict)
    assert [message["role"] for message in messages] == ["system", "user"]
    return messages[1]["content"]


@pytest.mark.parametrize("row", [text_row(), choice_row()])
def test_four_roles_learn_four_different_things_from_one_row(row: QAExample) -> None:
    targets = [target_for(role, row, PASSAGES) for role in ROLES]
    assert len(set(targets)) == 4
    assert all(targets)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("letter", ["A", "B", "C", "D"])
def test_every_role_ends_a_choice_question_with_its_letter(role: Role, letter: str) -> None:
    target = target_for(role, choice_row(answer=letter), PASSAGES)
    assert target.endswith(f"\nAnswer: {letter}")
    assert target.count("Answer:") == 1


@pytest.mark.parametrize("role", ROLES)
def test_no_role_gives_a_letter_on_a_free_text_question(role: Role) -> None:
    assert "Answer:" not in target_for(role, text_row(), PASSAGES)
    assert ANSWER_RULE not in user_text(role, text_row())
    assert user_text(role, choice_row()).endswith(ANSWER_RULE)


def test_the_planner_plans_by_the_kind_of_question() -> None:
    plans = {qtype: target_for("planner", text_row(qtype=qtype), []) for qtype in PLANS}
    assert len(set(plans.values())) == len(PLANS)
    assert "Focus: asthma" in plans["treatment"]
    assert PLANS["information"] in target_for("planner", text_row(qtype="never heard of"), [])
    assert "asthma" not in target_for("planner", choice_row(), [])  # its focus would give the answer away


@pytest.mark.parametrize(("passages", "cited"), [(PASSAGES, 2), (PASSAGES[::-1], 1), ([PASSAGES[1]] * 3, 1)])
def test_the_researcher_cites_the_passage_nearest_to_the_reference(passages: list[str], cited: int) -> None:
    row = text_row(answer="Wheezing at night and short breath point to asthma.")
    target = target_for("researcher", row, passages)
    assert re.findall(r"\[E(\d+)\]", target) == [str(cited)]
    assert passages[cited - 1].split(". ")[0] in target


@pytest.mark.parametrize("passages", [[], ["unrelated: Nothing of this is shared."], PASSAGES[:1]])
def test_the_researcher_says_so_when_nothing_bears_on_the_question(passages: list[str]) -> None:
    assert target_for("researcher", text_row(), passages) == "No passage here bears on the question."


@pytest.mark.parametrize(
    ("answer", "emergency", "caution"),
    [
        ("Eczema is a dry and itchy skin condition.", False, False),
        ("Inhaled drugs keep the airways open.", False, True),
        ("Sudden chest pain can be the first sign.", True, False),
        ("Severe attacks are treated in hospital.", True, True),
        ("One. Two. Three. Four. Surgery comes fifth and is not said.", False, False),
    ],
)
def test_the_reporter_is_cautious_only_where_the_content_calls_for_it(answer: str, emergency: bool, caution: bool) -> None:
    target = target_for("reporter", text_row(answer=answer), [])
    assert (EMERGENCY in target, CAUTION in target) == (emergency, caution)
    assert target.startswith(" ".join(sentences(answer)[:4]))


@pytest.mark.parametrize("row", [text_row(), choice_row()])
@pytest.mark.parametrize("role", [*ROLES, None])
def test_only_researcher_and_analyst_see_the_evidence(role: Role | None, row: QAExample) -> None:
    shown = user_text(role, row)
    assert ("[E1] gout: Gout is" in shown and "[E2] asthma" in shown) == (role in ("researcher", "analyst"))
    assert ("Evidence:" in shown) == (role in ("researcher", "analyst"))
    assert "Evidence:" not in user_text(role, row, evidence=())


def test_a_prompt_holds_context_question_options_verdict_and_what_was_said() -> None:
    row = choice_row(context=("A study of breath.",))
    shown = user_text("analyst", row, said=[Said("planner", "Plan it."), Said("researcher", "Found it.")], verdict="the team answered C.")
    order = ["A study of breath.", f"Question: {row.question}", "A) gout", "D) eczema", "[E1]", "Previous round: the team answered C.",
             "Planner: Plan it.", "Researcher: Found it.", ANSWER_RULE]  # fmt: skip
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    assert "Previous round" not in user_text("analyst", row)
    assert "gout" not in question_text(text_row())


def test_each_role_and_the_single_agent_has_a_system_prompt_of_its_own() -> None:
    systems = [prompt_for(role, text_row(), (), ())[0]["content"] for role in [*ROLES, None]]
    assert systems == [*(SYSTEM[role] for role in ROLES), ALONE]
    assert len(set(systems)) == 5


def test_a_role_is_trained_on_what_the_roles_before_it_say() -> None:
    row = choice_row()
    assert [said.role for said in reference_said("reporter", row, PASSAGES)] == ["planner", "researcher", "analyst"]
    assert reference_said("planner", row, PASSAGES) == []
    said = reference_said("reporter", text_row(), PASSAGES)
    assert [message.text for message in said] == [target_for(role, text_row(), PASSAGES) for role in ROLES[:3]]
    cut = reference_said("analyst", row, PASSAGES, lambda role, text: f"{role}: {text[:4]}")
    assert [said.text for said in cut] == [f"{role}: {target_for(role, row, PASSAGES)[:4]}" for role in ROLES[:2]]


def test_on_a_choice_question_the_first_two_roles_are_often_wrong_and_the_analyst_is_right() -> None:
    """Else the roles after them would learn to copy."""
    wrong = dict.fromkeys(ROLES[:3], 0)
    for number in range(200):
        row = choice_row(number)
        said = reference_said("reporter", row, PASSAGES)
        assert said == reference_said("reporter", row, PASSAGES)  # drawn from the question's id
        for message in said:
            target = target_for(message.role, row, PASSAGES)
            assert message.text[:-1] == target[:-1] and message.text[-1] in "ABCD"
            wrong[message.role] += message.text != target
    assert wrong["analyst"] == 0
    assert all(70 <= wrong[role] <= 130 for role in ("planner", "researcher"))


def test_planner_and_researcher_never_read_the_reference_answer(tiny_splits: dict[str, Path]) -> None:
    """Over real rows with the real index: no sentence of a free-text reference, no rationale of a choice question."""
    index = EvidenceIndex.load(tiny_splits["splits/train"] / "evidence")
    rows = store.read_examples(tiny_splits["splits/train"])[::3]
    found = index.search_many([(question_text(row), row.id) for row in rows], 3)
    for row, passages in zip(rows, found, strict=True):
        evidence = [passage.text for passage in passages]
        secrets = sentences(row.rationale if row.is_choice else row.answer)
        for role in ("planner", "researcher"):
            shown = user_text(role, row, evidence, reference_said(role, row, evidence))
            assert not [secret for secret in secrets if secret in shown.partition("Planner:")[0]], row.id
            if not row.is_choice:
                assert not [secret for secret in secrets if secret in shown], row.id
        if cited := re.findall(r"\[E(\d+)\]", target_for("researcher", row, evidence)):
            assert len(cited) == 1 and 1 <= int(cited[0]) <= len(evidence)
