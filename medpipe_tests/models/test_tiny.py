"""The tiny model of the tests: it speaks in turns, ends its messages, names letters, and is the same each time it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe.answers import parse_answer
from medpipe.models import tiny
from medpipe.models.adapters import AdapterModel, weights_hash
from medpipe.models.base import CHATML
from medpipe.schema import LETTERS, QAExample
from medpipe.team.transcript import Frame


def row(text: str, options: tuple[str, ...] = ()) -> QAExample:
    return QAExample(id="q", source="test", focus="asthma", question=text, options=options, answer="B" if options else "Wheezing.")


def test_its_tokenizer_gives_any_text_back_and_keeps_a_letter_in_brackets_whole() -> None:
    tokenizer = tiny.tokenizer_of(CHATML)
    text = "Über 37.5 °C, naïve 咳嗽 \t x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id}) == 2
    for letter in LETTERS:
        assert tokenizer.tokenize(f"asthma ({letter})")[-3:] == ["Ġ(", letter, ")"]
    Frame(tokenizer)  # it has ChatML's control tokens


def test_it_is_drilled_on_the_transcripts_that_teams_speak_in() -> None:
    tokenizer = tiny.tokenizer_of(CHATML)
    frame = Frame(tokenizer)
    asked = row("Which fits?", ("gout", "asthma"))
    said = [("planner", "fever. Answer: (B)"), ("analyst", "pain.")]
    ids, labels = tiny.transcript(tokenizer, asked.question, asked.options, said)
    bodies = [frame.completion(text, 24) for _, text in said]
    assert ids == [*frame.header(asked, (), 999), *frame.turn("planner", bodies[0]), *frame.turn("analyst", bodies[1])]
    assert [label for label in labels if label != -100] == [*bodies[0], *bodies[1]]


def test_it_ends_its_messages_and_mostly_names_an_option_where_there_are_some(tiny_base: Path) -> None:
    model = AdapterModel.load(tiny_base, {})
    frame = Frame(model.tokenizer)
    options = ("gout", "asthma", "migraine", "eczema", "croup", "scabies", "psoriasis", "acne", "cataract", "rickets")
    asked = [row(f"Which fits {word} fever?", options) for word in LETTERS[:8]] + [row(f"What of {word} fever?") for word in LETTERS[:8]]
    headers = [frame.header(question, ("asthma: Wheezing at night points to asthma.",), 400) for question in asked]
    said: list[Any] = model.generate(None, model.read(headers), frame.invocation("planner"), 24)
    assert sum(message.ended for message in said) >= 8
    assert sum(parse_answer(message.text, options) is not None for message in said[:8]) >= 3


def test_two_makings_give_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "STEPS", 2)
    one, other = (weights_hash(dict(tiny.make(CHATML)[0].named_parameters())) for _ in range(2))
    assert one == other


def test_it_is_drilled_on_no_text_of_the_roles() -> None:
    """Otherwise every edit of the roles would make another model, and with it other numbers in every test."""
    assert "roles" not in vars(tiny)
