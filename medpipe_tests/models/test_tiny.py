"""The tiny model of the tests: it ends its messages, names letters, and is the same each time it is made."""

from __future__ import annotations

from typing import Any

import pytest

from medpipe.models import tiny
from medpipe.models.base import CHATML
from medpipe.models.policy import Policies, weights_hash
from medpipe.models.tokens import encode_prompt
from medpipe.roles import ANSWER_RULE
from medpipe.schema import LETTERS
from medpipe.team.parsing import parse_answer
from medpipe_tests.tiny_team import choice_row, text_row


def test_its_tokenizer_gives_any_text_back(tokenizer: Any) -> None:
    text = "Über 37.5 °C, naïve 咳嗽 \t x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id}) == 2


def test_it_ends_most_messages_and_mostly_names_a_letter_where_one_is_asked_for(team: Policies) -> None:
    asked = [encode_prompt(team.tokenizer, None, choice_row(question=f"Which fits {word} fever?"), (), (), 300) for word in LETTERS[:8]]
    plain = [encode_prompt(team.tokenizer, None, text_row(question=f"What of {word} fever?"), (), (), 300) for word in LETTERS[:8]]
    said = team.generate(None, [*asked, *plain], 24)
    assert sum(sample.ended for sample in said) >= 8
    assert sum(parse_answer(sample.text, 10) is not None for sample in said[:8]) >= 3


def test_two_makings_give_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "STEPS", 2)
    one, other = (weights_hash(dict(tiny.make(CHATML)[0].named_parameters())) for _ in range(2))
    assert one == other


def test_it_is_drilled_on_the_rule_that_the_roles_prompts_end_with_and_on_no_text_of_theirs() -> None:
    """Otherwise every edit of the roles would make another model, and with it other numbers in every test."""
    assert tiny.RULE == ANSWER_RULE
    assert "roles" not in vars(tiny)
