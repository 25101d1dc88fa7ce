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


def finish(
    settings: Settings, name: str, folder: Path | None, stats: Mapping[str, Any] | None = None, created: str = "", **older: Any
) -> None:  # fmt: skip
    """Publish a folder, or what was finished there before, as the graph does."""
    final = settings.outputs / name
    partial = final.with_name(f".{final.name}.partial")
    partial.mkdir(parents=True)
    if source := folder or (final if final.is_dir() else None):
        shutil.copytree(source, partial, dirs_exist_ok=True)
    if stats:
        store.write_json(partial / "training_stats.json", stats)
    used = {section: settings.model_dump(mode="json")[section] for section in ("model", "training", "team")} | older
    store.publish(partial, final, Manifest(task="base", fingerprint="f", sha256="s", files={}, settings=used, created_at=created))


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


def finish_training(settings: Settings, tiny_base: Path, tiny_splits: dict[str, Path], seconds: float, **stats: Any) -> None:
    """All learners, as one pass on this CPU leaves them: what they learned from, and how long it took."""
    finish(settings, "models/base", tiny_base)
    finish(settings, "splits/train", tiny_splits["splits/train"])
    tokens = parts(settings)[TUNED].tokens
    told = {"seconds": seconds, "tokens": tokens, "device": "cpu", "precision": "float32", "peak_memory_mib": 777, **stats}
    for learner in LEARNERS:
        finish(settings, f"models/{learner}", None, told)


def test_without_a_finished_training_the_time_is_unknown_and_the_peak_gives_the_least(changed: Changed, one_thread: None) -> None:
    machine = plan(changed(), machine=Machine(0, 1e11, 0.0))
    assert all(
        part.seconds == pytest.approx(sum(f / (1e11 * EFFICIENCY["cpu"][k]) for k, f in part.flops.items())) for part in machine.parts
    )
    here = plan(changed(), seconds=0.05)
    assert all(part.seconds is None and part.speed is None for part in here.parts)
    for part in here.parts:
        assert part.at_peak == (sum(part.flops.values()) / here.peaks["cpu"] if here.peaks else None)
    assert here.peaks or any("could not be measured, as other processes use this machine" in line for line in here.warnings)


def test_a_finished_training_of_the_same_model_tells_the_time_by_the_speed_that_it_reached(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = changed(training__max_examples=24)
    finish_training(settings, tiny_base, tiny_splits, 40.0)
    found = parts(settings)
    assert found[TUNED].seconds == pytest.approx(40.0)
    longer = parts(changed(training__max_examples=24, training__epochs=5))[TUNED]
    assert longer.seconds == pytest.approx(200.0)
    assert found[TEAM].seconds is None, "fine-tuning does not tell how fast messages are drawn"
    show(plan(settings, measure=False))
    printed = capsys.readouterr().out
    assert "40 s, 777 MiB" in printed and "of the finished training" in printed
    assert "models/maporl_team" in printed and "time unknown, as no model of about this size was trained so on this machine" in printed


@pytest.mark.parametrize("different", [{"device": "cuda:0"}, {"precision": "bfloat16"}, {"seconds": 0.0}, {"tokens": 0}])
def test_a_training_on_another_device_or_without_numbers_tells_no_time(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path], different: dict[str, Any]
) -> None:
    settings = changed(training__max_examples=24)
    finish_training(settings, tiny_base, tiny_splits, **{"seconds": 40.0, **different})
    assert parts(settings)[TUNED].seconds is None


@pytest.mark.parametrize("name", ["local-qwen3", "quickstart"])
def test_a_tiny_models_training_foretells_nothing_of_a_larger_one(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish_training(changed(training__max_examples=24), tiny_base, tiny_splits, 40.0)
    found = plan(changed(name), measure=False)
    assert [(part.seconds, part.speed, part.made) for part in found.parts] == [(None, None, "")] * len(found.parts)
    show(found)
    assert " h" not in capsys.readouterr().out.split("time")[1].splitlines()[0]


def test_a_training_of_another_version_of_the_settings_tells_no_time(
    changed: Changed, tiny_base: Path, tiny_splits: dict[str, Path]
) -> None:  # fmt: skip
    settings = changed(training__max_examples=24)
    finish_training(settings, tiny_base, tiny_splits, 40.0)
    for learner in LEARNERS:
        finish(settings, f"models/{learner}", None, training={"max_length": 8})
    assert parts(settings)[TUNED].seconds is None


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
    found = plan(changed(model__kind="hub", model__name="somebody/something", model__revision="main"), measure=False)
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
