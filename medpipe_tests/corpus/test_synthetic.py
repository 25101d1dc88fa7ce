"""The bundled knowledge base, and the pairs and ten-option questions made from it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from medpipe.config import load_profile
from medpipe.corpus.conditions import Condition
from medpipe.corpus.splits import part_of
from medpipe.corpus.synthetic import PAIRS, generate, library, load_conditions
from medpipe.errors import MedpipeError
from medpipe.roles import PLANS
from medpipe.schema import LETTERS, QAExample
from medpipe_tests.corpus.makers import condition

BUNDLED = Path(__file__).parents[2] / "data" / "synthetic" / "conditions"


@pytest.fixture(scope="module")
def conditions() -> list[Condition]:
    return load_conditions(BUNDLED)


@pytest.fixture(scope="module")
def rows(conditions: list[Condition]) -> list[QAExample]:
    return generate(conditions, seed=0, per_condition=4)


def test_the_bundled_conditions_give_what_is_promised(conditions: list[Condition], rows: list[QAExample]) -> None:
    assert len(conditions) >= 150
    assert len(rows) == len(conditions) * (len(PAIRS) + 4) == len({row.id for row in rows})
    assert {(row.focus, row.category, row.source) for row in rows} == {(each.name, each.specialty, "synthetic") for each in conditions}
    assert {row.qtype for row in rows if not row.is_choice} == {pair.qtype for pair in PAIRS}
    assert {pair.qtype for pair in PAIRS} <= set(PLANS) | {"red_flags"}  # each kind of question has a plan of its own


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
    assert generate(conditions, 0, 4) == rows
    assert generate(conditions, 1, 4) != rows


def test_lists_are_rendered_as_sentences(rows: list[QAExample]) -> None:
    by_id = {row.id: row for row in rows}
    assert by_id["synthetic-migraine-symptoms-1"].answer.startswith("Typical symptoms of migraine are throbbing one-sided head pain, ")
    assert all(row.answer.endswith((".", "!", "?")) for row in rows if not row.is_choice)


def test_choice_questions_have_ten_options_and_even_letters(conditions: list[Condition], rows: list[QAExample]) -> None:
    names = {each.name for each in conditions}
    choices = [row for row in rows if row.is_choice]
    for row in choices:
        assert len(set(row.options)) == 10 and set(row.options) <= names
        assert row.answer_text == row.focus and row.focus in row.rationale and row.qtype == "diagnosis"
        assert row.focus.lower() not in row.question.lower()
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


def test_a_condition_that_fits_the_findings_is_no_distractor() -> None:
    twins = [condition(number) for number in range(11)]
    twins[1] = twins[0].model_copy(update={"id": "twin", "name": "twinitis"})
    for row in generate(twins, 0, 8):
        if row.focus == twins[0].name and row.is_choice:
            assert "twinitis" not in row.options


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
