"""medpipe from Python, as a user's script has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import medpipe
from medpipe import MedicalTeamTrainer, library, store
from medpipe.config import load_profile, parse_override
from medpipe.errors import MedpipeError
from medpipe_tests.test_consult import Outputs

ROOT = Path(__file__).parent.parent
OVERRIDES = {"team": {"max_header_tokens": 360}}


@pytest.fixture
def outputs(tmp_path: Path, tiny_base: Path, tiny_adapters: dict[str, Path], tiny_splits: dict[str, Path]) -> Outputs:
    return Outputs(tmp_path, tiny_base, tiny_adapters, tiny_splits)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; nothing is."""
    caught: list[list[str]] = []

    def catch(command: list[str]) -> int:
        caught.append(command[3:])
        return 0

    monkeypatch.setattr(library, "_finish", catch)
    return caught


def test_importing_medpipe_loads_nothing_heavy() -> None:
    check = "import sys, medpipe; from medpipe import NOTICE; print([m for m in ('pydantic', 'torch', 'dagster') if m in sys.modules])"
    check += (
        "; from medpipe import MedicalTeamTrainer as T; T(); print([m for m in ('torch', 'transformers', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["[]", "[]"]
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        medpipe.Trainer  # noqa: B018


def test_settings_come_in_by_section_or_dotted_and_folders_by_name(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "training": {"epochs": 5, "learning_rate": 1e-5},
        "corpus.use": ["custom"],
        "hardware.devices": {"planner": "cpu"},
    }
    trainer = MedicalTeamTrainer(tmp_path / "my: data", tmp_path / "#ö", "smoke", **sections)
    assert (trainer.settings.data, trainer.settings.outputs) == (tmp_path / "my: data", tmp_path / "#ö")
    training, devices = trainer.settings.training, trainer.settings.hardware.devices
    assert (training.epochs, training.learning_rate, trainer.settings.corpus.use) == (5, 1e-5, ("custom",))
    assert (devices["planner"], devices["analyst"]) == ("cpu", "cuda:2")


@pytest.mark.parametrize("wrong", [{"profile": "fast"}, {"training": {"epoch": 2}}, {"training": {"epochs": 0}}])
def test_a_wrong_profile_or_setting_is_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(MedpipeError):
        MedicalTeamTrainer(**wrong)


@pytest.mark.parametrize(
    ("asked", "settings", "selection"),
    [
        ({}, {}, "*models/maporl_team"),
        ({"roles": ["planner", "reporter"]}, {}, "*models/planner,*models/reporter"),
        ({"roles": "analyst"}, {}, "*models/analyst"),
        ({}, {"training": {"adapter": "lora"}}, "*models/maporl_team"),
        ({"select": "*"}, {}, "*"),
    ],
)
def test_training_hands_the_selection_and_every_exception_to_the_run(
    asked: dict[str, Any], settings: dict[str, Any], selection: str, commands: list[list[str]], tmp_path: Path
) -> None:
    trainer = MedicalTeamTrainer(ROOT / "data", tmp_path / "o", "smoke", **settings)
    assert trainer.train(**asked) == {}
    (command,) = commands
    assert command[:5] == ["run", "--profile", "smoke", "--select", selection]
    assert set(command[5::2]) == {"--set"}
    assert load_profile("smoke", dict(parse_override(text) for text in command[6::2])) == trainer.settings


@pytest.mark.parametrize("roles", [["surgeon"], [], "experts"])
def test_a_role_that_does_not_exist_is_one_message(roles: Any, commands: list[list[str]]) -> None:
    with pytest.raises(MedpipeError, match="expected some of planner, researcher, analyst, reporter"):
        MedicalTeamTrainer(ROOT / "data").train(roles=roles)
    assert commands == []


def test_a_data_folder_without_the_knowledge_base_is_one_message(tmp_path: Path, commands: list[list[str]]) -> None:
    with pytest.raises(MedpipeError, match=re.escape(f"got no folder {tmp_path / 'synthetic'}, expected the bundled knowledge base")):
        MedicalTeamTrainer(data_dir=tmp_path).train()
    assert commands == []
    MedicalTeamTrainer(tmp_path, tmp_path / "o", **{"corpus.use": ["custom"]}).train()
    assert len(commands) == 1


def test_a_run_that_failed_raises(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # not the project's root
    with pytest.raises(MedpipeError, match="got a run that failed"):
        MedicalTeamTrainer(ROOT / "data", profile="smoke").train()
    assert "medpipe: got no dagster.yaml" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_agents_are_tested_on_texts_and_rows(outputs: Outputs) -> None:
    outputs.base().roles("models/reporter")
    trainer = MedicalTeamTrainer(output_dir=outputs.settings.outputs, profile="smoke", **OVERRIDES)
    results = trainer.test_agents(["What is sepsis?", {"question": "Which organ makes insulin?", "options": ["liver", "pancreas"]}])
    assert results == outputs.written == trainer.results()["test"]
    assert [len(results["agents"][role]) for role in ("planner", "reporter")] == [0, 2]
    assert trainer.models() == {name: outputs.settings.outputs / "models" / name for name in ("base", "reporter")}


def test_results_are_those_that_were_made(tmp_path: Path) -> None:
    trainer = MedicalTeamTrainer(output_dir=tmp_path)
    with pytest.raises(MedpipeError, match="got no results"):
        trainer.results()
    store.write_json(tmp_path / "training_results.json", {"roles": {}})
    assert trainer.results() == {"training": {"roles": {}}}


SCRIPT = """
from medpipe import MedicalTeamTrainer

trainer = MedicalTeamTrainer(data_dir="data", output_dir="outputs", profile="smoke", **{"team.max_header_tokens": 360})
print("trained", sorted(trainer.train(select="sources/synthetic")))
results = trainer.test_agents(["How is sepsis managed?"])
for agent, responses in results["agents"].items():
    for item in responses:
        print(f"{agent}: {item['question']}")
"""


@pytest.mark.slow
def test_a_users_script_without_a_main_guard_trains_and_tests(outputs: Outputs, tmp_path: Path) -> None:
    """A real run of a light part of the graph, then a real test of a finished role, in a project folder of its own."""
    outputs.base().roles("models/analyst")
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    conditions = tmp_path / "data" / "synthetic" / "conditions"
    conditions.mkdir(parents=True)
    shutil.copy(min((ROOT / "data" / "synthetic" / "conditions").glob("*.yaml")), conditions)
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "MEDPIPE_PROFILE": "smoke"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "trained ['analyst', 'base']" in done.stdout.splitlines()
    assert "analyst: How is sepsis managed?" in done.stdout.splitlines()
    assert (tmp_path / "outputs" / "sources" / "synthetic" / "manifest.json").is_file()
