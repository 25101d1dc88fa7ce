"""The plan: what it tells before anything is made, from finished splits and base, beside a finished role, and its warnings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.lengths import lengths
from medpipe.plan import ASSUMED, UNKNOWN, plan, show
from medpipe.schema import ROLES, Manifest

Changed = Callable[..., Settings]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Settings of a profile with outputs below tmp_path, on a machine without GPUs."""

    def make(profile: str = "smoke", **changes: Any) -> Settings:
        return load_profile(profile, {"paths.outputs": str(tmp_path / "outputs"), **{k.replace("__", "."): v for k, v in changes.items()}})

    return make


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def finish(settings: Settings, name: str, folder: Path | None, stats: Mapping[str, Any] | None = None, created: str = "") -> None:
    """Put a folder where the graph would have published it."""
    final = settings.outputs / name
    if folder:
        shutil.copytree(folder, final)
    if stats:
        store.write_json(final / "training_stats.json", stats)
    used = {section: settings.model_dump(mode="json")[section] for section in ("model", "training", "team")}
    manifest = Manifest(task="base", fingerprint="f", sha256="s", files={}, settings=used, created_at=created)
    store.write_json(final / "manifest.json", manifest.model_dump(mode="json"))


def stats_of(role: str, **changes: Any) -> dict[str, Any]:
    return {"role": role, "seconds": 40.0, "tokens": 4000, "device": "cpu", "tokens_per_second": 100.0, **changes}


def test_before_anything_is_made_the_limits_of_the_profile_are_told_as_upper_bounds(changed: Changed) -> None:
    settings = changed("local-qwen3")
    found = plan(settings, measure=False)
    assert found.dims and found.dims.parameters == 596_049_920
    assert [part.name for part in found.parts] == [*(f"models/{role}" for role in ROLES), "models/maporl_team"]
    for part, role in zip(found.parts, ROLES, strict=False):
        training = settings.training
        said = min(training.max_completion, settings.team.max_new_tokens[role])
        row = said + min(settings.team.max_prompt_tokens, training.max_length - said)
        assert part.tokens == training.epochs * training.max_examples * row
        assert part.steps == training.epochs * training.max_examples / (training.batch_size * training.gradient_accumulation)
        assert part.basis.startswith("at most")
        assert part.seconds is None, "nothing was measured and nothing has run: no time is made up"


def test_nothing_is_loaded_to_plan() -> None:
    """torch takes seconds to import: the plan needs it for the measurement alone."""
    code = (
        "import sys; from medpipe.plan import plan; from medpipe.config import load_profile; "
        "plan(load_profile('smoke', {'paths.outputs': '/nonexistent'}), measure=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_steps_and_tokens_come_from_the_finished_splits_and_base(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path], tokenizer: Any, make_job: Any
) -> None:
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.training import sft

    settings = changed(training__max_examples=24, training__epochs=2)
    finish(settings, "models/base", tiny_base)
    finish(settings, "splits/train", tiny_splits["splits/train"])
    counted = lengths(settings, "analyst", settings.outputs / "models/base")
    index = EvidenceIndex.load(tiny_splits["splits/train"] / "evidence")
    rows = sft.pick(store.read_examples(tiny_splits["splits/train"]), 24, settings.seed)
    real = sft.role_rows("analyst", rows, index, tokenizer, make_job("models/analyst", settings))
    assert counted.rows == len(real)
    assert counted.said == pytest.approx(fmean(len(row.target) for row in real), rel=0.25)
    assert counted.prompt == pytest.approx(fmean(len(row.prompt) for row in real), rel=0.25)
    part = next(part for part in plan(settings, measure=False).parts if part.name == "models/analyst")
    assert part.tokens == pytest.approx(2 * sum(map(len, real)), rel=0.25)
    assert part.steps == 2 * 3


def test_time_is_flops_over_the_measured_peak_and_the_share_that_the_last_run_reached(changed: Changed, one_thread: None) -> None:
    settings = changed(hardware__cpu_processes=1)
    fresh = plan(settings, seconds=0.05)
    assert fresh.utilisation["cpu"] == (ASSUMED["cpu"], "assumed: no finished run has measured it")
    part = fresh.parts[0]
    assert part.seconds == pytest.approx(part.flops / (fresh.peaks["cpu"] * ASSUMED["cpu"]))
    finish(settings, "models/planner", None, stats_of("planner", mfu=0.1), created="2026-01-01")
    finish(settings, "models/analyst", None, stats_of("analyst", mfu=0.2, matmul_peak_gflops=50.0), created="2026-01-02")
    finish(settings, "models/reporter", None, stats_of("reporter", mfu=0.9, device="cuda:0"), created="2026-01-03")
    later = plan(settings, measure=False)
    assert later.utilisation["cpu"] == (0.2, "as models/analyst reached")
    assert later.peaks["cpu"] == pytest.approx(50e9)
    assert later.parts[0].seconds == pytest.approx(later.parts[0].flops / (50e9 * 0.2))


def test_a_finished_role_stands_beside_its_estimate(changed: Changed, capsys: pytest.CaptureFixture[str]) -> None:
    settings = changed()
    finish(settings, "models/planner", None, stats_of("planner", peak_memory_mib=777))
    finish(settings, "models/reporter", None, stats_of("reporter"))
    found = plan(settings, measure=False)
    told = {one.part.name: (one.seconds, one.memory_mib, one.tokens, one.same_settings) for one in found.actual}
    assert told == {"models/planner": (40.0, 777, 4000, True), "models/reporter": (40.0, None, 4000, True)}
    assert not plan(changed(training__epochs=3), measure=False).actual[0].same_settings
    show(found)
    printed = capsys.readouterr().out
    assert "→ 777" in printed and "→ unknown" in printed and "maporl_team" in printed


def test_the_time_of_a_team_is_told_from_the_last_team_only(changed: Changed) -> None:
    settings = changed()
    assert plan(settings, measure=False).parts[-1].seconds is None
    finish(settings, "models/maporl_team", None, {"seconds": 60.0, "iterations": 2, "episodes_per_iteration": 4, "device": "cpu"})
    assert plan(settings, measure=False).parts[-1].seconds == pytest.approx(60.0)
    assert plan(changed(maporl__iterations=20), measure=False).parts[-1].seconds == pytest.approx(600.0)


def test_memory_that_the_machine_lacks_is_told(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.plan._limit_mib", lambda place: 900.0)
    (warning, *_) = plan(changed("quickstart"), measure=False).warnings
    assert "models/planner needs about" in warning and "900 MiB" in warning and "training.tokens_per_pass" in warning
    assert plan(changed(hardware__cpu_processes=1), measure=False).warnings == ()


def test_roles_that_fit_alone_but_not_at_once_are_told(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    most = max(part.memory_mib for part in plan(changed(), measure=False).parts)
    monkeypatch.setattr("medpipe.plan._limit_mib", lambda place: most * 1.5)
    (warning,) = plan(changed(hardware__cpu_processes=2), measure=False).warnings
    assert "hardware.cpu_processes" in warning
    assert plan(changed(hardware__cpu_processes=1), measure=False).warnings == ()


def test_weights_of_ones_own_and_a_team_on_one_base_cant_go_together(changed: Changed) -> None:
    found = plan(changed(training__method="full"), measure=False)
    assert [part.name for part in found.parts] == [f"models/{role}" for role in ROLES]
    assert found.dims and all((part.trainable, part.frozen) == (found.dims.parameters, 0) for part in found.parts)
    assert "co-trains adapters on one shared base" in found.warnings[0]


def test_more_layers_than_there_are_are_told(changed: Changed) -> None:
    assert "has 2 layers" in plan(changed(training__lora_layers=5), measure=False).warnings[0]


def test_a_model_that_nobody_knows_is_not_guessed_at(changed: Changed, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(changed(model__kind="hub", model__name="somebody/something"), measure=False)
    assert found.dims is None and found.parts == ()
    show(found)
    assert UNKNOWN in capsys.readouterr().out


def test_the_finished_base_goes_before_the_table(changed: Changed, tiny_base: Path) -> None:
    settings = changed()
    finish(settings, "models/base", tiny_base)
    found = plan(settings, measure=False)
    assert found.origin.endswith("config.json")
    assert found.dims and found.dims.vocab == store.read_json(tiny_base / "config.json")["vocab_size"]


def test_checkpointing_and_smaller_passes_need_less_memory(changed: Changed) -> None:
    def memory(**changes: Any) -> float:
        return plan(changed("quickstart", training__batch_size=16, **changes), measure=False).parts[0].memory["activations"]

    assert memory(training__gradient_checkpointing=True) < memory()
    assert memory() < memory(training__tokens_per_pass=8192) / 4
