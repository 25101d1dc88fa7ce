"""A real tiny team in a real registry: versions, aliases, the way back, and answers in a process that knows nothing but MLflow."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe import NOTICE, consult, registry, store
from medpipe.config import Settings
from medpipe.errors import MedpipeError
from medpipe.evaluation import champion
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.job import Job
from medpipe.questions import to_questions
from medpipe.tracking import tracking_uri
from medpipe_tests.conftest import Collected
from medpipe_tests.evaluation.folders import Run
from medpipe_tests.evaluation.test_champion import RIGHT, With, evaluated
from medpipe_tests.test_consult import Outputs

ASKED = [{"question": "What is sepsis?"}, {"question": "Which organ makes insulin?", "options": ["liver", "pancreas"]}]
PREDICTS = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
frame = pandas.DataFrame([{"options": None, **row} for row in json.loads(sys.argv[3])])
import medpipe
one = model.predict(frame[["question"]][:1])
print("told", json.dumps({"rows": model.predict(frame).to_dict("records"), "alone": one.to_dict("records"), "code": medpipe.__file__}))
"""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def outputs(tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path], tiny_splits: dict[str, Path]) -> Outputs:
    return Outputs(tmp_path, tiny_base, tiny_adapters, tiny_splits).base().team()


def inputs_of(settings: Settings) -> dict[str, Path]:
    return {key: settings.outputs / key for key in ("models/maporl_team", "models/base", "splits/train")}


def registered(outputs: Outputs, key: str) -> registry.Version:
    return registry.register(outputs.settings, inputs_of(outputs.settings), key, {"told": key}, "a test")


def aliases(settings: Settings) -> dict[str, str]:
    from mlflow.tracking import MlflowClient

    found = MlflowClient(tracking_uri(settings), registry_uri=tracking_uri(settings)).get_registered_model(registry.NAME).aliases
    return {alias: str(number) for alias, number in found.items()}


def test_versions_aliases_and_the_way_back(outputs: Outputs) -> None:
    settings = outputs.settings
    assert registry.champion(settings) is None and registry.versions(settings) == []
    with pytest.raises(MedpipeError, match="got no champion"):
        registry.rollback(settings)
    one = registered(outputs, "one")
    assert aliases(settings) == {"challenger": "1"} and registry.champion(settings) is None
    assert one.team == outputs.manifest("models/maporl_team").sha256 and registry.scores(settings, one) == {"told": "one"}
    registry.promote(settings, one)
    two = registered(outputs, "two")
    assert aliases(settings) == {"challenger": "2", "champion": "1"}
    assert registered(outputs, "two") == two and len(registry.versions(settings)) == 2  # the same again makes no new version
    for _ in range(2):  # promoted once more after a kill, it does not become its own predecessor
        registry.promote(settings, two)
        assert aliases(settings)["champion"] == "2" and [one.before for one in registry.versions(settings)] == ["", "1"]

    assert [version.number for version in registry.rollback(settings)] == ["2", "1"]
    assert aliases(settings) == {"challenger": "2", "champion": "1"}
    assert [version.rolled_back for version in registry.versions(settings)] == [False, True]
    with pytest.raises(MedpipeError, match="champion version 1 with no champion before it"):
        registry.rollback(settings)
    assert aliases(settings)["champion"] == "1"


def test_a_version_answers_in_a_process_of_its_own_as_the_team_does_and_holds_no_pickle(outputs: Outputs, tmp_path: Path) -> None:
    settings = outputs.settings
    registry.promote(settings, registered(outputs, "one"))
    command = [sys.executable, "-c", PREDICTS, tracking_uri(settings), f"models:/{registry.NAME}@champion", json.dumps(ASKED)]
    quiet = {**os.environ, **QUIET, "PYTHONDONTWRITEBYTECODE": "1"}  # or it would leave its own .pyc beside the registered code
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("told ")).removeprefix("told "))
    expected = consult.consult(settings, to_questions(ASKED), "maporl_team")["questions"]
    assert [(row["answer"], row["choice"]) for row in told["rows"]] == [
        (one["final"]["text"], one["final"]["answer"] or "") for one in expected
    ]
    assert told["rows"][0]["choice"] == "" and told["rows"][1]["choice"] in ("A", "B", "")
    assert all(row["notice"] == NOTICE for row in [*told["rows"], *told["alone"]]) and len(told["alone"]) == 1
    assert Path(told["code"]) != Path(registry.PACKAGE / "__init__.py")  # the code that was registered with it

    files = [path for path in (settings.outputs / "mlflow_artifacts").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"adapter_model.safetensors", "MLmodel", "team.json", "manifest.json", "input_example.json"} <= names
    assert "model.safetensors" not in names
    assert not {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pyc"}
    assert [path for path in files if is_pickle(path.read_bytes())] == []


def is_pickle(content: bytes) -> bool:
    """Whether bytes are a whole pickle of protocol 2 or newer; numpy's arrays of objects hold one behind their header."""
    start = content.find(b"\x80", 0, 4096)
    if content[:6] == b"\x93NUMPY" and b"|O" in content[:128]:
        return True
    if start != 0:
        return False
    try:
        return any(True for _ in pickletools.genops(content))
    except ValueError:
        return False


def test_that_a_pickle_would_be_seen() -> None:
    import pickle

    assert is_pickle(pickle.dumps({"a": [1, 2]})) and not is_pickle(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}") and not is_pickle(b"{}")


def version_folder(settings: Settings) -> Path:
    (found,) = (settings.outputs / "mlflow_artifacts").rglob("team.json")
    return found.parent


def load(folder: Path, base: Path) -> Any:
    return registry._load_pyfunc(str(folder), {"base": str(base), "device": "cpu"})


def test_a_version_is_refused_without_its_own_base_or_with_a_changed_file(outputs: Outputs) -> None:
    import pandas as pd

    registered(outputs, "one")
    folder, base = version_folder(outputs.settings), outputs.settings.outputs / "models" / "base"
    assert load(folder, base).predict(pd.DataFrame({"question": []})).empty
    with pytest.raises(MedpipeError, match="got no finished folder, expected the base with content"):
        load(folder, base / "nowhere")
    with pytest.raises(MedpipeError, match="expected the base with content"):
        load(folder, outputs.settings.outputs / "splits" / "train")
    (folder / "analyst" / "adapter_config.json").write_text("{}")
    with pytest.raises(MedpipeError, match=r"changed: analyst/adapter_config\.json"):
        load(folder, base)


def test_a_damaged_or_unfinished_team_is_not_registered(outputs: Outputs) -> None:
    settings = outputs.settings
    (settings.outputs / "models" / "maporl_team" / "planner" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(MedpipeError, match=r"files that changed since they were made: planner/adapter_model\.safetensors"):
        registered(outputs, "one")
    (settings.outputs / "models" / "base" / store.MANIFEST).unlink()
    with pytest.raises(MedpipeError, match="got no finished models/base"):
        registered(outputs, "one")
    assert registry.versions(settings) == []


def test_a_registry_that_can_not_be_had_is_one_message(tmp_path: Path, outputs: Outputs) -> None:
    (tmp_path / "broken.db").write_text("no database " * 100)
    broken = outputs.settings.model_copy(
        update={"tracking": outputs.settings.tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/broken.db"})}
    )
    with pytest.raises(MedpipeError, match="got a failure of MLflow"):
        registry.champion(broken)


class Release:
    """The task release/champion on a finished team, with evaluations made by hand."""

    def __init__(self, root: Path, outputs: Outputs) -> None:
        self.root, self.outputs, self.count = root, outputs, 0
        self.settings: Any = With(root)
        self.settings._settings = outputs.settings

    def decide(self, right: int, names: Any = None) -> dict[str, Any]:
        self.count += 1
        place = self.root / f"run{self.count}"
        place.mkdir()
        run = Run(place)
        sha = self.outputs.manifest("models/maporl_team").sha256
        evaluated(run, sha, {**RIGHT, "maporl_team": right}, **({"names": names} if names else {}))
        out = self.root / "made" / str(self.count)
        out.mkdir(parents=True)
        inputs = {**run.inputs, **inputs_of(self.outputs.settings)}
        self.outcome = champion.run(Job("release/champion", self.settings, inputs, out, self.root / "scratch", "cpu", Collected()))
        self.scores = store.read_json(out / "scores.json")
        return store.read_json(out / "decision.json")

    def another_team(self) -> None:
        self.outputs.team(metadata={"again": self.count})
        folder = self.outputs.settings.outputs / "models" / "maporl_team"
        manifest = self.outputs.manifest("models/maporl_team")
        store.write_manifest(folder, manifest.model_copy(update={"sha256": f"{self.count:064d}"}))

    @property
    def aliases(self) -> dict[str, str]:
        return aliases(self.outputs.settings)


@pytest.fixture
def release(tmp_path: Path, outputs: Outputs) -> Iterator[Release]:
    yield Release(tmp_path, outputs)


def test_promotion_refusal_rollback_and_no_way_back_by_itself(release: Release) -> None:
    told = release.decide(83)  # not shown to be better than the SFT team
    assert not told["promoted"] and told["version"] == "1" and release.aliases == {"challenger": "1"}
    told = release.decide(120)  # the same team with other scores is another version
    assert told["promoted"] and "sft_team" in told["against"] and release.aliases == {"challenger": "2", "champion": "2"}
    assert release.decide(120) == told and release.aliases == {"challenger": "2", "champion": "2"}  # as after a kill

    release.another_team()
    told = release.decide(123)
    assert not told["promoted"] and told["against"] == "champion version 2" and "no gain shown" in told["reasons"][0]
    assert (
        release.aliases == {"challenger": "3", "champion": "2"} and release.scores["champion"]["key"] != release.scores["challenger"]["key"]
    )
    told = release.decide(160, names=["medxpertqa"])
    assert not told["promoted"] and len(told["reasons"]) == len(BENCHMARKS) - 1 and release.aliases["champion"] == "2"
    told = release.decide(160)
    assert told["promoted"] and release.aliases == {"challenger": "5", "champion": "5"}
    assert release.outcome.metadata["version"] == "5"

    assert [version.number for version in registry.rollback(release.settings)] == ["5", "2"]
    told = release.decide(160)
    assert not told["promoted"] and "version 5 holds this team and was taken back by hand" in told["reasons"][0]
    assert release.aliases == {"challenger": "5", "champion": "2"}
