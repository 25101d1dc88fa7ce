"""What commands print of data and models: escaped, where a terminal would obey it; and that they say nothing that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medpipe import store
from medpipe.config import load_profile
from medpipe.schema import Manifest, QAExample
from medpipe.terminal import visible, visible_values
from medpipe_tests.test_cli import ENVIRONMENT, ROOT, medpipe

OBEYED = "a\x1b[31mred\x07\x9b2J\x00\r\u202egnihton\ud800"
SHOWN = "a\\x1b[31mred\\x07\\x9b2J\\x00\\r\\u202egnihton\\ud800"


def test_what_a_terminal_would_obey_is_shown_as_its_escape() -> None:
    assert visible(OBEYED) == SHOWN
    assert visible("µg/l, naïve, 糖尿病\n\tβ-blocker — 5 %\u00a0") == "µg/l, naïve, 糖尿病\n\tβ-blocker — 5 %\u00a0"
    assert visible_values({OBEYED: [OBEYED, 1, None, {"x": OBEYED}]}) == {SHOWN: [SHOWN, 1, None, {"x": SHOWN}]}


def test_the_texts_of_a_row_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    row = QAExample(
        id="custom-1", source="custom", question="What is asthma?", answer="A disease of the airways.", focus="a\x1b[31mred\x07",
        origin="rows.jsonl\x1b]0;title\x07", url="http://x/\x9b2J",
    )  # fmt: skip
    store.write_examples(tmp_path / "outputs" / "sources" / "custom", [row])
    profile = tmp_path / "own.yaml"
    settings = load_profile("smoke", {"paths.outputs": str(tmp_path / "outputs")})
    profile.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    done = medpipe("data", "show", "custom-1", "--profile", str(profile))
    assert done.returncode == 0, done.stderr
    assert "\\x1b[31mred\\x07" in done.stdout and "\\x1b]0;title\\x07" in done.stdout
    assert not set(done.stdout) & set("\x1b\x07\x9b")


def test_what_a_manifest_says_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    told = {"model": "tiny\x1b[2J", "licence": "MIT\x07"}
    manifest = Manifest(task="base", fingerprint="f", sha256=store.hash_of_hashes({}), files={}, metadata=told)
    (tmp_path / "partial").mkdir()
    store.publish(tmp_path / "partial", tmp_path / "models" / "base", manifest)
    done = medpipe("lineage", "models/base", "--set", f"paths.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "model tiny\\x1b[2J, licence MIT\\x07" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "medpipe", "doctor"],
        ["-m", "medpipe", "plan", "--profile", "smoke", "--no-measure"],
        ["-c", "import medpipe.definitions"],
        ["-c", "import medpipe, peft"],
    ],
)
def test_a_start_says_nothing_on_stderr(tmp_path: Path, words: list[str]) -> None:
    bare = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONWARNINGS"}
    where = {**bare, "PYTHONPATH": str(ROOT), "MEDPIPE_PROFILE": "smoke"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=where)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
