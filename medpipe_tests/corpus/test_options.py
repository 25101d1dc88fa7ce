"""Options: the overlap rule's grades, distractors by nearness, letters spread evenly, draws that nest."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from medpipe.corpus.options import alike, distractors, draw, even_letters, grade, incidence, lead, stems
from medpipe.schema import LETTERS


def test_stems_are_of_words_that_carry_meaning() -> None:
    assert stems("The enlarged Livers of a person with this condition") == {"enlar", "liver"}
    assert stems("gallstones, gallstone") == {"galls"} and stems("a 12 of -") == frozenset()


PASSAGES = [[stems("large spleen and yellow skin")], [stems("yellow skin"), stems("large spleen, yellow skin, fever")], [stems("cough")]]


@pytest.mark.parametrize(
    ("question", "right", "ahead", "difficulty"),
    [
        ("fever, large spleen, yellow skin", 1, 1, "medium"),  # its best passage counts, five stems against four
        ("fever, large spleen, yellow skin", 0, -1, "hard"),
        ("large spleen", 0, 0, "hard"),  # undecided
        ("cough", 2, 1, "medium"),
        ("dizziness", 2, 0, "hard"),
    ],
)
def test_the_overlap_rule_grades(question: str, right: int, ahead: int, difficulty: str) -> None:
    assert lead(stems(question), PASSAGES, right) == ahead
    assert grade(stems(question), PASSAGES, right) == difficulty


def test_a_clear_lead_is_easy() -> None:
    assert grade(stems("large spleen"), [[stems("cough")], [stems("large spleen")]], 1) == "easy"


def test_an_option_without_a_passage_shares_nothing() -> None:
    assert lead(stems("cough"), [[], [stems("cough")]], 1) == 1


def test_distractors_are_the_nearest_a_mixture_or_far_ones() -> None:
    order = list(range(60))
    assert sorted(distractors(order, "near", 9, random.Random(0))) == order[:9]
    mixed, far = (sorted(distractors(order, aim, 9, random.Random(0))) for aim in ("mixed", "far"))
    assert mixed[:3] == [0, 1, 2] and min(mixed[3:]) >= 20 and min(far) >= 20
    assert len(set(mixed)) == len(set(far)) == 9
    assert sorted(distractors([4, 2, 7], "far", 3, random.Random(0))) == [2, 4, 7]  # few: all of them


def test_letters_are_spread_evenly() -> None:
    assert Counter(islice(even_letters(10, random.Random(0)), 40)) == dict.fromkeys(LETTERS[:10], 4)


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    ids = [f"d{number}" for number in range(50)]
    assert draw(ids, 50, 0, "x")[:10] == draw(reversed(ids), 10, 0, "x") != draw(ids, 10, 1, "x")


def test_alike_is_the_share_of_all_members() -> None:
    matrix, columns = incidence([{"a", "b"}, {"b", "c", "d"}, set()])
    assert list(columns) == ["a", "b", "c", "d"]
    assert alike(matrix).tolist() == [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 0]]
