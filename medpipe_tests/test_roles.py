"""The four roles: what each one learns to say, and what each one gets to see."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import pytest

from medpipe.roles import (
    ALONE,
    ANSWER_RULE,
    CAUTION,
    DESCRIBED,
    EMERGENCY,
    MEDICINES,
    NO_EVIDENCE,
    PLANS,
    QUOTE_WORDS,
    SYSTEM,
    Said,
    prompt_for,
    question_text,
    reference_said,
    reference_verdict,
    sentences,
    target_for,
    verdict_text,
)
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team import workflow
from medpipe.team.episode import Episode, Turn
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


@pytest.mark.parametrize(
    "row",
    [
        choice_row(),
        text_row(qtype="case", question="A child wheezes at night. What is it?"),
        text_row(qtype="case", focus="a child wheezes at night", question="A child wheezes at night. What is it?"),
        text_row(qtype="diagnosis", question="Which condition makes a child wheeze at night?"),
    ],
)
def test_the_planner_does_not_name_a_focus_that_would_answer_the_question(row: QAExample) -> None:
    target = target_for("planner", row, PASSAGES)
    assert f"Focus: {DESCRIBED}." in target
    assert row.focus not in target


@pytest.mark.parametrize(
    ("focus", "synonyms", "question"),
    [("asthma", (), "What is asthma?"), ("bronchial asthma", (), "What is asthma?"), ("gastric reflux", ("GERD",), "What is GERD?")],
)
def test_the_planner_names_the_focus_that_the_question_names(focus: str, synonyms: tuple[str, ...], question: str) -> None:
    assert f"Focus: {focus}." in target_for("planner", text_row(focus=focus, synonyms=synonyms, question=question), [])


@pytest.mark.parametrize(("passages", "cited"), [(PASSAGES, 2), (PASSAGES[::-1], 1), ([PASSAGES[1]] * 3, 1)])
def test_the_researcher_cites_the_passage_nearest_to_the_reference(passages: list[str], cited: int) -> None:
    row = text_row(answer="Wheezing at night and short breath point to asthma.")
    assert target_for("researcher", row, passages) == f"Wheezing and short breath at night point to asthma [E{cited}]."


def test_the_researcher_cites_a_second_passage_that_brings_more_and_no_third() -> None:
    passages = [
        "asthma: It is common. Breath gets short at night.",
        "gout: Wheezing, cough and short breath at night are no signs of gout.",
        "asthma: Wheezing comes first and cough follows the wheezing at night.",
        "asthma: Wheezing, cough.",
    ]
    target = target_for("researcher", text_row(), passages)
    assert target == "asthma: Wheezing comes first and cough follows the wheezing at night [E3]. asthma: Breath gets short at night [E1]."


def test_the_researcher_quotes_the_part_of_a_long_sentence_that_bears_on_the_question() -> None:
    long = f"asthma: It is known {'in all the world ' * 9}that wheezing comes first, breath gets short at night and cough follows."
    target = target_for("researcher", text_row(), [long])
    assert target.startswith("asthma: …") and "wheezing comes first, breath gets short at night" in target
    assert len(target.split()) <= QUOTE_WORDS + 2  # the name and the mark


@pytest.mark.parametrize(
    "passages",
    [
        [],
        ["unrelated: Nothing of this is shared."],
        PASSAGES[:1],
        ["asthma: Famous people had it."],  # on the condition, not on the question
        ["copd: Wheezing comes first. Breath gets short at night. Cough follows."],  # in its words, on another condition
    ],
)
def test_the_researcher_says_so_when_nothing_bears_on_the_question(passages: list[str]) -> None:
    assert target_for("researcher", text_row(), passages) == NO_EVIDENCE
    assert target_for("analyst", text_row(), passages).startswith("Findings: no passage here bears on asthma. Reasoning: ")


def test_short_names_are_found_as_words_of_their_own() -> None:
    row = text_row(focus="multiple sclerosis", synonyms=("MS",))
    signs = "Symptoms are wheezing at night and cough."
    assert "[E1]" in target_for("researcher", row, [f"demyelination: In MS {signs}"])
    assert target_for("researcher", row, [f"demyelination: In rooms of 5 ms {signs}"]) == NO_EVIDENCE


def test_a_case_whose_row_does_not_say_of_what_takes_passages_on_what_its_answer_names() -> None:
    row = text_row(
        qtype="case",
        focus="a child coughs",
        question="A child coughs. What is it?",
        answer="Wheezing and short breath at night suggest asthma.",
    )
    assert target_for("researcher", row, PASSAGES) == "Wheezing and short breath at night point to asthma [E2]."
    assert "the findings described fit asthma" in target_for("analyst", row, PASSAGES)


def test_the_analyst_goes_from_findings_over_reasoning_to_a_conclusion() -> None:
    target = target_for("analyst", text_row(), PASSAGES)
    parts = re.fullmatch(r"Findings: (.+ \[E2\]\.) Reasoning: (.+\.) Conclusion: (.+)", target)
    assert parts and parts[1].split(" [")[0] in PASSAGES[1]
    assert parts[3] == "Wheezing comes first. Breath gets short at night."


@pytest.mark.parametrize(
    ("changes", "passages", "weighed"),
    [
        ({}, PASSAGES, "of the others, gout [E1] comes near but fits less of this."),
        ({}, PASSAGES[1:], "the other options fit less of this."),
        ({"rationale": "Wheezing points to asthma. Eczema would itch."}, PASSAGES, "Eczema would itch."),
        ({"rationale": ""}, [], "the other options fit less of this."),
    ],
)
def test_the_analyst_weighs_the_options_as_far_as_rationale_and_evidence_tell(changes: dict, passages: list[str], weighed: str) -> None:
    target = target_for("analyst", choice_row(**changes), passages)
    assert re.fullmatch(rf"Findings: .+ asthma( best)?( \[E\d\])?\. Reasoning: {re.escape(weighed)}\nAnswer: B", target)


@pytest.mark.parametrize(
    ("answer", "cautions"),
    [
        ("Eczema is a dry and itchy skin condition.", []),
        ("Inhaled drugs keep the airways open.", [MEDICINES]),
        ("Oral amoxicillin is usual.", [MEDICINES]),
        ("Exercise therapy helps. Nobody knows why.", [CAUTION]),
        ("Sudden chest pain can be the first sign.", [EMERGENCY]),
        ("Severe attacks are treated in hospital.", [EMERGENCY, CAUTION]),
        ("Sudden chest pain needs emergency care.", []),  # says so itself
        ("Severe disease is more likely to last.", []),  # severe, and no emergency
        ("Surgery is rare. Tablets of 5 mg are common.", [MEDICINES]),
        ("One. Two. Three. Four. Surgery comes fifth and is not said.", []),
    ],
)
def test_the_reporter_is_cautious_only_where_the_content_calls_for_it(answer: str, cautions: list[str]) -> None:
    said = sentences(target_for("reporter", text_row(answer=answer), []))
    assert [part for part in said if part in (EMERGENCY, CAUTION, MEDICINES)] == cautions
    assert [part for part in said if part not in cautions] == sentences(answer)[:4]


def test_a_caution_stands_behind_the_sentence_that_calls_for_it() -> None:
    target = target_for("reporter", text_row(answer="It itches. Steroids help. It comes back."), [])
    assert target == f"It itches. Steroids help. {MEDICINES} It comes back."
    asked = text_row(question="I have sudden chest pain, what is it?", answer="It may be the heart. It may be a muscle.")
    assert target_for("reporter", asked, []) == f"It may be the heart. {EMERGENCY} It may be a muscle."


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
        said = reference_said("reporter", row, PASSAGES[1:])
        assert said == reference_said("reporter", row, PASSAGES[1:])  # drawn from the question's id
        for message in said:
            target = target_for(message.role, row, PASSAGES[1:])
            assert message.text[:-1] == target[:-1] and message.text[-1] in "ABCD"
            wrong[message.role] += message.text != target
    assert wrong["analyst"] == 0
    assert all(70 <= wrong[role] <= 130 for role in ("planner", "researcher"))


def test_a_researcher_that_errs_cites_the_passage_on_the_wrong_option() -> None:
    for number in range(30):
        row = choice_row(
            number, question="A person has painful joints and high uric acid. Which condition fits best?",
            rationale="Wheezing and short breath at night point to asthma.",
        )  # fmt: skip
        said = reference_said("analyst", row, PASSAGES)[1].text
        assert said in (
            "Wheezing and short breath at night point to asthma [E2].\nAnswer: B",
            "Gout is a painful joint disease with high uric acid [E1].\nAnswer: A",
        )


# --- the previous round


def test_the_previous_round_is_told_as_the_workflow_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "encode_prompt", lambda tokenizer, role, question, evidence, said, limit, verdict: verdict)
    crew = SimpleNamespace(policies=SimpleNamespace(tokenizer=None), rules=SimpleNamespace(max_prompt_tokens=9))
    for row, letter in ((choice_row(), "C"), (text_row(), None)):
        said = Turn("reporter", 0, [], (), (), "It wheezes.", letter, "")
        prompt = workflow._prompt(crew, "planner", Episode(row, [], turns=[said]), 1)  # pyright: ignore[reportArgumentType]
        assert prompt == verdict_text(letter, "It wheezes.") != ""
    assert any(reference_verdict(choice_row(number), PASSAGES) == verdict_text("B", "") for number in range(30))


def test_a_third_of_the_rows_follow_a_round_that_was_wrong_half_of_the_time() -> None:
    told = [reference_verdict(choice_row(number), PASSAGES) for number in range(600)]
    assert told == [reference_verdict(choice_row(number), PASSAGES) for number in range(600)]  # drawn from the question's id
    count = Counter(told)
    assert set(count) == {"", "the team answered A.", "the team answered B."}  # A: the wrong option that a passage is about
    assert 350 <= count[""] <= 450
    assert 70 <= count["the team answered B."] <= 130


def test_on_free_text_the_previous_round_missed_the_question() -> None:
    told = {reference_verdict(text_row(number), PASSAGES, lambda role, text: f"{role}: {text}") for number in range(30)}
    assert told == {"", "the reporter wrote: reporter: Gout is a painful joint disease with high uric acid."}
    assert {reference_verdict(text_row(number), []) for number in range(30)} == {""}
    assert {reference_verdict(text_row(number), [f"asthma: {text_row().answer}"]) for number in range(30)} == {""}
