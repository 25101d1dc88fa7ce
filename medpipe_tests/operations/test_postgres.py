"""The whole graph with Dagster's state in a real PostgreSQL, as deploy/dagster-postgres.yaml sets it up, and two runs at once on it.

Data and models stand already: their steps run, find them, and tell Dagster so. Evaluations and report are made by workers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from medpipe import store
from medpipe_tests.made import Made
from medpipe_tests.operations import postgres
from medpipe_tests.operations.processes import BIN, DEADLINE, ROOT, dagster_of, environment, swept

CONFIG = "deploy/dagster-postgres.yaml"
MATERIALIZE = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "medpipe.definitions", "--select", "*"]
DATA = (
    "sources/synthetic,sources/custom,sources/medquad,sources/medquad_questions,sources/medtext,sources/phenotypes,sources/benchmarks,sources/medqa_train,sources/medmcqa_train,sources/pubmedqa_train,"
    "corpus/clean,splits/train,splits/validation"
)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_only_the_storage_differs_and_nothing_of_it_is_written_down() -> None:
    here, there = read("dagster.yaml"), read(CONFIG)
    fields = there.pop("storage")["postgres"]["postgres_db"]
    assert fields.pop("scheme") == "postgresql+psycopg2"
    assert here.pop("storage") == {"sqlite": {"base_dir": ".dagster"}}
    assert here == there
    assert all(list(value) == ["env"] for value in fields.values())
    assert sorted(fields) == ["db_name", "hostname", "password", "port", "username"]


@dataclass(frozen=True)
class Place:
    """A workspace whose Dagster keeps its state in PostgreSQL."""

    folder: Path
    variables: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.folder, env=environment(self.folder, **self.variables), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(made_once: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if not postgres.available():
        pytest.skip(postgres.WITHOUT)
    folder = made_once.models(tmp_path_factory.mktemp("postgres").resolve())
    shutil.rmtree(folder / ".dagster")
    shutil.copyfile(ROOT / CONFIG, folder / "dagster.yaml")
    with postgres.running() as variables, swept(folder):
        yield Place(folder, variables)


@pytest.fixture(scope="module")
def instance(place: Place) -> Iterator[dg.DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.variables.items():
            patch.setenv(name, value)
        with dagster_of(place.folder) as found:
            yield found


def is_finished(folder: Path, key: str) -> bool:
    manifest = store.read_manifest(folder / key)
    return manifest is not None and store.damaged_files(folder / key, manifest) == []


@pytest.mark.slow
def test_the_whole_graph_and_then_two_runs_at_once(place: Place, instance: dg.DagsterInstance) -> None:
    assert "postgres" in instance.run_storage.__class__.__name__.lower()
    whole = place.start(*MATERIALIZE)
    said, _ = whole.communicate(timeout=900)
    assert whole.returncode == 0, said[-5000:]
    run = instance.get_runs(limit=1)[0]
    assert run.status is dg.DagsterRunStatus.SUCCESS
    made = {key.to_user_string() for key in instance.all_asset_keys()}
    assert {"corpus/clean", "models/maporl_team", "evaluation/leaderboard", "release/report"} <= made
    assert is_finished(place.folder / "outputs", "release/report")
    assert not (place.folder / ".dagster" / "history").exists()  # nothing of the state lies in files

    both = [
        place.start(str(BIN / "medpipe"), "run", "--profile", "smoke", "--select", DATA, "--set", f"paths.outputs=outputs-{name}")
        for name in "ab"
    ]
    for one in both:
        said, _ = one.communicate(timeout=DEADLINE * 3)
        assert one.returncode == 0, said[-5000:]
    runs = instance.get_runs(limit=2)
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
    times = [instance.get_run_stats(run.run_id) for run in runs]
    starts, ends = [time.start_time or 0 for time in times], [time.end_time or 0 for time in times]
    assert max(starts) < min(ends)  # they were at work together
    for name in "ab":
        assert is_finished(place.folder / f"outputs-{name}", "splits/train")
    storage = instance.event_log_storage
    assert all(storage.get_concurrency_info(key).active_slot_count == 0 for key in storage.get_concurrency_keys())
