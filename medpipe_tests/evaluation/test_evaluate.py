"""A benchmark that can't be had is reported with its reason, before any model is loaded, and never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.config import Settings
from medpipe.corpus import benchmarks as published
from medpipe.evaluation import evaluate
from medpipe_tests.conftest import Collected, JobMaker

SECTIONS = ("corpus", "model", "team", "rewards", "evaluation")


def test_a_benchmark_that_could_not_be_had_is_not_run_and_says_why(
    settings: Settings, make_job: JobMaker, reporter: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "PUBLISHED", {"medqa": published.PUBLISHED["medqa"]})
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = make_job("sources/benchmarks", settings, sections=())
    published.run(source)
    job = make_job("evaluation/medqa", settings, {"sources/benchmarks": source.out, "corpus/clean": tmp_path}, sections=SECTIONS)
    outcome = evaluate.run(job)
    assert outcome.status == "unreachable" and "medqa_test.jsonl" in outcome.reason and "MEDPIPE_MIRROR" in outcome.reason
    assert list(job.out.iterdir()) == []
    assert reporter.warnings[-1].startswith("not run: got neither medqa_test.jsonl")


@pytest.mark.parametrize(
    ("low", "unread", "above", "parsed"), [(0.2, 0, True, True), (0.05, 0, False, True), (0.2, 5, True, True), (0.2, 6, True, False)]
)
def test_numbers_that_are_not_worth_reading_are_told(low: float, unread: int, above: bool, parsed: bool) -> None:
    def numbers(low: float, unread: int = 0) -> dict[str, float]:
        return {"mean": low + 0.1, "low": low, "n": 100, "n_unparsed": unread}

    systems = {"retrieval_alone": numbers(0.9), "sft_team": numbers(low, unread), "maporl_team": numbers(low - 0.01)}
    passed = {check.name: check.passed for check in evaluate._checks(systems, 0.1)}
    assert passed == {"available": True, "above_chance": above, "answers_parsed": parsed}
