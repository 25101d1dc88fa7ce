"""What only a GPU can show: claims between processes, half precision, a base for each role, too little memory, attention.

    pytest -m gpu medpipe_tests/test_gpu.py

Left out: speed, several data-parallel processes, and quantised bases.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.launch.devices import place_role, visible_gpus
from medpipe.models import base
from medpipe.models.adapters import AdapterModel, Turn
from medpipe.models.kv_cache import grouped_attention
from medpipe.models.per_role import PerRole, devices_of_roles
from medpipe.schema import ROLES, Role
from medpipe.team.transcript import Frame
from medpipe.training.update import TOLERANCE, on_policy_gap
from medpipe_tests.conftest import Collected
from medpipe_tests.tiny_team import choice_row, text_row, tiny_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees none"),
]
GPU = "cuda:0"
HOLD = """
import sys, torch
from medpipe.launch.devices import gpus_held
with gpus_held([sys.argv[1]], lambda text: print(text, flush=True)):
    print("holds it", torch.ones(8, device=sys.argv[2]).sum().item(), flush=True)
    sys.stdin.read()
"""


def holder(gpu: str) -> subprocess.Popen[str]:
    """A process that claims a GPU, computes on it, and holds it until its input ends."""
    seen = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    command = [sys.executable, "-c", HOLD, gpu, GPU]
    return subprocess.Popen(command, env=seen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_second_process_waits_for_a_gpu_until_the_first_is_gone() -> None:
    gpu = visible_gpus()[0]
    with holder(gpu) as first:
        assert said(first) == "holds it 8.0"
        with holder(gpu) as second:
            assert said(second) == f"GPU {gpu} is in use by another medpipe process: waiting for it"
            first.kill()  # no chance to let go by itself: the kernel does
            assert said(second) == "holds it 8.0"
            second.communicate("")
            assert second.returncode == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_drawn_is_what_is_scored(tiny_base: Path, tiny_adapters: dict[str, Path], precision: Any) -> None:
    """Within the bound that co-training itself enforces: in fp32 the largest difference of a token, in bf16 the mean."""
    names = {role: tiny_adapters[f"models/{role}"] for role in ("planner", "reporter")}
    model = AdapterModel.load(tiny_base, names, GPU, Model(precision=precision))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert model.base.dtype == dtype and {value.dtype for value in model.parameters("reporter").values()} == {torch.float32}
    frame = Frame(model.tokenizer)
    contexts = [frame.header(row, (), 300) for row in (choice_row(), text_row(), text_row(question="fever and pain " * 20))] * 8
    reading, invocation = model.read(contexts), frame.invocation("reporter")
    drawn = model.generate("reporter", reading, invocation, 16, 1.0, torch.Generator().manual_seed(0))
    turns = [Turn(context, invocation, one.tokens) for context, one in zip(contexts, drawn, strict=True)]
    expected = torch.tensor([logp for one in drawn for logp in one.logps])
    with torch.inference_mode(), model.use("reporter"):
        for held in (reading, None):  # None: read anew
            assert on_policy_gap(model.score("reporter", turns, held).logp_N.cpu(), expected, dtype) < TOLERANCE[dtype]
        plain = AdapterModel.load(tiny_base, names, "cpu", Model(precision="fp32"))
        with plain.use("reporter"):
            there = plain.score("reporter", turns).logp_N
    assert on_policy_gap(there, expected, dtype) < TOLERANCE[dtype], "the CPU finds the same"


def test_auto_is_bf16_where_the_gpu_has_it(tiny_base: Path) -> None:
    model, _ = base.load(tiny_base, GPU)
    assert model.dtype == (torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32)


def test_each_role_has_a_base_on_its_gpu_modulo_those_that_are_there(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    gpus, settings = visible_gpus(), tiny_settings()
    assert len(gpus) == torch.cuda.device_count()
    assert [place_role(settings, role).gpu for role in ROLES] == [gpus[number % len(gpus)] for number in range(4)]
    own: dict[Role, dict[str, Path]] = {role: {role: tiny_adapters[f"models/{role}"]} for role in ROLES}
    apart = PerRole.load(tiny_base, own, devices_of_roles(GPU), Model(precision="fp32"))
    shared = AdapterModel.load(tiny_base, {role: folder[role] for role, folder in own.items()}, GPU, Model(precision="fp32"))
    frame = Frame(shared.tokenizer)
    context, said = frame.header(choice_row(), (), 300), (17, 18, 19)
    for number, role in enumerate(ROLES):
        assert apart.of(role).device == torch.device(f"cuda:{number % len(gpus)}")
        turn = Turn(context, frame.invocation(role), said)
        one, other = (model.sum_logps(role, [turn], 1)[0] for model in (apart.of(role), shared))
        assert one == pytest.approx(other, abs=TOLERANCE[torch.float32])


@contextlib.contextmanager
def no_memory_left() -> Iterator[None]:
    """This process may have no more of the GPU than it holds, and what it holds is full."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory)
    full: list[torch.Tensor] = []
    try:
        for size in (2**20, 2**9):
            with contextlib.suppress(torch.OutOfMemoryError):
                while True:
                    full.append(torch.empty(size, dtype=torch.uint8, device=GPU))
        yield
    finally:
        full.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_fine_tuning_without_memory_ends_in_one_message_that_says_what_to_lower(
    tiny_base: Path, tiny_splits: dict[str, Path], reporter: Collected, tmp_path: Path
) -> None:
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.training.fit import fit
    from medpipe.training.sft import adapter_config, make_lessons

    settings = tiny_settings()
    bare, tokenizer = base.load(tiny_base, GPU, Model(precision="fp32"))
    model = AdapterModel.with_new(bare, tokenizer, {"reporter": adapter_config(bare, settings.training, "tiny")}, activated=True)
    train = tiny_splits["splits/train"]
    rows, index = store.read_examples(train)[:4], EvidenceIndex.load(train / "evidence")
    lessons = make_lessons(rows, index, ("reporter",), Frame(tokenizer), settings, training=True)
    fit(model, ("reporter",), [lessons], settings.training, tmp_path / "enough", {"reporter": reporter})
    with no_memory_left(), pytest.raises(MedpipeError, match=r"too little memory for a single row.*lower team\.max_header_tokens"):
        fit(model, ("reporter",), [lessons], settings.training, tmp_path / "full", {"reporter": reporter})
    assert any(line.startswith("out of memory in fine-tuning") for line in reporter.warnings)  # smaller passes were tried first


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_on_the_gpu_equals_that_on_the_cpu(dtype: torch.dtype, apart: float, masked: bool) -> None:
    """With a mask torch takes its memory-efficient kernel, without one in bf16 flash attention; both are within rounding."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, 40, 64, generator=draw).to(dtype) for heads in (6, 2, 2))
    mask = torch.rand(3, 1, 40, 40, generator=draw) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True  # every query sees something
    layer: Any = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = 3, True
    expected, _ = grouped_attention(layer, query.float(), key.float(), value.float(), mask)
    found, _ = grouped_attention(layer, query.to(GPU), key.to(GPU), value.to(GPU), mask if mask is None else mask.to(GPU))
    assert found.dtype == dtype and torch.allclose(found.float().cpu(), expected, atol=apart)
