"""Which questions are asked: those of sources/benchmarks and the corpus' held-out rows, the same ones for every system."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus.benchmarks import CONTENTS, PUBLISHED
from medpipe.corpus.splits import PARTS
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.evaluation.benchmarks import BENCHMARKS, choose, load, overlap
from medpipe.schema import QAExample


def test_the_benchmarks_stand_in_their_order_and_name_their_papers() -> None:
    held_out = ["medquad_heldout", "synthetic_heldout", "phenotypes_heldout", "medquad_questions_heldout"]
    assert list(BENCHMARKS) == [*(name for name in PUBLISHED if name != "safety"), *held_out, "safety"]
    assert [benchmark.kind for benchmark in BENCHMARKS.values()] == [*["choice"] * 5, "text", *["choice"] * 3, "safety"]
    assert [benchmark.metric for benchmark in BENCHMARKS.values()].count("similarity") == 1
    assert all(name == benchmark.name and benchmark.licence and benchmark.citation for name, benchmark in BENCHMARKS.items())
    assert [benchmark.options for benchmark in BENCHMARKS.values()] == [10, 4, 3, 4, 4, 0, 10, 10, 10, 0]
    assert [name for name, benchmark in BENCHMARKS.items() if not benchmark.source] == list(PUBLISHED)


def test_the_reason_names_assets_and_no_folder_whose_name_changes(tmp_path: Path) -> None:
    """The leaderboard shows it: a path in it would make another leaderboard of the same answers."""
    with pytest.raises(SourceUnreachable) as lacking:
        load("medqa", {"sources/benchmarks": published(tmp_path / "published", missing="medqa")})
    assert "in sources/benchmarks:" in str(lacking.value) and str(tmp_path) not in str(lacking.value)


def published(folder: Path, missing: str = "") -> Path:
    """A finished sources/benchmarks in which each benchmark has two questions, but for the one that is missing."""
    rows = [
        QAExample(id=f"q{number}", question=f"Question {number} of {name}?", answer="A", source=name, focus="f", options=("yes", "no"))
        for name in PUBLISHED
        for number in (2, 1)
        if name != missing
    ]
    store.write_examples(folder, rows)
    reached = {name: {"title": each.title, "status": "ok", "reason": ""} for name, each in PUBLISHED.items()}
    store.write_json(folder / CONTENTS, reached | {missing: {"title": missing, "status": "unreachable", "reason": "no network here"}})
    return folder


def test_a_published_benchmark_is_read_from_its_source_asset_in_its_order(tmp_path: Path) -> None:
    rows = load("medqa", {"sources/benchmarks": published(tmp_path)})
    assert [row.question for row in rows] == ["Question 2 of medqa?", "Question 1 of medqa?"]


def test_one_that_could_not_be_had_is_unreachable_with_its_reason_and_the_others_are_not(tmp_path: Path) -> None:
    inputs = {"sources/benchmarks": published(tmp_path, missing="medqa")}
    with pytest.raises(SourceUnreachable, match="no network here"):
        load("medqa", inputs)
    assert len(load("pubmedqa", inputs)) == 2


def test_a_benchmark_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="benchmark 'nothing', expected one of medxpertqa"):
        load("nothing", {"sources/benchmarks": published(tmp_path)})


def clean(folder: Path, source: str) -> Path:
    """A finished corpus/clean: a free-text and a multiple-choice question of one source on each side of the split."""
    sides, options = ("train", "validation", "heldout"), tuple(f"option {number}" for number in range(10))
    rows = [
        QAExample(
            id=f"{side} {kind}", question="Which?", answer="A", source=source, focus=side, options=options if kind == "choice" else ()
        )
        for side in sides
        for kind in ("text", "choice")
    ]
    store.write_examples(folder, rows)
    store.write_jsonl(folder / PARTS, ({"id": row.id, "part": row.focus, "group": row.focus} for row in rows))
    return folder


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("synthetic_heldout", "heldout choice"), ("medquad_heldout", "heldout text"), ("phenotypes_heldout", "heldout choice"),
        ("medquad_questions_heldout", "heldout choice"),
    ],
)  # fmt: skip
def test_heldout_benchmarks_take_only_rows_of_their_kind_that_no_split_contains(name: str, id: str, tmp_path: Path) -> None:
    assert [row.id for row in load(name, {"corpus/clean": clean(tmp_path, BENCHMARKS[name].source)})] == [id]


def test_a_source_that_is_not_in_the_corpus_is_unreachable_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="expected MedQuAD in the corpus"):
        load("medquad_heldout", {"corpus/clean": clean(tmp_path, "synthetic")})


def example(number: int, question: str = "") -> QAExample:
    return QAExample(id=f"q{number}", question=question or f"Question {number}?", answer="an answer", source="s", focus="f")


def test_choose_is_seeded_nested_and_keeps_the_published_order() -> None:
    rows = [example(number) for number in range(50)]
    ten, twenty = choose(rows, 10, 1), choose(rows, 20, 1)
    assert len(ten) == 10 and ten == choose(list(rows), 10, 1) and ten != choose(rows, 10, 2)
    assert {row.id for row in ten} < {row.id for row in twenty}
    assert [rows.index(row) for row in twenty] == sorted(rows.index(row) for row in twenty)
    assert choose(rows, 500, 1) == rows


def test_overlap_ignores_case_punctuation_and_spacing() -> None:
    training = [example(1, "What  is ASTHMA"), example(2, "What is gout?")]
    assert overlap([example(3, "what is asthma?"), example(4, "What is asthma in children?")], training) == 1
