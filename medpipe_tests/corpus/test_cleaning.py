"""Cleaning: what it tidies, drops and counts, and what the asset corpus/clean writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe import store
from medpipe.config import Corpus, Settings
from medpipe.corpus.cleaning import ORDER, check_funnel, clean, run
from medpipe.corpus.splits import part_of
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample
from medpipe_tests.conftest import JobMaker
from medpipe_tests.corpus.makers import row

CORPUS = Corpus()


def test_text_is_tidied() -> None:
    (kept,), _ = clean([row(question="What  is\n cafe\u0301 ?", answer=" An   answer\tof twenty characters and more. ")], CORPUS)
    assert kept.question == "What is café?" and kept.answer == "An answer of twenty characters and more."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "Why ?"}, "question too short"),
        ({"question": "a " * 1500}, "question too long"),
        ({"answer": "Too short."}, "answer too short"),
        ({"answer": "long " * 2000}, "answer too long"),
    ],
)
def test_drop_reasons(changes: dict[str, Any], reason: str) -> None:
    kept, dropped = clean([row(**changes)], CORPUS)
    assert not kept and [why for _, why in dropped] == [reason]


def test_a_short_letter_is_a_fine_answer_to_a_choice_question() -> None:
    assert len(clean([row(options=("one", "two"), answer="B")], CORPUS)[0]) == 1


def test_of_equal_rows_the_one_from_the_earlier_source_stays() -> None:
    same = {"question": "What is the same question?", "answer": "The same answer, in nearly the same words."}
    loud = {"question": "WHAT is the same -- question", "answer": "the same answer in nearly the same words"}
    rows = [row(1, source="medquad", **same), row(2, source="synthetic", **loud), row(3, source="medtext", **same)]
    kept, dropped = clean(rows, CORPUS)
    assert [each.source for each in kept] == ["synthetic"]
    assert [(each.source, why) for each, why in dropped] == [
        ("medtext", "exact duplicate question and answer"), ("medquad", "exact duplicate question and answer"),
    ]  # fmt: skip
    other = [row(1, **same), row(2, **{**same, "answer": "Another answer to this question."})]
    assert len(clean(other, CORPUS)[0]) == 2


TEXT = st.text(min_size=1, max_size=60)


@hypothesis.settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(row, st.integers(0, 5), question=TEXT, answer=TEXT, source=st.sampled_from(ORDER)), max_size=12))
def test_every_row_is_kept_or_dropped_and_cleaning_twice_changes_nothing(rows: list[QAExample]) -> None:
    corpus = Corpus(min_question_chars=2, min_answer_chars=2)
    kept, dropped = clean(rows, corpus)
    assert len(kept) + len(dropped) == len(rows)
    assert clean(kept, corpus) == (kept, [])


def _inputs(tmp_path: Path, **rows: list[QAExample]) -> dict[str, Path]:
    folders = {f"sources/{name}": tmp_path / "in" / name for name in ORDER}
    for name in ORDER:
        store.write_examples(folders[f"sources/{name}"], rows.get(name, []))
        store.write_jsonl(folders[f"sources/{name}"] / "library.jsonl", [{"id": name, "title": name, "text": "a text"}])
    return folders


def test_the_asset_writes_funnel_quarantine_plot_and_exports(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    script = "What does <script>alert(1)</script> do?"
    custom = [row(number, difficulty="hard") for number in range(60)] + [row(60, answer="Short."), row(61, question=script)]
    choice = row(70, id="synthetic-1", source="synthetic", options=("one", "two"), answer="A", focus="focus 1", category="made up")
    job = make_job("corpus/clean", settings, _inputs(tmp_path, custom=custom, synthetic=[choice]), sections=("corpus",))
    outcome = run(job)
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("schema_and_ranges", True), ("unique_ids", True), ("funnel_adds_up", True),
    ]  # fmt: skip
    kept = store.read_examples(job.out)
    assert len(kept) == 62 and any(each.question == script for each in kept)
    funnel = {(step["source"], step["step"]): step["rows"] for step in store.read_json(job.out / "funnel.json")}
    assert (funnel["custom", "in"], funnel["custom", "dropped: answer too short"], funnel["custom", "kept"]) == (62, 1, 61)
    assert store.read_jsonl(job.out / "quarantine.jsonl") == [
        {"source": "custom", "id": "custom-60", "reason": "answer too short", "text": "What is condition number 60?"}
    ]
    assert (job.out / outcome.metadata["categories"]["image"]).read_bytes().startswith(b"\x89PNG")

    corpus, seed = settings.corpus, settings.seed
    assert set(outcome.exports.values()) == {settings.data / "medxpert_complete.jsonl", settings.data / "dataset_summary.json"}
    heldout = {each.id for each in kept if part_of(each.focus, corpus, seed) == "heldout"}
    exported = [json.loads(line) for line in (job.out / "medxpert_complete.jsonl").read_text().splitlines()]
    assert heldout and {each["id"] for each in exported} == {each.id for each in kept} - heldout
    assert all(set(each) - {"options"} == {"id", "question", "answer", "category", "source", "difficulty"} for each in exported)
    assert [each["id"] for each in exported if "options" in each] == ["synthetic-1"]
    summary = store.read_json(job.out / "dataset_summary.json")
    assert summary["training_samples"] + summary["validation_samples"] == summary["total_samples"] == len(exported)
    assert summary["heldout_samples"] == len(heldout) and sum(summary["difficulty_levels"].values()) == len(exported)
    assert "medical advice" in summary["notice"]


def test_an_empty_corpus_is_refused_and_writes_nothing(tmp_path: Path, settings: Settings, make_job: JobMaker) -> None:
    job = make_job("corpus/clean", settings, _inputs(tmp_path), sections=("corpus",))
    with pytest.raises(MedpipeError, match=r"empty corpus .* data/custom"):
        run(job)
    assert list(job.out.iterdir()) == [] and not settings.data.exists()


def test_a_funnel_that_does_not_add_up_is_refused() -> None:
    funnel = [{"source": "custom", "step": "in", "rows": 3}, {"source": "custom", "step": "kept", "rows": 2}]
    with pytest.raises(MedpipeError, match="got 2 rows of custom"):
        check_funnel(funnel)
    check_funnel([*funnel, {"source": "custom", "step": "dropped: x", "rows": 1}])
