"""Scope, names out of nowhere and initials: what counts as claiming more than the sources, and what does not."""

from __future__ import annotations

import pytest

from medpipe.rewards.directions import denials, flips
from medpipe.rewards.entities import strangers
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.scope import widened
from medpipe.rewards.text import abbreviations, spelled_out

SOURCE = "Some patients with asthma may need oxygen. Every attack is treated with an inhaler. Smoking often worsens the cough."


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("All patients with asthma will need oxygen.", 1),
        ("Patients with asthma certainly need oxygen.", 1),
        ("Smoking always worsens the cough.", 1),
        ("Some patients with asthma may need oxygen.", 0),
        ("Patients with asthma sometimes need oxygen.", 0),
        ("Every attack is treated with an inhaler.", 0),
        ("Not every patient with asthma needs oxygen.", 0),
        ("Do all patients with asthma need oxygen?", 0),
        ("Every spring the garden is full of tulips.", 0),
    ],
)
def test_a_claim_made_wider_is_counted(text: str, count: int) -> None:
    assert widened(text, [SOURCE]) == count


REFERENCE = (
    "Asthma narrows the airways of the lung. It is treated with an inhaled steroid. High blood pressure is common in adults with asthma."
)


@pytest.mark.parametrize(
    ("sentence", "near", "found"),
    [
        ("Gout narrows the airways of the lung.", 0.8, (1, 0)),
        ("Tuberculosis narrows the airways of the lung.", 0.8, (1, 0)),
        ("It is treated with inhaled metformin.", 0.6, (1, 0)),
        ("A lack of magnesium in the diet causes it.", 0.3, (0, 1)),
        ("Copper bracelets cure people of this.", 0.2, (0, 1)),
        ("Asthma narrows the airways of the lung.", 1.0, (0, 0)),
        ("Hypertension is common in adults with asthma.", 0.9, (0, 0)),
        ("Bronchial asthma makes the lung's airways narrow.", 0.8, (0, 0)),
        ("Treatment opens tight bronchial tubes.", 0.8, (0, 0)),
        ("People with gout like tulips.", 0.1, (0, 0)),
    ],
)
def test_names_and_claims_out_of_nowhere(sentence: str, near: float, found: tuple[int, int]) -> None:
    lexicon = Lexicon.from_rows([], ("gout", "asthma", "bronchial asthma", "hypertension"))
    assert strangers({sentence: near}, [REFERENCE], ["What is asthma? bronchial asthma"], lexicon) == found


def test_initials_are_written_out_where_they_are_explained() -> None:
    text = "Deep vein thrombosis (DVT) is a clot. DVTs can travel. MRI is another matter (MRI)."
    assert abbreviations(text) == {"DVT": "Deep vein thrombosis"}
    assert spelled_out("A DVT hurts.", abbreviations(text)) == "A Deep vein thrombosis hurts."
    assert spelled_out(text, {}) == text
    assert abbreviations("A magic potion (DVT) is a clot.") == {}


def test_a_clause_turned_around_is_no_denial() -> None:
    source = ["If the hairs don't work well, bacteria stay in the airways. Cells change shape without breaking when they pass the vessels."]
    assert denials("Bacteria stay in the airways if the hairs don't work well.", source) == 0
    assert denials("When they pass the vessels, cells change shape without breaking.", source) == 0
    assert denials("Bacteria do not stay in the airways.", source) == 1


def test_a_hedge_put_into_a_sentence_that_the_source_holds_is_no_turned_direction() -> None:
    source = [
        "It is a rare cancer that begins in glands. The loss of a gene causes it. In rare cases the loss of a gene causes another one."
    ]
    assert flips("It is a rare cancer that often begins in glands.", source) == 0
    assert flips("It is a common cancer that begins in glands.", source) == 1
    assert flips("Antibiotics are the last treatment.", ["Antibiotics are the first treatment."]) == 1
