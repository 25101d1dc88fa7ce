"""What the asset corpus/clean writes: rows, sides, quarantine, funnel, contamination, exports; the same in every run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import load_profile
from medpipe.corpus.cleaning import run
from medpipe.corpus.funnel import ORDER, clean
from medpipe.corpus.groups import part_of
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome, scoped
from medpipe.schema import QAExample
from medpipe_tests.conftest import Collected
from medpipe_tests.corpus.makers import row

SCRIPT = "What does <script>alert(1)</script> do to a page?"
ASKED = "A 52-year-old brewer wakes up at night with a red and swollen big toe after a feast. Which drug is given first?"
BENCHMARK = row(1, id="bench-1", source="medqa", question=ASKED, options=("rest", "colchicine"), answer="B")
LONG = "Gout comes from needles of urate that settle in a cool joint, most often that of the big toe, over many years."
GOOD = [row(number, difficulty="hard", qtype="outlook") for number in range(60)] + [row(61, question=SCRIPT)]
BAD = [
    (row(70, answer="Too short."), "answer too short"),
    (row(71, question="condition NUMBER 1 -- what is", answer=GOOD[1].answer), "near duplicate"),  # another order
    (row(72, question=GOOD[2].question.upper(), answer=GOOD[2].answer), "exact duplicate"),
    (row(73, question=ASKED), "shows a benchmark's question"),
]
CUSTOM = [*GOOD, *(each for each, _ in BAD)]
CHOICE = row(80, id="synthetic-1", source="synthetic", options=("one", "two"), answer="A", focus="focus 1", category="made up")
MEDQUAD = [
    row(90, id="mq-1", source="medquad", focus="gout", question="What is gout?", answer=LONG, synonyms=("podagra",), category="disorders"),
    row(91, id="mq-2", source="medquad", focus="gout", question="What is gout?", answer=LONG.replace("a cool", "one cool")),
]


def inputs(root: Path, *, missing: Iterable[str] = (), **rows: list[QAExample]) -> dict[str, Path]:
    """Finished folders of the four sources, each with a passage to read up in, and of the benchmarks."""
    folders = {f"sources/{name}": root / name for name in (*ORDER, "benchmarks")}
    for name in ORDER:
        store.write_examples(root / name, rows.get(name, []))
        passages = [
            {"id": f"{name}-1", "title": name, "text": "a text"},
            {"id": f"{name}-2", "title": "Cases", "text": f"One reads: {ASKED}"},
        ]
        store.write_jsonl(root / name / "library.jsonl", passages)
    store.write_examples(root / "benchmarks", [] if "medqa" in missing else [BENCHMARK])
    known = {
        name: {"title": name, "status": "unreachable" if name in missing else "ok", "questions": int(name not in missing), "reason": ""}
        for name in ("medqa", "pubmedqa")
    }
    store.write_json(root / "benchmarks" / "benchmarks.json", known)
    return folders


def made_in(root: Path, folders: dict[str, Path]) -> tuple[Job, Outcome]:
    """The asset, run as its worker runs it: with the settings that its task declares."""
    settings = load_profile("smoke", {"paths.data": str(root / "data"), "paths.outputs": str(root / "outputs")})
    (root / "out").mkdir(parents=True)
    (root / "scratch").mkdir()
    job = Job("corpus/clean", scoped(settings, ("corpus",)), folders, root / "out", root / "scratch", "cpu", Collected())
    return job, run(job)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Outcome]:
    root = tmp_path_factory.mktemp("clean")
    return made_in(root, inputs(root / "in", custom=CUSTOM, synthetic=[CHOICE], medquad=MEDQUAD))


def parts(job: Job) -> list[dict[str, str]]:
    return store.read_jsonl(job.out / "parts.jsonl")


def test_the_checks_pass_and_the_rows_are_vouched_for(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    assert {check.name: check.passed for check in outcome.checks} == dict.fromkeys(
        ("schema_and_ranges", "drift", "unique_ids", "funnel_adds_up", "decontaminated"), True
    ) | {"own_rows": False}  # four of them are dropped
    require_valid(job.out, "corpus/clean")
    assert (job.out / outcome.metadata["validation_report"]["file"]).is_file()


def test_rows_are_those_of_the_funnel_and_each_has_its_side(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    kept, _ = clean([*CUSTOM, CHOICE, *MEDQUAD], job.settings.corpus, job.settings.seed, [BENCHMARK])
    assert store.read_examples(job.out) == kept and outcome.metadata["rows"] == len(kept)
    assert any(each.question == SCRIPT for each in kept)
    assert [place["id"] for place in parts(job)] == [each.id for each in kept]
    for each, place in zip(kept, parts(job), strict=True):
        assert (place["part"], place["group"]) == (part_of(each.focus, job.settings.corpus, job.settings.seed), each.focus)


def test_what_is_dropped_lies_in_quarantine_with_its_reason(made: tuple[Job, Outcome]) -> None:
    import pandas as pd

    job, outcome = made
    table = pd.read_parquet(job.out / "quarantine.parquet")
    assert list(table.columns) == ["source", "id", "reason", "detail", "question", "answer", "origin"]
    assert len(table) + len(store.read_examples(job.out)) == len(CUSTOM) + 1 + len(MEDQUAD)
    assert outcome.metadata["dropped"] == len(table)
    reasons = dict(zip(table["id"], table["reason"], strict=True))
    for each, reason in BAD:
        assert reasons.pop(each.id) == reason
    assert reasons == {"mq-2": "near duplicate"}
    by_id = table.set_index("id")
    assert by_id.loc["custom-70", "answer"] == "Too short." and by_id.loc["custom-70", "question"] == "What is condition number 70?"
    assert by_id.loc["mq-2", "detail"] == "of mq-1, which stays"


def test_the_funnel_is_told_for_each_source(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    table = store.read_json(job.out / "funnel.json")
    assert table == outcome.metadata["funnel"]["table"]
    steps = {(step["source"], step["step"]): step["rows"] for step in table}
    assert (steps["custom", "in"], steps["custom", "dropped: answer too short"], steps["custom", "kept"]) == (65, 1, 61)
    assert (steps["medquad", "in"], steps["medquad", "dropped: near duplicate"], steps["medquad", "kept"]) == (2, 1, 1)
    by_source = {line["source"]: line for line in outcome.metadata["by_source"]["table"]}
    assert list(by_source) == list(ORDER) and (by_source["custom"]["in"], by_source["custom"]["kept"]) == (65, 61)


def test_what_matched_what_is_reported(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    report = store.read_json(job.out / "contamination.json")
    assert report["against"] == store.read_json(job.inputs["sources/benchmarks"] / "benchmarks.json")
    assert report["matches"] == outcome.metadata["contaminated_rows"]["table"] == [
        {"source": "custom", "row": "custom-73", "benchmark": "medqa", "item": "bench-1", "how": "same question", "words": ASKED}
    ]  # fmt: skip
    assert outcome.metadata["decontaminated_against"]["table"] == [
        {"benchmark": "medqa", "questions": 1, "status": "ok"}, {"benchmark": "pubmedqa", "questions": 1, "status": "ok"},
    ]  # fmt: skip


def test_no_passage_to_read_up_in_shows_a_benchmarks_question(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    assert [passage["id"] for passage in store.read_jsonl(job.out / "library.jsonl")] == [f"{name}-1" for name in ORDER]
    assert outcome.metadata["library_passages"] == len(ORDER)


def test_the_data_folder_shows_no_held_out_row(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    names = ("medxpert_complete.jsonl", "dataset_summary.json")
    assert outcome.exports == {name: job.settings.data / name for name in names}
    sides = {place["id"]: place["part"] for place in parts(job)}
    hidden = {id for id, side in sides.items() if side == "heldout"}
    shown = [json.loads(line) for line in (job.out / names[0]).read_text().splitlines()]
    assert hidden and {each["id"] for each in shown} == sides.keys() - hidden
    assert all(set(each) - {"options"} == {"id", "question", "answer", "category", "source", "difficulty"} for each in shown)
    assert [each["id"] for each in shown if "options" in each] == ["synthetic-1"]
    summary = store.read_json(job.out / names[1])
    parts_ = ("training_samples", "cotraining_samples", "validation_samples")
    assert sum(summary[name] for name in parts_) == summary["total_samples"] == len(shown)
    assert summary["heldout_samples"] == len(hidden)
    for field in ("sources", "categories", "difficulty_levels"):
        assert sum(summary[field].values()) == len(shown)
    assert "medical advice" in summary["notice"]


def test_people_see_pictures_and_samples(made: tuple[Job, Outcome]) -> None:
    job, outcome = made
    assert (job.out / outcome.metadata["categories"]["image"]).read_bytes().startswith(b"\x89PNG")
    samples = {sample["id"] for sample in outcome.metadata["samples"]["table"]}
    assert len(samples) >= 3 and {id.partition("-")[0] for id in samples} == {"custom", "synthetic", "mq"}
    assert not samples & {place["id"] for place in parts(job) if place["part"] == "heldout"}


def content(folder: Path) -> dict[str, str]:
    """Hashes of what the next assets read; the report of the validation carries times, a picture its library's version."""
    return {name: value for name, value in store.hash_tree(folder).items() if not name.startswith(("docs/", "plots/"))}


def test_the_same_rows_give_the_same_files(made: tuple[Job, Outcome], tmp_path: Path) -> None:
    first, _ = made
    again, _ = made_in(tmp_path, dict(first.inputs))
    assert content(again.out) == content(first.out) and len(content(first.out)) == 9


def test_an_unreachable_benchmark_is_told_and_does_not_stop_the_run(tmp_path: Path) -> None:
    job, outcome = made_in(tmp_path, inputs(tmp_path / "in", missing=["medqa"], custom=CUSTOM))
    check = next(check for check in outcome.checks if check.name == "decontaminated")
    assert (check.passed, check.severity, check.values) == (False, "warn", {"benchmarks": 1, "questions": 1})
    assert "unreachable: medqa" in check.description
    assert "custom-73" in {each.id for each in store.read_examples(job.out)}  # nothing knows that it shows a question


def test_one_id_on_two_rows_fails_its_checks(tmp_path: Path) -> None:
    _, outcome = made_in(tmp_path, inputs(tmp_path / "in", custom=[row(1), row(2, id="custom-1")]))
    assert {check.name for check in outcome.checks if not check.passed} == {"unique_ids", "schema_and_ranges"}


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    for name, rows in (("nothing", []), ("nothing good", [row(1, answer="Short.")])):
        with pytest.raises(MedpipeError, match=rf"empty corpus \(0 of {len(rows)} rows left\).* data/custom"):
            made_in(tmp_path / name, inputs(tmp_path / name / "in", custom=rows))
        assert not (tmp_path / name / "data").exists()


@pytest.mark.parametrize("lost", ["benchmarks.json", "rows.jsonl"])
def test_without_the_benchmarks_files_nothing_is_cleaned(lost: str, tmp_path: Path) -> None:
    folders: dict[str, Any] = inputs(tmp_path / "in", custom=CUSTOM)
    (folders["sources/benchmarks"] / lost).unlink()
    with pytest.raises(FileNotFoundError, match=lost):
        made_in(tmp_path, folders)
