"""The four assets sources/<name>: what they write, tell and stamp."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.corpus import sources
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus.makers import archive, document, write_lines

SECTIONS = ("corpus",)


def test_medquad_from_the_mirror(
    tmp_path: Path, settings: Settings, make_job: JobMaker, reporter: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "word " * 200
    documents: dict[str, str | bytes] = {
        "1_A_QA/1.xml": document(
            "Gout", [("1-1", "causes", "What causes &lt;script&gt;alert(1)&lt;/script&gt;?", long), ("1-2", "x", "Why?", "")]
        ),
        "1_A_QA/2.xml": "<Document>",
    }
    path = archive(tmp_path / "mirror" / "MedQuAD-master.zip", documents)
    monkeypatch.setenv("MEDPIPE_MIRROR", str(path.parent))
    job = make_job("sources/medquad", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert outcome.status == "ok" and [(check.name, check.passed) for check in outcome.checks] == [("reachable", True)]
    told = outcome.metadata
    assert (told["pairs"], told["answered"], told["rows"], told["quarantined"], told["licence"]) == (2, 1, 1, 1, "CC BY 4.0")
    sample = told["samples"]["table"][0]
    assert (
        sample["question"] == "What causes <script>alert(1)</script>?" and len(sample["answer"]) <= 200
    )  # plain text in a table, never markup
    assert [row.focus for row in store.read_examples(job.out)] == ["Gout"]
    assert store.read_jsonl(job.out / "quarantine.jsonl")[0]["file"].endswith("1_A_QA/2.xml") and len(reporter.warnings) == 1
    assert sources.stamp("medquad", settings) == {"MedQuAD-master.zip": store.sha256_file(path)}


def test_a_source_that_cannot_be_had_is_told_in_one_line(
    settings: Settings, make_job: JobMaker, reporter: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    job = make_job("sources/medtext", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert outcome.status == "unreachable" and outcome.reason.startswith("got ConnectError")
    assert [(check.name, check.passed) for check in outcome.checks] == [("reachable", False)]
    assert store.read_examples(job.out) == [] and store.read_jsonl(job.out / "quarantine.jsonl") == []
    (warning,) = reporter.warnings
    assert "\n" not in warning and "MEDPIPE_MIRROR" in warning and "MedText" in warning
    assert sources.stamp("medtext", settings) == {"remote": "https://huggingface.co/datasets/BI55/MedText"}


def test_a_source_that_is_switched_off(make_job: JobMaker, reporter: Collected, tmp_path: Path) -> None:
    settings = load_profile("smoke", {"paths.data": str(tmp_path), "paths.outputs": str(tmp_path), "corpus.use": ["synthetic"]})
    job = make_job("sources/custom", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert (outcome.status, outcome.reason) == ("unreachable", "switched off by corpus.use") and outcome.checks[0].name == "reachable"
    assert store.read_examples(job.out) == [] and not reporter.warnings


def test_custom_rows_with_bad_lines(settings: Settings, make_job: JobMaker) -> None:
    assert sources.stamp("custom", settings) == {}
    path = write_lines(settings.data / "custom" / "own.jsonl", {"question": "What is this?", "answer": "A row."}, "broken")
    job = make_job("sources/custom", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert (outcome.metadata["rows"], outcome.metadata["quarantined"]) == (1, 1)
    assert store.read_jsonl(job.out / "quarantine.jsonl")[0] | {"reason": ""} == {"file": "own.jsonl", "line": 2, "reason": ""}
    assert sources.stamp("custom", settings) == {"own.jsonl": store.sha256_file(path)}


def test_every_source_names_its_papers() -> None:
    assert set(sources.SOURCES) == {"medquad", "medtext", "synthetic", "custom"}
    for source in sources.SOURCES.values():
        assert source.title and source.licence and source.citation and bool(source.mirror_names) != bool(source.files)
