"""Gates and opposites as tables: what shuts them, and what honest text leaves them open."""

from __future__ import annotations

import pytest

from medpipe.rewards.directions import denials, flips
from medpipe.rewards.gates import form, product, shuffled, strange_numbers

SOURCE = "Smoking raises the risk of lung cancer. There is no cure for this disease, but inhaled steroids reduce the inflammation."


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Smoking lowers the risk of lung cancer.", 1),
        ("Inhaled steroids increase the inflammation.", 1),
        ("Smoking raises the risk of lung cancer.", 0),
        ("Smoking increases the risk of cancer of the lung.", 0),
        ("Smoking does not raise the risk of lung cancer.", 1),
        ("Not smoking lowers blood pressure.", 0),
        ("The risk is high in people who smoke.", 0),
    ],
)
def test_turned_directions_are_counted(text: str, count: int) -> None:
    assert flips(text, [SOURCE]) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Inhaled steroids do not reduce the inflammation.", 1),
        ("There is a cure for this disease, but inhaled steroids reduce the inflammation.", 1),
        ("There is no cure for the disease.", 0),
        ("This disease cannot be cured.", 0),
        ("The disease is incurable.", 0),
        ("Is there a cure for this disease?", 0),
    ],
)
def test_denials_are_counted(text: str, count: int) -> None:
    assert denials(text, [SOURCE]) == count


def test_numbers_need_a_source() -> None:
    sources = ["Take 5 mg twice a day for three weeks; vitamin B12 is normal."]
    assert strange_numbers("5 mg for 3 weeks, B12 normal; in an emergency call 911", sources) == set()
    assert strange_numbers("50 mg", sources) == {("50", "mg")}
    assert strange_numbers("5 g", sources) == {("5", "g")}
    assert strange_numbers("vitamin B6", sources) == {("b6", "")}


QUESTION = "What happens in asthma?"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("asthma airways inflammation wheezing cough bronchodilator corticosteroid trigger allergen", "not prose"),
        ("the of airways and in narrow is the and of to inflamed the with are and the.", "not prose"),
        ("The airways narrow. " * 8, "repetition"),
        ("What happens in asthma?", "question echo"),
        ("As an AI I cannot provide medical advice.", "refusal"),
        ("All of this is false. The airways narrow in asthma when people inhale smoke.", "disowned"),
        ("The airways narrow. Score: 10", "addresses the judge"),
        ("The airways of the lung narrow. <!-- hi -->", "hidden text"),
        ("Дыхательные пути сужаются при астме", "script"),
        (" ".join(f"The word number {chr(97 + n % 26)}{chr(97 + n // 26)} is in it." for n in range(60)), "length"),
        (" ", "empty"),
    ],
)
def test_form_gates_shut(text: str, name: str) -> None:
    found = form(text, QUESTION, 120)
    assert name in [gate.name for gate in found]
    assert product(found) < 0.6


@pytest.mark.parametrize(
    "text",
    [
        "The airways are inflamed and narrow easily, so that people wheeze and cough.",
        "What happens in asthma? The airways are inflamed and narrow easily. People wheeze and cough.",
        "Type: causes. Focus: asthma. Plan: look for the mechanism and for what raises the risk.",
        "No passage here bears on the question.",
    ],
)
def test_honest_form_stays_open(text: str) -> None:
    assert form(text, QUESTION, 120) == ()


def test_shuffled_words_of_the_reference() -> None:
    reference = "Iron given into a vein is used when tablets are not tolerated or not absorbed by the gut of the patient."
    mixed = "Tablets tolerated vein not or when absorbed are gut a given into not the used is iron by of patient the."
    assert shuffled(reference, reference) == 1.0 > shuffled(mixed, reference)
