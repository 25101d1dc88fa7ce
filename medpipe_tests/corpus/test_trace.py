"""The life of a row is told from what a run left: real files through the real asset functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.corpus import cleaning, sources
from medpipe.corpus.trace import show, why_dropped
from medpipe.errors import MedpipeError
from medpipe_tests.conftest import JobMaker
from medpipe_tests.corpus.makers import write_lines

ANSWER = "Glowing is a made-up condition in which the skin gives light at night, and it fades in the morning."
LINES = (
    {"id": "kept", "question": "What  is glowing &amp; shining ?", "answer": ANSWER, "focus": "glowing"},
    {"id": "again", "question": "what is glowing & shining", "answer": f"{ANSWER.upper()} It was never seen.", "focus": "glowing"},
    {"id": "short", "question": "What is the colour of it?", "answer": "Red"},
    "this is not JSON at all",
)


@pytest.fixture
def made(tmp_path: Path, make_job: JobMaker) -> Settings:
    settings = load_profile("smoke", {"paths.data": str(tmp_path / "data"), "paths.outputs": str(tmp_path / "outputs")})
    write_lines(settings.data / "custom" / "own.jsonl", *LINES)
    folder = {key: settings.outputs / key for key in ("sources/custom", "sources/benchmarks", "corpus/clean")}
    sources.run(make_job("sources/custom", settings, out=folder["sources/custom"]))
    store.write_examples(folder["sources/benchmarks"], [])
    store.write_json(folder["sources/benchmarks"] / "benchmarks.json", {})
    inputs = {key: folder[key] for key in ("sources/custom", "sources/benchmarks")}
    cleaning.run(make_job("corpus/clean", settings, inputs, folder["corpus/clean"]))
    return settings


def test_a_row_is_traced_and_a_drop_explained(made: Settings) -> None:
    told = show("custom-again", made.outputs)
    for part in ("own.jsonl:2", "the user's own", "kept, on the side", "'glowing'", "nothing was changed", "not medical advice"):
        assert part in told
    told = show("custom-kept", made.outputs)
    assert "change 1: unicode in the question" in told and "change 2: spaces in the question" in told
    assert "'What is glowing & shining?'" in told
    assert "dropped: near duplicate (of custom-again, which stays)" in told  # the longer one stays

    assert "custom-short" in (told := why_dropped("colour of it", made.outputs)) and "answer that says nothing" in told
    assert why_dropped("custom-kept", made.outputs).count("dropped:") == 1
    assert "own.jsonl, line 4" in (told := why_dropped("not JSON at all", made.outputs)) and "could not be read: not JSON" in told
    assert why_dropped("custom-again", made.outputs).startswith("custom-again was not dropped: kept, on the side")
    with pytest.raises(MedpipeError, match="expected the id of a row, such as custom-kept"):
        show("custom-nobody", made.outputs)
    with pytest.raises(MedpipeError, match="try fewer words"):
        why_dropped("of this nobody ever wrote", made.outputs)


def test_before_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="materialise the sources"):
        show("custom-1", tmp_path)
    with pytest.raises(MedpipeError, match="materialise it first"):
        why_dropped("custom-1", tmp_path)
