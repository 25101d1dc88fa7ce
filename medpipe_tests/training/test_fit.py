"""What stops a fine-tuning and what does not: kills, failing writes, SIGTERM, too little memory, numbers that are none."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medpipe import store
from medpipe.errors import MedpipeError
from medpipe.job import Job
from medpipe.launch.worker import WorkReporter
from medpipe.models.adapters import AdapterModel
from medpipe.training import sft
from medpipe.training.checkpoint import damage
from medpipe.training.fit import schedule
from medpipe_tests.tiny_team import real_job, tiny_settings

LESSON = {
    "training.max_examples": 8, "training.batch_size": 2, "training.gradient_accumulation": 2, "training.epochs": 3,
    "training.learning_rate": 5e-3, "training.lora_dropout": 0.1,
}  # fmt: skip
Jobs = dict[str, Job]


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


def prepared(root: Path, inputs: dict[str, Path], after_step: Callable[[int], None] = lambda step: None, **overrides: Any) -> Jobs:
    """Jobs of two learners; all of one test's folder share their scratch folder, as the attempts at one asset do."""
    settings = tiny_settings({**LESSON, **{f"training.{key}": value for key, value in overrides.items()}})
    scratch = root.parent / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = {}
    for name in ("models/planner", "models/reporter"):
        job = real_job(name, settings, inputs, root)
        listens = after_step if name == "models/planner" else lambda step: None
        jobs[name] = dataclasses.replace(job, scratch=scratch, report=Listener(root, job.out, listens))
    return jobs


def train(root: Path, inputs: dict[str, Path], **overrides: Any) -> Jobs:
    jobs = prepared(root, inputs, **overrides)
    sft.run(jobs)
    return jobs


def at_rate(job: Job, rate: float) -> Job:
    """A learning rate that a profile may not say."""
    training = job.settings.training.model_copy(update={"learning_rate": rate})
    return dataclasses.replace(job, settings=job.settings.model_copy(update={"training": training}))


def said(jobs: Jobs) -> list[str]:
    reports = [job.report for job in jobs.values() if isinstance(job.report, Listener)]
    return [line for report in reports for line in report.said]


def adapters(jobs: Jobs) -> list[str]:
    return [store.sha256_file(job.out / "adapter_model.safetensors") for job in jobs.values()]


def steps(jobs: Jobs) -> list[list[int]]:
    return [[row["step"] for row in store.read_jsonl(job.out / "metrics.jsonl")] for job in jobs.values()]


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return train(tmp_path_factory.mktemp("whole") / "run", inputs)


@pytest.mark.slow
def test_a_training_that_is_ended_early_goes_on_and_ends_with_the_same_bytes(inputs: dict[str, Path]) -> None:
    """Kills at random moments, then every 150th write failing once; `python -m medpipe_tests.training.kills` does it at length."""
    folders = json.dumps({name: str(path) for name, path in inputs.items()})
    command = [sys.executable, "-m", "medpipe_tests.training.kills", "--kills", "3", "--writes", "150", "--inputs", folders]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["same"] == counted["trainings"] >= 2
    assert counted["ended_early"] >= 4 and counted["resumed"] >= 1


def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on_from_it(inputs: dict[str, Path], whole: Jobs, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked = prepared(tmp_path / "first", inputs, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None)
    with pytest.raises(MedpipeError, match=r"SIGTERM, expected 6 steps, in fine-tuning, after step [23]: materialise it again"):
        sft.run(asked)
    assert signal.getsignal(signal.SIGTERM) is before
    again = train(tmp_path / "second", inputs)
    assert any(line.startswith("going on after step ") for line in said(again))
    assert adapters(again) == adapters(whole) and steps(again) == steps(whole) == [list(range(1, 7))] * 2
    for job in again.values():
        assert store.read_json(job.out / "training_stats.json")["resumed_from_steps"] in ("2", "3")


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_used(inputs: dict[str, Path], whole: Jobs, tmp_path: Path) -> None:
    train(tmp_path / "first", inputs, checkpoint_seconds=0)
    newest = max((tmp_path / "scratch" / "checkpoints").glob("step-*"))
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    again = train(tmp_path / "second", inputs, checkpoint_seconds=0)
    assert any(str(newest) in line and "damaged" in line for line in said(again))
    assert adapters(again) == adapters(whole)


def test_too_little_memory_halves_the_rows_of_a_pass_and_keeps_the_lesson(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(tmp_path / "a" / "run", inputs, lora_dropout=0.0)
    with_room_for(1, monkeypatch)
    thrifty = train(tmp_path / "b" / "run", inputs, lora_dropout=0.0)
    told = [line for line in said(thrifty) if "out of memory" in line]
    assert "passes of up to 4 rows become passes of up to 2" in told[0] and "the effective batch stays 4 rows" in told[0]
    assert "passes of up to 2 rows become passes of up to 1" in told[1]
    for one, other in zip(plain.values(), thrifty.values(), strict=True):
        a, b = (load_file(job.out / "adapter_model.safetensors") for job in (one, other))
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_too_little_memory_for_one_row_names_the_settings_to_change(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(0, monkeypatch)
    with pytest.raises(MedpipeError, match=r"too little memory for a single row.*team\.max_header_tokens.*quantization"):
        train(tmp_path / "run", inputs)


def with_room_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training passes of more rows fail as they do on a GPU whose memory is full: the second learner's, after the first's gradients."""
    real = AdapterModel.score

    def score(self: AdapterModel, adapter: str, turns: Sequence[Any], *rest: Any, **more: Any) -> Any:
        if torch.is_grad_enabled() and len(turns) > rows and adapter == "reporter":
            raise torch.OutOfMemoryError("out of memory")
        return real(self, adapter, turns, *rest, **more)

    monkeypatch.setattr(AdapterModel, "score", score)


def test_another_error_is_not_taken_for_too_little_memory(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes disagree")

    jobs = prepared(tmp_path / "run", inputs)
    monkeypatch.setattr(sft, "mean_losses", lambda *_: {"planner": 1.0, "reporter": 1.0})
    monkeypatch.setattr(AdapterModel, "score", score)
    with pytest.raises(RuntimeError, match="shapes disagree"):
        sft.run(jobs)
    assert not [line for line in said(jobs) if "memory" in line]


def test_a_loss_that_is_no_number_stops_and_the_last_checkpoint_is_whole(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"got a loss of (nan|inf|\d+).*in fine-tuning, step \d, planner: lower training\.learning_rate"):
        sft.run({name: at_rate(job, 1e30) for name, job in prepared(tmp_path / "run", inputs, checkpoint_seconds=0).items()})
    kept = max((tmp_path / "scratch" / "checkpoints").glob("step-*"))
    assert not damage(kept)


def test_a_loss_above_the_limit_stops_before_any_weight_moves(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match=r"got a loss of \d.*training\.max_loss = 1\.0, in fine-tuning, step 1, planner: lower"):
        train(tmp_path / "run", inputs, max_loss=1.0)
    assert not (tmp_path / "scratch" / "checkpoints").exists()


def test_a_gradient_that_is_no_number_moves_no_learner(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reporter's gradient breaks in the second step: the planner does not take that step either, so both stand at one step."""
    calls: list[int] = []
    true = torch.nn.utils.clip_grad_norm_

    def norm(parameters: Any, clip: float) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(float("nan")) if len(calls) == 4 else true(parameters, clip)

    moves: list[int] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", norm)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *rest: moves.append(1) or step(self, *rest))
    with pytest.raises(MedpipeError, match=r"got a gradient of norm nan.*in fine-tuning, step 2, reporter"):
        train(tmp_path / "run", inputs)
    assert len(moves) == 2


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [schedule(step, 20, 0.2) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.01
    assert schedule(0, 1, 0.0) == 1.0
