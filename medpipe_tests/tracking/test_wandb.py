"""Weights & Biases without an account: runs kept offline, read back from the files that `wandb sync` would send."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.tracking import Tracker, track_missed
from medpipe.tracking.journal import journals
from medpipe_tests.tracking.tracked import DATASETS, PARAMS, TAGS, points, settings_in

pytestmark = pytest.mark.slow
BLOCK, HEADER = 32768, 7


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes, W&B's own protobuf within."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]  (protobuf makes its names at run time)

    data, at, part = file.read_bytes(), HEADER, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + HEADER])
        part += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last of several
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def offline(folder: Path) -> dict[str, Any]:
    """What one offline run says: its head, and its points by step."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"points": [], "exit": None}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["points"].append(items)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def work(folder: Path, **tracking: Any) -> list[str]:
    said: list[str] = []
    tracker = Tracker(settings_in(folder, **tracking), "models/planner", "run-1", PARAMS, TAGS, said.append, DATASETS)
    for step in (1, 2, 2, 5):
        tracker.metrics(step, {"loss": step / 10})
    tracker.close(False, {"rows": 12.0})
    return said


def steps(found: dict[str, Any]) -> list[tuple[int, float]]:
    return [(point["step"], point["loss"]) for point in found["points"] if "loss" in point]


def test_an_offline_run_bears_project_tags_parameters_and_each_point_once(tmp_path: Path) -> None:
    said = work(tmp_path, kind="wandb", wandb_mode="offline", wandb_project="maporl-medxpert", wandb_tags=["medxpert", "4gpu"])
    assert said == []
    found = offline(tmp_path)
    assert steps(found) == [(1, 0.1), (2, 0.2), (2, 0.2), (5, 0.5)]
    run = found["run"]
    assert (run.project, run.display_name, run.run_group, run.job_type) == ("maporl-medxpert", "models/planner", "run-1", "models")
    assert list(run.tags) == ["medxpert", "4gpu", "smoke"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["training.epochs"] == 3 and config["dataset.splits/train"] == "e" * 64
    assert found["exit"] == 0
    assert not (tmp_path / "mlflow.db").exists()


def test_an_interrupted_feeding_is_written_anew_and_not_twice(tmp_path: Path) -> None:
    tracking = {"kind": "wandb", "wandb_mode": "offline"}
    work(tmp_path, **tracking)
    (path,) = journals(tmp_path)
    store.write_json(path.with_name(f"{path.name}.wandb"), {"lines": 3, "done": False})
    assert track_missed(settings_in(tmp_path, **tracking), print) == {"wandb": 0}
    assert steps(offline(tmp_path)) == [(1, 0.1), (2, 0.2), (2, 0.2), (5, 0.5)]


def test_both_trackers_get_the_same_points(tmp_path: Path) -> None:
    assert work(tmp_path, kind="both", wandb_mode="offline") == []
    assert steps(offline(tmp_path)) == [(1, 0.1), (2, 0.2), (2, 0.2), (5, 0.5)]
    assert {point for point in points(tmp_path / "mlflow.db") if point[0] == "loss"} == {
        ("loss", 1, 0.1),
        ("loss", 2, 0.2),
        ("loss", 5, 0.5),
    }


def test_online_without_a_key_is_said_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    said = work(tmp_path, kind="wandb")
    assert said[0].startswith("Weights & Biases failed (got no WANDB_API_KEY, expected the key of your account")
    assert said[-1].startswith("wandb still lacks 6 lines of models/planner")
