"""The profiles, the exceptions to them, and what a user is told who gets one wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpipe.config import PROFILES, Settings, digest, load_profile, parse_override, profile_names
from medpipe.errors import MedpipeError

NAMES = ["local-qwen3", "quickstart", "sagemaker-qwen2.5", "smoke"]
MEND = "correct this key (medpipe/config.py lists all, with units)"


def keys_of(value: Any, prefix: str = "") -> set[str]:
    """Every key of a nested mapping, dotted."""
    if not isinstance(value, dict):
        return {prefix}
    return set().union(*(keys_of(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()))


def raw(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))


def test_these_profiles_come_with_the_package() -> None:
    assert profile_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_parses(name: str) -> None:
    settings = load_profile(name)
    assert settings.name == name
    assert keys_of(raw(name)) <= keys_of(settings.model_dump()) - {"name"}


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_says_only_what_differs_from_the_defaults(name: str) -> None:
    defaults = Settings(name=name).model_dump(mode="json")
    same = [
        f"{section}.{key}"
        for section, values in raw(name).items()
        if isinstance(values, dict)
        for key, value in values.items()
        if defaults[section][key] == value
    ]
    assert same == []


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_the_reward_sum_to_one(name: str) -> None:
    rewards = load_profile(name).rewards
    parts = (rewards.accuracy, rewards.relevance, rewards.safety, rewards.collaboration, rewards.evidence, rewards.reasoning)
    assert sum(parts) == pytest.approx(1.0)


def test_the_sagemaker_profile_has_the_numbers_of_the_guide() -> None:
    settings = load_profile("sagemaker-qwen2.5")
    training = settings.training
    assert settings.model.kind == "hub"
    assert settings.model.name == "Qwen/Qwen2.5-0.5B-Instruct"
    assert settings.model.precision == "auto"  # the A10G has bf16, which needs no loss scaling; the guide's fp16 does
    assert training.learning_rate == settings.maporl.learning_rate == 3e-5
    assert (training.batch_size, training.gradient_accumulation, training.epochs) == (4, 4, 15)
    assert settings.team.max_rounds_per_episode == 4
    assert settings.rewards.medxpert_accuracy_weight == 2.0
    assert settings.rewards.safety_penalty_weight == 3.0
    assert list(settings.hardware.devices.values()) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.epoch": 2}, f"got the unknown key training.epoch, expected a key of medpipe/config.py, in profile smoke: {MEND}"),
        ({"trainings.epochs": 2}, f"got the unknown key trainings, expected a key of medpipe/config.py, in profile smoke: {MEND}"),
        (
            {"training.epochs": "many"},
            f"got training.epochs = 'many', expected a whole number from 1 to 10,000, in profile smoke: {MEND}",
        ),
        ({"training.epochs": 0}, f"got training.epochs = 0, expected a whole number from 1 to 10,000, in profile smoke: {MEND}"),
        ({"model.kind": "gpt"}, f"got model.kind = 'gpt', expected one of hub, bundled, folder, random, in profile smoke: {MEND}"),
        (
            {"hardware.devices.planner": "gpu:0"},
            f"got hardware.devices.planner = 'gpu:0', expected cpu, or cuda: and a number, such as cuda:0, in profile smoke: {MEND}",
        ),
        (
            {"training": 5},
            f"got training = 5, expected a section, in profile smoke: {MEND}",
        ),
        (
            {"hardware.devices": {"planner": "cpu"}},
            "got hardware.devices without researcher, analyst, reporter, expected one value for each role, in profile smoke: "
            "change one of these (medpipe/config.py lists all, with units)",
        ),
        (
            {"training.epochs.first": 1},
            "got the key training.epochs.first, expected a section before the last dot, in --set: see medpipe/config.py",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected_and_what_to_do(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(MedpipeError) as wrong:
        load_profile("smoke", overrides)
    assert str(wrong.value) == message


def test_an_unknown_profile_is_answered_with_those_there_are() -> None:
    with pytest.raises(MedpipeError) as wrong:
        load_profile("fast")
    assert str(wrong.value) == (
        "got profile 'fast', expected one of local-qwen3, quickstart, sagemaker-qwen2.5, smoke or a .yaml file, "
        "in the profile setting: choose one of these (make run PROFILE=quickstart)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs", "got 'training.epochs', expected key=value, in --set: write for example --set training.epochs=2"),
        ("=2", "got '=2', expected key=value, in --set: write for example --set training.epochs=2"),
        (
            "corpus.use=[medquad",
            "got 'corpus.use=[medquad', expected a value that YAML can read, in --set: write for example --set training.epochs=2",
        ),
    ],
)
def test_an_exception_that_cant_be_read_is_shown_how_to_write(text: str, message: str) -> None:
    with pytest.raises(MedpipeError) as wrong:
        parse_override(text)
    assert str(wrong.value) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=2", ("training.epochs", 2)),
        (" training.learning_rate =1.0e-3", ("training.learning_rate", 0.001)),
        ("model.name=a=b", ("model.name", "a=b")),
        ("corpus.use=[custom, synthetic]", ("corpus.use", ["custom", "synthetic"])),
        ("training.gradient_checkpointing=true", ("training.gradient_checkpointing", True)),
    ],
)
def test_an_exception_is_a_key_and_a_yaml_value(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(("text", "said"), [("a: [1", "text that is not YAML"), ("- 1", "got list, expected a YAML mapping")])
def test_a_file_that_is_no_profile_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MedpipeError) as wrong:
        load_profile(str(path))
    assert said in str(wrong.value)
    assert f"in {path}: " in str(wrong.value)


def test_a_profile_of_ones_own_is_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 7\ntraining: {epochs: 2, warmup_share: 0.1}\n", encoding="utf-8")
    settings = load_profile(str(path), {"training.epochs": 3})
    assert (settings.name, settings.seed, settings.training.epochs) == ("mine", 7, 3)


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from medpipe.config import load_profile; print(load_profile('smoke').config_hash())"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "17"}
    ).stdout.strip()
    assert printed == load_profile("smoke").config_hash()
    assert digest({"b": 1, "a": [0.1]}) == digest({"a": [0.1], "b": 1})
    assert digest({"b": 1, "a": [0.1]}) == "d7582fcee4f8f93004bdb8f725022ae44acb9c523ffa474316662408086c59de"


def other(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [*value, "more"] if isinstance(value, (list, tuple)) else f"{value}x"


def test_the_hash_changes_with_any_one_value() -> None:
    plain = load_profile("smoke").model_dump(mode="json")
    hashes = {digest(plain)}
    keys = sorted(keys_of(plain))
    for key in keys:
        changed = Settings.model_validate(plain).model_dump(mode="json")
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            place = place[section]
        place[last] = other(place[last])
        hashes.add(digest(changed))
    assert len(hashes) == len(keys) + 1
    assert load_profile("smoke", {"seed": 1}).config_hash() != load_profile("smoke").config_hash()
