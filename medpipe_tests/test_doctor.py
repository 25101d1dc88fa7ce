"""The prerequisites check in a process of its own: the hub's cache, GPUs that torch can't use, a job's needs, and lines of 80 columns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe.config import Model, load_profile, profile_names
from medpipe.doctor import cached
from medpipe_tests.launch.test_devices import LIST, tool_in

NOWHERE = "http://127.0.0.1:9"  # nothing listens there
QWEN = "Qwen/Qwen3-0.6B"


def cache_with(folder: Path, files: dict[str, str]) -> Path:
    """A cache of the hub as huggingface_hub lays it out, with one revision of one model."""
    repository, commit = folder / f"models--{QWEN.replace('/', '--')}", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, text in files.items():
        (snapshot / name).write_text(text, encoding="utf-8")
    return folder


def doctor(**environment: str) -> str:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), NOWHERE)
    left_out = ("CUDA_VISIBLE_DEVICES", "NO_PROXY", "no_proxy", "HF_HUB_OFFLINE", "MLFLOW_TRACKING_URI", "MEDPIPE_PROFILE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out and not name.startswith("MEDPIPE_AWS")}
    command = [Path(sys.executable).with_name("medpipe"), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, **proxies, "TERM": "dumb", "COLUMNS": "80", **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(printed: str) -> str:
    """The text of the tables' right column, its lines joined."""
    return " ".join(" ".join(re.split(r"[│┃]", line)[2].split()) for line in printed.splitlines() if line.count("│") + line.count("┃") == 3)


def test_a_machine_with_a_cached_model_gpus_torch_cant_use_and_eighty_columns(tmp_path: Path) -> None:
    import torch

    cache = cache_with(tmp_path / "hub", {"config.json": "{}", "model.safetensors": "", "tokenizer.json": "{}"})
    tools = tool_in(tmp_path / "bin", LIST)
    printed = doctor(HF_HUB_CACHE=str(cache), PATH=f"{tools}:{os.environ['PATH']}")
    told = cells(printed)
    assert "not reachable" in told
    assert "run, with the model in the hub's cache (" in told and "stop at models/base" not in told
    if torch.version.cuda is None:
        assert "the driver lists 2 GPU(s), but torch" in told and "install one for CUDA" in told
    assert "planner: GPU 0, researcher: GPU 1, analyst: GPU 0, reporter: GPU 1" in told
    assert "1 x ml.g5.12xlarge on SageMaker: planner: cuda:0" in told
    assert "stop before the launch: it lacks aws.bucket (MEDPIPE_AWS_BUCKET), aws.role (MEDPIPE_AWS_ROLE)" in told
    assert "the job itself fetches Qwen/Qwen2.5-0.5B-Instruct from the hub" in told
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    for name in profile_names():
        assert name in printed and load_profile(name).model.name in printed


def test_an_empty_cache_an_address_with_a_token_and_a_whole_account_are_told(tmp_path: Path) -> None:
    account = {
        "MEDPIPE_AWS_BUCKET": "a-bucket", "MEDPIPE_AWS_ROLE": "arn:aws:iam::123456789012:role/x", "MEDPIPE_AWS_IMAGE": "image:1",
        "AWS_REGION": "eu-central-1",
    }  # fmt: skip
    told = cells(doctor(HF_HUB_CACHE=str(tmp_path), WANDB_PROJECT="maporl", **account))
    assert f"stop at models/base: the hub is not reachable, and {QWEN} is not whole in the hub's cache" in told
    assert "run, as a job in eu-central-1; the job itself fetches Qwen/Qwen2.5-0.5B-Instruct from the hub" in told
    assert "WANDB_PROJECT = maporl is set" in told
    refused = doctor(HF_HUB_CACHE=str(tmp_path), MLFLOW_TRACKING_URI="http://canary-4711@127.0.0.1:5000")
    assert "canary" not in refused and "MLFLOW_TRACKING_TOKEN" in cells(refused)


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"config.json": "{}", "model.safetensors": ""}, True),
        ({"config.json": "{}"}, False),
        ({"model.safetensors": ""}, False),
        ({"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
          "1.safetensors": ""}, False),
        ({"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
          "1.safetensors": "", "2.safetensors": ""}, True),
    ],
)  # fmt: skip
def test_a_cached_model_counts_only_with_all_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], whole: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_with(tmp_path, files)))
    assert (cached(Model(name=QWEN)) is not None) == whole
    assert cached(Model(name=QWEN, revision="another")) is None
