"""Repair: each step by a table, every change told, nothing added, and a repaired row needs no further repair."""

from __future__ import annotations

import string
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.corpus.repair import Change, names_nothing, repair, says_nothing
from medpipe.corpus.shingles import word_list
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row

VIDEO = (
    "(Watch the video to learn more about gout. To enlarge the video, click the brackets in the lower right-hand corner. "
    "To reduce the video, press the Escape (Esc) button on your keyboard.)"
)
DICTIONARY = "You can use the MedlinePlus Medical Dictionary to look up the definitions for these medical terms."
TABLE = "If the information is available, the table below includes how often the symptom is seen in people with this condition."
KEY_POINTS = "Key Points\n    - Gout hurts.   - Risk factors include age.\n    \n\n  "


def steps(changes: list[Change], field: str = "answer") -> list[str]:
    """The steps that changed a field, in their order."""
    return [change.step for change in changes if change.field == field]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("The fianc\u00c3\u00a9 has M\u00c3\u00a9ni\u00c3\u00a8re disease.", "The fiancé has Ménière disease."),
        ("It doesn\u00e2\u20ac\u2122t spread.", "It doesn\u2019t spread."),
        ("Below 5 &lt; 10 &amp; rising", "Below 5 < 10 & rising"),
        ("Crohn&#39;s disease", "Crohn's disease"),
        ("\ufb01brosis of the lung", "fibrosis of the lung"),
        ("a be\x00ll rin\x07gs", "a bell rings"),
    ],
)
def test_unicode_is_repaired(before: str, after: str) -> None:
    repaired, changes = repair(row(answer=before))
    assert repaired.answer == after and steps(changes) == ["unicode"]


@pytest.mark.parametrize(
    "text", ["Crohn\u2019s disease", "café", "5 \u00b5g \u2265 4 \u00b0C", "Sjögren \u2013 Larsson", "plain words only"]
)
def test_right_unicode_stays_as_it_is(text: str) -> None:
    assert repair(row(answer=text)) == (row(answer=text), [])


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        (f"{KEY_POINTS}Anal cancer is a disease. It grows.", "Anal cancer is a disease. It grows.", ["key points", "spaces"]),
        ("Key Points\n  - Only headings stand here.", "Key Points; Only headings stand here.", ["list marks"]),
        ("The Key Points\n are these.\n\n More follows.", "The Key Points are these. More follows.", ["spaces"]),
        ("Signs are:  - fever  - cough.   - pain", "Signs are: fever; cough. pain", ["list marks"]),
        ("  - fever  - dry cough", "fever; dry cough", ["list marks"]),
        ("A well-known cause - among others", "A well-known cause - among others", []),
        (f"It hurts. {VIDEO} It swells.", "It hurts. It swells.", ["page words", "spaces"]),
        (f"It hurts. {DICTIONARY} {TABLE} It swells.", "It hurts. It swells.", ["page words", "spaces"]),
        ("It hurts. Click here for more about it. It swells.", "It hurts. It swells.", ["page words", "spaces"]),
        ("Please click here to see a drawing. It swells.", "It swells.", ["page words", "spaces"]),
        ("Watch the video games of a child.", "Watch the video games of a child.", []),
        ("  It\u00a0 hurts\n\tat night .  Why ?  ", "It hurts at night . Why?", ["spaces"]),
    ],
)
def test_layout_is_taken_out_of_answers(before: str, after: str, taken: list[str]) -> None:
    repaired, changes = repair(row(question="What is gout known for?", answer=before))
    assert (repaired.answer, steps(changes)) == (after, taken)


@pytest.mark.parametrize(
    ("question", "before", "after"),
    [
        ("What is gout?", "What is gout? It is a disease of joints.", "It is a disease of joints."),
        ("What are the symptoms of gout?", "What are the signs and symptoms of gout? Pain comes first.", "Pain comes first."),
        ("What is gout?", "What is gout?", "What is gout?"),  # nothing else is left: says_nothing tells
        ("What is gout?", "Who gets lupus? Mostly women.", "Who gets lupus? Mostly women."),
        ("What is gout?", "Gout hurts. What is gout? A disease.", "Gout hurts. What is gout? A disease."),
    ],
)
def test_an_answer_does_not_open_with_its_question(question: str, before: str, after: str) -> None:
    assert repair(row(question=question, answer=before))[0].answer == after


def test_a_multiple_choice_question_is_repaired_in_its_options_and_keeps_its_letter() -> None:
    options = ("Ménière disease", "gout  &amp; rheumatism", "none")
    before = row(question="Which\none fits ?", options=options, answer="B", rationale="Gout\u00a0fits &lt;here&gt;.", category=" \n ")
    repaired, changes = repair(before)
    assert repaired.options == ("Ménière disease", "gout & rheumatism", "none") and repaired.answer_text == "gout & rheumatism"
    assert (repaired.question, repaired.rationale, repaired.category) == ("Which one fits?", "Gout fits <here>.", "general")
    assert steps(changes, "option 2") == ["unicode", "spaces"] and not steps(changes, "option 1") and not steps(changes, "answer")


def test_a_focus_never_gets_lost() -> None:
    assert repair(row(focus="  Gout \n of toes"))[0].focus == "Gout of toes"
    assert repair(row(focus=" "))[0].focus == " "  # a row must have one


WORDS = ["gout", "fever", "pain", "worse", "at", "night", "not", "5", "(rarely)", "&amp;"]
BROKEN = ["caf\u00c3\u00a9", "doesn\u00e2\u20ac\u2122t", "x\u0301", "\ufb01ne"]
SENTENCE = st.lists(st.sampled_from(WORDS + BROKEN), min_size=1, max_size=8).map(lambda words: f"{' '.join(words)}.")
QUESTION = st.sampled_from(["What is gout ?", "What are the symptoms of gout?", "How does fever &amp; pain come about  ?"])
BLOCK = st.one_of(SENTENCE, st.sampled_from([DICTIONARY, TABLE, VIDEO, "Click here for a list."]), SENTENCE.map(lambda item: f"  - {item}"))


@st.composite
def pages(draw: Any) -> QAExample:
    """A row as a publisher's page gives it: sentences, list items and page words, perhaps below headings and the question."""
    question = draw(QUESTION)
    opening = draw(st.sampled_from(["", KEY_POINTS, f"{question} ", f"  {question}  "]))
    answer = opening + draw(st.sampled_from([" ", "\n", "\n\n   "])).join(draw(st.lists(BLOCK, min_size=1, max_size=6)))
    return row(question=question, answer=answer, focus=draw(st.sampled_from(["gout", " Gout\u00a0"])))


@given(pages())
@hypothesis.settings(deadline=None)
def test_a_repaired_row_needs_no_repair(before: QAExample) -> None:
    repaired, _ = repair(before)
    assert repair(repaired) == (repaired, [])


@given(pages())
@hypothesis.settings(deadline=None)
def test_the_changes_lead_from_the_row_to_the_repaired_row(before: QAExample) -> None:
    repaired, changes = repair(before)
    texts = {"question": before.question, "answer": before.answer, "focus": before.focus}
    for change in changes:
        assert texts[change.field] == change.before != change.after
        texts[change.field] = change.after
    assert texts == {"question": repaired.question, "answer": repaired.answer, "focus": repaired.focus}
    assert changes or repaired is before


ASCII = st.text(string.ascii_letters + string.digits + string.punctuation.replace("&", "") + " \n\t", min_size=1, max_size=80)
MIXED = st.lists(
    st.one_of(ASCII, st.sampled_from([KEY_POINTS, "  - ", "\n\n", "What is gout?", VIDEO, TABLE, "Click here for more."])), min_size=1
).map(" ".join)


@given(MIXED, MIXED)
@hypothesis.settings(deadline=None)
def test_no_word_is_added(question: str, answer: str) -> None:
    before = row(question=question, answer=answer)
    after, _ = repair(before)
    for field in ("question", "answer"):  # without entities and control characters, which may part or join words
        left = iter(word_list(getattr(before, field)))
        assert all(word in left for word in word_list(getattr(after, field)))  # a subsequence: none added, none moved


@pytest.mark.parametrize(
    ("question", "answer", "nothing"),
    [
        ("What is gout?", "What is gout?", True),
        ("What is gout?", "Gout is known as gout.", True),
        ("What is gout?", "Frequently Asked Questions about gout and its many causes in adults", True),
        ("What is gout?", "See the page on joints for more information about pain.", True),
        ("What is gout?", "Gout is a painful disease.", False),
        ("What is gout?", "Uric acid crystals.", False),
        ("Is gout painful and inherited?", "Gout is painful. " * 40, False),  # long: it may say something all the same
    ],
)
def test_answers_that_say_nothing(question: str, answer: str, nothing: bool) -> None:
    assert says_nothing(question, answer) == nothing


@pytest.mark.parametrize(
    ("question", "nothing"),
    [("What is it?", True), ("How does that?", True), ("?!", True), ("What is gout?", False), ("Is 5 too much?", False)],
)
def test_questions_about_nothing(question: str, nothing: bool) -> None:
    assert names_nothing(question) == nothing
