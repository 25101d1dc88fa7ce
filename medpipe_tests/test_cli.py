"""The `medpipe` command as a user types it, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe import store
from medpipe.config import profile_names
from medpipe.schema import Manifest

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).with_name("medpipe")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
VARIABLES = ("MEDPIPE_PROFILE", "MEDPIPE_MIRROR", "DAGSTER_HOME", "NO_PROXY", "no_proxy")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in VARIABLES},
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), NOWHERE),
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "200",
    "TERM": "dumb",
}


def medpipe(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **environment}, timeout=300)


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    """What a user is told of a mistake: exit status 1 and one line, no traceback."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_names_the_commands_and_says_what_this_is_not() -> None:
    done = medpipe("--help")
    assert done.returncode == 0
    for word in ("run", "plan", "test", "doctor", "ui", "lineage", "not medical advice"):
        assert word in " ".join(done.stdout.split())


def test_help_of_run_names_its_options() -> None:
    done = medpipe("run", "--help")
    assert done.returncode == 0
    for option in ("--profile", "--select", "--set"):
        assert option in done.stdout


@pytest.mark.slow
def test_doctor_tells_what_the_machine_has_and_what_each_profile_would_do() -> None:
    done = medpipe("doctor")
    assert done.returncode == 0, done.stderr
    words = ("Python", "torch", "transformers", "CUDA", "CPU cores", "RAM", "disk here", "mirror", "model hub", "not reachable")
    for word in (*words, *profile_names()):
        assert word in done.stdout, word
    assert "stop at models/base: the hub is not reachable" in done.stdout  # what local-qwen3 would do without a network


@pytest.mark.slow
def test_doctor_tells_of_a_mirror_that_is_not_there_and_goes_on() -> None:
    done = medpipe("doctor", MEDPIPE_MIRROR="/nowhere", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert "got '/nowhere', expected an existing folder, in the environment variable MEDPIPE_MIRROR: correct or unset it" in done.stdout
    assert "RAM" in done.stdout


def test_an_unknown_profile_is_one_message() -> None:
    assert one_message(medpipe("run", "--profile", "fast")).startswith("medpipe: got profile 'fast', expected one of local-qwen3, ")


@pytest.mark.parametrize(
    ("exception", "message"),
    [
        ("training.epoch=2", "medpipe: got the unknown key training.epoch, expected a key of medpipe/config.py, in profile smoke: "),
        ("training.epochs=[1", "medpipe: got 'training.epochs=[1', expected a value that YAML can read, in --set: "),
    ],
)
def test_a_wrong_exception_is_one_message(exception: str, message: str) -> None:
    assert one_message(medpipe("run", "--profile", "smoke", "--set", exception)).startswith(message)


def test_a_mirror_that_is_not_there_is_one_message() -> None:
    message = one_message(medpipe("run", "--profile", "smoke", MEDPIPE_MIRROR="/nowhere"))
    assert message == (
        "medpipe: got '/nowhere', expected an existing folder, in the environment variable MEDPIPE_MIRROR: correct or unset it"
    )


def test_outside_the_projects_root_a_run_says_so_and_makes_nothing(tmp_path: Path) -> None:
    message = one_message(medpipe("run", "--profile", "smoke", cwd=tmp_path))
    assert message == (
        f"medpipe: got no dagster.yaml in {tmp_path}, expected the project's root, in the working directory: change to the project's root"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("selection", ["models/plannr", "group:nothing"])
def test_a_selection_of_nothing_is_one_message(tmp_path: Path, selection: str) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    message = one_message(medpipe("run", "--profile", "smoke", "--select", selection, cwd=tmp_path))
    assert message.startswith(f"medpipe: got selection '{selection}', expected ")


def test_asking_before_anything_is_trained_says_what_to_run(tmp_path: Path) -> None:
    message = one_message(medpipe("test", "--question", "What is asthma?", "--set", f"paths.outputs={tmp_path}"))
    assert "models" in message and "medpipe run" in message


def test_questions_from_a_file_that_is_not_there_are_one_message(tmp_path: Path) -> None:
    assert "none.txt" in one_message(medpipe("test", "--questions", str(tmp_path / "none.txt")))


def test_a_plan_loads_nothing_and_tells_what_the_trainings_would_take(tmp_path: Path) -> None:
    done = medpipe("plan", "--profile", "sagemaker-qwen2.5", "--no-measure", "--set", f"paths.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    for word in ("planner", "researcher", "analyst", "reporter", "maporl_team", "MiB", "steps", "tokens"):
        assert word in done.stdout, done.stdout
    assert not list(tmp_path.iterdir())


def test_lineage_of_what_is_not_there_is_one_message(tmp_path: Path) -> None:
    message = one_message(medpipe("lineage", "models/maporl_team", "--set", f"paths.outputs={tmp_path}"))
    assert message.startswith("medpipe: got 'models/maporl_team', which fits no runs, expected a finished folder, an asset's key ")
    assert message.endswith("; a run that found everything standing made nothing of its own")


def test_lineage_is_a_tree_or_json(tmp_path: Path) -> None:
    manifest = Manifest(
        task="base", fingerprint="f", sha256=store.hash_of_hashes({}), files={}, metadata={"model": "tiny", "licence": "MIT"}
    )
    (tmp_path / "models" / "base").mkdir(parents=True)
    store.write_manifest(tmp_path / "models" / "base", manifest)
    tree = medpipe("lineage", "models/base", "--set", f"paths.outputs={tmp_path}")
    assert tree.returncode == 0, tree.stderr
    assert tree.stdout.startswith(f"models/base  content {manifest.sha256[:12]}") and "model tiny, licence MIT" in tree.stdout
    data = json.loads(medpipe("lineage", str(tmp_path / "models" / "base"), "--json").stdout)
    assert data["sha256"] == manifest.sha256 and data["base"] == {"model": "tiny", "licence": "MIT"}
