"""Messages as they are drawn: where they end, what a batch or a draft changes (work) and what not (words)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from medpipe.models.adapters import AdapterModel, Completion, draw_tokens
from medpipe.models.drafts import Draft
from medpipe.team.transcript import Frame
from medpipe.training.update import TOLERANCE
from medpipe_tests.models.speaking import (
    ADAPTERS,
    EXACT,
    gap,
    half_ends,
    held,
    passes,
    seeded,
)

# --- messages


def test_messages_stop_at_the_end_token_or_the_budget(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    end, reading = model.tokenizer.eos_token_id, model.read(contexts * 12)
    with half_ends(model):
        short, long = (model.generate("planner", reading, frame.invocation("planner"), budget, 1.0, seeded(4)) for budget in (2, 40))
    assert {completion.ended for completion in short} == {True, False} and all(completion.ended for completion in long)
    for budget, completions in ((2, short), (40, long)):
        for said in completions:
            assert said.ended == (said.tokens[-1] == end) and end not in said.tokens[:-1]
            assert said.ended or len(said.tokens) == budget
            assert len(said.logps) == len(said.tokens) and max(said.logps) <= 0.0
            assert said.text == model.text(said.tokens) and "<|im_end|>" not in said.text


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_batch_says_what_each_alone_would(model: AdapterModel, frame: Frame, contexts: list[list[int]], adapter: str | None) -> None:
    invocation = frame.invocation(adapter or "assistant")
    together = model.generate(adapter, model.read(contexts), invocation, 12)
    for context, said in zip(contexts, together, strict=True):
        alone = model.generate(adapter, model.read([context]), invocation, 12)[0]
        assert (alone.text, alone.tokens, alone.ended) == (said.text, said.tokens, said.ended)
        assert alone.logps == pytest.approx(said.logps, abs=EXACT)


def test_sampling_is_repeatable_and_follows_the_distribution(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    reading, invocation = model.read(contexts), frame.invocation("planner")
    one, other = (model.generate("planner", reading, invocation, 6, 1.0, seeded(3)) for _ in range(2))
    assert one == other
    draws = model.generate("planner", model.read(contexts[:1]).select([0] * 600), invocation, 1, 1.0, seeded(0))
    token, logp = draws[0].tokens[0], draws[0].logps[0]
    share, expected = sum(draw.tokens[0] == token for draw in draws) / 600, float(torch.tensor(logp).exp())
    assert abs(share - expected) < 5 * (expected * (1 - expected) / 600) ** 0.5 + 1e-9  # five standard errors


def test_a_word_of_probability_0_is_never_drawn() -> None:
    logp_BV = torch.tensor([[-torch.inf, 0.0, -torch.inf], [0.5, 0.5, 0.0]]).log_softmax(-1).repeat(200, 1)
    logp_BV[1::2, 2] = -torch.inf
    drawn = draw_tokens(logp_BV, torch.rand(400, 1, dtype=torch.double, generator=seeded(0))).view(200, 2)
    assert set(drawn[:, 0].tolist()) == {1} and set(drawn[:, 1].tolist()) == {0, 1}


# --- drafts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_draft_changes_the_passes_and_not_the_message(
    model: AdapterModel, frame: Frame, contexts: list[list[int]], adapter: str | None, temperature: float
) -> None:
    invocation, many = frame.invocation(adapter or "assistant"), contexts * 8
    reading = model.read(many)
    before = held(reading)

    def drawn(drafts: Sequence[Draft]) -> tuple[list[Completion], int]:
        ending = half_ends(model, temperature) if temperature else nullcontext()  # greedily all of them would end at once
        with ending, passes(model) as seen:
            return model.generate(adapter, reading, invocation, 24, temperature, seeded(7), drafts), len(seen)

    plain, alone = drawn(())
    assert alone > 3
    told = [list(each.tokens) for each in plain]
    right = [Draft([[*invocation, *own]]) for own in told]
    # Wrong in the middle, then right again.
    halfway = [Draft([[*invocation, *own[: len(own) // 2], 40 + number, *own]]) for number, own in enumerate(told)]
    wrong = [Draft([[*invocation, *([41, 42, 43] * 10)], context]) for context in many]
    some = [right[n] if n % 2 else Draft([]) for n in range(len(many))]
    for drafts in (right, halfway, wrong, some):
        said, count = drawn(drafts)
        assert [each.tokens for each in said] == [each.tokens for each in plain]
        assert [each.ended for each in said] == [each.ended for each in plain]
        for one, other in zip(said, plain, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=EXACT)
        assert count <= alone
        if drafts is right:
            assert count <= (alone + 1) // 2
    assert held(reading) == before


def test_what_was_drawn_by_drafts_is_scored_the_same(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    reading, invocation = model.read(contexts), frame.invocation("planner")
    free = model.generate("planner", reading, invocation, 20, 1.0, seeded(3))
    drafts = [Draft([[*invocation, *each.tokens[:9], 5, *each.tokens[9:]], context]) for each, context in zip(free, contexts, strict=True)]
    again = model.generate("planner", reading, invocation, 20, 1.0, seeded(3), drafts)
    assert [each.tokens for each in again] == [each.tokens for each in free]
    assert gap(model, "planner", contexts, again, 1.0, reading) < TOLERANCE[torch.float32]


def test_a_draft_neither_outlives_the_end_nor_the_budget(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    reading, invocation, end = model.read(contexts), frame.invocation("planner"), frame.end
    free = model.generate("planner", reading, invocation, 20)
    drafts = [Draft([[*invocation, *each.tokens, end, 50, 51, end]]) for each in free]
    for budget in (1, 2, 5):
        said = model.generate("planner", reading, invocation, budget, drafts=drafts)
        assert [each.tokens for each in said] == [each.tokens[:budget] for each in free]
    with half_ends(model):
        ending = model.generate("planner", reading, invocation, 40, 1.0, seeded(1))
        drafts = [Draft([[*invocation, *each.tokens, 50, 51]]) for each in ending]
        assert model.generate("planner", reading, invocation, 40, 1.0, seeded(1), drafts) == [
            replace(each, logps=pytest.approx(each.logps, abs=EXACT)) for each in ending
        ]


def test_what_has_ended_is_computed_no_more(model: AdapterModel, frame: Frame, contexts: list[list[int]]) -> None:
    reading = model.read(contexts * 10)
    with half_ends(model), passes(model) as seen:
        said = model.generate("planner", reading, frame.invocation("planner"), 40, 1.0, seeded(1))
    lengths = [len(completion.tokens) for completion in said]
    assert seen[0] == (60, len(frame.invocation("planner"))) and len(seen) == max(lengths)
    for step, (rows, columns) in enumerate(seen[1:], 1):
        going = sum(length > step for length in lengths)
        assert columns == 1 and going <= rows <= going / 0.75 + 1  # up to a quarter of those that ended still goes along
