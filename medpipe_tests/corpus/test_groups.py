"""Groups: no name or concept on two sides, whatever the rows; stable when rows are added; shares as the profile asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import get_args

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.config import Corpus
from medpipe.corpus.groups import LARGE, Groups, keys, part_of
from medpipe.schema import Part, QAExample
from medpipe_tests.corpus.makers import row

CORPUS = Corpus()
EVEN = Corpus(heldout_share=0.33, validation_share=0.33)  # so that a few names already stand on all sides


def med(focus: str, synonyms: Iterable[str] = (), cuis: Iterable[str] = ()) -> QAExample:
    """A MedQuAD row with its annotations."""
    return row(source="medquad", focus=focus, synonyms=tuple(synonyms), cuis=tuple(cuis))


def linked(rows: Iterable[QAExample], seed: int = 0, corpus: Corpus = EVEN) -> Groups:
    groups = Groups(corpus, seed)
    for each in rows:
        groups.link(each)
    return groups


def seed_where(**sides: Part) -> int:
    """A seed under which these single words fall on these sides."""
    return next(seed for seed in range(10_000) if all(part_of(focus, EVEN, seed) == side for focus, side in sides.items()))


NAMES = st.sampled_from([f"name {letter}" for letter in "abcdefgh"])
CUIS = st.sampled_from([f"C000000{digit}" for digit in range(5)])
ANNOTATED = st.builds(med, NAMES, st.lists(NAMES, max_size=2), st.lists(CUIS, max_size=1))
BUNDLED = st.builds(lambda focus: row(source="synthetic", focus=focus), NAMES)
OTHER = st.builds(lambda focus, source: row(source=source, focus=focus), NAMES, st.sampled_from(["custom", "medtext"]))
ROWS = st.lists(st.one_of(ANNOTATED, BUNDLED, OTHER), max_size=14)
SEEDS = st.integers(0, 50)


@given(ROWS, SEEDS)
@hypothesis.settings(deadline=None, max_examples=300)
def test_no_key_stands_on_two_sides(rows: list[QAExample], seed: int) -> None:
    groups = linked(rows, seed)
    sides: dict[str, set[Part]] = defaultdict(set)
    for each in rows:
        part = groups.part(each)
        assert part is not None or each.source == "medquad"  # only a source that joins names can join two sides
        if part:
            for key in keys(each):
                sides[key].add(part)
    assert all(len(found) == 1 for found in sides.values()), sides


@given(ROWS, st.dictionaries(NAMES, st.sampled_from(get_args(Part)), max_size=4), SEEDS)
@hypothesis.settings(deadline=None, max_examples=300)
def test_no_key_stands_on_two_sides_where_a_users_rows_ask_for_one(rows: list[QAExample], asked: dict[str, Part], seed: int) -> None:
    """One side a focus, as reading leaves it; a row that can't have its side is told why, and has it otherwise."""
    groups = linked(rows, seed)
    askers: list[tuple[QAExample, Part | None]] = [(row(focus=focus), side) for focus, side in asked.items()]
    for each, side in askers:
        groups.link(each, side)
    sides: dict[str, set[Part]] = defaultdict(set)
    silent: list[tuple[QAExample, Part | None]] = [(each, None) for each in rows]
    for each, side in [*silent, *askers]:
        if groups.conflict(each.source, keys(each), side):
            assert side or each.source == "medquad"
            continue
        part = groups.part(each)
        assert part and side in (None, part)
        for key in keys(each):
            sides[key].add(part)
    assert all(len(found) == 1 for found in sides.values()), sides


@given(ROWS, st.lists(OTHER, max_size=6), SEEDS)
@hypothesis.settings(deadline=None, max_examples=200)
def test_a_users_rows_move_no_row(rows: list[QAExample], more: list[QAExample], seed: int) -> None:
    before, after = linked(rows, seed), linked([*more, *rows], seed)
    for each in rows:
        assert (after.part(each), after.group(each)) == (before.part(each), before.group(each))


@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), SEEDS)
@hypothesis.settings(deadline=None, max_examples=200)
def test_the_order_of_rows_does_not_matter(orders: tuple[list[QAExample], list[QAExample]], seed: int) -> None:
    rows, shuffled = orders
    one, other = linked(rows, seed), linked(shuffled, seed)
    for each in rows:
        assert (one.part(each), one.group(each)) == (other.part(each), other.group(each))


def test_synonyms_and_concepts_join_in_any_spelling_and_over_several_steps() -> None:
    rows = [
        med("Crohn's disease", ["regional enteritis"]), med("Regional Enteritis.", (), ["C9"]), med("ileitis", (), [" c9 "]),
        med("gout", ["podagra"]),
    ]  # fmt: skip
    groups = linked(rows)
    assert [groups.group(each) for each in rows] == ["crohn disease"] * 3 + ["gout"]
    for seed in range(30):
        groups = linked(rows, seed)
        assert {groups.part(each) for each in rows[:3]} == {part_of("crohn disease", EVEN, seed)}
        assert groups.part(rows[3]) == part_of("gout", EVEN, seed)
        assert groups.part(row(focus="Ileitis")) == groups.part(rows[0])  # the user's row falls with the group it names


def test_blank_annotations_join_nothing() -> None:
    assert keys(med("Gout", [" ", "gout", "podagra"], ["", " "])) == ["gout", "podagra"]


def test_a_very_large_group_trains() -> None:
    seed = seed_where(a0="heldout")  # the smallest key of both groups
    for count, part in ((LARGE, "heldout"), (LARGE + 1, "train")):
        rows = [med(f"a{number}", (), ["C0039082"]) for number in range(count)]
        groups = linked([*rows, *rows], seed)  # what counts is foci, not rows
        assert {groups.part(each) for each in rows} == {part}


def test_a_users_rows_do_not_make_a_group_large() -> None:
    rows = [med(f"a{number}", [f"b{number}"], ["C0039082"]) for number in range(LARGE)]
    users = [row(focus=f"b{number}") for number in range(LARGE)]
    groups = linked([*rows, *users], seed_where(a0="heldout"))
    assert {groups.part(each) for each in (*rows, *users)} == {"heldout"}


def test_a_group_falls_with_the_bundled_condition_in_it() -> None:
    seed = seed_where(gout="heldout", arthritis="train")
    bundled, named, joined = row(source="synthetic", focus="Gout"), med("podagra", ["gout"]), med("arthritis", ["podagra"])
    groups = linked([bundled, named, joined], seed)
    assert groups.group(joined) == "arthritis"
    assert [groups.part(each) for each in (bundled, named, joined, row(focus="podagra"))] == ["heldout"] * 4
    assert linked([named, joined], seed).part(joined) == "train"  # without the bundled condition the smallest key decides


@pytest.mark.parametrize(("asthma", "gout"), [("train", "heldout"), ("heldout", "train"), ("validation", "heldout")])
def test_a_row_that_carries_a_bundled_condition_of_another_side_is_refused(asthma: Part, gout: Part) -> None:
    bundled = [row(source="synthetic", focus=focus) for focus in ("asthma", "gout")]
    both, one, other = med("wheeze", ["asthma", "gout"]), med("wheeze"), med("asthma")
    groups = linked([*bundled, both, one, other], seed_where(asthma=asthma, gout=gout))
    assert [groups.part(each) for each in bundled] == [asthma, gout]  # the bundled ones never move
    assert groups.part(both) is None
    assert groups.part(one) == groups.part(other) == asthma


def test_a_large_group_refuses_only_the_rows_that_name_a_held_out_condition() -> None:
    many = [med(f"a{number}", (), ["C0039082"]) for number in range(LARGE + 1)]
    named = med("podagra", ["gout"], ["C0039082"])
    groups = linked([row(source="synthetic", focus="gout"), named, *many], seed_where(gout="heldout"))
    assert groups.part(named) is None and {groups.part(each) for each in many} == {"train"}


def test_shares_are_met_and_the_seed_matters() -> None:
    rows = [med(f"condition {number}") for number in range(5000)]
    sides = {seed: list(map(linked(rows, seed, CORPUS).part, rows)) for seed in (0, 1)}
    for found in sides.values():
        counts = Counter(found)
        assert abs(counts["heldout"] / 5000 - CORPUS.heldout_share) < 0.02
        assert abs(counts["validation"] / 5000 - CORPUS.validation_share) < 0.02
    assert sum(one != other for one, other in zip(*sides.values(), strict=True)) > 1000


@pytest.mark.parametrize("same", [("Crohn's disease", "crohn disease", "Crohn’s  Disease."), ("COVID-19", "covid 19")])
def test_spellings_of_one_focus_share_a_side(same: tuple[str, ...]) -> None:
    for seed in range(20):
        assert len({part_of(focus, CORPUS, seed) for focus in same}) == 1


def test_sides_are_the_same_on_every_machine() -> None:
    pinned = {
        "asthma": "cotrain", "gout": "train", "Meniere disease": "validation", "shingles": "validation", "influenza": "heldout",
        "eczema": "heldout",
    }  # fmt: skip
    assert {focus: part_of(focus, CORPUS, 0) for focus in pinned} == pinned


@given(st.text(min_size=1, max_size=20))
def test_any_text_has_a_side_and_a_key(focus: str) -> None:
    assert part_of(focus, CORPUS, 0) in get_args(Part)
    assert keys(row(focus=focus))[0] or not focus.strip()


def test_synonyms_of_a_bundled_condition_fall_with_it() -> None:
    groups = Groups(CORPUS, 0)
    bundled = row(1, source="synthetic", focus="haemophilia A", synonyms=("hemophilia A", "factor VIII deficiency"))
    others = [row(2, source="medquad", focus="Hemophilia A"), row(3, focus="Factor VIII deficiency")]
    for each in (bundled, *others):
        groups.link(each)
    assert {groups.part(each) for each in (bundled, *others)} == {groups.part(bundled)}
