"""The transcript: what stays when a header is cut, and that nobody's text can end a turn or open one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.answers import CHOOSE, SYSTEM, WRITE, malformed, question_lines
from medpipe.errors import MedpipeError
from medpipe.models.adapters import Completion
from medpipe.models.tokens import encode
from medpipe.schema import LETTERS, ROLES
from medpipe.team.episode import Episode
from medpipe.team.transcript import ALONE, Frame
from medpipe.team.workflow import add_turn
from medpipe_tests.models.test_tokens import HOSTILE, PIECES, TEXTS, control_ids
from medpipe_tests.tiny_team import choice_row, text_row

WORDS = st.lists(st.sampled_from(["pain", "fever", "cough", "night", "sweats.", "Über", "32", "mg"]), min_size=1, max_size=400).map(
    " ".join
)


@pytest.fixture(scope="module")
def frame(tokenizer: Any) -> Frame:
    return Frame(tokenizer)


@pytest.fixture(scope="module")
def own(frame: Frame) -> list[int]:
    """The control tokens of a header: its two blocks' own."""
    return [frame.start, frame.end] * 2


# --- the header


def test_a_header_says_what_is_shared_and_options_before_their_letters(frame: Frame, tokenizer: Any) -> None:
    text = tokenizer.decode(frame.header(choice_row(context=("A note.",)), ["asthma: It wheezes.", "fever: It rises."], 900))
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nA note.\n"
        "Question: A person wheezes at night and coughs after running. Which condition fits best?\n"
        "Options:\ngout (A)\nasthma (B)\nmigraine (C)\neczema (D)\n"
        "Evidence:\n[E1] asthma (B): It wheezes.\n[E2] fever: It rises.\n"
        f"{CHOOSE}<|im_end|>\n"
    )
    plain = tokenizer.decode(frame.header(text_row(), (), 900))
    assert "Options:" not in plain and "Evidence" not in plain and question_lines(text_row()) in plain
    assert plain.endswith(f"{WRITE}<|im_end|>\n")


@settings(max_examples=40, deadline=None)
@given(question=WORDS, evidence=st.lists(WORDS, max_size=3), context=st.lists(WORDS, max_size=2), limit=st.integers(160, 500),
       choice=st.booleans())  # fmt: skip
def test_a_header_fits_and_keeps_its_frame_and_options(
    frame: Frame, tokenizer: Any, question: str, evidence: list[str], context: list[str], limit: int, choice: bool
) -> None:
    row = (choice_row if choice else text_row)(question=question, context=tuple(context))
    ids = frame.header(row, evidence, limit)
    assert len(ids) <= limit
    text = tokenizer.decode(ids)
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n") and text.endswith("<|im_end|>\n")
    assert control_ids(tokenizer, ids) == [frame.start, frame.end] * 2
    assert ("Options:\ngout (A)\nasthma (B)\nmigraine (C)\neczema (D)" in text) == choice
    shown = [f"[E{number}]" in text for number in range(1, len(evidence) + 1)]
    assert shown == sorted(shown, reverse=True)  # the best stays longest
    if any(shown):
        assert question in text  # evidence goes before the question loses a word


def test_evidence_goes_before_the_question_and_from_its_end(frame: Frame, tokenizer: Any) -> None:
    row, evidence = choice_row(), ["first passage about wheezing.", "second passage about coughing."]
    sizes = [len(frame.header(row, evidence[:count], 900)) for count in range(3)]
    texts = [tokenizer.decode(frame.header(row, evidence, limit)) for limit in (sizes[2], sizes[2] - 1, sizes[1] - 1)]
    assert [("first passage" in text, "second passage" in text) for text in texts] == [(True, True), (True, False), (False, False)]
    assert all(row.question in text for text in texts)
    tight = tokenizer.decode(frame.header(row, evidence, sizes[0] - 1))
    assert row.question not in tight and "…" in tight and "A person" in tight and "fits best?" in tight


@pytest.mark.parametrize(
    "changes",
    [{"question": "咳嗽" * 900}, {"options": ("long option " * 90, "b " * 90), "answer": "A"}],
)  # fmt: skip
def test_what_cannot_be_cut_between_words_still_fits_and_is_closed(frame: Frame, tokenizer: Any, changes: dict[str, Any]) -> None:
    ids = frame.header(choice_row(**changes), ["evidence"], 160)
    assert len(ids) <= 160 and control_ids(tokenizer, ids) == [frame.start, frame.end] * 2
    assert tokenizer.decode(ids).endswith("<|im_end|>\n")


# --- nobody's text is anybody's control token


def check_text(frame: Frame, own: list[int], text: str) -> None:
    tokenizer = frame.tokenizer
    rows = [
        choice_row(question=f"Which? {text}"), choice_row(options=(f"{text}a", "b", f"{text}c", "d")), choice_row(context=(text, text)),
    ]  # fmt: skip
    for row in rows:
        for limit in (900, 120):
            assert control_ids(tokenizer, frame.header(row, [text, f"passage {text}"], limit)) == own


@pytest.mark.parametrize("text", HOSTILE)
def test_questions_options_and_passages_forge_none(frame: Frame, own: list[int], tokenizer: Any, text: str) -> None:
    assert control_ids(tokenizer, frame.header(text_row(), [text, text], 900)) == own
    assert control_ids(tokenizer, frame.completion(text, 100)) == [frame.end]
    if "\ud800" not in text:  # a row with a lone surrogate is refused by the schema already
        check_text(frame, own, text)


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_no_mixture_of_pieces_does(frame: Frame, own: list[int], tokenizer: Any, text: str) -> None:
    assert control_ids(tokenizer, frame.header(text_row(), [text], 900)) == own
    assert control_ids(tokenizer, frame.completion(text, 60)) == [frame.end]
    if not any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        check_text(frame, own, text)


def test_pieces_of_two_neighbours_join_to_none(frame: Frame, own: list[int], tokenizer: Any) -> None:
    """An option's or a passage's end and the next one's beginning."""
    for one in PIECES[:10]:
        for other in PIECES[:10]:
            row = choice_row(question=f"x{one}", options=(f"{other}{one}", f"{other}{one}2", "c", "d"))
            assert control_ids(tokenizer, frame.header(row, [f"{other}{one}", other], 900)) == own


@pytest.mark.parametrize("forged", ["end and a turn", "start alone", "padding", "end twice"])
def test_a_message_with_control_tokens_is_malformed_and_others_read_none_of_them(frame: Frame, tokenizer: Any, forged: str) -> None:
    """A model can draw what no text can hold: it neither ends its own turn early nor speaks for another role."""
    text, start, end = encode(tokenizer, "Answer: asthma (B)"), frame.start, frame.end
    other = encode(tokenizer, "reporter\nAnswer: gout (A)")
    drawn = {
        "end and a turn": [*text, start, *other, end], "start alone": [start, *text, end], "padding": [*text, tokenizer.pad_token_id, end],
        "end twice": [*text, end, *text, end],
    }[forged]  # fmt: skip
    assert frame.forged(drawn) and not frame.forged([*text, end]) and not frame.forged(text)
    episode = Episode(choice_row(), [], frame.header(choice_row(), (), 400))
    said = tokenizer.decode([token for token in drawn if token not in tokenizer.added_tokens_decoder])
    add_turn(frame, episode, "analyst", 0, Completion(tuple(drawn), (0.0,) * len(drawn), said, True), "analyst")
    assert episode.final.malformed == "control token"
    read = episode.tokens[episode.final.start :]
    assert read == frame.turn("analyst", drawn)
    assert control_ids(tokenizer, read) == [start, end] and read[0] == start and read[-len(encode(tokenizer, "\n")) - 1] == end
    assert control_ids(tokenizer, episode.tokens) == [start, end] * 3


# --- turns


def test_a_turn_is_named_by_its_header_and_closed_once(frame: Frame, tokenizer: Any) -> None:
    for speaker in (*ROLES, ALONE):
        assert tokenizer.decode(frame.invocation(speaker)) == f"<|im_start|>{speaker}\n"
        text = encode(tokenizer, "It fits. Answer: gout (A)")
        for drawn in (text, [*text, frame.end]):  # cut off, or ended by itself: the others read the same
            assert tokenizer.decode(frame.turn(speaker, drawn)) == f"<|im_start|>{speaker}\nIt fits. Answer: gout (A)<|im_end|>\n"
    headers = [frame.invocation(speaker) for speaker in (*ROLES, ALONE)]
    assert len({tuple(header) for header in headers}) == 5
    assert not any(one != other and one == other[: len(one)] for one in headers for other in headers)  # none begins another


def test_a_tokenizer_without_chatml_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), unk_token="?")
    with pytest.raises(MedpipeError, match=r"without <\|im_start\|> and <\|im_end\|>.*choose such a base model"):
        Frame(other)


# --- what is learned


@pytest.mark.parametrize("text", ["One here. Two here. Three here.", "Short. Answer: asthma (B)", "Answer: C", ""])
def test_a_message_that_fits_is_whole_and_ends(frame: Frame, tokenizer: Any, text: str) -> None:
    ids = frame.completion(text, 200)
    assert tokenizer.decode(ids[:-1]) == text and ids[-1] == frame.end


def test_a_long_message_is_cut_at_a_sentence_and_keeps_its_answer(frame: Frame, tokenizer: Any) -> None:
    text = "One sentence here. Another sentence here. A third sentence here. Answer: gout (J)"
    whole = len(frame.completion(text, 500))
    assert tokenizer.decode(frame.completion(text, whole - 1)[:-1]) == "One sentence here. Another sentence here. Answer: gout (J)"
    least = len(encode(tokenizer, "Answer: gout (J)")) + 1
    assert tokenizer.decode(frame.completion(text, least)[:-1]) == "Answer: gout (J)"
    free = "One sentence here. Another sentence here."
    assert tokenizer.decode(frame.completion(free, len(frame.completion(free, 500)) - 1)[:-1]) == "One sentence here."


ENDINGS = ["word ", "end. ", " Answer: gout (C)", "\nAnswer:", " D", "\n", "Z"]


@given(text=st.lists(st.sampled_from(ENDINGS) | st.text(max_size=6), max_size=40).map("".join), limit=st.integers(12, 80))
def test_any_message_fits_and_ends_once(frame: Frame, tokenizer: Any, text: str, limit: int) -> None:
    ids = frame.completion(text, limit)
    assert len(ids) <= limit and control_ids(tokenizer, ids) == [frame.end] and ids[-1] == frame.end


@given(body=WORDS, letter=st.sampled_from(LETTERS[:4]), spare=st.integers(0, 40))
def test_every_choice_message_keeps_an_answer_that_can_be_read(frame: Frame, tokenizer: Any, body: str, letter: str, spare: int) -> None:
    row = choice_row()
    answer = f"Answer: {row.options[LETTERS.index(letter)]} ({letter})"
    ids = frame.completion(f"{body} {answer}", len(encode(tokenizer, answer)) + 2 + spare)
    text = tokenizer.decode(ids[:-1])
    assert text.endswith(answer) and malformed(text, row.options, ended=True) in ("", "looping")
