"""The training splits of three exams as optional sources: read as published, drawn by seed, kept apart from what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medpipe import store
from medpipe.assets.corpus import sources as source_assets
from medpipe.config import Corpus, Settings, load_profile, profile_names
from medpipe.corpus import exams, sources
from medpipe.corpus.benchmarks import PUBLISHED, parse
from medpipe.corpus.funnel import CONTAMINATED, clean
from medpipe.corpus.records import Found
from medpipe.corpus.sources import SOURCES, stamp
from medpipe.errors import MedpipeError
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus import hub
from medpipe_tests.corpus.makers import row, write_lines

EXAMS = ("medqa_train", "medmcqa_train", "pubmedqa_train")
CELLS = ["Rest", "Colchicine", "Aspirin", "Nothing"]
MEDQA = {
    "question": "Which drug helps a brewer with a red toe?", "options": dict(zip("ABCD", CELLS, strict=True)), "answer": "Colchicine",
    "answer_idx": "B", "meta_info": "step1", "metamap_phrases": ["brewer"],
}  # fmt: skip
ENTRY = {
    "QUESTION": "Does warm tea help people with a cold?", "CONTEXTS": ["Tea was given.", "Some felt better."], "final_decision": "no",
    "LONG_ANSWER": "Warm tea did not help.", "MESHES": ["Tea"],
}  # fmt: skip


def using(settings: Settings, *names: str, **more: Any) -> Settings:
    return settings.model_copy(update={"corpus": Corpus.model_validate({**settings.corpus.model_dump(), "use": names, **more})})


def pubmedqa_files(folder: Path, entries: dict[str, Any], tested: dict[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "ori_pqal.json", folder / "test_ground_truth.json"]
    for path, value in zip(paths, (entries, tested), strict=True):
        path.write_text(json.dumps(value))
    return paths


def test_medqa_rows_are_choice_questions_and_a_bad_line_is_put_aside(tmp_path: Path) -> None:
    bad = [{**MEDQA, "answer_idx": "E"}, {**MEDQA, "options": None}, {**MEDQA, "options": {"A": "one", "C": "two"}}, "{"]
    found = exams.medqa([write_lines(tmp_path / "medqa_train.jsonl", MEDQA, *bad, {**MEDQA, "answer_idx": "D"})], "medqa_train")
    first, last = found.rows
    assert (first.answer_text, first.options, last.answer_text) == ("Colchicine", tuple(CELLS), "Nothing")
    assert (first.id, first.focus, first.source, first.origin) == (
        "medqa_train-1", "medqa_train-1", "medqa_train", "medqa_train.jsonl:1"
    )  # fmt: skip
    assert [entry["line"] for entry in found.quarantined] == [2, 3, 4, 5]


def test_medmcqa_rows_keep_subject_and_explanation(tmp_path: Path) -> None:
    rows = [
        hub.medmcqa(0, cop=0, exp="Because of B cells.", subject_name="Anatomy"), hub.medmcqa(1, cop=4), hub.medmcqa(2, opa=" "),
        hub.medmcqa(3, cop=3, exp=None),
    ]  # fmt: skip
    found = exams.medmcqa([hub.table(tmp_path / "medmcqa_train.parquet", *rows)], "medmcqa_train")
    first, last = found.rows
    assert (first.id, first.answer, first.rationale, first.category) == ("medmcqa_train-uuid-0", "A", "Because of B cells.", "Anatomy")
    assert (last.answer, last.rationale) == ("D", "")
    assert [(entry["line"], entry["reason"].partition(":")[0]) for entry in found.quarantined] == [(2, "cop"), (3, "options")]


def test_pubmedqa_rows_of_the_test_split_are_never_among_them(tmp_path: Path) -> None:
    entries = {str(number): ENTRY for number in range(6)} | {"bad": {**ENTRY, "final_decision": "perhaps"}, "worse": 7}
    found = exams.pubmedqa(pubmedqa_files(tmp_path, entries, {"1": "no", "3": "no"}), "pubmedqa_train")
    assert [each.id for each in found.rows] == [f"pubmedqa_train-{number}" for number in (0, 2, 4, 5)]
    first = found.rows[0]
    assert (first.answer_text, first.rationale, first.context) == ("no", "Warm tea did not help.", ("Tea was given.", "Some felt better."))
    assert len(found.quarantined) == 2


@pytest.mark.parametrize(
    ("parser", "names", "content"),
    [
        (exams.medqa, ("a.jsonl",), b"{}\n{}\n"),
        (exams.medqa, ("a.jsonl",), b""),
        (exams.medmcqa, ("a.parquet",), b"not a table"),
        (exams.pubmedqa, ("a.json", "b.json"), b"["),
        (exams.pubmedqa, ("a.json", "b.json"), b"[]"),
        (exams.pubmedqa, ("a.json", "b.json"), b"{}"),
    ],
)
def test_a_file_without_a_good_row_is_an_error(
    tmp_path: Path, parser: Callable[..., Found], names: tuple[str, ...], content: bytes
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MedpipeError, match="get it again from its publisher"):
        parser([tmp_path / name for name in names], "exam")


def test_a_table_with_other_columns_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="a table without id, question, opa"):
        exams.medmcqa([hub.table(tmp_path / "a.parquet", {"x": 1})], "medmcqa_train")


def test_a_draw_is_by_seed_and_a_smaller_one_is_part_of_a_larger_one() -> None:
    found = Found([row(number) for number in range(50)])
    small, large = ({each.id for each in exams.drawn(found, count, 0).rows} for count in (10, 20))
    assert len(small) == 10 and small < large and small != {each.id for each in exams.drawn(found, 10, 1).rows}
    assert exams.drawn(found, 10, 0).notes == {"rows_published": 50} and exams.drawn(found, 50, 0) is found


def test_rows_that_show_a_question_of_any_benchmark_are_dropped(tmp_path: Path) -> None:
    leaked = "A 52-year-old brewer wakes up at night with a red and swollen big toe after a feast"
    asked = hub.medmcqa(1, question=f"{leaked}. What is it?")
    tests = parse(PUBLISHED["medmcqa"], [hub.table(tmp_path / "medmcqa_validation.parquet", asked)])
    path = write_lines(tmp_path / "medqa_train.jsonl", MEDQA, {**MEDQA, "question": f"{leaked}, as every year. Which drug is given?"})
    kept, dropped = clean(exams.medqa([path], "medqa_train").rows, Corpus(), benchmarks=tests)
    assert [each.id for each in kept] == ["medqa_train-1"]
    assert [(each.row.id, each.reason) for each in dropped] == [("medqa_train-2", CONTAMINATED)] and "medmcqa" in dropped[0].detail


def test_an_exam_is_downloaded_once_it_is_chosen_and_pinned_after_it_was_read(
    settings: Settings, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = using(settings, "medqa_train", exam_rows=3)
    page = "/datasets/GBaker/MedQA-USMLE-4-options/resolve/main/phrases_no_exclude_train.jsonl"
    lines = [json.dumps({**MEDQA, "question": f"Which drug helps in case number {number}?"}) for number in range(5)]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub.serving() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        web.pages[page] = b"<html>come back later</html>"
        with pytest.raises(MedpipeError, match="no row that can be used"):
            sources.run(make_job("sources/medqa_train", chosen, sections=("corpus",)))
        assert not sources.lock_file(chosen).exists()
        (sources.cache(chosen) / "medqa_train.jsonl").unlink()
        web.pages[page] = "\n".join(lines).encode()
        job = make_job("sources/medqa_train", chosen, sections=("corpus",))
        outcome = sources.run(job)
        assert sources.run(job).metadata["rows"] == 3 and web.asked == [page, page]
    assert outcome.status == "ok" and all(check.passed for check in outcome.checks)
    assert (outcome.metadata["rows"], outcome.metadata["rows_published"]) == (3, 5)
    path = sources.cache(chosen) / "medqa_train.jsonl"
    assert store.read_json(sources.lock_file(chosen))["medqa_train.jsonl"]["sha256"] == store.sha256_file(path)
    assert stamp("medqa_train", chosen) == {"medqa_train.jsonl": store.sha256_file(path)}


def test_an_exam_that_cannot_be_had_is_left_out(
    settings: Settings, make_job: JobMaker, reporter: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = sources.run(make_job("sources/medmcqa_train", using(settings, "medmcqa_train"), sections=("corpus",)))
    assert outcome.status == "unreachable" and "medmcqa_train.parquet" in outcome.reason and len(reporter.warnings) == 1


@pytest.mark.parametrize("name", EXAMS)
def test_an_exam_is_in_the_graph_and_off_until_it_is_chosen(name: str, settings: Settings, make_job: JobMaker) -> None:
    assert all(name not in load_profile(profile).corpus.use for profile in profile_names())
    asset = next(asset for asset in source_assets if asset.key == dg.AssetKey(["sources", name]))
    assert {spec.name: spec.blocking for spec in asset.check_specs} == {"reachable": False, "schema_and_ranges": True, "drift": False}
    assert SOURCES[name].licence in (asset.specs_by_key[asset.key].description or "")
    job = make_job(f"sources/{name}", settings, sections=("corpus",))
    outcome = sources.run(job)
    assert (outcome.status, outcome.reason, outcome.metadata["rows"]) == ("ok", "switched off by corpus.use", 0)
    assert [check.name for check in outcome.checks if check.passed] == ["reachable", "schema_and_ranges", "drift"]
    assert stamp(name, settings) == {} and store.read_examples(job.out) == []
