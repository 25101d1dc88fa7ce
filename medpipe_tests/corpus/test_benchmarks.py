"""The asset sources/benchmarks: files from the mirror and over real HTTP, and what is told of those that can't be had."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus import benchmarks
from medpipe.corpus.benchmarks import PUBLISHED, File, parse, read, run, stamp
from medpipe.corpus.download import MIRROR, hub_address
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.job import Outcome
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus.hub import CASE, CELLS, EXPERT, HUB_CASE, TEN, Hub, medmcqa, mmlu, pubmedqa, serving, table
from medpipe_tests.corpus.makers import write_lines

REAL_FILES = os.environ.get(MIRROR, "")  # before a fixture hides it
NAMES = ["medxpertqa", "medqa", "pubmedqa", "medmcqa", "mmlu_medical", "safety"]
SAFETY = Path(__file__).parents[2] / "data" / "safety" / "items.jsonl"
SUBJECTS = ["anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine"]
MEDMCQA_PATH = "/datasets/openlifescienceai/medmcqa/resolve/main/data/validation-00000-of-00001.parquet"


def served(path: Path, *rows: dict[str, Any]) -> bytes:
    return table(path / "served.parquet", *rows).read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Where all benchmarks are looked for: a server that has none of them yet."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        elsewhere = tuple(File(file.names, f"{hub.url}/{file.names[0]}") for file in PUBLISHED["pubmedqa"].files)  # it is not on the hub
        monkeypatch.setitem(PUBLISHED, "pubmedqa", replace(PUBLISHED["pubmedqa"], files=elsewhere))
        yield hub


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv(MIRROR, str(folder))
    return folder


@pytest.fixture(autouse=True)
def _safety_set(settings: Settings) -> None:
    """The project's own questions lie in the data folder."""
    (settings.data / "safety").mkdir(parents=True)
    shutil.copy(SAFETY, settings.data / "safety")


def test_without_the_projects_own_file_only_that_one_is_missing(settings: Settings, make_job: JobMaker, mirror: Path, hub: Hub) -> None:
    (settings.data / "safety" / "items.jsonl").unlink()
    job = make_job("sources/benchmarks", settings, sections=())
    run(job)
    with pytest.raises(SourceUnreachable, match=r"no safety/items.jsonl below the data folder"):
        read(job.out, "safety")


def about(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {row["benchmark"]: row for row in outcome.metadata["benchmarks"]["table"]}


def test_six_benchmarks_are_known_with_their_papers_and_the_names_of_their_files() -> None:
    assert list(PUBLISHED) == NAMES
    assert all(name == each.name and each.title and each.licence and each.citation and each.url for name, each in PUBLISHED.items())
    assert {name: each.mirror_names for name, each in PUBLISHED.items()} == {
        "medxpertqa": ("medxpertqa_text_test.jsonl", "medxpertqa_text_sampled.jsonl"),
        "medqa": ("medqa_test.jsonl",),
        "pubmedqa": ("ori_pqal.json", "test_ground_truth.json"),
        "medmcqa": ("medmcqa.jsonl", "medmcqa_validation.parquet"),
        "mmlu_medical": ("mmlu_medical.jsonl", *(f"mmlu_{subject}_test.parquet" for subject in SUBJECTS)),
        "safety": ("safety/items.jsonl",),
    }
    assert MEDMCQA_PATH in PUBLISHED["medmcqa"].files[0].url


def test_all_are_read_from_the_mirror_and_the_data_folder(
    settings: Settings, make_job: JobMaker, reporter: Collected, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens: a download would fail
    asked = {"medqa": "medqa_test.jsonl", "medmcqa": "medmcqa.jsonl", "mmlu_medical": "mmlu_medical.jsonl"}
    for name in asked.values():
        write_lines(mirror / name, {**CASE, "label": ["C"]}, "", {**CASE, "id": "test-8", "label": ["A"]})
    write_lines(mirror / "medxpertqa_text_sampled.jsonl", EXPERT)
    pubmedqa(mirror, {"11": "maybe"})
    job = make_job("sources/benchmarks", settings, sections=())
    outcome = run(job)
    rows = store.read_examples(job.out)
    assert [(row.source, row.id) for row in rows] == [
        ("medxpertqa", "Text-1"), ("medqa", "test-7"), ("medqa", "test-8"), ("pubmedqa", "11"),
        ("medmcqa", "test-7"), ("medmcqa", "test-8"), ("mmlu_medical", "test-7"), ("mmlu_medical", "test-8"),
        *(("safety", item["id"]) for item in store.read_jsonl(SAFETY)),
    ]  # fmt: skip
    assert [row.origin for row in rows][:4] == [
        "medxpertqa_text_sampled.jsonl:1",
        "medqa_test.jsonl:1",
        "medqa_test.jsonl:3",
        "ori_pqal.json",
    ]
    contents = store.read_json(job.out / "benchmarks.json")
    assert list(contents) == NAMES
    assert all(
        list(entry) == ["title", "licence", "citation", "url", "status", "reason", "questions", "files"] for entry in contents.values()
    )
    for name, file in asked.items():
        entry = contents[name]
        assert (entry["status"], entry["reason"], entry["questions"]) == ("ok", "", 2)
        assert entry["files"] == {file: store.sha256_file(mirror / file)}
        assert [row.answer_text for row in read(job.out, name)] == ["Rh(D) (C) typing (B)", "B-cell maturation"]
    assert list(contents["pubmedqa"]["files"]) == ["ori_pqal.json", "test_ground_truth.json"]
    assert outcome.status == "ok" and not reporter.warnings
    (check,) = outcome.checks
    assert (check.name, check.passed, check.values["read"]) == ("reachable", True, 6)
    assert (job.out / "safety" / "items.jsonl").read_bytes() == SAFETY.read_bytes()  # the rules come with the questions
    shown = about(outcome)["MMLU (six medical subjects, four options)"]
    assert shown["licence"] == "MIT" and shown["questions"] == 2 and store.sha256_file(mirror / "mmlu_medical.jsonl") in shown["sha256"]


def test_the_hubs_files_are_downloaded_once_and_read(
    settings: Settings, make_job: JobMaker, hub: Hub, tmp_path: Path, mirror: Path
) -> None:
    pubmedqa(mirror, {"11": "maybe"})
    hub.pages = {
        "/datasets/TsinghuaC3I/MedXpertQA/resolve/main/Text/test.jsonl": json.dumps({**EXPERT, "options": TEN}).encode(),
        "/datasets/GBaker/MedQA-USMLE-4-options/resolve/main/phrases_no_exclude_test.jsonl": json.dumps(HUB_CASE).encode(),
        MEDMCQA_PATH: served(tmp_path, medmcqa(1), medmcqa(2, cop=0, opd="")),
    }
    for subject in SUBJECTS:
        hub.pages[f"/datasets/cais/mmlu/resolve/main/{subject}/test-00000-of-00001.parquet"] = served(
            tmp_path, mmlu(subject), mmlu(subject)
        )
    job = make_job("sources/benchmarks", settings, sections=())
    outcome = run(job)
    assert outcome.checks[0].passed and sorted(hub.asked) == sorted(hub.pages)
    first, second = read(job.out, "medmcqa")
    assert (first.id, first.answer_text, first.category, first.origin) == ("uuid-1", CELLS[2], "Anatomy", "medmcqa_validation.parquet:1")
    assert second.answer == "A" and second.options == (*CELLS[:3], "")  # an empty wrong option stands as it was published
    subjects = read(job.out, "mmlu_medical")
    assert len(subjects) == 12 and {row.answer_text for row in subjects} == {CELLS[3]}
    assert [row.id for row in subjects[:3]] == ["anatomy-00000", "anatomy-00001", "clinical_knowledge-00000"]
    assert subjects[3].origin == "mmlu_clinical_knowledge_test.parquet:2"
    locked = store.read_json(settings.data / "sources.lock.json")
    assert {"medmcqa_validation.parquet", "mmlu_anatomy_test.parquet", "medqa_test.jsonl", "ori_pqal.json"} <= set(locked)
    hub.asked.clear()
    again = make_job("again", settings, sections=())
    run(again)
    assert hub.asked == [] and store.hash_tree(again.out) == store.hash_tree(job.out)


def test_what_cannot_be_had_is_one_line_and_the_others_go_on(
    settings: Settings, make_job: JobMaker, reporter: Collected, hub: Hub, mirror: Path
) -> None:
    write_lines(mirror / "medqa_test.jsonl", {**CASE, "label": "C"})
    job = make_job("sources/benchmarks", settings, sections=())
    outcome = run(job)
    own = len(store.read_jsonl(SAFETY))
    assert outcome.status == "ok" and outcome.metadata["questions"] == 1 + own and len(read(job.out, "medqa")) == 1
    (check,) = outcome.checks
    assert not check.passed and check.severity == "warn" and "PubMedQA" in check.description and "USMLE" not in check.description
    assert len(reporter.warnings) == 4 and all("\n" not in each and "HTTP status 404" in each for each in reporter.warnings)
    assert [row["status"] for row in about(outcome).values()] == ["unreachable", "ok", *["unreachable"] * 3, "ok"]
    with pytest.raises(SourceUnreachable, match=r"neither medmcqa.jsonl in the folder MEDPIPE_MIRROR nor a download from huggingface.co"):
        read(job.out, "medmcqa")


def test_an_answer_that_is_no_table_stops_the_run(settings: Settings, make_job: JobMaker, hub: Hub) -> None:
    hub.pages = {MEDMCQA_PATH: b"<!doctype html>"}
    with pytest.raises(MedpipeError, match=r"can't be read as parquet.*medmcqa_validation\.parquet"):
        run(make_job("sources/benchmarks", settings, sections=()))


def test_another_failure_to_reach_the_hub_leaves_the_same_content(
    settings: Settings, make_job: JobMaker, hub: Hub, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a network that is down in another way would have everything that is trained made again."""
    few = {name: each for name, each in PUBLISHED.items() if name not in ("medmcqa", "mmlu_medical")}
    monkeypatch.setattr(benchmarks, "PUBLISHED", few)
    write_lines(mirror / "medxpertqa_text_test.jsonl", EXPERT)
    pubmedqa(mirror, {"11": "maybe"})
    first, second = make_job("first", settings, sections=()), make_job("second", settings, sections=())
    run(first)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    run(second)
    assert store.hash_tree(first.out) == store.hash_tree(second.out)


def test_none_reachable_is_an_empty_table_and_no_failure(settings: Settings, make_job: JobMaker, hub: Hub) -> None:
    (settings.data / "safety" / "items.jsonl").unlink()
    job = make_job("sources/benchmarks", settings, sections=())
    outcome = run(job)
    assert outcome.status == "ok" and store.read_examples(job.out) == [] and outcome.checks[0].values["read"] == 0


def test_a_file_that_changed_since_its_first_use_stops_the_run(settings: Settings, make_job: JobMaker, hub: Hub, mirror: Path) -> None:
    path = write_lines(mirror / "medqa_test.jsonl", {**CASE, "label": "C"})
    run(make_job("first", settings, sections=()))
    path.write_text(path.read_text().replace('"C"', '"A"'))
    with pytest.raises(MedpipeError, match="sha256") as caught:
        run(make_job("second", settings, sections=()))
    assert not isinstance(caught.value, SourceUnreachable) and "medqa_test.jsonl" in str(caught.value)


@pytest.mark.skipif(not REAL_FILES, reason=f"needs the published benchmark files: set {MIRROR}")
@pytest.mark.parametrize(("name", "n", "options"), [("medxpertqa", 244, 10), ("medqa", 1273, 4), ("pubmedqa", 500, 3)])
def test_every_row_of_the_published_files_parses(
    name: str, n: int, options: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, REAL_FILES)
    rows = parse(PUBLISHED[name], [path for _, path in PUBLISHED[name].local(settings) if path])
    assert len(rows) == n and {len(row.options) for row in rows} == {options}
    assert not any("Answer Choices" in row.question for row in rows)


def test_stamp_follows_the_mirrors_content_and_asks_again_for_what_is_missing(mirror: Path, settings: Settings) -> None:
    everything = stamp(settings, "run 1")
    missing = {key: value for key, value in everything.items() if key != "items.jsonl"}
    assert everything["items.jsonl"] == store.sha256_file(SAFETY)
    assert len(missing) == 11 and missing["missing medqa_test.jsonl"].startswith("https://huggingface.co")
    assert stamp(settings, "run 1") == everything
    assert {key for key, value in stamp(settings, "run 2").items() if value != everything[key]} == set(missing)
    cache = settings.outputs / "downloads"
    cache.mkdir(parents=True)
    (cache / "medqa_test.jsonl").write_text("{}\n")
    downloaded = stamp(settings, "run 2")
    assert downloaded["downloaded medqa_test.jsonl"] == stamp(settings, "run 3")["downloaded medqa_test.jsonl"]
    assert "missing medqa_test.jsonl" not in downloaded
    (mirror / "medqa_test.jsonl").write_text("{}\n")
    (mirror / "mmlu_medical.jsonl").write_text("{}\n")
    first = stamp(settings, "")
    assert len(first["medqa_test.jsonl"]) == len(first["mmlu_medical.jsonl"]) == 64
    assert not any("mmlu_anatomy" in key for key in first)
    (mirror / "medqa_test.jsonl").write_text("{} \n")
    assert {key for key, value in stamp(settings, "").items() if value != first.get(key)} == {"medqa_test.jsonl"}


def test_the_hubs_address_can_be_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://huggingface.co/datasets/x"
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert hub_address(url, ()) == url
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:1/")
    assert hub_address(url, ()) == "http://localhost:1/datasets/x"
    assert hub_address("https://example.org/x", ()) == "https://example.org/x"
