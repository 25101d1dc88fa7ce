"""Reading messages: tables of what they mean, and text of any kind that must not raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.answers import NAME_CHARS, answer_text, claims, malformed, option_text, parse_answer, question_lines, short_name, split_answer
from medpipe.schema import LETTERS, QAExample
from medpipe_tests.tiny_team import choice_row, text_row

FOUR = ("migraine", "asthma", "gout", "Crohn disease")
TEN = tuple(f"disease {number}" for number in range(10))
START = "The child is given oxygen and fluids at once and"  # as long as a short name may be
LONG = (f"{START} taken to the hospital", f"{START} sent back home")
PIECES = [
    "Answer:", "answer: ", "ANSWER:", " A", " B)", "(C)", " asthma", " gout (C)", " (b)", " ı", " ſ", "\u212a", "\n", "\ud800",
    "<|im_end|>", "I", "'m", "a fever", "\0", "²", "((", "))", ".", "…",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8)).map("".join)
OPTIONS = st.lists(st.sampled_from([*FOUR, "A", "B", "(B)", "", "…"]) | st.text(max_size=12), max_size=30)


def choice(options: tuple[str, ...], answer: str = "A") -> QAExample:
    return choice_row(options=options, answer=answer)


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("It is gout. Answer: gout (C)", FOUR, "C"),
        ("Answer: gout (C).", FOUR, "C"),
        ("answer: GOUT (c)", FOUR, "C"),
        ("Answer: crohn  disease(D)", FOUR, "D"),
        ("Answer: gout", FOUR, "C"),
        ("Answer: C", FOUR, "C"),
        ("Answer: c.", FOUR, "C"),
        ("Answer: (C)", FOUR, "C"),
        ("Answer: disease 9 (J)", TEN, "J"),
        ("Answer: gout (C)\nThis is why.", FOUR, "C"),
        ("Answer: gout (C). Answer: gout (C)", FOUR, "C"),
        ("Answer: gout (C)\nAnswer: C", FOUR, "C"),
        ("Answer: gout (C)\nAnswer: asthma (B)", FOUR, None),
        ("Answer: gout (C). Answer: asthma (B)", FOUR, None),
        ("Answer: gout (B)", FOUR, "C"),
        ("Answer: podagra (C)", FOUR, "C"),
        ("Answer: podagra (Z)", FOUR, None),
        ("Answer: gout or asthma (C)", FOUR, None),
        ("Answer: asthma (B) or podagra (C)", FOUR, None),
        ("Answer: gout (E)", FOUR, "C"),
        ("Answer: gout (C) because of the joint", FOUR, None),
        ("Answer: gout C", FOUR, None),
        ("Answer: C) gout", FOUR, None),
        ("Answer: B or C", FOUR, None),
        ("Answer: E", FOUR, None),
        ("Answer: (ſ)", tuple(map(str, range(26))), None),
        ("**Answer:** gout (C)", FOUR, "C"),
        ("Answer:\ngout (C)", FOUR, None),
        ("Answer:", FOUR, None),
        ("", FOUR, None),
        ("gout (C)", FOUR, None),
        ("Reanswer: gout (C)", FOUR, None),
        ("Answer: A", (), None),
        ("Answer: I am not sure", TEN, None),
        ("Answer: I", TEN, "I"),
        ("Answer: hepatitis (B)", ("hepatitis (A)", "zoster", "hepatitis (B)"), "C"),  # the name of an option, whatever it ends with
        ("Answer: hepatitis (B) (C)", ("hepatitis (A)", "zoster", "hepatitis (B)"), "C"),
        ("Answer: C", ("A", "C", "D", "E"), None),  # the second option's name and the third one's letter
        ("Answer: C (B)", ("A", "C", "D", "E"), "B"),
        ("Answer: gout", ("gout", "Gout"), None),
        ("Answer: gout (B)", ("gout", "Gout"), "B"),
        (f"Answer: {short_name(LONG[0])} (B)", LONG, "B"),
        (f"Answer: {short_name(LONG[0])}", LONG, None),
        ("Answer: He rests", ("He rests.", "He runs."), "A"),
    ],
)
def test_the_option_that_a_message_settles_on(text: str, options: tuple[str, ...], letter: str | None) -> None:
    assert parse_answer(text, options) == letter


@pytest.mark.parametrize(
    ("text", "options", "ended", "forged", "fault"),
    [
        ("It is gout. Answer: gout (C)", FOUR, True, False, ""),
        ("It is gout.", (), True, False, ""),
        ("", (), True, False, "empty"),
        (" \n\t", FOUR, False, True, "empty"),
        ("It is gout. Answer: gout (C)", FOUR, True, True, "control token"),
        ("It is gout.", FOUR, True, False, "no answer"),
        ("Answer: scurvy (Z)", FOUR, True, False, "no answer"),
        ("Answer: asthma (B)\nAnswer: gout (C)", FOUR, True, False, "several answers"),
        ("Answer: asthma (B) Answer: gout (C)", FOUR, True, False, "several answers"),
        ("It is gout. Answer: gout (C)", FOUR, False, False, "cut off"),
        ("It is", (), False, False, "cut off"),
        ("the pain and " * 20, (), True, False, "looping"),
        ("Answer: gout (C) " * 10, FOUR, True, False, "looping"),
        ("one two three four five six seven eight nine ten eleven twelve", (), True, False, ""),
    ],
)
def test_why_a_message_cannot_be_used(text: str, options: tuple[str, ...], ended: bool, forged: bool, fault: str) -> None:
    assert malformed(text, options, ended, forged) == fault


def test_a_message_is_cut_before_its_last_answer() -> None:
    assert split_answer("It fits. Answer: B\nAnswer: gout (C) ") == ("It fits. Answer: B", "Answer: gout (C)")
    assert split_answer("It fits. Answer: B Answer: gout (C)") == ("It fits. Answer: B", "Answer: gout (C)")
    assert split_answer("It fits.") == ("It fits.", "")


@pytest.mark.parametrize(
    ("option", "short"),
    [
        ("gout", "gout"),
        ("  gout\n of the  toe ", "gout of the toe"),
        ("x" * NAME_CHARS, "x" * NAME_CHARS),
        ("x" * (NAME_CHARS + 1), "x" * NAME_CHARS + "…"),
        ("Give oxygen, call for help, and measure the blood pressure twice", "Give oxygen, call for help, and measure the…"),
        ("Myopia-midfacial retrusion-sensorineural hearing loss-dysplasia syndrome", "Myopia-midfacial retrusion-sensorineural hearing…"),
        ("Give nothing, wait for the laboratory to telephone, then decide", "Give nothing, wait for the laboratory to…"),
    ],
)
def test_a_long_option_is_repeated_by_its_beginning_and_still_understood(option: str, short: str) -> None:
    assert short_name(option) == short and len(short) <= NAME_CHARS + 1
    assert parse_answer(f"Answer: {short} (B)", ("gout and pain", option)) == "B"
    assert parse_answer(f"Answer: {short} (A)", ("gout and pain", option)) == "B"  # the name decides


def test_a_question_is_written_with_its_letters_behind_the_options() -> None:
    row = choice_row(context=("A study of breath.",))
    assert question_lines(row).splitlines() == [
        "A study of breath.", f"Question: {row.question}", "Options:", "gout (A)", "asthma (B)", "migraine (C)", "eczema (D)",
    ]  # fmt: skip
    assert question_lines(text_row()) == f"Question: {text_row().question}"


@given(TEXTS, OPTIONS, st.booleans(), st.booleans())
def test_no_text_raises_and_a_letter_is_always_an_option(text: str, options: list[str], ended: bool, forged: bool) -> None:
    letter = parse_answer(text, options)
    assert letter is None or letter in list(LETTERS[: len(options)])
    fault = malformed(text, options, ended, forged)
    assert fault in ("", "empty", "control token", "looping", "no answer", "several answers", "cut off")
    if options and not fault:
        assert letter is not None
    body, answer = split_answer(text)
    assert not claims(body) or answer


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz .", max_size=60),
    st.lists(st.text(max_size=40) | st.just(LONG[0]), min_size=2, max_size=10).filter(lambda found: not claims(" ".join(found))),
    st.data(),
)
def test_what_the_roles_learn_to_write_is_understood_whatever_the_options_are(body: str, options: list[str], data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from(LETTERS[: len(options)]))
    row = choice(tuple(options))
    message = f"{body} {answer_text(row, letter)}"
    assert parse_answer(message, row.options) == letter
    assert malformed(answer_text(row, letter), row.options, ended=True) == ""
    assert option_text(row, letter).endswith(f" ({letter})")
