"""Workspaces whose data, or data and models, are finished: made once for all of pytest's processes, and copied for each test.

For tests of what comes after the data (a job, a training, lineage): their own runs find it standing, because a result is known by the
hash of its code, settings and inputs, and the paths in a workspace are relative. A test that changes `corpus` or `rewards` gets
nothing from it, and one that is about making the data must not use it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from medpipe.schema import LEARNERS
from medpipe_tests.operations.processes import BIN, DEADLINE, environment, make_workspace, swept

DATA = "*splits/train,*splits/cotrain,*splits/validation,*rewards/audit"
MODELS = ",".join(("models/base", *(f"models/{learner}" for learner in LEARNERS), "models/maporl_team", "models/agent_rl"))
SECONDS = 3 * DEADLINE
FOREIGN = ("AWS_", "MEDPIPE_", "DAGSTER_")
"""What the test that happens to be the first may have set for itself."""


class Made:
    """The finished workspaces of one pytest session."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp().resolve()
        # Each of xdist's processes has a folder of its own below the session's; without xdist the parent outlives the session.
        self._root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def data(self, folder: Path) -> Path:
        """Copy the workspace with sources, corpus, splits and the reward's audit to a folder that is new or empty."""
        return self._copy("finished-data", folder)

    def models(self, folder: Path) -> Path:
        """The same, with base, roles and team too."""
        return self._copy("finished-models", folder)

    def _copy(self, name: str, folder: Path) -> Path:
        shutil.copytree(self._whole(name), folder, dirs_exist_ok=True, symlinks=True)
        if (database := folder / "outputs" / "mlflow.db").is_file():  # MLflow alone writes whole paths down
            with sqlite3.connect(database) as connection:
                for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                    moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
                    connection.execute(moved, (str(self._root / f"{name}.partial"), str(folder)))
            connection.close()
        return folder

    def _whole(self, name: str) -> Path:
        """The workspace that is copied. It gets its name once it is whole, so a failure is never copied."""
        whole, partial = self._root / name, self._root / f"{name}.partial"
        with FileLock(self._root / f"{name}.lock", timeout=3 * SECONDS):
            if not whole.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
                if name == "finished-data":
                    run(make_workspace(partial), DATA)
                else:
                    run(self.data(partial), MODELS)
                partial.rename(whole)
        return whole


def run(folder: Path, select: str) -> None:
    """`medpipe run` on the tiny profile in a workspace."""
    own = {name: value for name, value in environment(folder).items() if not name.startswith(FOREIGN)}
    own |= {"DAGSTER_HOME": str(folder), "MEDPIPE_PROFILE": "smoke"}
    command = [str(BIN / "medpipe"), "run", "--profile", "smoke", "--select", select]
    with swept(folder):
        done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
