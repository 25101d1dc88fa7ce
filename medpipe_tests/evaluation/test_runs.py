"""Two runs are compared on the questions that both answered, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medpipe import NOTICE
from medpipe.cli import app
from medpipe.errors import MedpipeError
from medpipe.evaluation import items
from medpipe.evaluation.runs import differences

REST = {"parsed": True, "tokens": 9, "messages": 1, "seconds": 0.1, "prompt_sha256": "", "option_logps": [], "rounds": []}


def run(root: Path, scores: dict[int, float], answer: str = "B", benchmark: str = "medqa", system: str = "maporl_team") -> Path:
    rows = [
        {"id": f"q{n}", "system": system, "score": score, "prediction": answer if score else "C", "answer": answer, **REST}
        for n, score in scores.items()
    ]
    items.write(rows, root / "evaluation" / benchmark)
    return root


def test_a_clear_difference_is_told_with_its_interval_on_the_shared_questions(tmp_path: Path) -> None:
    a = run(tmp_path / "a", {n: float(n % 10 != 0) for n in range(100)})
    b = run(tmp_path / "b", {n: float(n % 2) for n in range(20, 130)})
    (row,) = differences(a, b, "maporl_team")
    assert (row.benchmark, row.n, row.left_out, row.a, row.b) == ("medqa", 80, 50, 0.9, 0.5)
    assert row.mean == pytest.approx(0.4) and 0 < row.low < 0.4 < row.high and row.holm_p < 0.001


def test_p_values_are_corrected_over_the_benchmarks(tmp_path: Path) -> None:
    few = {n: float(n < 7) for n in range(10)}
    for name in ("medqa", "pubmedqa"):
        run(tmp_path / "a", few, benchmark=name)
        run(tmp_path / "b", dict.fromkeys(range(10), 0.0), benchmark=name)
    rows = differences(tmp_path / "a", tmp_path / "b", "maporl_team")
    assert [row.holm_p for row in rows] == [pytest.approx(2 * 2 / 2**7)] * 2  # seven to nothing, twice


def test_other_questions_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {1: 1.0}), run(tmp_path / "b", {1: 1.0}, answer="D")
    with pytest.raises(MedpipeError, match="two right answers to q1 of medqa"):
        differences(a, b, "maporl_team")


def test_runs_without_a_common_benchmark_or_system_say_what_to_do(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {1: 1.0}), run(tmp_path / "b", {1: 1.0}, benchmark="pubmedqa")
    for system in ("maporl_team", "sft_team"):
        with pytest.raises(MedpipeError, match=f"no benchmark that {system} answered in both"):
            differences(a, b, system)


def test_the_command_prints_a_table_and_the_notice(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", dict.fromkeys(range(5), 1.0)), run(tmp_path / "b", dict.fromkeys(range(5), 0.0))
    shown = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert shown.exit_code == 0 and "| medqa | 5 | 0 | 1.000 | 0.000 | +1.000 |" in shown.output and NOTICE in shown.output
