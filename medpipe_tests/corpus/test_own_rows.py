"""The user's own rows: read from where the guides name, on the side they ask for, and every loss told on the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus import cleaning, own_rows, sources
from medpipe.corpus.cleaning import BENCHMARKS
from medpipe.corpus.funnel import OTHER_SIDE
from medpipe.corpus.groups import Groups, part_of
from medpipe.corpus.records import read_custom
from medpipe.corpus.sources import SOURCES, stamp
from medpipe.corpus.splits import PARTS
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import Part, QAExample
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus.makers import row, write_lines

SIDES = get_args(Part)
SECTIONS = ("corpus",)
WORDS = ("amber", "basalt", "cobalt", "dune", "ember", "fjord", "garnet", "harbour", "island", "jasper")


def own(number: int, **changes: Any) -> dict[str, Any]:
    """A row as a user writes it, which cleaning keeps."""
    word = WORDS[number]
    return {"question": f"What helps against {word} fever?", "answer": f"Plenty of {word} tea and a long rest help.", **changes}


@pytest.fixture
def clean(settings: Settings, make_job: JobMaker, tmp_path: Path) -> Callable[..., tuple[Job, Outcome]]:
    """clean(medquad=…): reads the user's files, then makes corpus/clean of them and of these other rows."""

    def make(**others: list[QAExample]) -> tuple[Job, Outcome]:
        custom = make_job("sources/custom", settings, sections=SECTIONS)
        sources.run(custom)
        folders = {"sources/custom": custom.out, BENCHMARKS: tmp_path / "benchmarks"}
        store.write_examples(folders[BENCHMARKS], [])
        store.write_json(folders[BENCHMARKS] / "benchmarks.json", {})
        for name, rows in others.items():
            folders[f"sources/{name}"] = tmp_path / name
            store.write_examples(tmp_path / name, rows)
            store.write_jsonl(tmp_path / name / "library.jsonl", [])
        job = make_job("corpus/clean", settings, folders, sections=SECTIONS)
        return job, cleaning.run(job)

    return make


def sides(job: Job) -> dict[str, Part]:
    """Where the rows of a finished corpus stand: origin → side."""
    return {
        each.origin: place["part"]
        for each, place in zip(store.read_examples(job.out), store.read_jsonl(job.out / PARTS), strict=True)
        if each.source == "custom"
    }


def folder_of(settings: Settings) -> Path:
    return settings.data / "custom"


def test_a_row_falls_on_the_side_that_it_asks_for(settings: Settings, clean: Callable[..., tuple[Job, Outcome]]) -> None:
    write_lines(folder_of(settings) / "own.jsonl", *(own(number, split=SIDES[number % 4]) for number in range(8)))
    write_lines(folder_of(settings) / "own.csv", "question,answer,split", "What helps against chills?,A warm blanket and hot soup., Train ")
    job, outcome = clean()
    found = sides(job)
    assert [found[f"own.jsonl:{number + 1}"] for number in range(8)] == [*SIDES, *SIDES] and found["own.csv:2"] == "train"
    check = next(check for check in outcome.checks if check.name == "own_rows")
    assert check.passed and check.values == {"train": 3, "cotrain": 2, "validation": 2, "heldout": 2, "dropped": 0, "side_asked_for": 9}


def test_rows_of_one_focus_follow_the_one_that_asks(settings: Settings, clean: Callable[..., tuple[Job, Outcome]]) -> None:
    wanted: Part = next(side for side in SIDES if side != part_of("amber fever", settings.corpus, settings.seed))
    lines = [own(0, focus="amber fever"), own(1, focus="Amber  Fever"), own(2, focus="amber fever", split=wanted)]
    write_lines(folder_of(settings) / "own.jsonl", *lines)
    job, _ = clean(medtext=[row(1, id="medtext-1", source="medtext", focus="amber fever")])
    assert set(sides(job).values()) == {wanted}
    assert {place["part"] for place in store.read_jsonl(job.out / PARTS)} == {wanted}


def test_rows_of_one_focus_that_ask_for_different_sides_are_put_aside_with_the_reason(tmp_path: Path) -> None:
    rows = [own(0, focus="Amber fever", split="train"), own(1, focus="amber fever", split="heldout"), own(2, split="heldout")]
    found = read_custom([write_lines(tmp_path / "own.jsonl", *rows)])
    assert [each.origin for each in found.rows] == ["own.jsonl:3"] and found.sides == {"custom-own-3": "heldout"}
    assert [(entry["file"], entry["line"]) for entry in found.quarantined] == [("own.jsonl", 1), ("own.jsonl", 2)]
    for entry in found.quarantined:
        assert "ask for train (own.jsonl:1), heldout (own.jsonl:2); give them one side" in entry["reason"]


@pytest.mark.parametrize("given", ["test", "TRAINING", 7, ["train"], True])
def test_a_split_of_another_name_is_refused_with_the_names_that_exist(tmp_path: Path, given: Any) -> None:
    found = read_custom([write_lines(tmp_path / "own.jsonl", own(0, split=given), own(1, split=" Train "), own(2, split=None))])
    (bad,) = found.quarantined
    assert bad["line"] == 1 and "expected one of train, cotrain, validation, heldout" in bad["reason"]
    assert found.sides == {"custom-own-2": "train"} and not found.notes


@pytest.mark.parametrize("source", ["synthetic", "medquad"])
def test_a_row_that_asks_for_another_side_than_its_topic_is_dropped_and_told(
    settings: Settings, clean: Callable[..., tuple[Job, Outcome]], reporter: Collected, source: str
) -> None:
    names = ("gout", "podagra") if source == "medquad" else ("gout",)
    other = row(1, id="other-1", source=source, focus="gout", synonyms=names[1:], question="What brings gout about?")
    groups = Groups(settings.corpus, settings.seed)
    groups.link(other)
    side = groups.part(other)
    assert side
    wrong = next(each for each in SIDES if each != side)
    write_lines(folder_of(settings) / "a.jsonl", own(0, focus=names[0], split=side if len(names) > 1 else None))
    write_lines(folder_of(settings) / "b.jsonl", own(1, focus=names[-1], split=wrong))
    job, outcome = clean(**{source: [other]})
    assert sides(job) == {"a.jsonl:1": side}
    told = [line for line in reporter.warnings if "b.jsonl" in line]
    assert len(told) == 1 and OTHER_SIDE in told[0] and f"asks for {wrong}" in told[0] and f"on {side}" in told[0] and "line 1" in told[0]
    check = next(check for check in outcome.checks if check.name == "own_rows")
    assert (check.passed, check.severity, check.values["dropped"]) == (False, "warn", 1)
    assert all(each.passed for each in outcome.checks if each.severity == "error")


def test_of_few_rows_without_a_split_the_sides_are_told_and_how_to_choose(
    settings: Settings, clean: Callable[..., tuple[Job, Outcome]], reporter: Collected
) -> None:
    write_lines(folder_of(settings) / "own.jsonl", *map(own, range(10)), own(3, question="What is dune fever?", split="train"))
    job, _ = clean()
    counts = {side: list(sides(job).values()).count(side) for side in SIDES}
    assert counts["train"] < 11
    (told,) = [line for line in reporter.warnings if "name no split" in line]
    assert told.startswith("10 of your 11 rows name no split") and "data/custom/README.md" in told
    assert all(f"{count} in {side}" in told for side, count in counts.items())


def test_rows_that_all_name_a_split_need_no_advice(
    settings: Settings, clean: Callable[..., tuple[Job, Outcome]], reporter: Collected
) -> None:
    write_lines(folder_of(settings) / "own.jsonl", *(own(number, split="heldout") for number in range(4)))
    _, outcome = clean()
    assert not reporter.warnings and "your own rows: 0 in train, 0 in cotrain, 0 in validation, 4 in heldout" in reporter.lines
    assert next(check for check in outcome.checks if check.name == "own_rows").passed


def test_without_own_rows_the_check_passes_and_says_so(clean: Callable[..., tuple[Job, Outcome]]) -> None:
    _, outcome = clean(synthetic=[row(1, id="synthetic-1", source="synthetic")])
    check = next(check for check in outcome.checks if check.name == "own_rows")
    assert check.passed and check.description == "there are no rows of your own"


def test_bad_rows_are_named_on_the_screen_with_file_line_and_reason_then_counted(
    settings: Settings, make_job: JobMaker, reporter: Collected
) -> None:
    write_lines(folder_of(settings) / "own.jsonl", own(0), "broken", {"question": "Only a question?"}, *["["] * 7)
    sources.run(make_job("sources/custom", settings, sections=SECTIONS))
    assert len(reporter.warnings) == own_rows.SHOWN + 1
    assert reporter.warnings[0].startswith("own row own.jsonl, line 2, is not used: not JSON")
    assert reporter.warnings[1] == "own row own.jsonl, line 3, is not used: lacks answer"
    assert reporter.warnings[-1].startswith("and 4 more of your rows are not used") and "quarantine.jsonl" in reporter.warnings[-1]


def test_rows_that_cleaning_drops_are_named_on_the_screen(
    settings: Settings, clean: Callable[..., tuple[Job, Outcome]], reporter: Collected
) -> None:
    short = [own(number, answer="Warm tea, rest.", split="train") for number in range(1, 8)]
    write_lines(folder_of(settings) / "own.jsonl", own(0, split="train"), *short)
    clean()
    assert reporter.warnings[0] == "own row own.jsonl, line 2, is not used: answer too short"
    assert len(reporter.warnings) == own_rows.SHOWN + 1 and reporter.warnings[-1].startswith("and 2 more of your rows are not used")


def test_a_field_with_a_typing_error_is_told(settings: Settings, make_job: JobMaker, reporter: Collected) -> None:
    write_lines(folder_of(settings) / "own.jsonl", own(0, spilt="train"))
    sources.run(make_job("sources/custom", settings, sections=SECTIONS))
    assert reporter.warnings == ["fields of your rows that are not known and ignored: spilt (1)"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_in_the_place_of_the_folder_is_an_error_that_tells_what_to_do(settings: Settings, make_job: JobMaker, kind: str) -> None:
    place = folder_of(settings)
    place.parent.mkdir(parents=True)
    if kind == "file":
        write_lines(place, own(0))
    else:
        place.symlink_to("nowhere")
    for look in (lambda: stamp("custom", settings), lambda: sources.run(make_job("sources/custom", settings, sections=SECTIONS))):
        with pytest.raises(MedpipeError, match=r"expected a folder, or nothing, in .*custom: move it away, make the folder"):
            look()


def test_the_file_that_the_guide_names_is_read_too(settings: Settings, make_job: JobMaker) -> None:
    line = own(0, category="specialty", source="custom", difficulty="high")
    top = write_lines(settings.data / "custom_medical.jsonl", line)
    same_name = write_lines(folder_of(settings) / "custom_medical.jsonl", own(1, id="mine"))
    assert set(SOURCES["custom"].local(settings)) == {top, same_name}
    assert stamp("custom", settings) == {
        "custom_medical.jsonl": store.sha256_file(top), "custom/custom_medical.jsonl": store.sha256_file(same_name)
    }  # fmt: skip
    job = make_job("sources/custom", settings, sections=SECTIONS)
    assert sources.run(job).metadata["rows"] == 2
    assert {each.question for each in store.read_examples(job.out)} == {own(0)["question"], own(1)["question"]}


def test_what_lies_in_the_folder_and_is_not_read_is_named(settings: Settings, make_job: JobMaker, reporter: Collected) -> None:
    write_lines(folder_of(settings) / "own.jsonl", own(0))
    for name in ("rows.json", "rows.xlsx", "README.md", ".hidden"):
        write_lines(folder_of(settings) / name, own(1))
    sources.run(make_job("sources/custom", settings, sections=SECTIONS))
    (told,) = reporter.warnings
    assert "rows.json, rows.xlsx; rows are taken from" in told and "README" not in told


def test_a_source_that_is_not_used_is_not_looked_at(settings: Settings) -> None:
    write_lines(folder_of(settings), own(0))  # a file in the place of the folder
    without = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"use": ("synthetic",)})})
    assert stamp("custom", without) == {}
