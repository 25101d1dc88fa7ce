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
