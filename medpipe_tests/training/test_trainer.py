"""What stops a fine-tuning and what does not: kills, failing writes, SIGTERM, too little memory, numbers that are none."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.launch.worker import WorkReporter
from medpipe.models.policy import Policies
from medpipe.training import sft
from medpipe.training.checkpoint import damage
from medpipe_tests.tiny_team import real_job, tiny_settings

LESSON = {
    "training.max_examples": 8, "training.batch_size": 2, "training.gradient_accumulation": 2, "training.epochs": 3,
    "training.learning_rate": 5e-3, "training.lora_dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_splits: dict[str, Path]) -> dict[str, Path]:
    return {"models/base": tiny_base, **tiny_splits}


class Listener(WorkReporter):
    """The worker's reporter, which keeps what was said and acts after a step."""

    def __init__(self, root: Path, out: Path, after_step: Callable[[int], None]) -> None:
        self.said: list[str] = []
        self._after_step = after_step
        super().__init__(root / "log.txt", out, lambda level, text: self.said.append(text))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        super().metrics(step, values)
        self._after_step(step)


def prepared(root: Path, inputs: dict[str, Path], after_step: Callable[[int], None] = lambda step: None, **overrides: Any) -> Job:
    """A job; all jobs of one test's folder share their scratch folder, as the attempts at one asset do."""
    settings = tiny_settings({**LESSON, **{f"training.{key}": value for key, value in overrides.items()}})
    job = real_job("models/reporter", settings, inputs, root)
    scratch = root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return dataclasses.replace(job, scratch=scratch, report=Listener(root, job.out, after_step))


def train(root: Path, inputs: dict[str, Path], **overrides: Any) -> Job:
    job = prepared(root, inputs, **overrides)
    sft.run(job)
    return job


def said(job: Job) -> list[str]:
    assert isinstance(job.report, Listener)
    return job.report.said


def adapter(job: Job) -> str:
    return store.sha256_file(job.out / "adapter_model.safetensors")


def steps(job: Job) -> list[int]:
    return [row["step"] for row in store.read_jsonl(job.out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    return train(tmp_path_factory.mktemp("whole") / "run", inputs)


def test_a_training_that_is_ended_early_goes_on_and_ends_with_the_same_bytes(inputs: dict[str, Path]) -> None:
    """Kills at random moments, then every 150th write failing once; `python -m medpipe_tests.training.kills` does it at length."""
    folders = json.dumps({name: str(path) for name, path in inputs.items()})
    command = [sys.executable, "-m", "medpipe_tests.training.kills", "--kills", "3", "--writes", "150", "--inputs", folders]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["same"] == counted["trainings"] >= 2
    assert counted["ended_early"] >= 4 and counted["resumed"] >= 1


def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on_from_it(inputs: dict[str, Path], whole: Job, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked = prepared(tmp_path / "first", inputs, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None)
    with pytest.raises(MedpipeError, match=r"SIGTERM, expected 6 steps, in models/reporter, after step 3: materialise it again"):
        sft.run(asked)
    assert signal.getsignal(signal.SIGTERM) is before
    again = train(tmp_path / "second", inputs)
    assert any(line.startswith("going on after step 3, ") for line in said(again))
    assert adapter(again) == adapter(whole) and steps(again) == steps(whole) == list(range(1, 7))
    assert store.read_json(again.out / "training_stats.json")["resumed_from_steps"] == "3"


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_used(inputs: dict[str, Path], whole: Job, tmp_path: Path) -> None:
    train(tmp_path / "first", inputs, checkpoint_seconds=0)
    newest = max((tmp_path / "scratch" / "checkpoints").glob("step-*"))
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    again = train(tmp_path / "second", inputs, checkpoint_seconds=0)
    assert any(str(newest) in line and "damaged" in line for line in said(again))
    assert adapter(again) == adapter(whole)


def test_too_little_memory_halves_the_rows_of_a_pass_and_keeps_the_lesson(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(tmp_path / "a" / "run", inputs, lora_dropout=0.0)
    with_room_for(1, monkeypatch)
    thrifty = train(tmp_path / "b" / "run", inputs, lora_dropout=0.0)
    told = [line for line in said(thrifty) if "out of memory" in line]
    assert "passes of up to 4 rows become passes of up to 2" in told[0] and "the effective batch stays 4 rows" in told[0]
    assert "passes of up to 2 rows become passes of up to 1" in told[1]
    one, other = (load_file(job.out / "adapter_model.safetensors") for job in (plain, thrifty))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_too_little_memory_for_one_row_names_the_settings_to_change(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(0, monkeypatch)
    with pytest.raises(
        MedpipeError, match=r"too little memory for a single row.*training\.max_length.*gradient_checkpointing.*quantization"
    ):
        train(tmp_path / "run", inputs)


def with_room_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training passes of more rows fail as they do on a GPU whose memory is full."""
    real = Policies.score

    def score(self: Policies, prompts: Any, completions: Any, **options: Any) -> Any:
        if torch.is_grad_enabled() and len(prompts) > rows:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, prompts, completions, **options)

    monkeypatch.setattr(Policies, "score", score)


def test_a_loss_that_is_no_number_stops_and_the_last_whole_checkpoint_is_kept_and_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        train(tmp_path / "run", inputs, learning_rate=1e30, checkpoint_seconds=0)
    kept = max((tmp_path / "scratch" / "checkpoints").glob("step-*"))
    assert "models/reporter, step " in str(caught.value) and str(kept) in str(caught.value) and not damage(kept)


def test_a_loss_above_the_limit_stops_before_any_weight_moves(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"got a loss of \d.*training\.max_loss = 2\.0, in models/reporter, step 1: lower"):
        train(tmp_path / "run", inputs, max_loss=2.0)
    assert not (tmp_path / "scratch" / "checkpoints").exists()


def test_all_weights_can_learn_and_the_base_on_disk_stays(inputs: dict[str, Path], tmp_path: Path) -> None:
    before = store.hash_tree(inputs["models/base"])
    job = train(tmp_path / "run", inputs, method="full", learning_rate=1e-3)
    assert store.hash_tree(inputs["models/base"]) == before
    made, base = load_file(job.out / "model.safetensors"), load_file(inputs["models/base"] / "model.safetensors")
    assert made.keys() == base.keys() and all(not torch.equal(made[name], base[name]) for name in made)
    losses = [row["loss"] for row in store.read_jsonl(job.out / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    assert not [path for path in job.out.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    with pytest.raises(MedpipeError, match=r"got no adapter for reporter.*set training\.method = lora"):
        Policies.load(inputs["models/base"], {"reporter": job.out})


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_an_adapter_learns_on_a_quantised_base(inputs: dict[str, Path], tmp_path: Path, bits: str) -> None:
    settings = tiny_settings({**LESSON, "model.quantization": bits, "training.lora_dropout": 0.0})
    job = real_job("models/reporter", settings, inputs, tmp_path)
    outcome = sft.run(job)
    assert outcome.checks[0].name == "adapter_moved_base_frozen" and outcome.checks[0].passed
    losses = [row["loss"] for row in store.read_jsonl(job.out / "metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_packed_rows_teach_the_same(inputs: dict[str, Path], tmp_path: Path) -> None:
    jobs = [train(tmp_path / packing / "run", inputs, packing=packing, lora_dropout=0.0) for packing in ("on", "off")]
    one, other = (load_file(job.out / "adapter_model.safetensors") for job in jobs)
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_a_model_whose_arithmetic_is_not_known_gets_no_utilisation_made_up(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medpipe.training.meter.FAMILIES", ("another",))
    job = train(tmp_path / "run", inputs)
    stats = store.read_json(job.out / "training_stats.json")
    assert "mfu" not in stats and stats["tokens_per_second"] > 0
    assert not [row for row in store.read_jsonl(job.out / "metrics.jsonl") if "mfu" in row]
