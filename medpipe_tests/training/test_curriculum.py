"""Which questions co-training asks, and which it keeps back."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.schema import QAExample
from medpipe.training.curriculum import HIGH, LOW, Curriculum
from medpipe_tests.tiny_team import choice_row, text_row


def rows(choice: int, text: int = 0, of_each_focus: int = 2) -> list[QAExample]:
    questions = [choice_row(n, focus=f"disease {n // of_each_focus}") for n in range(choice)]
    return questions + [text_row(n, focus=f"disease {n}") for n in range(text)]


def ids(asked: list[QAExample]) -> list[str]:
    return [row.id for row in asked]


@given(choice=st.integers(0, 40), text=st.integers(0, 20), held_back=st.integers(1, 30), seed=st.integers(0, 9))
def test_no_focus_that_is_held_back_is_ever_trained_on(choice: int, text: int, held_back: int, seed: int) -> None:
    every = rows(choice, text, of_each_focus=3)
    curriculum = Curriculum(every, held_back, 0.5, seed)
    kept = {row.focus for row in curriculum.selection}
    asked = curriculum.order(random.Random(0))
    assert not kept & {row.focus for row in asked}
    assert all(row.is_choice for row in curriculum.selection)
    assert len(curriculum.selection) <= min(held_back, choice // 2 + 2)  # whole groups of three
    assert Counter(ids(asked)) == Counter(ids(curriculum.rows))  # everything else is asked, once
    assert {row.id for row in every if row.focus not in kept} == set(ids(asked))


def test_many_conditions_are_held_back_rather_than_all_questions_on_a_few() -> None:
    selection = Curriculum(rows(140, of_each_focus=14), 6, 0.5, 0).selection
    assert len(selection) == 6 and max(Counter(row.focus for row in selection).values()) == 2


def test_synonymous_spellings_of_a_focus_stay_together() -> None:
    every = [choice_row(n, focus=name) for n, name in enumerate(("Crohn's disease", "crohn's  Disease", "gout", "Gout"))]
    curriculum = Curriculum(every, 1, 1.0, 0)
    assert {row.focus.casefold()[:4] for row in curriculum.rows}.isdisjoint(row.focus.casefold()[:4] for row in curriculum.selection)


def test_what_is_held_back_depends_on_the_seed_alone() -> None:
    every = rows(40)
    one, same, other = (ids(Curriculum(part, 8, 0.5, seed).selection) for part, seed in ((every, 0), (every[::-1], 0), (every, 1)))
    assert sorted(one) == sorted(same) != sorted(other) and len(one) == 8


def test_new_questions_come_first_then_those_that_are_sometimes_answered_then_the_rest() -> None:
    curriculum = Curriculum(rows(40, of_each_focus=1), 0, 1.0, 0)
    names = ids(curriculum.rows)
    rates = dict(zip(names, [0.0, LOW / 2, LOW, 0.5, HIGH, 1.0], strict=False))
    curriculum.learned(rates)
    for seed in range(5):
        asked = ids(curriculum.order(random.Random(seed)))
        assert set(asked[:34]) == set(names) - rates.keys()
        assert set(asked[34:37]) == {name for name, rate in rates.items() if LOW <= rate <= HIGH}
        assert set(asked[-3:]) == {name for name, rate in rates.items() if not LOW <= rate <= HIGH}
    assert ids(curriculum.order(random.Random(1))) == ids(curriculum.order(random.Random(1))) != ids(curriculum.order(random.Random(2)))
    curriculum.learned(dict.fromkeys(names, 1.0))
    curriculum.learned({names[7]: 0.5})  # the newest rate counts
    assert ids(curriculum.order(random.Random(0)))[0] == names[7]


def test_no_question_comes_twice_before_every_other_one_with_room_came_as_often() -> None:
    """Where the ones with room came first, the same dozen came in every iteration and were learned by heart."""
    curriculum = Curriculum(rows(40, of_each_focus=1), 0, 1.0, 0)
    asked: Counter[str] = Counter()
    for iteration in range(30):
        now = ids(curriculum.order(random.Random(iteration)))[:8]
        asked.update(now)
        curriculum.learned(dict.fromkeys(now, 0.5))
        assert max(asked.values()) - min(asked[name] for name in ids(curriculum.rows)) <= 1
    assert set(asked.values()) == {6}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_both_kinds_are_asked_in_their_share_as_long_as_there_are_any(share: float) -> None:
    curriculum = Curriculum(rows(40, 40, of_each_focus=1), 0, share, 0)
    asked = curriculum.order(random.Random(0))
    for count in (4, 8, 20, 40):
        assert abs(sum(row.is_choice for row in asked[:count]) - share * count) <= 1
    assert len(asked) == len(curriculum.rows)
    assert ids(Curriculum(rows(0, 5), 0, 1.0, 0).order(random.Random(0)))  # one kind alone is asked too
