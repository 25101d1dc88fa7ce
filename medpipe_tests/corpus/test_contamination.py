"""Leaked exam questions: each rule by a table, exam phrases that are no leak, and planted leaks that are all kept out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe.config import Corpus
from medpipe.corpus.contamination import Items, Match
from medpipe.corpus.funnel import CONTAMINATED, clean
from medpipe.corpus.synthetic import generate, load_conditions
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row
from medpipe_tests.corpus.planted import exam_leaks

CONDITIONS = Path(__file__).parents[2] / "data/synthetic/conditions"
LEADS_IN = "which of the following is the most likely diagnosis"  # nine words
STEMS = (  # written for this test
    "A 34-year-old baker has sneezed every working morning since the mill changed its flour. Skin testing shows one large wheal.",
    "A retired diver notices that his left ear rings louder after each flight home from the coast.",
    "During a village dance a woman of 61 suddenly cannot lift her right heel from the wooden floor.",
    "An orchestra's oboist reports tingling lips within minutes of soaking a new reed made of giant cane.",
    "A lighthouse keeper, 47, brings a jar of urine that turned the colour of port wine in the sun.",
    "Two sisters who share a pottery studio both develop a metallic taste and a blue line along the gums.",
    "A beekeeper faints beside the third hive although she has been stung many hundreds of times before.",
    "After a night in a smoky mountain hut, five hikers wake with headache, cherry lips and nausea.",
    "A tailor's thumb locks in a bent position each dawn and snaps straight when he pulls on it.",
    "A child who licks window sills in an old rectory has become pale, cross and constipated.",
    "Which nerve is at risk when a surgeon removes a parotid tumour?",
    "Which vitamin protects the newborn from bleeding?",
    "What colours the stool black in melaena?",
)
LONG = STEMS[1]
OPTIONS = ("tinnitus", "wax in the canal", "a perforated drum", "vertigo")


def item(number: int = 1, question: str = LONG, **changes: Any) -> QAExample:
    fields: dict[str, Any] = {
        "id": f"exam-{number}",
        "source": "exam",
        "question": question,
        "focus": "exam",
        "options": OPTIONS,
        "answer": "A",
    }
    return QAExample(**{**fields, **changes})


def match(row: QAExample, *items: QAExample) -> Match | None:
    return Items.of(items).matches([row]).get(0)


EXAM = [item(number, stem) for number, stem in enumerate(STEMS)]
EIGHT = "that his left ear rings louder after each"
SAME, RUN, SIMILAR = "same question", "shared run", "similar question"


@pytest.mark.parametrize(("changes", "how"), [
    ({"question": LONG}, SAME),
    ({"question": LONG.upper().replace(".", " ?!")}, SAME),
    ({"question": f"Tell me this. {LONG} Explain your choice."}, RUN),
    ({"question": f"I wonder {EIGHT} week"}, RUN),
    ({"answer": f"It was seen {EIGHT} meal, and it passed."}, RUN),
    ({"answer": f"IT WAS SEEN, {EIGHT.upper().replace(' ', '-')}!"}, RUN),
    ({"answer": "A", "options": (f"someone says {EIGHT} dive", "neither")}, RUN),
    ({"rationale": f"because {EIGHT} of them"}, RUN),
    ({"context": ("first passage", f"second passage {EIGHT} time")}, RUN),
    ({"question": "A retired diver hears that his left ear rings much louder after each flight back from the coast."}, SIMILAR),
    ({"answer": "It was seen that his left ear rings louder after the meal."}, None),  # seven words
    ({"question": "Why does the left ear of a diver ring after a flight?"}, None),
    ({"question": "A flight home from the coast: what do divers notice?"}, None),
])  # fmt: skip
def test_rules(changes: dict[str, Any], how: str | None) -> None:
    found = match(row(**changes), *EXAM)
    assert (found.how if found else None) == how
    assert found is None or (found.benchmark, found.item) == ("exam", "exam-1")


def test_a_match_names_benchmark_item_and_the_shared_words() -> None:
    items = Items.of(
        [
            item(1, source="one"),
            item(2, STEMS[2], source="two", context=("Both heels rest flat on the cold stone floor while the calf muscle is slack.",)),
        ]
    )
    rows = [
        row(1), row(2, answer=f"Someone said {EIGHT} meal."), row(3, question=STEMS[2].lower()),
        row(4, answer="We know both heels rest flat on the cold stone floor while the calf muscle grows."),
        row(5, answer="We know heels rest flat on the cold stone floor while it grows."),
    ]  # fmt: skip
    assert items.matches(rows) == {
        1: Match("one", "exam-1", RUN, EIGHT),
        2: Match("two", "exam-2", SAME, STEMS[2].lower()),
        3: Match("two", "exam-2", RUN, "both heels rest flat on the cold stone floor while the calf muscle"),
    }


@pytest.mark.parametrize(("question", "answer", "how"), [
    ("Which drug lowers uric acid best?", "Students asked which drug lowers uric acid best of all.", RUN),  # six words, whole
    ("Which drug lowers uric acid?", "They wonder: which drug lowers uric acid? Several do.", RUN),  # five
    ("Which drug lowers uric acid best?", "They wonder which drug lowers uric acid.", None),  # not the whole question
    ("Which drug lowers urate?", "They wonder which drug lowers urate.", None),  # four: too little inside other text
])  # fmt: skip
def test_a_short_question_counts_as_one_run(question: str, answer: str, how: str | None) -> None:
    found = match(row(answer=answer), item(1, question))
    assert (found.how if found else None) == how
    asked = match(row(question=question.upper()), item(1, question))
    assert asked is not None and asked.how == SAME


@pytest.mark.parametrize(("sharing", "matches"), [(4, True), (5, False)])
def test_what_many_items_share_is_exam_style_and_no_leak(sharing: int, matches: bool) -> None:
    items = [item(number, f"{STEMS[number]} {LEADS_IN}?") for number in range(sharing)]
    innocent = row(question=f"Fever and a stiff neck: {LEADS_IN}?")
    assert (match(innocent, *items) is not None) == matches
    leaked = match(row(answer=f"Asked again: {STEMS[2]} And so on."), *items)
    assert leaked is not None and leaked.item == "exam-2"  # its own words still tell


def test_a_run_is_not_common_because_one_item_repeats_it() -> None:
    repeated = item(1, LONG, context=(LONG,) * 5)
    assert match(row(answer=LONG), repeated) is not None


def test_without_items_or_rows_nothing_matches() -> None:
    assert Items.of([]).matches([row(question=LONG)]) == Items.of(EXAM).matches([]) == {}


def test_all_of_50_leaks_are_blocked_and_told_apart_from_clean_rows() -> None:
    leaks = exam_leaks(EXAM, 50, seed=0)
    assert {leak.kind for leak in leaks} == {"verbatim", "bare", "embedded", "options"}
    clean_rows = [row(number) for number in range(100)]
    kept, dropped = clean([*clean_rows, *(leak.row for leak in leaks)], Corpus(), benchmarks=EXAM)
    blocked = {each.row.id: each.detail for each in dropped if each.reason == CONTAMINATED}
    assert [leak for leak in leaks if leak.row.id not in blocked] == []
    assert [leak for leak in leaks if f"with exam {leak.original}:" not in blocked[leak.row.id]] == []
    assert len(blocked) == 50 and {each.id for each in kept} <= {each.id for each in clean_rows}


def test_no_row_of_the_bundled_corpus_counts_as_a_leak_of_this_exam() -> None:
    rows = generate(load_conditions(CONDITIONS), seed=0, per_condition=7)
    asked_alike = [item(100 + number, f"{stem} {LEADS_IN}?") for number, stem in enumerate(STEMS)]
    assert len(rows) > 4_000 and Items.of([*EXAM, *asked_alike]).matches(rows) == {}
