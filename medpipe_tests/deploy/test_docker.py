"""The image's files: read by hadolint, and by what Docker itself would look for. Nothing is built here: that needs an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from medpipe_tests.deploy.parts import DEPLOY, ROOT, tool

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its words, lines put together."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, words) for name, _, words in (line.partition(" ") for line in whole.splitlines())]


def copied() -> list[str]:
    """Files of the project that go into the image."""
    found = []
    for name, words in instructions():
        if name == "COPY" and "--from" not in words:
            found += [word for word in words.split() if not word.startswith("--")][:-1]
    return found


def sent(path: str) -> bool:
    """Whether .dockerignore lets the builder have a path; its last line that fits decides, as Docker's rules have it."""
    answer = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern, keeps = line.removeprefix("!"), line.startswith("!")
        if not pattern or line.startswith("#"):
            continue
        parts = Path(path).parts
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if any(fnmatch(each, pattern) or fnmatch(f"x/{each}", pattern) for each in above):
            answer = keeps
    return answer


def test_hadolint_finds_nothing() -> None:
    done = tool("hadolint", "--no-color", DOCKERFILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /srv && apt-get install curl\n", encoding="utf-8")
    assert {"DL3006", "DL3003", "DL3008"} <= set(re.findall(r"DL\d{4}", tool("hadolint", tmp_path / "Dockerfile").stdout))


def test_what_the_image_copies_is_there_and_reaches_the_builder() -> None:
    assert copied()
    for path in copied():
        assert (ROOT / path).exists(), path
    inside = [*(path for path in copied() if path != "data"), "data/synthetic/conditions/renal_urology.yaml", "data/custom/README.md"]
    assert [path for path in inside if not sent(path)] == []


@pytest.mark.parametrize(
    "path", ["deploy/.env", "outputs/mlflow.db", ".git/config", "data/custom/patients.csv", "data/medxpert_train.jsonl", ".venv/bin/python",
             "medpipe/__pycache__/cli.cpython-311.pyc", "data/sources.lock.json"]
)  # fmt: skip
def test_outputs_rows_of_users_and_environment_files_do_not_reach_the_builder(path: str) -> None:
    assert not sent(path)


def test_it_runs_as_a_user_without_rights_and_checks_its_health() -> None:
    names = [name for name, _ in instructions()]
    users = [words for name, words in instructions() if name == "USER"]
    assert users == ["${RUN_AS}"] and ("ARG", "RUN_AS=10001:10001") in list(instructions())
    assert names.index("USER") < names.index("ENTRYPOINT") and "HEALTHCHECK" in names
    assert not [words for name, words in instructions()[names.index("USER") :] if name in ("RUN", "COPY")]


def test_base_images_are_pinned_and_no_secret_is_an_argument_or_a_variable() -> None:
    images = [words for name, words in instructions() if name == "ARG" and "IMAGE" in words]
    assert images == ["PYTHON_IMAGE=python:3.11.13-slim-bookworm"]
    named = [words for name, words in instructions() if name in ("ARG", "ENV")]
    assert not [words for words in named if re.search(r"TOKEN|PASSWORD|SECRET|API_KEY", words)]


def test_the_large_layer_needs_none_of_the_projects_code() -> None:
    names = [words for name, words in instructions() if name in ("COPY", "FROM")]
    before = names[: names.index("dependencies AS wheel")]
    assert [words for words in before if "requirements.py" in words] == ["deploy/docker/requirements.py pyproject.toml constraints.txt ./"]
    assert not [words for words in before if words.startswith("medpipe")]


def test_the_extras_of_the_image_and_its_weights_are_the_projects(tmp_path: Path) -> None:
    arguments = dict(words.split("=", 1) for name, words in instructions() if name == "ARG" and "=" in words)
    extras = arguments["EXTRAS"].strip('"').split()
    script = [sys.executable, str(DEPLOY / "docker" / "requirements.py")]
    told = subprocess.run([*script, "all", *extras], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["dependencies"]) <= set(told.stdout.splitlines())
    torch = subprocess.run([*script, "only", "torch"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert torch == [line for line in project["dependencies"] if re.match(r"torch\b", line)]
    wrong = subprocess.run([*script, "all", "poppy"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1 and "got the extra poppy" in wrong.stderr
    assert arguments["WEIGHTS"].strip('"') in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ([], "medpipe"), (["--help"], "medpipe --help"), (["run", "--profile", "smoke"], "medpipe run --profile smoke"),
        (["test", "-q", "What is asthma?"], "medpipe test -q What is asthma?"), (["dagster", "api", "grpc"], "dagster api grpc"),
        (["dagster-daemon", "run"], "dagster-daemon run"), (["mlflow", "server"], "mlflow server"), (["medpipe", "plan"], "medpipe plan"),
    ],
)  # fmt: skip
def test_the_entry_point_is_medpipe_unless_another_program_is_named(tmp_path: Path, given: list[str], run: str) -> None:
    for name in ("medpipe", "dagster", "dagster-daemon", "mlflow"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}${{1:+ }}$*"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    start = DEPLOY / "docker" / "start"
    done = subprocess.run([str(start), *given], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (run, 0)
