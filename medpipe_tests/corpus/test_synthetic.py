"""The bundled knowledge base, and the pairs and ten-option questions made from it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpipe.config import Corpus, load_profile
from medpipe.corpus.conditions import Condition
from medpipe.corpus.groups import part_of
from medpipe.corpus.synthetic import CASES, DIFFICULTY, PAIRS, generate, library, load_conditions
from medpipe.errors import MedpipeError
from medpipe.roles import PLANS
from medpipe.schema import LETTERS, QAExample
from medpipe_tests.corpus.makers import condition

PER_CONDITION = Corpus().choice_questions_per_condition
BUNDLED = Path(__file__).parents[2] / "data" / "synthetic" / "conditions"


@pytest.fixture(scope="module")
def conditions() -> list[Condition]:
    return load_conditions(BUNDLED)


@pytest.fixture(scope="module")
def rows(conditions: list[Condition]) -> list[QAExample]:
    return generate(conditions, seed=0, per_condition=PER_CONDITION)


def test_the_bundled_conditions_give_what_is_promised(conditions: list[Condition], rows: list[QAExample]) -> None:
    choices = [row for row in rows if row.is_choice]
    free = [row for row in rows if not row.is_choice]
    assert (len(conditions), len(free), len(choices)) == (156, 3_276, 1_092)  # as data/synthetic/README.md says
    assert len({row.id for row in rows}) == len({row.question for row in rows}) == len(rows)
    assert {(row.focus, row.category, row.source) for row in rows} == {(each.name, each.specialty, "synthetic") for each in conditions}
    assert {pair.qtype for pair in PAIRS} <= set(PLANS)  # each kind of question has a plan of its own
    assert Counter(row.qtype for row in free)["case"] == len(CASES) * len(conditions)
    kinds = Counter(row.id.removeprefix(f"synthetic-{each.id}-") for each in conditions for row in free if row.focus == each.name)
    assert kinds == {kind: len(conditions) for kind in (*(pair.kind for pair in PAIRS), *(case.kind.name for case in CASES))}


def test_no_two_rows_ask_and_answer_nearly_the_same(rows: list[QAExample]) -> None:
    of_condition: dict[tuple[str, bool], list[QAExample]] = defaultdict(list)
    for row in rows:
        of_condition[row.focus, row.is_choice].append(row)
    for group in of_condition.values():
        for one, other in combinations(group, 2):
            asked = alike(set(re.findall(r"[a-z]{4,}", one.question.lower())), set(re.findall(r"[a-z]{4,}", other.question.lower())))
            assert asked < 0.8, (one.id, other.id)
            assert one.is_choice or asked < 0.7 or alike(runs(one.answer, 3), runs(other.answer, 3)) < 0.4, (one.id, other.id)


def alike(one: set[Any], other: set[Any]) -> float:
    """Share of all that both have (Jaccard)."""
    return len(one & other) / len(one | other)


def test_difficulty_of_a_pair_is_that_of_its_hardest_field(rows: list[QAExample]) -> None:
    by_kind = {pair.kind: pair for pair in PAIRS}
    assert set().union(*DIFFICULTY.values()) == {field for pair in PAIRS for field in pair.fields}
    found = {row.id.rpartition("-")[2]: row.difficulty for row in rows if not row.is_choice}
    assert {level: sum(found[kind] == level for kind in by_kind) for level in DIFFICULTY} == {"easy": 4, "medium": 8, "hard": 6}
    assert found["symptoms"] == "easy" and found["symptoms_and_red_flags"] == "medium" and found["symptoms_and_diagnosis"] == "hard"
    assert all(row.difficulty == "hard" for row in rows if row.qtype == "case")


def test_a_case_shows_findings_of_one_condition_and_never_its_name(conditions: list[Condition], rows: list[QAExample]) -> None:
    by_name = {each.name: each for each in conditions}
    for row in (row for row in rows if row.qtype == "case"):
        own, ends = by_name[row.focus], next(case.ends for case in CASES if row.id.endswith(f"-{case.kind.name}"))
        shown = found_in(row.question, own)
        assert len(shown) >= 3 and [each.name for each in conditions if set(shown) <= set(findings(each))] == [own.name]
        assert not telling(own.name) & telling(row.question), row.id
        first = row.answer.removesuffix(getattr(own, ends))
        assert first != row.answer and row.focus in first and found_in(first, own) == shown


def telling(text: str) -> set[str]:
    """The words that can give a condition away, without their endings."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in COMMON}


COMMON = {"acute", "chronic", "disease", "disorder", "syndrome", "infection", "generalized", "type"}


def findings(condition: Condition) -> tuple[str, ...]:
    """All phrases of a condition that a case or a ten-option question may show."""
    return (*condition.symptoms, *condition.risk_factors, *condition.red_flags, *condition.complications)


def found_in(text: str, condition: Condition) -> set[str]:
    """The condition's phrases that stand in the text."""
    return {finding for finding in findings(condition) if finding in text}


def test_text_is_tidy_and_speaks_to_nobody(rows: list[QAExample]) -> None:
    slips = re.compile(r"\.\.|\s[,.;:?]|[;,]{2}|\s\s|\b(?!had\b|that\b)(\w+) \1\b|\b(you|your)\b|\{", re.I)
    for row in rows:
        for text in (row.question, row.answer_text, row.rationale):
            assert not slips.search(text), (row.id, slips.search(text))


def test_reference_texts_repeat_no_question_and_no_answer(conditions: list[Condition], rows: list[QAExample]) -> None:
    told = {row.id: f"{row.question}\n{row.answer_text}\n{row.rationale}" for row in rows}
    long_runs = {words for text in told.values() for words in runs(text, 8)}
    passages = library(conditions)
    assert len({each["id"] for each in passages}) == len(passages) >= 3 * len(conditions)
    for each in conditions:
        own = {words for row in rows if row.focus == each.name for words in runs(told[row.id], 6)}
        for passage in each.reference:
            assert not runs(passage, 6) & own and not runs(passage, 8) & long_runs, (each.id, passage)


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Every run of `length` words."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_seed_0_leaves_enough_conditions_for_every_part(conditions: list[Condition]) -> None:
    parts = Counter(part_of(each.name, load_profile("quickstart").corpus, 0) for each in conditions)
    assert parts["heldout"] >= 6 and parts["validation"] >= 4


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(conditions: list[Condition], rows: list[QAExample]) -> None:
    assert generate(conditions, 0, PER_CONDITION) == rows
    for seed in (1, 2):
        others = generate(conditions, seed, PER_CONDITION)
        assert [row.id for row in others] == [row.id for row in rows] and others != rows
        assert len({row.question for row in others}) == len(others)
        letters = Counter(row.answer for row in others if row.is_choice)
        assert set(letters) == set(LETTERS[:10]) and max(letters.values()) - min(letters.values()) <= 1


def test_lists_are_rendered_as_sentences(rows: list[QAExample]) -> None:
    by_id = {row.id: row for row in rows}
    assert by_id["synthetic-migraine-symptoms"].answer.startswith("Typical symptoms of migraine are throbbing one-sided head pain, ")
    assert all(row.answer.endswith((".", "!", "?")) for row in rows if not row.is_choice)
    both = by_id["synthetic-migraine-symptoms_and_diagnosis"].answer
    assert both == f"{by_id['synthetic-migraine-symptoms'].answer} {by_id['synthetic-migraine-diagnosis'].answer}"


def test_choice_questions_have_ten_options_and_even_letters(conditions: list[Condition], rows: list[QAExample]) -> None:
    by_name = {each.name: each for each in conditions}
    choices = [row for row in rows if row.is_choice]
    for row in choices:
        assert len(set(row.options)) == 10 and set(row.options) <= set(by_name)
        assert row.answer_text == row.focus and row.focus in row.rationale and row.qtype == "diagnosis"
        assert row.focus.lower() not in row.question.lower()
        shown = found_in(row.question, by_name[row.focus])
        assert len(shown) >= 3 and [name for name in row.options if shown <= set(findings(by_name[name]))] == [row.focus]
    letters = Counter(row.answer for row in choices)
    assert set(letters) == set(LETTERS[:10]) and max(letters.values()) - min(letters.values()) <= 1


def test_harder_questions_have_closer_distractors(conditions: list[Condition], rows: list[QAExample]) -> None:
    specialty = {each.name: each.specialty for each in conditions}
    same: dict[str, list[int]] = {"easy": [], "medium": [], "hard": []}
    for row in rows:
        if row.is_choice:
            same[row.difficulty].append(sum(specialty[name] == row.category for name in row.options) - 1)
    assert all(same.values())
    assert max(same["easy"]) < min(same["medium"]) and max(same["medium"]) < min(same["hard"])


def test_where_another_condition_fits_too_it_is_no_distractor_and_no_case_is_asked() -> None:
    twins = [condition(number) for number in range(11)]
    twins[1] = twins[0].model_copy(update={"id": "twin", "name": "twinitis"})
    for row in generate(twins, 0, 8):
        if row.focus == twins[0].name:
            assert row.qtype != "case" and "twinitis" not in row.options


def test_too_few_conditions_or_facts_are_an_error() -> None:
    with pytest.raises(MedpipeError, match="at least 10"):
        generate([condition(number) for number in range(9)], 0, 1)
    with pytest.raises(MedpipeError, match="choice_questions_per_condition"):
        generate([condition(number) for number in range(10)], 0, 500)


def test_wrong_entries_are_named(tmp_path: Path) -> None:
    good = condition(0).model_dump(mode="json")
    cases = {
        "symptoms": [{**good, "symptoms": ["one"]}],
        "definiton": [{**good, "definiton": "misspelt"}],
        "already used": [good, {**good, "name": "other"}],
        "a YAML list": {"not": "a list"},
        "no condition": [],
    }
    for says, content in cases.items():
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(MedpipeError, match=says) as caught:
            load_conditions(tmp_path)
        if says in ("symptoms", "definiton"):
            assert "a.yaml" in str(caught.value) and "'c0'" in str(caught.value)
    (tmp_path / "a.yaml").write_text("- id: [")
    with pytest.raises(MedpipeError, match="not YAML"):
        load_conditions(tmp_path)
