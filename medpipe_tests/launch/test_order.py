"""When a result stands and when it is made again: fingerprints, and finished folders that are whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from medpipe import results, store
from medpipe.config import Settings, load_profile
from medpipe.job import scoped
from medpipe.launch.devices import place_light
from medpipe.launch.order import Order, as_extras, standing_result, to_ref, write_order
from medpipe.schema import Manifest, Ref
from medpipe.tasks import TASKS

INPUTS = {"corpus/clean": "a" * 64}


def prints(**overrides: Any) -> dict[str, str]:
    """Every task's fingerprint under the smoke profile with these exceptions (dots written as __)."""
    settings = load_profile("smoke", {key.replace("__", "."): value for key, value in overrides.items()})
    return {key: task.fingerprint(settings, INPUTS, name="x") for key, task in TASKS.items()}


def changed(**overrides: Any) -> set[str]:
    before, after = prints(), prints(**overrides)
    return {key for key in TASKS if before[key] != after[key]}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, set()),
        ({"training__learning_rate": 0.5}, {"sft", "verifier", "tuning", "report"}),
        ({"training__epochs": 2}, {"sft", "verifier", "tuning", "report"}),
        ({"evaluation__max_questions": 3}, {"benchmark", "leaderboard", "champion", "report"}),
        ({"maporl__iterations": 3}, {"verifier", "maporl", "tuning", "report"}),
        ({"rewards__safety": 0.2}, {"audit", "maporl", "benchmark", "tuning", "report"}),
        ({"model__name": "other"}, {"base", "sft", "verifier", "maporl", "benchmark", "champion", "tuning", "report"}),
        ({"corpus__min_question_chars": 20}, {"source", "clean", "split", "benchmark", "report"}),
        ({"release__margin": 0.1}, {"champion", "report"}),
        ({"tuning__trials": 9}, {"tuning"}),
        ({"aws__launcher": "sagemaker", "aws__bucket": "another"}, set()),
        ({"tracking__experiment": "another"}, {"champion", "tuning"}),  # where versions and the trials' runs are kept
        ({"paths__outputs": "elsewhere", "paths__data": "there"}, set()),
        ({"seed": 1}, set(TASKS)),
    ],
)
def test_a_changed_setting_changes_the_work_that_depends_on_it_and_no_other(overrides: dict[str, Any], expected: set[str]) -> None:
    """What follows from other inputs' content comes on top of this, when it has changed."""
    assert changed(**overrides) == expected


@pytest.mark.parametrize("key", TASKS)
def test_changed_content_a_new_input_and_another_asset_each_change_the_fingerprint(key: str) -> None:
    task, settings = TASKS[key], load_profile("smoke")
    different = {
        task.fingerprint(settings, INPUTS, name="x"),
        task.fingerprint(settings, {"corpus/clean": "b" * 64}, name="x"),
        task.fingerprint(settings, {**INPUTS, "splits/train": "a" * 64}, name="x"),
        task.fingerprint(settings, INPUTS, name="y"),
        task.fingerprint(settings, INPUTS, name="x", archive="c" * 64),
    }
    assert len(different) == 5
    assert task.fingerprint(settings, INPUTS, name="x") in different


def test_reading_a_section_that_was_not_declared_is_an_error(settings: Settings) -> None:
    seen = scoped(settings, TASKS["base"].sections)
    assert seen.model == settings.model
    assert (seen.seed, seen.outputs, seen.data) == (settings.seed, settings.outputs, settings.data)
    with pytest.raises(AttributeError, match=r"did not declare the settings section 'training': add it to its Task in medpipe/tasks\.py"):
        _ = seen.training


@pytest.mark.parametrize("key", TASKS)
def test_every_declared_section_is_one(settings: Settings, key: str) -> None:
    assert set(TASKS[key].sections) <= set(type(settings).model_fields)


def finished(settings: Settings, **update: Any) -> tuple[Order, Path]:
    """An order, and the finished folder that stands for it."""
    order = write_order("sources/custom", "source", settings, {}, place_light(), "run", {})
    partial = results.partial_of(Path(order.out))
    partial.mkdir(parents=True)
    store.write_jsonl(partial / store.ROWS, [{"a": 1}])
    files = store.hash_tree(partial)
    manifest = Manifest(task="source", fingerprint=order.fingerprint, sha256=store.hash_of_hashes(files), files=files)
    store.publish(partial, Path(order.out), manifest.model_copy(update=update))
    return order, Path(order.out)


def test_a_whole_result_of_the_very_order_stands(settings: Settings) -> None:
    order, folder = finished(settings)
    manifest = standing_result(order)
    assert manifest is not None
    ref = to_ref(order, manifest)
    assert (ref.path, ref.sha256, ref.status) == (str(folder), manifest.sha256, "ok")
    assert set(ref.scope) == {"corpus", "seed"}, "what it depends on is handed on with it"


def test_nothing_stands_before_it_was_made(settings: Settings) -> None:
    assert standing_result(write_order("sources/custom", "source", settings, {}, place_light(), "run", {})) is None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("flip", "rows.jsonl in {folder} missing or not as made"), ("remove", "rows.jsonl in {folder} missing or not as made"),
        ("manifest", ""), ("torn manifest", "got a manifest that can't be read"), ("other checks", "got a manifest that was altered"),
    ],
)  # fmt: skip
def test_a_damaged_result_does_not_stand_and_the_damage_is_named(settings: Settings, damage: str, told: str) -> None:
    order, folder = finished(settings)
    assert standing_result(order) is not None  # every byte was read once, and is remembered
    rows, manifest = folder / store.ROWS, folder / store.MANIFEST
    if damage == "flip":
        times = rows.stat()
        rows.write_bytes(bytes([rows.read_bytes()[0] ^ 1]) + rows.read_bytes()[1:])
        os.utime(rows, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, the same time
    elif damage == "torn manifest":
        manifest.write_bytes(manifest.read_bytes()[:100])
    elif damage == "other checks":
        manifest.write_text(manifest.read_text(encoding="utf-8").replace('"reason": ""', '"reason": "fine"'), encoding="utf-8")
    else:
        (rows if damage == "remove" else manifest).unlink()
    said: list[str] = []
    assert standing_result(order, said.append) is None
    assert told.format(folder=folder) in " ".join(said)


def test_a_file_that_somebody_added_is_named_and_left_alone(settings: Settings) -> None:
    order, folder = finished(settings)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    said: list[str] = []
    assert standing_result(order, said.append) is not None
    assert said == [f"sources/custom: notes.txt in {folder} is not of its making, and is left alone"]
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_what_could_not_be_had_is_tried_again(settings: Settings) -> None:
    order, _ = finished(settings, status="unreachable", reason="no network")
    assert standing_result(order) is None


def test_a_result_of_another_fingerprint_does_not_stand(settings: Settings) -> None:
    order, _ = finished(settings)
    other = settings.model_copy(update={"seed": settings.seed + 1})
    assert standing_result(write_order("sources/custom", "source", other, {}, place_light(), "run", {})) is None
    assert standing_result(write_order("sources/custom", "source", settings, {}, place_light(), "run", {"new.jsonl": "1"})) is None
    assert standing_result(order) is not None


def test_an_order_crosses_the_border_between_processes_unchanged(settings: Settings) -> None:
    ref = Ref(path="somewhere", sha256="d" * 64, status="unreachable", reason="no network")
    order = write_order("corpus/clean", "clean", settings, {"sources/medquad": ref}, place_light(), "run", {})
    assert Order.model_validate(as_extras(order)["order"]) == order
    assert Order.model_validate_json(order.model_dump_json()) == order
