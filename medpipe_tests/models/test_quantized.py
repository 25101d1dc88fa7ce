"""A base in 8 or 4 bits: smaller, frozen to the last byte, near the full one, and adapters learn on top of it. All on a CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, Turn, weights_hash
from medpipe.team.transcript import Frame
from medpipe.training.update import TOLERANCE
from medpipe_tests.tiny_team import choice_row, text_row

COMPLETIONS = [[7, 8, 9], [10], [11, 12, 13, 14, 15], [16, 17]]
KINDS = ["8bit", "4bit"]
# Log-probabilities (nats) beside the unquantised base's, which is so small that rounding is felt. Measured here: mean 0.011 and
# largest 0.031 in 8 bits, mean 0.23 and largest 0.96 in 4.
MEAN_APART = {"8bit": 0.03, "4bit": 0.5}
MOST_APART = {"8bit": 0.1, "4bit": 2.0}
# Drawn against scored. 8 bits round a pass's inputs too, and one step of generation rounds a little otherwise than a whole text.
DRAWN_APART = {"8bit": 0.05, "4bit": TOLERANCE[torch.float32]}  # measured: 0.002 to 0.008, and 0.000001


@pytest.fixture(scope="module", params=KINDS)
def bits(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def model(bits: Any, tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    """The planner's adapter on a quantised base."""
    return AdapterModel.load(tiny_base, {"planner": tiny_adapters["models/planner"]}, choice=Model(quantization=bits))


@pytest.fixture(scope="module")
def full(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AdapterModel:
    """The same in full precision."""
    return AdapterModel.load(tiny_base, {"planner": tiny_adapters["models/planner"]})


@pytest.fixture(scope="module")
def turns(tokenizer: Any) -> list[Turn]:
    """Behind headers of very different lengths, one of them with a turn before."""
    frame = Frame(tokenizer)
    rows = [text_row(question="Why?"), choice_row(), text_row(question="fever and pain " * 20), choice_row(question="cough " * 40)]
    contexts = [frame.header(row, (), 300) for row in rows]
    contexts[1] += frame.turn("reporter", [30, 31])
    return [Turn(context, frame.invocation("planner"), said) for context, said in zip(contexts, COMPLETIONS, strict=True)]


def linears(model: AdapterModel) -> dict[str, torch.nn.Linear]:
    """The base's own linear layers by name, as a search by type finds them."""
    found = {name.replace(".base_layer", ""): part for name, part in model.base.named_modules() if isinstance(part, torch.nn.Linear)}
    return {name: part for name, part in found.items() if "lora_" not in name}


def base_bytes(model: AdapterModel) -> str:
    """A hash over all of the base: weights in bits, the scales beside them, and what stays in full precision."""
    parts = {name: value.detach() for name, value in model.base.named_parameters() if "lora_" not in name}
    for name, layer in linears(model).items():
        weight: Any = layer.weight
        if weight.dtype == torch.uint8:
            parts[f"{name} scales"], parts[f"{name} their scales"] = weight.quant_state.absmax, weight.quant_state.state2.absmax
        if weight.dtype == torch.int8:
            state: Any = layer.state
            parts[f"{name} scales"] = weight.SCB if state.SCB is None else state.SCB  # the first pass moves them
    return weights_hash(parts)


def test_the_layers_shrink_and_the_head_and_embeddings_do_not(model: AdapterModel, full: AdapterModel, bits: str) -> None:
    layers, full_layers = linears(model), linears(full)
    assert set(layers) == set(full_layers)  # quantised layers are found wherever torch.nn.Linear is looked for
    head = model.base.get_output_embeddings()
    assert type(head) is torch.nn.Linear and head.weight is model.base.get_input_embeddings().weight
    assert head.weight.dtype == torch.float32 and torch.equal(head.weight, full.base.get_output_embeddings().weight)
    for name in set(layers) - {"lm_head"}:
        assert full_layers[name].weight.nbytes == {"8bit": 4, "4bit": 8}[bits] * layers[name].weight.nbytes
    small, large = (sum(value.nbytes for value in p.base.parameters()) for p in (model, full))
    assert small < large
    assert not any(value.requires_grad for value in model.base.parameters())


def in_full(layer: Any) -> torch.Tensor:
    """The weights that a quantised layer stands for."""
    from bitsandbytes import functional

    if layer.weight.dtype == torch.uint8:
        return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data * (layer.weight.SCB if layer.state.SCB is None else layer.state.SCB)[:, None] / 127


def widest_half(code: torch.Tensor) -> float:
    """How far a number from -1 to 1 can be from the nearest value of an ascending code book that ends in 1."""
    return max(float(code.diff().max()) / 2, 1 + float(code[0]))


def largest_error(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """How far rounding may move a weight, for each group that shares a scale: [rows, 1] in 8 bits, [blocks, 1] in 4."""
    if layer.weight.dtype == torch.int8:
        # 127 even steps up to a row's largest, and fp16's rounding before: at most 0.0625 of a step more than half of one.
        return 0.57 / 127 * weight.abs().amax(1, keepdim=True)
    # A block is divided by its largest and rounded to nf4's values. That largest is kept in 8 bits as its distance from the mean of all
    # largest, divided by the greatest distance among 256 blocks; bitsandbytes seeks the nearest 8-bit value in steps of 2**-15.
    state = layer.weight.quant_state
    scales = weight.view(-1, state.blocksize).abs().amax(1)
    away = torch.cat([part.max().expand(len(part)) for part in (scales - state.offset).abs().split(state.state2.blocksize)])
    return (widest_half(state.code) * scales + (widest_half(state.state2.code) + 2**-15) * away)[:, None]


def test_each_weight_is_rounded_to_a_neighbour_and_computed_with(
    model: AdapterModel, tiny_base: Path, tiny_adapters: dict[str, Path], turns: list[Turn], bits: str
) -> None:
    rounded = AdapterModel.load(tiny_base, {"planner": tiny_adapters["models/planner"]})
    layers = linears(model)
    for name, layer in linears(rounded).items():
        if name == "lm_head":
            continue
        found, weight = in_full(layers[name]), layer.weight.data
        error = largest_error(layers[name], weight)
        assert ((found - weight).view(len(error), -1).abs() <= error + 1e-6).all()  # fp32 computes it
        weight.copy_(found)
    scores = []
    for each in (model, rounded):
        with each.use("planner"), torch.no_grad():
            scores.append(each.score("planner", turns).logp_N)
    assert float((scores[0] - scores[1]).abs().max()) < {"8bit": 0.1, "4bit": 1e-4}[bits]  # 8 bits round the inputs as well


def test_log_probabilities_stay_near_the_full_ones(model: AdapterModel, full: AdapterModel, turns: list[Turn], bits: str) -> None:
    found = []
    for each in (model, full):
        with each.use("planner"), torch.no_grad():
            found.append(each.score("planner", turns).logp_N)
    apart = (found[0] - found[1]).abs()
    assert 0 < float(apart.mean()) < MEAN_APART[bits]
    assert float(apart.max()) < MOST_APART[bits]


def test_one_step_moves_the_adapter_and_no_byte_of_the_base(bits: str, model: AdapterModel, full: AdapterModel, turns: list[Turn]) -> None:
    before, learned = base_bytes(model), model.parameters("planner")
    start = {name: value.detach().clone() for name, value in learned.items()}
    optimizer = torch.optim.AdamW(learned.values(), lr=1e-3)
    with model.use("planner", train=True):
        loss = -model.score("planner", turns).logp_N.mean()
        loss.backward()
        gradients = {name: value.grad.flatten() for name, value in learned.items() if value.grad is not None}
        optimizer.step()
        with torch.no_grad():
            assert -model.score("planner", turns).logp_N.mean() < loss
    assert set(gradients) == set(learned)
    assert all(not torch.equal(value, start[name]) for name, value in learned.items())
    assert base_bytes(model) == before
    assert not [name for name, value in model.base.named_parameters() if value.grad is not None and "lora_" not in name]
    with full.use("planner", train=True):
        wanted = torch.autograd.grad(-full.score("planner", turns).logp_N.mean(), list(full.parameters("planner").values()))
    one, other = torch.cat([gradients[name] for name in learned]), torch.cat([part.flatten() for part in wanted])
    assert float(torch.cosine_similarity(one, other, dim=0)) > (0.99 if bits == "8bit" else 0.8)  # measured: 0.9999 and 0.86


def test_messages_are_generated_and_scored_alike(model: AdapterModel, turns: list[Turn], bits: str) -> None:
    reading, invocation = model.read([turn.context for turn in turns]), turns[0].invocation
    said = model.generate("planner", reading, invocation, 12, 1.0, torch.Generator().manual_seed(0))
    assert all(completion.tokens for completion in said)
    drawn = torch.tensor([logp for completion in said for logp in completion.logps])
    again = [Turn(turn.context, invocation, completion.tokens) for turn, completion in zip(turns, said, strict=True)]
    for held in (reading, None):
        with model.use("planner"), torch.no_grad():
            scored = model.score("planner", again, held)
        assert float((scored.logp_N - drawn).abs().max()) < DRAWN_APART[bits]
    assert model.generate("planner", reading, invocation, 12) == model.generate("planner", reading, invocation, 12)


def test_a_cpu_with_bf16_kernels_neither_repacks_the_base_nor_loses_gradients(
    tiny_base: Path, tiny_adapters: dict[str, Path], turns: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)  # such a CPU, as bitsandbytes sees it
    model = AdapterModel.load(tiny_base, {"planner": tiny_adapters["models/planner"]}, choice=Model(quantization="4bit"))
    before = base_bytes(model)
    model.generate("planner", model.read([turn.context for turn in turns]), turns[0].invocation, 2)
    assert base_bytes(model) == before
    with model.use("planner", train=True):
        model.score("planner", turns).logp_N.mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in model.parameters("planner").values())


def test_the_line_of_every_layer_is_not_logged_and_others_are(tiny_base: Path, turns: list[Turn], caplog: pytest.LogCaptureFixture) -> None:
    model = AdapterModel.load(tiny_base, {}, choice=Model(quantization="8bit"))
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model.score(None, turns)
        logging.getLogger("bitsandbytes.autograd._functions").warning("something else")
    assert [record.message for record in caplog.records if record.name.startswith("bitsandbytes")] == ["something else"]


def small_model(folder: Path, tokenizer: Any, layers: int) -> Path:
    """An untrained model of widths that no block of 64 divides, with a head of its own."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=60, intermediate_size=34, num_hidden_layers=layers, num_attention_heads=3,
        num_key_value_heads=1, head_dim=10, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_width_that_fills_no_block_is_quantised_and_an_untied_head_is_not(tmp_path: Path, tokenizer: Any, bits: Any) -> None:
    folder = small_model(tmp_path, tokenizer, layers=1)
    model, full = (AdapterModel.load(folder, {}, choice=Model(quantization=kind)) for kind in (bits, "none"))
    assert type(model.base.get_output_embeddings()) is torch.nn.Linear
    assert {layer.weight.dtype for name, layer in linears(model).items() if name != "lm_head"} <= {torch.int8, torch.uint8}
    one, other = (p.score(None, [Turn([5, 6, 7], [4], [8, 9, 10])]).logp_N for p in (model, full))
    assert 0 < float((one - other).abs().max()) < MOST_APART[bits]


def test_a_model_with_nothing_to_quantise_is_refused(tmp_path: Path, tokenizer: Any, bits: Any) -> None:
    folder = small_model(tmp_path, tokenizer, layers=0)
    with pytest.raises(MedpipeError, match=rf"model\.quantization = {bits}.*some/model.*set model\.quantization to none"):
        base.load(folder, choice=Model(name="some/model", quantization=bits))
