"""Benchmark files are read whole in each published form, or refused with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe.corpus.benchmarks import PUBLISHED, parse
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample
from medpipe_tests.corpus.hub import CASE, CELLS, EXPERT, HUB_CASE, TEN, medmcqa, mmlu, pubmedqa, table
from medpipe_tests.corpus.makers import write_lines


def lines(name: str, path: Path, *rows: dict[str, Any] | str) -> list[QAExample]:
    return parse(PUBLISHED[name], [write_lines(path, *rows)])


@pytest.mark.parametrize("label", ["C", ["C"]])
def test_options_inside_the_question_are_cut_at_their_letters_in_order(label: Any, tmp_path: Path) -> None:
    (row,) = lines("medqa", tmp_path / "medqa_test.jsonl", {**CASE, "label": label})
    assert row.question == "Which step?" and list(row.options) == CELLS and row.answer == "C" and row.source == "medqa"


@pytest.mark.parametrize("options", [TEN, [{"letter": letter, "content": text} for letter, text in TEN.items()], None])
def test_medxpertqa_is_read_in_all_three_forms(options: Any, tmp_path: Path) -> None:
    raw = {**EXPERT, "body_system": "Renal"} | ({"options": options} if options else {})
    (row,) = lines("medxpertqa", tmp_path / "x.jsonl", raw)
    assert row.question == "Which?" and row.options == tuple(TEN.values()) and row.answer_text == "option j"
    assert (row.qtype, row.category) == ("diagnosis", "Renal")


def test_medqa_is_read_as_the_hub_serves_it(tmp_path: Path) -> None:
    first, second = lines("medqa", tmp_path / "x.jsonl", HUB_CASE, HUB_CASE)
    assert first.question == "What (A) now?" and first.answer_text == "V(D)J recombination" and first.id != second.id


@pytest.mark.parametrize("name", ["medqa", "medmcqa", "mmlu_medical"])
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("<!doctype html>", "not JSON"),
        ("[]", "a JSON object"),
        ("[" * 100_000, "not JSON"),
        ({**CASE, "label": "E"}, "label 'E'"),
        ({**CASE, "label": "AB"}, "label 'AB'"),
        ({**CASE, "label": ["A", "B"]}, "one letter from A to D"),
        ({**CASE}, "label None"),
        ({"id": "x", "question": "No options", "label": "A"}, "0 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C) c", "label": "A"}, "3 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C) c (D) d (E) e", "label": "A"}, "5 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C)  (D) d", "label": "A"}, "3 options"),
        ({"id": "x", "question": "Q?", "options": {"A": "a", "B": None, "C": "c", "D": "d"}, "label": "A"}, "a text for each letter"),
        ({"id": "x", "question": None, "label": "A"}, "NoneType as question"),
        ({"id": "x", "question": "\nAnswer Choices: (A) a (B) b (C) c (D) d", "label": "A"}, "question = ''"),
        ({"id": "ok", "question": "Q?", "options": dict(zip("ABCD", "abcd", strict=True)), "label": "A"}, "the id ok again"),
    ],
)
def test_a_wrong_line_stops_the_benchmark_and_is_named(row: Any, says: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        lines(name, tmp_path / "some.jsonl", {**CASE, "id": "ok", "label": "A"}, row)
    assert says in str(caught.value) and f"{tmp_path / 'some.jsonl'}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (medmcqa(cop=-1), "answer -1"),  # the test split has no answers
        (medmcqa(cop=4), "answer 4"),
        (medmcqa(cop=None), "answer None"),
        (medmcqa(opc=" "), "answer 2"),  # the right one is empty
        (medmcqa(opa=None), "4 texts"),
        (medmcqa(question=None), "question"),
        (medmcqa(question=""), "question = ''"),
        (medmcqa(), "the id uuid-0 again"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = table(tmp_path / "medmcqa_validation.parquet", medmcqa(), row)
    with pytest.raises(MedpipeError) as caught:
        parse(PUBLISHED["medmcqa"], [path])
    assert says in str(caught.value) and f"{path}:2" in str(caught.value)


def test_a_table_with_other_columns_or_other_numbers_of_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="the columns a, b"):
        parse(PUBLISHED["medmcqa"], [table(tmp_path / "a.parquet", {"a": 1, "b": 2})])
    with pytest.raises(MedpipeError, match=r"4 texts.*b\.parquet:1"):
        parse(PUBLISHED["mmlu_medical"], [table(tmp_path / "b.parquet", mmlu("anatomy", choices=CELLS[:3]))])


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"<!doctype html>"])
def test_a_damaged_table_is_refused(damage: bytes, tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", medmcqa())
    path.write_bytes(damage or path.read_bytes()[:-20])
    with pytest.raises(MedpipeError, match=r"parquet.*a\.parquet"):
        parse(PUBLISHED["medmcqa"], [path])


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="no rows"):
        lines("medqa", tmp_path / "x.jsonl", "", "")


def test_pubmedqa_takes_the_official_split_with_context(tmp_path: Path) -> None:
    (row,) = parse(PUBLISHED["pubmedqa"], pubmedqa(tmp_path, {"11": "maybe"}))
    assert (row.id, row.answer, row.answer_text) == ("11", "C", "maybe")
    assert row.options == ("yes", "no", "maybe") and row.context == ("Background.", "Results.")


@pytest.mark.parametrize(
    ("truth", "changes", "says"),
    [
        ({"99": "yes"}, {}, "entry 99"),
        ({"11": "yes"}, {}, "the same in both files"),
        ({"11": "perhaps"}, {}, "yes, no or maybe"),
        ({"11": "maybe"}, {"CONTEXTS": None}, "without QUESTION, CONTEXTS"),
        ({"11": "maybe"}, {"QUESTION": ""}, "question = ''"),
        ({}, {}, "no rows"),
        ([], {}, "a JSON object"),
    ],
)
def test_a_wrong_pubmedqa_entry_is_refused(truth: Any, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=says):
        parse(PUBLISHED["pubmedqa"], pubmedqa(tmp_path, truth, **changes))
