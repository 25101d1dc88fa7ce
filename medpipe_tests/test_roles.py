"""The four roles: what each one learns to say, and what is said before it while it learns."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest

from medpipe.answers import malformed, parse_answer
from medpipe.corpus.synthetic import generate, library, load_conditions
from medpipe.models.base import bundled_gguf
from medpipe.roles import (
    CAUTION,
    DESCRIBED,
    EMERGENCY,
    MEDICINES,
    NO_EVIDENCE,
    PLANS,
    PREVIOUS_SHARE,
    QUOTE_WORDS,
    RIGHT,
    likely_messages,
    lone_target,
    mates_before,
    sentences,
    target_for,
)
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.transcript import Frame
from medpipe_tests.tiny_team import DATA, choice_row, text_row

PASSAGES = [
    "gout: Gout is a painful joint disease with high uric acid.",
    "asthma: Wheezing and short breath at night point to asthma. It often starts in childhood.",
]
BUDGETS = {"planner": 32, "researcher": 48, "analyst": 48, "reporter": 64}


@cache
def bundled() -> list[tuple[QAExample, list[str]]]:
    """Every multiple-choice row of the bundled corpus with three passages: on options, mostly on the right one too, or none at all."""
    conditions = load_conditions(DATA / "synthetic" / "conditions")
    texts: dict[str, list[str]] = {}
    for passage in library(conditions):
        texts.setdefault(passage["title"], []).append(passage["text"])
    found = []
    for row in generate(conditions, seed=0, per_condition=7):
        draw = random.Random(row.id)
        topics = draw.sample(row.options, min(2, len(row.options)))
        topics = [*topics, row.answer_text] if draw.random() < 0.8 else topics
        draw.shuffle(topics)
        passages = [f"{topic}: {draw.choice(texts[topic])[:320]}" for topic in dict.fromkeys(topics) if topic in texts]
        found += [(row, passages if draw.random() < 0.9 else [])] if row.is_choice else []
    return found


def letter(row: QAExample, text: str) -> str | None:
    return parse_answer(text, row.options)


@pytest.mark.parametrize("row", [text_row(), choice_row()])
def test_four_roles_learn_four_different_things_from_one_row(row: QAExample) -> None:
    targets = [target_for(role, row, PASSAGES) for role in ROLES]
    assert len(set(targets)) == 4
    assert all(targets)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("answer", ["A", "B", "C", "D"])
def test_every_role_ends_a_choice_question_with_its_answer(role: Role, answer: str) -> None:
    row = choice_row(answer=answer)
    target = target_for(role, row, PASSAGES)
    assert target.endswith(f" Answer: {row.answer_text} ({answer})")
    assert target.count("Answer:") == 1


@pytest.mark.parametrize("role", ROLES)
def test_no_role_gives_an_answer_line_on_a_free_text_question(role: Role) -> None:
    assert "Answer:" not in target_for(role, text_row(), PASSAGES)


# --- free text


def test_the_planner_plans_by_the_kind_of_question() -> None:
    plans = {qtype: target_for("planner", text_row(qtype=qtype), []) for qtype in PLANS}
    assert len(set(plans.values())) == len(PLANS)
    assert "Focus: asthma" in plans["treatment"]
    assert PLANS["information"] in target_for("planner", text_row(qtype="never heard of"), [])


@pytest.mark.parametrize(
    "row",
    [
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


# --- multiple choice: what is said of the evidence


def test_a_role_points_to_the_passage_on_its_option_and_to_none_where_there_is_none() -> None:
    row = choice_row()
    assert "[E2]" in target_for("researcher", row, PASSAGES) and "[E1]" not in target_for("researcher", row, PASSAGES)
    assert "[E2] fits better than [E1]" in target_for("analyst", row, PASSAGES)
    assert "[E2]" in target_for("reporter", row, PASSAGES)
    for passages in ([], PASSAGES[:1]):
        said = [target_for(role, row, passages) for role in ROLES]
        assert not any("[E" in text for text in said)
        assert "No passage" in said[1]


WITH_FACTS = [
    "Gout: Inheritance: sporadic. Onset: adulthood. Frequent: pain.",
    "asthma: Inheritance: autosomal dominant. Onset: childhood.",
]


def test_where_question_and_passages_tell_a_fact_each_role_does_a_step_of_the_comparison() -> None:
    row = choice_row(question="Wheezing at night. Onset: childhood. Which condition fits best?")
    assert [target_for(role, row, WITH_FACTS).partition(" Answer:")[0] for role in ROLES] == [
        "Wanted: Onset: childhood.", "Onset: adulthood [E1]; childhood [E2].", "childhood [E2] fits best.",
        "The findings fit it best [E2].",
    ]  # fmt: skip
    assert "Onset: childhood [E1]; not told [E2]." in target_for("researcher", row, [WITH_FACTS[1], PASSAGES[0]])
    for passages in (PASSAGES, []):  # a fact that no passage tells is none to compare
        assert target_for("researcher", row, passages) == target_for("researcher", choice_row(), passages)


def test_the_lone_agent_does_all_the_steps_and_elsewhere_what_the_reporter_does() -> None:
    row = choice_row(question="Wheezing at night. Onset: childhood. Which condition fits best?")
    said = lone_target(row, WITH_FACTS)
    assert said.count("Answer:") == 1 and letter(row, said) == row.answer
    assert all(target_for(role, row, WITH_FACTS).partition(" Answer:")[0] in said for role in ROLES)
    assert lone_target(row, PASSAGES) == target_for("reporter", row, PASSAGES)
    assert lone_target(text_row(), PASSAGES) == target_for("reporter", text_row(), PASSAGES)


def test_what_a_passage_tells_is_said_truly_whichever_option_a_mate_settles_on() -> None:
    row = choice_row(question="Wheezing at night. Onset: childhood. Which condition fits best?")
    said = likely_messages("researcher", row, WITH_FACTS)
    assert len({text.partition(" Answer:")[0] for text in said}) == 1 and len(set(said)) == len(row.options)


def test_a_passage_is_known_by_its_title_before_its_words_and_by_other_names_of_the_subject() -> None:
    near = ["gout: Unlike asthma, it hurts the joints.", "bronchial asthma: Wheezing at night points to it."]
    assert "[E2]" in target_for("researcher", choice_row(), near)
    assert "[E1]" in target_for("researcher", choice_row(synonyms=("reactive airways",)), ["reactive airways: Wheezing at night."])


def test_a_cited_passage_is_on_the_option_that_is_named() -> None:
    cited = 0
    for row, passages in bundled():
        for said in [*(target_for(role, row, passages) for role in ROLES), *(one.text for one in mates_before(row, passages)[1])]:
            named = row.options["ABCDEFGHIJ".index(letter(row, said) or "")]
            for number in re.findall(r"^(?:The findings fit it best )?\[E(\d)\]", said):
                cited += 1
                names = [named, *(row.synonyms if named.casefold() == row.focus.casefold() else ())]
                assert any(name.casefold() in passages[int(number) - 1].casefold() for name in names)
    assert cited > 1000


def test_every_message_is_well_formed_and_every_target_fits_its_budget_with_its_answer() -> None:
    """In the tokens of the bundled model: a larger vocabulary needs no more."""
    from transformers import AutoTokenizer

    path = bundled_gguf()
    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    frame = Frame(tokenizer)
    for row, passages in bundled():
        earlier, this = mates_before(row, passages)
        targets = {role: target_for(role, row, passages) for role in ROLES}
        assert not any(malformed(text, row.options, ended=True) for text in (*targets.values(), *(s.text for s in (*earlier, *this))))
        for role, text in targets.items():
            tokens = frame.completion(text, BUDGETS[role])
            assert len(tokens) <= BUDGETS[role] and tokens[-1] == frame.end
            assert letter(row, tokenizer.decode(tokens[:-1])) == row.answer


# --- what the mates say


@pytest.mark.parametrize("role", ROLES)
def test_likely_messages_settle_on_each_option_the_evidence_first_and_know_no_key(role: Role) -> None:
    row = choice_row(options=("gout", "asthma", "migraine"), answer="A")
    evidence = ["migraine: It throbs.", "asthma: It wheezes."]
    likely = likely_messages(role, row, evidence)
    assert [parse_answer(text, row.options) for text in likely] == ["C", "B", "A"]
    assert likely == likely_messages(role, row.model_copy(update={"answer": "C"}), evidence)
    assert target_for(role, row, evidence) in likely
    assert likely_messages(role, text_row(), evidence) == []


def test_on_free_text_every_mate_says_its_target() -> None:
    earlier, this = mates_before(text_row(), PASSAGES)
    assert earlier == []
    assert [(said.role, said.text) for said in this] == [(role, target_for(role, text_row(), PASSAGES)) for role in ROLES]


def test_mates_are_drawn_from_the_rows_id_alone() -> None:
    rows = [choice_row(number) for number in range(40)]
    assert [mates_before(row, PASSAGES) for row in rows] == [mates_before(row, PASSAGES) for row in rows]
    assert len({str(mates_before(row, PASSAGES)) for row in rows}) > 4


def test_mates_are_right_as_often_as_they_should_be_and_err_with_one_voice() -> None:
    """Else a role would learn to copy, or to count voices."""
    right, agreed, count, follow = Counter(), [], 1500, 0
    for number in range(count):
        row = choice_row(number)
        earlier, this = mates_before(row, PASSAGES)
        found = [letter(row, said.text) for said in this]
        assert [said.role for said in this] == list(ROLES)
        assert len({*found, *(letter(row, said.text) for said in earlier)} - {row.answer}) <= 1
        right.update(role for role, one in zip(ROLES, found, strict=True) if one == row.answer)
        agreed += [found[0] == row.answer] if found[0] == found[1] else []
        follow += bool(earlier)
    for role in ROLES:
        assert abs(right[role] / count - RIGHT[role]) < 0.05
    assert abs(sum(agreed) / len(agreed) - 0.5) < 0.07  # two who agree are right no more often than one
    assert abs(follow / count - PREVIOUS_SHARE) < 0.05


def test_an_earlier_round_never_agreed() -> None:
    """Three of four are an agreement under the default rules, and after one no further round follows."""
    rounds = [(row, earlier) for row, passages in bundled() if (earlier := mates_before(row, passages)[0])]
    assert len(rounds) > 100
    for row, earlier in rounds:
        votes = Counter(letter(row, said.text) for said in earlier)
        assert len(votes) == 2 and max(votes.values()) == 2


def test_mates_that_err_cite_the_passage_on_the_wrong_option() -> None:
    for number in range(30):
        row = choice_row(number)
        said = mates_before(row, PASSAGES)[1][1].text
        cited = {"A": "[E1]", "B": "[E2]"}  # gout is the only wrong option that a passage is about
        assert said.startswith(f"{cited[letter(row, said) or '']} bears on it. ")
