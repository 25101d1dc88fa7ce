"""The guide's figures: right means of the right rows, and nothing that was not measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Release
from medpipe.evaluation.guide import LAST_SHARE, MEANING, figures, markdown, of_folders, of_iteration, table
from medpipe.schema import Manifest
from medpipe.tuning import trial

PARTS = ("collaboration", "relevance", "safety")


def finish(folder: Path, status: Any = "ok", of_team: str = "this team") -> None:
    manifest = Manifest(task="", fingerprint="", sha256="this team", files={}, status=status, inputs={"models/maporl_team": of_team})
    store.write_manifest(folder, manifest)


def co_trained(outputs: Path, *, parts: bool = True, iterations: int = 8) -> None:
    """Every number of iteration n is n, plus a tenth for each component's place."""
    folder = outputs / "models" / "maporl_team"
    rows = [
        {"step": n, "answer_accuracy": n, **{f"reward/{part}": n + place / 10 for place, part in enumerate(PARTS, 1) if parts}}
        for n in range(1, iterations + 1)
    ]
    store.write_jsonl(folder / "metrics.jsonl", rows)
    finish(folder)


def evaluated(outputs: Path, benchmark: str, **means: float) -> None:
    folder = outputs / "evaluation" / benchmark
    store.write_json(folder / "summary.json", {"systems": {name: {"mean": mean} for name, mean in means.items()}})
    finish(folder)


def test_the_figures_are_means_of_the_last_quarter_and_of_the_primary_benchmark(tmp_path: Path) -> None:
    co_trained(tmp_path)
    evaluated(tmp_path, "medqa", maporl_team=0.75, one_agent_with_evidence=0.5)
    evaluated(tmp_path, "medxpertqa", maporl_team=0.125, one_agent_with_evidence=0.25)
    last = {"train:accuracy": 7.5, "collaboration:score": 7.6, "medical:relevance": 7.7, "safety:score": 7.8}
    assert figures(tmp_path, "medqa") == pytest.approx({**last, "eval:accuracy": 0.75, "collaboration:bonus": 0.25})
    assert figures(tmp_path) == pytest.approx({**last, "eval:accuracy": 0.125, "collaboration:bonus": -0.125})
    assert Release().primary == "medxpertqa"


def test_one_iteration_is_its_own_last_quarter(tmp_path: Path) -> None:
    co_trained(tmp_path, iterations=1)
    assert figures(tmp_path)["train:accuracy"] == 1


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    assert figures(tmp_path) == {}
    co_trained(tmp_path, parts=False)
    assert set(figures(tmp_path)) == {"train:accuracy"}
    evaluated(tmp_path, "medxpertqa", maporl_team=0.5)
    assert set(figures(tmp_path)) == {"train:accuracy", "eval:accuracy"}
    evaluated(tmp_path, "medxpertqa", one_agent_with_evidence=0.5)
    assert set(figures(tmp_path)) == {"train:accuracy"}
    evaluated(tmp_path, "medxpertqa", maporl_team=0.5)
    finish(tmp_path / "evaluation" / "medxpertqa", of_team="another team")
    assert set(figures(tmp_path)) == {"train:accuracy"}
    (tmp_path / "models" / "maporl_team" / store.MANIFEST).unlink()
    assert figures(tmp_path) == {}


def test_a_benchmark_that_could_not_be_had_gives_no_figure(tmp_path: Path) -> None:
    finish(tmp_path / "evaluation" / "medxpertqa", "unreachable")
    assert figures(tmp_path) == {}


def test_the_table_says_what_each_figure_is_and_what_is_missing(tmp_path: Path) -> None:
    evaluated(tmp_path, "medxpertqa", maporl_team=0.5, one_agent_with_evidence=0.25)
    found = of_folders(None, tmp_path / "evaluation" / "medxpertqa")
    assert [row["figure"] for row in table(found)] == ["eval:accuracy", "collaboration:bonus"]
    text = markdown(found)
    assert "| `collaboration:bonus` | 0.2500 |" in text
    assert "Not measured: `train:accuracy`, `collaboration:score`" in text
    assert "Not measured" not in markdown(dict.fromkeys(MEANING, 0.5))


def test_an_iteration_tells_what_it_has() -> None:
    assert of_iteration({"step": 1, "answer_accuracy": 0.5, "reward/safety": 0.25}) == {"train:accuracy": 0.5, "safety:score": 0.25}


def test_the_figures_are_of_the_same_iterations_as_the_searchs_value() -> None:
    assert LAST_SHARE == trial.LAST_SHARE


def test_the_figures_need_no_torch() -> None:
    code = "import sys, medpipe.evaluation.guide; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
