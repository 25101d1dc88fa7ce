"""A user's own questions on the leaderboard: beside the others where they were asked, and no line about them where they were not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import load_profile
from medpipe.corpus import benchmarks as published
from medpipe.evaluation import evaluate, leaderboard, tables
from medpipe.evaluation.benchmarks import BENCHMARKS, OWN
from medpipe.evaluation.runs import differences
from medpipe_tests.corpus.makers import write_lines
from medpipe_tests.evaluation.evaluating import make_inputs
from medpipe_tests.evaluation.folders import Run

ROWS: list[dict[str, Any]] = [
    {"question": "What fits thirst and weight loss?", "options": ["asthma", "diabetes"], "answer": "B"},
    {"question": "What fits fever and chills?", "options": ["infection", "stroke", "asthma"], "answer": "A"},
]


def asked(root: Path, base: Path, monkeypatch: pytest.MonkeyPatch, *files: Path) -> Run:
    """A run that asked the look-up the user's questions of both kinds, as far as the files have some."""
    monkeypatch.setattr(published, "PUBLISHED", {})
    run = Run(root)
    changes: dict[str, Any] = {
        "evaluation.systems": ["retrieval_alone"],
        "evaluation.coalitions": 0,
        "paths.outputs": str(root / "outputs"),
    }
    run.settings = load_profile("smoke", {**changes, "paths.own_benchmarks": [str(file) for file in files]})
    run.inputs = make_inputs(root / "inputs", base=base)
    run.job("sources/benchmarks", published.run)
    for name in OWN:
        run.job(f"evaluation/{name}", evaluate.run)
    run.job("evaluation/leaderboard", leaderboard.run)
    return run


def test_it_shows_the_kind_that_was_asked_and_is_silent_about_the_other(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = asked(tmp_path, tiny_base, monkeypatch, write_lines(tmp_path / "clinic.jsonl", *ROWS))
    board = store.read_json(run.inputs["evaluation/leaderboard"] / "leaderboard.json")
    (row,) = board["rows"]
    assert (row["benchmark"], row["title"], row["n"], row["mean"]) == ("own_choice", "Your own questions (multiple choice)", 2, 1.0)
    assert [missing["benchmark"] for missing in board["not_run"]] == list(BENCHMARKS)
    assert "Your own questions (multiple choice)" in (run.inputs["evaluation/leaderboard"] / "leaderboard.md").read_text(encoding="utf-8")
    assert set(tables.summaries(run.inputs)) == set(OWN)
    outputs = tmp_path / "outputs"
    (told,) = differences(outputs, outputs, "retrieval_alone")
    assert (told.benchmark, told.n, told.mean) == ("own_choice", 2, 0.0)


def test_where_no_file_is_named_there_is_no_word_about_them(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = asked(tmp_path, tiny_base, monkeypatch)
    text = (run.inputs["evaluation/leaderboard"] / "leaderboard.json").read_text(encoding="utf-8")
    assert "own_" not in text and "Your own" not in text
    assert "0 of 10 benchmarks ran" in run.log.lines
