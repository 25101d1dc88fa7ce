"""The funnel: every row is kept or dropped with a reason, each drop says on what it rests, and all of it adds up."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.config import Corpus
from medpipe.corpus import funnel as module
from medpipe.corpus.contamination import Items
from medpipe.corpus.funnel import (
    ANSWER_TOO_LONG,
    ANSWER_TOO_SHORT,
    CONTAMINATED,
    NEARLY_SAME,
    NO_ANSWER,
    NO_SUBJECT,
    ORDER,
    OTHER_SIDE,
    REASONS,
    SAME,
    TOO_LONG,
    TOO_SHORT,
    TWO_RIGHT,
    Dropped,
    Funnel,
    Kept,
    clean,
)
from medpipe.corpus.groups import REFUSED, part_of
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row

CORPUS = Corpus()
LONG_ANSWER = (
    "Gout comes from needles of urate that settle in a cool joint, most often that of the big toe, after years in which the blood "
    "carried more uric acid than it could hold."
)
BENCHMARK = row(
    7, id="bench-7", source="medqa", focus="gout", options=("rest", "colchicine"), answer="B",
    question="A 52-year-old brewer wakes up at night with a red and swollen big toe after a feast. Which drug is given first?",
)  # fmt: skip
ASKED_ALIKE = "A 52-year-old brewer wakes up one night with a red and swollen big foot after a feast. Which drug is given soon?"


def poured(rows: list[QAExample], folder: Path, seed: int = 0) -> tuple[Funnel, list[Kept], list[Dropped]]:
    """The funnel after all rows went through it, what it kept and what it dropped; one source after the other."""
    dropped: list[Dropped] = []
    funnel = Funnel(CORPUS, seed, Items.of([BENCHMARK]), folder, dropped.append)
    for source in ORDER:
        funnel.pour(each for each in rows if each.source == source)
    return funnel, list(funnel.kept()), dropped


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "Why ?"}, TOO_SHORT),
        ({"question": "\u00a0\n"}, TOO_SHORT),
        ({"question": "gout " * 500}, TOO_LONG),
        ({"answer": "Too short."}, ANSWER_TOO_SHORT),
        ({"answer": "Key Points\n  - Gout is a disease.\n\n  Salt hurts."}, ANSWER_TOO_SHORT),  # judged after its repair
        ({"answer": "long " * 2000}, ANSWER_TOO_LONG),
        ({"question": "What can it do for someone?"}, NO_SUBJECT),
        ({"question": "What is the outlook in gout?", "answer": "The outlook in gout is the outlook."}, NO_ANSWER),
        ({"answer": "See the page on joints for more information about toes."}, NO_ANSWER),
        ({"options": ("Gout", "rest", "gout "), "answer": "C"}, TWO_RIGHT),
        ({"question": BENCHMARK.question.upper()}, CONTAMINATED),
        ({"answer": f"A book asks: {BENCHMARK.question} The answer is colchicine."}, CONTAMINATED),
        ({"options": (BENCHMARK.question, "two"), "answer": "B"}, CONTAMINATED),
        ({"question": ASKED_ALIKE}, CONTAMINATED),
    ],
)
def test_a_row_that_can_not_be_used_is_dropped_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    kept, dropped = clean([row(**changes)], CORPUS, benchmarks=[BENCHMARK])
    assert not kept and [each.reason for each in dropped] == [reason]


@pytest.mark.parametrize(
    "changes",
    [
        {"options": ("one", "two"), "answer": "B"},  # a letter is a fine answer here
        {"question": "Why does it help?", "options": ("rest", "sleep"), "answer": "A"},
        {"options": ("gout", "rest", "rest"), "answer": "A"},
        {"question": "gout " * 399},
        {"answer": "Gout hurts at night."},  # 20 characters
        {"question": "Which drug is given first to people with gout?"},
    ],
)
def test_a_row_within_all_bounds_stays(changes: dict[str, Any]) -> None:
    kept, dropped = clean([row(**changes)], CORPUS, benchmarks=[BENCHMARK])
    assert len(kept) == 1 and not dropped


def test_these_are_all_reasons_and_each_has_a_test() -> None:
    judged_alone = {TOO_SHORT, TOO_LONG, ANSWER_TOO_SHORT, ANSWER_TOO_LONG, NO_SUBJECT, NO_ANSWER, TWO_RIGHT}
    assert set(REASONS) == judged_alone | {SAME, CONTAMINATED, NEARLY_SAME, REFUSED, OTHER_SIDE} and len(set(REASONS)) == len(REASONS)


SAME_ROW = {"question": "What is the same question?", "answer": LONG_ANSWER}
VARIANTS = {
    SAME: {"question": "WHAT is the same -- question ?", "answer": LONG_ANSWER.upper().replace(",", "  ")},
    NEARLY_SAME: {
        "question": "What is the same question?",
        "answer": LONG_ANSWER.replace("a cool joint", "one rather cool joint"),
    },  # longer
}


@pytest.mark.parametrize("reason", VARIANTS)
@pytest.mark.parametrize(("stays", "goes"), [(ORDER[i], ORDER[j]) for i in range(4) for j in range(i + 1, 4)])
def test_of_duplicates_the_one_from_the_earlier_source_stays(stays: str, goes: str, reason: str) -> None:
    for one, other in ((SAME_ROW, VARIANTS[reason]), (VARIANTS[reason], SAME_ROW)):
        kept, dropped = clean([row(1, source=goes, **one), row(2, source=stays, **other)], CORPUS)
        assert [each.source for each in kept] == [stays]
        assert [(each.row.source, each.reason) for each in dropped] == [(goes, reason)]


def test_of_near_duplicates_in_one_source_the_longer_one_stays() -> None:
    longer = f"{LONG_ANSWER} Attacks come at night."
    for answers in ((LONG_ANSWER, longer), (longer, LONG_ANSWER)):
        kept, dropped = clean([row(n, question="What is gout?", answer=answer) for n, answer in enumerate(answers)], CORPUS)
        assert [each.answer for each in kept] == [longer] and [each.reason for each in dropped] == [NEARLY_SAME]


@pytest.mark.parametrize(
    "other",
    [
        {"answer": LONG_ANSWER.replace("the big toe", "the thumb and no toe")},
        {"answer": "Something else altogether is told about it here."},
        {"question": "Who suffers from gout?"},
    ],
)
def test_rows_that_ask_or_say_something_else_both_stay(other: dict[str, Any]) -> None:
    first = {"question": "What is gout?", "answer": LONG_ANSWER}
    assert len(clean([row(1, **first), row(2, **{**first, **other})], CORPUS)[0]) == 2


def test_a_drop_names_the_row_that_stays() -> None:
    rows = [row(1, **SAME_ROW), row(2, source="medquad", **VARIANTS[NEARLY_SAME]), row(3, source="medtext", **VARIANTS[NEARLY_SAME])]
    kept, dropped = clean(rows, CORPUS)
    assert [each.id for each in kept] == ["custom-1"]
    assert [(each.row.id, each.reason, each.detail) for each in dropped] == [
        (f"custom-{number}", NEARLY_SAME, "of custom-1, which stays")
        for number in (3, 2)  # in the order of sources
    ]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"question": BENCHMARK.question}, "same question with medqa bench-7: A 52-year-old brewer wakes up"),
        (
            {"answer": "We met a brewer who wakes up at night with a red and swollen big toe, and helped."},
            "shared run with medqa bench-7: wakes up at night with a red and",
        ),
        ({"question": ASKED_ALIKE}, "similar question with medqa bench-7: A 52-year-old brewer wakes up"),
    ],
)  # fmt: skip
def test_a_contaminated_row_names_the_benchmarks_item_and_the_words(changes: dict[str, Any], detail: str, tmp_path: Path) -> None:
    funnel, _, (dropped,) = poured([row(**changes)], tmp_path)
    assert dropped.detail.startswith(detail)
    ((source, id, match),) = funnel.matches
    assert (source, id, match.benchmark, match.item) == ("custom", "custom-1", "medqa", "bench-7")


def test_a_row_that_would_join_two_sides_is_refused() -> None:
    seed = next(n for n in range(100) if part_of("asthma", CORPUS, n) != part_of("gout", CORPUS, n))
    bundled = [row(number, source="synthetic", focus=focus) for number, focus in enumerate(("asthma", "gout"))]
    both = row(3, source="medquad", focus="wheeze", synonyms=("asthma", "gout"))
    kept, (dropped,) = clean([both, *bundled], CORPUS, seed)
    assert kept == bundled and (dropped.row, dropped.reason) == (both, REFUSED)


def test_kept_rows_come_with_their_side_and_group(tmp_path: Path) -> None:
    rows = [row(1, focus="Gout"), row(2, source="medquad", focus="Podagra", synonyms=("gout",))]
    _, kept, _ = poured(rows, tmp_path)
    side = part_of("gout", CORPUS, 0)
    assert [(each.row, each.part, each.group) for each in kept] == [(each, side, "podagra") for each in rows]


QUESTIONS = st.sampled_from(
    ["What is gout?", "WHAT is gout ?", "What causes pain in a toe?", "Why ?", "What is it all about?", "gout " * 500, BENCHMARK.question]
)
ANSWERS = st.sampled_from(
    [LONG_ANSWER, LONG_ANSWER.upper(), f"{LONG_ANSWER} It hurts.", LONG_ANSWER.replace("a cool", "one cool"), "Salt.", "long " * 2000,
     "What is gout? It is a disease of joints that hurts.", BENCHMARK.question]
)  # fmt: skip
FOCI = st.sampled_from(["gout", "asthma", "wheeze", "podagra"])
MIXES = st.lists(
    st.tuples(QUESTIONS, ANSWERS, st.sampled_from(ORDER), FOCI, st.lists(FOCI, max_size=2), st.booleans()), max_size=15
).map(
    lambda drawn: [
        row(number, question=question, source=source, focus=focus, synonyms=tuple(names) if source == "medquad" else (),
            **({"options": ("gout", "rest"), "answer": "A"} if choice else {"answer": answer}))
        for number, (question, answer, source, focus, names, choice) in enumerate(drawn)
    ]
)  # fmt: skip


@given(MIXES, st.integers(0, 20))
@hypothesis.settings(deadline=None, max_examples=40)
def test_it_adds_up_to_the_unit_for_each_source(rows: list[QAExample], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        funnel, kept, dropped = poured(rows, Path(folder), seed)
    assert Counter([each.row.id for each in (*kept, *dropped)]) == Counter(each.id for each in rows)
    table = {(line["source"], line["step"]): line["rows"] for line in funnel.table()}
    assert len(table) == len(ORDER) * (len(REASONS) + 2)
    for source in ORDER:
        assert table[source, "in"] == sum(each.source == source for each in rows)
        assert table[source, "kept"] == sum(each.row.source == source for each in kept)
        for reason in REASONS:
            assert table[source, f"dropped: {reason}"] == sum((each.row.source, each.reason) == (source, reason) for each in dropped)
        assert table[source, "in"] == table[source, "kept"] + sum(table[source, f"dropped: {reason}"] for reason in REASONS)


@given(MIXES, st.integers(0, 20))
@hypothesis.settings(deadline=None, max_examples=40)
def test_the_same_rows_give_the_same_corpus_and_a_clean_corpus_stays(rows: list[QAExample], seed: int) -> None:
    kept, dropped = clean(rows, CORPUS, seed, [BENCHMARK])
    assert clean(rows, CORPUS, seed, [BENCHMARK]) == (kept, dropped)
    assert clean(kept, CORPUS, seed, [BENCHMARK]) == (kept, [])


def test_where_a_batch_ends_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [SAME_ROW, VARIANTS[SAME], VARIANTS[NEARLY_SAME], {"question": BENCHMARK.question}, {"answer": "Short."}, {}]
    rows = [row(number, source=ORDER[number % 4], **texts[number % 6]) for number in range(24)]
    results = []
    for batch in (1, 5, 2_000):
        monkeypatch.setattr(module, "BATCH", batch)
        funnel, kept, dropped = poured(rows, tmp_path / str(batch))
        results.append((funnel.table(), kept, sorted((each.row.id, each.reason, each.detail) for each in dropped)))
    assert results[0] == results[1] == results[2]


def test_a_funnel_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    funnel = Funnel(CORPUS, 0, Items.of([]), tmp_path, lambda dropped: None)
    funnel.pour([row(1), row(2)])
    with pytest.raises(MedpipeError, match="got 0 rows of custom kept and 0 dropped, expected 2 together"):
        funnel.table()
    assert len(list(funnel.kept())) == 2 and funnel.table()[-1]["rows"] == 0


def test_repaired_rows_are_counted_and_mere_spaces_are_not(tmp_path: Path) -> None:
    funnel, _, _ = poured([row(1, answer=f"{LONG_ANSWER}  "), row(2, answer="Gout &amp; its many causes hurt.")], tmp_path)
    assert funnel.counts["custom", "repaired"] == 1


def test_an_empty_corpus_is_no_error(tmp_path: Path) -> None:
    funnel, kept, dropped = poured([], tmp_path)
    assert not kept and not dropped and {line["rows"] for line in funnel.table()} == {0}


def test_a_duplicate_of_a_refused_row_stays(tmp_path: Path) -> None:
    """Seed 0 puts asthma and influenza on different sides; the first MedQuAD row would join them, and says what the second says."""
    bundled = [row(1, source="synthetic", focus="asthma"), row(2, source="synthetic", focus="influenza")]
    joins = row(
        3, source="medquad", focus="wheeze", synonyms=("asthma", "influenza"), question="What is it like to wheeze?", answer=LONG_ANSWER
    )
    again = joins.model_copy(update={"id": "custom-4", "focus": "whistling breath", "synonyms": ()})
    _, kept, dropped = poured([*bundled, joins, again], tmp_path)
    assert [each.row.id for each in kept] == ["custom-1", "custom-2", "custom-4"]
    assert [(each.row.id, each.reason) for each in dropped] == [("custom-3", REFUSED)]
    assert "influenza" in dropped[0].detail or "asthma" in dropped[0].detail


def test_signs_that_compare_count(tmp_path: Path) -> None:
    options = ("< 5 mg/dl", "> 5 mg/dl", "none of these")
    asked = row(1, question="Which level of the salt in blood is normal?", options=options, answer="A")
    below, above = (row(n, question=f"Is a level {sign} 5 mg/dl normal in gout?", answer=LONG_ANSWER) for n, sign in ((2, "<"), (3, ">")))
    _, kept, _ = poured([asked, below, above], tmp_path)
    assert [each.row.id for each in kept] == ["custom-1", "custom-2", "custom-3"]
