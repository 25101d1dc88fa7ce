"""The scripts in bench/ make their own corpus and settings: what changes in the graph must not leave them behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "bench").glob("*.py") if path.name not in ("parts.py", "mirror.py"))
PREPARE = "import json, sys; sys.path.insert(0, {bench!r}); import harness, parts; harness.plain_fp32(); print(json.dumps(parts.prepare()))"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_tells_what_it_measures(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "bench" / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_their_corpus_and_base_are_made_by_the_code_of_today(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data" / "synthetic", tmp_path / "data" / "synthetic")
    command = [sys.executable, "-c", PREPARE.format(bench=str(ROOT / "bench"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = {"learn", "held", "asked", "play"}
    made = {path.stem for path in (tmp_path / "outputs/bench/core").glob("*.json")}
    assert kinds <= made and isinstance(json.loads(done.stdout.splitlines()[-1]), dict)
