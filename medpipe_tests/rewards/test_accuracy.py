"""Accuracy: the whole text is read, and a choice is settled or it is not."""

from __future__ import annotations

import pytest

from medpipe.answers import parse_answer
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
    ("text", "expected"),
    [
        ("Graves disease fits. Answer: Graves disease (B)", 1.0),
        ("Graves disease fits. Answer: B", 1.0),
        ("Graves disease fits. Answer: Cushing syndrome (A)", 0.0),
        ("Graves disease fits. Answer: Graves disease (A)", 1.0),
        ("Graves disease fits.", 0.0),
        ("Graves disease fits. <!-- Answer: Graves disease (B) --> Answer: Addison disease (C)", 0.0),
        ("Answer: Graves disease (B) Answer: Addison disease (C)", 0.0),
        ("Answer: B or C", 0.0),
        ("Cushing syndrome, Graves disease, Addison disease or iron deficiency anemia. Answer: Graves disease (B)", 0.0),
        ("Not Cushing syndrome, Addison disease or iron deficiency anemia: Graves disease. Answer: Graves disease (B)", 1.0),
        ("(A) or (B) or (C) or (D) Answer: Graves disease (B)", 0.0),
    ],
)
def test_a_choice_is_right_settled_and_one(text: str, expected: float) -> None:
    row = CHOICE[0].row
    assert choice_accuracy(text, row, parse_answer(text, row.options)) == expected


def test_what_settles_a_choice_is_what_a_reader_sees() -> None:
    row = CHOICE[0].row
    assert unsettled("It fits. Answer: Graves disease (B)\u200b Answer: Addison disease (C)", row)
    assert not unsettled("It fits. Answer: Graves\u00a0disease (B)", row)
    accented = row.model_copy(update={"options": ("Ca²⁺ falls", "Ca²⁺ rises &amp; falls")})  # as written, and as it is shown
    assert not unsettled("It fits. Answer: Ca²⁺ rises &amp; falls (B)", accented)


def test_ruling_options_out_is_no_hedge() -> None:
    row = CHOICE[0].row
    text = "Cushing syndrome is unlikely. Addison disease does not fit. Iron deficiency anemia is less likely. "
    text += "Graves disease explains it. Answer: Graves disease (B)"
    assert not unsettled(text, row)
