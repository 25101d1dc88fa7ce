"""Accuracy: the whole text is read, and a choice is settled or it is not."""

from __future__ import annotations

import pytest

from medpipe.rewards.accuracy import PIECE, choice_accuracy, comparisons, pieces, text_accuracy, unsettled
from medpipe.rewards.similarity import Similarity
from medpipe_tests.rewards.cases import CHOICE, ORIGINAL


def _accuracy(similarity: Similarity, text: str, reference: str) -> float:
    pairs = comparisons(text, reference)
    return text_accuracy(text, reference, dict(zip(pairs, similarity.pairs(pairs), strict=True)))


def test_a_paraphrase_beats_another_topic(similarity: Similarity) -> None:
    for case, other in zip(ORIGINAL, ORIGINAL[1:] + ORIGINAL[:1], strict=True):
        assert _accuracy(similarity, case.row.answer, case.row.answer) == pytest.approx(1.0)
        assert _accuracy(similarity, case.text, case.row.answer) > 0.6 > 0.35 > _accuracy(similarity, other.text, case.row.answer)


def test_text_behind_the_encoders_cut_still_counts(similarity: Similarity) -> None:
    case = ORIGINAL[0]
    long = " and ".join([case.text.replace(".", "")] * 8)  # one sentence of some 2000 characters
    assert all(len(piece) <= PIECE for piece in pieces(long))
    off_topic = long + " and the stock market fell while football fans went home by train in the rain" * 5
    assert _accuracy(similarity, off_topic, case.row.answer) < _accuracy(similarity, long, case.row.answer) - 0.03


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Graves disease fits.\nAnswer: B", "B", 1.0),
        ("Graves disease fits.\nAnswer: A", "A", 0.0),
        ("Graves disease fits.", None, 0.0),
        ("Answer: B\nAnswer: C", "B", 0.0),
        ("Answer: B or C", "B", 0.0),
        ("Cushing syndrome, Graves disease, Addison disease or iron deficiency anemia.\nAnswer: B", "B", 0.0),
        ("Not Cushing syndrome, Addison disease or iron deficiency anemia: Graves disease.\nAnswer: B", "B", 1.0),
        ("A) or B) or C) or D)\nAnswer: B", "B", 0.0),
    ],
)
def test_a_choice_is_right_settled_and_one(text: str, answer: str | None, expected: float) -> None:
    assert choice_accuracy(text, CHOICE[0].row, answer) == expected


def test_ruling_options_out_is_no_hedge() -> None:
    row = CHOICE[0].row
    text = "Cushing syndrome is unlikely. Addison disease does not fit. Iron deficiency anemia is less likely. "
    text += "Graves disease explains it.\nAnswer: B"
    assert not unsettled(text, row)
