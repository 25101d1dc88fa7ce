"""The plan: what it tells before anything is made, from finished splits and base, beside a finished role, and its warnings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.launch.devices import Machine
from medpipe.plan import EFFICIENCY, FRAME, LONE, TEAM, UNKNOWN, Part, plan, rows_of, show
from medpipe.schema import LEARNERS, ROLES, Manifest, speaker_of

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


def parts(settings: Settings, **how: Any) -> dict[str, Part]:
    return {part.name: part for part in plan(settings, **{"measure": False, **how}).parts}


TUNED = ", ".join(f"models/{learner}" for learner in LEARNERS)


def test_before_anything_is_made_the_limits_of_the_profile_are_told_as_upper_bounds(changed: Changed) -> None:
    settings = changed("local-qwen3")
    found = plan(settings, measure=False)
    assert found.dims and found.dims.parameters == 596_049_920
    assert [part.name for part in found.parts] == [TUNED, TEAM, LONE]  # one device: all learn in one pass
    training, team, tuned = settings.training, settings.team, found.parts[0]
    full = team.max_header_tokens + 2 * sum(team.max_new_tokens[role] + FRAME for role in ROLES)
    said = sum(team.max_new_tokens[speaker_of(learner)] for learner in LEARNERS)
    assert tuned.tokens == training.epochs * training.max_examples * (full + said)
    assert tuned.steps == training.epochs * -(-training.max_examples // (training.batch_size * training.gradient_accumulation))
    assert tuned.basis.startswith("at most")
    assert all(part.seconds is None for part in found.parts), "nothing was measured: no time is made up"


def test_nothing_is_loaded_to_plan() -> None:
    """torch takes seconds to import: the plan needs it for the measurement alone."""
    code = (
        "import sys; from medpipe.plan import plan; from medpipe.config import load_profile; "
        "plan(load_profile('smoke', {'paths.outputs': '/nonexistent'}), measure=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_steps_and_tokens_are_those_of_the_lessons_that_a_training_makes(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path], tokenizer: Any
) -> None:
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.team.transcript import Frame
    from medpipe.training import sft

    settings = changed(training__max_examples=24, training__epochs=2)
    finish(settings, "models/base", tiny_base)
    finish(settings, "splits/train", tiny_splits["splits/train"])
    index = EvidenceIndex.load(tiny_splits["splits/train"] / "evidence")
    rows = sft.pick(store.read_examples(tiny_splits["splits/train"]), 24, settings.training.choice_share, settings.seed)
    lessons = sft.make_lessons(rows, index, LEARNERS, Frame(tokenizer), settings, training=True)
    of, tuned = rows_of(settings, LEARNERS), parts(settings)[TUNED]
    assert of.count == len(lessons) and of.longest == max(len(lesson.tokens) for lesson in lessons)
    assert tuned.tokens == pytest.approx(2 * sum(map(len, lessons)))
    assert tuned.steps == len(sft.optimizer_steps(lessons, 8, 2, "0"))


def test_time_is_flops_over_what_this_machine_multiplies_and_the_share_that_each_kind_of_work_reaches(
    changed: Changed, one_thread: None
) -> None:
    found = plan(changed(), seconds=0.05)
    for part in found.parts:
        told = sum(flops / (found.peaks["cpu"] * EFFICIENCY["cpu"][kind]) for kind, flops in part.flops.items())
        assert part.seconds == pytest.approx(told)


def test_what_was_trained_before_changes_no_estimate(changed: Changed, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny model's training says nothing of how fast a larger one would be, least of all another profile's."""
    machine = Machine(0, 1e11, 0.0)
    fresh = [plan(changed(name), machine=machine) for name in ("smoke", "local-qwen3")]
    stats = {"role": "planner", "seconds": 4000.0, "tokens": 10, "device": "cpu", "peak_memory_mib": 777}
    finish(changed(), "models/planner", None, stats)
    later = [plan(changed(name), machine=machine) for name in ("smoke", "local-qwen3")]
    assert [[part.seconds for part in one.parts] for one in later] == [[part.seconds for part in one.parts] for one in fresh]
    assert [one.parts[0].made for one in later] == ["67 min, 777 MiB", ""]  # told of the very same model only, beside the estimate
    show(later[0])
    printed = capsys.readouterr().out
    assert "67 min, 777 MiB" in printed and "maporl_team" in printed and "agent_rl" in printed


def test_one_pass_for_all_learners_costs_less_than_whole_sequence_adapters(changed: Changed) -> None:
    def cost(**changes: Any) -> float:
        return sum(parts(changed("quickstart", **changes))[TUNED].flops.values())

    assert cost() * 4 < cost(training__adapter="lora")


def test_each_gpu_has_a_part_of_its_own_with_the_agent_beside_the_last_role(changed: Changed) -> None:
    found = plan(changed("local-qwen3"), machine=Machine(4, 1e14, 24_000.0)).parts
    assert [part.name for part in found[:4]] == [
        "models/planner", "models/researcher", "models/analyst", "models/reporter, models/agent"
    ]  # fmt: skip
    assert [part.place.gpu for part in found[:4]] == ["0", "1", "2", "3"] and all(part.seconds for part in found)


def test_more_rounds_samples_and_a_reference_cost_more(changed: Changed) -> None:
    def cost(**changes: Any) -> float:
        return sum(parts(changed("quickstart", **changes))[TEAM].flops.values())

    for change in ({"maporl__samples_per_question": 32}, {"team__max_rounds_per_episode": 9}, {"maporl__kl": 0.1}, {"maporl__redraw": 3.0},
                   {"maporl__credit": "tree"}, {"maporl__epochs": 4}, {"training__adapter": "lora"}):  # fmt: skip
        assert cost(**change) > cost(), change


def test_memory_that_the_machine_lacks_is_told(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.plan._limit_mib", lambda place: 900.0)
    first, team, lone = plan(changed("quickstart"), measure=False).warnings
    assert "models/planner" in first and "900 MiB" in first and "training.tokens_per_pass" in first
    assert team.startswith(TEAM) and lone.startswith(LONE) and "maporl.minibatch" in team
    assert plan(changed(), measure=False).warnings == ()


def test_more_layers_than_there_are_are_told(changed: Changed) -> None:
    assert "has 2 layers" in plan(changed(training__lora_layers=5), measure=False).warnings[0]


def test_a_model_that_nobody_knows_is_not_guessed_at(changed: Changed, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(changed(model__kind="hub", model__name="somebody/something"), measure=False)
    assert found.dims is None and found.parts == ()
    show(found)
    assert UNKNOWN in capsys.readouterr().out


def test_the_finished_base_goes_before_the_table_and_its_probe_decides_the_precision(changed: Changed, tiny_base: Path) -> None:
    settings = changed(model__precision="auto")
    assert parts(settings)[TEAM].memory["weights"] > 0
    before = parts(settings)[TEAM].memory["keys and values"]
    finish(settings, "models/base", tiny_base)
    store.write_json(settings.outputs / "models" / "base" / "precision.json", {"cpu": "bf16"})
    found = plan(settings, measure=False)
    assert found.origin.endswith("config.json")
    assert found.dims and found.dims.vocab == store.read_json(tiny_base / "config.json")["vocab_size"]
    assert found.parts[1].memory["keys and values"] == pytest.approx(before / 2)


def test_smaller_passes_need_less_memory(changed: Changed) -> None:
    few, many = (parts(changed("quickstart", training__batch_size=16, training__tokens_per_pass=n))[TUNED].memory for n in (1024, 8192))
    assert few["activations"] < many["activations"] and few["keys and values"] < many["keys and values"]
