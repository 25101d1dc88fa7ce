"""A user's own benchmark, all the way: read from files, kept out of the corpus, asked of a tiny team."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medpipe import store
from medpipe.config import Settings, load_profile
from medpipe.corpus import benchmarks as published
from medpipe.corpus import cleaning, sources
from medpipe.corpus.benchmark_files import own_items
from medpipe.corpus.benchmarks import CONTENTS, stamp
from medpipe.errors import MedpipeError
from medpipe.evaluation import evaluate, items
from medpipe.evaluation.benchmarks import BENCHMARKS, OWN, load
from medpipe.job import Job, Outcome
from medpipe_tests.conftest import Collected, JobMaker
from medpipe_tests.corpus.makers import write_lines
from medpipe_tests.evaluation.evaluating import BUDGETS, SECTIONS, make_inputs

ASTHMA = "A nurse notes wheezing at night and a cough after every run. Which condition is meant?"
STROKE = "An old man suddenly can not lift his left arm. Which condition is meant?"
FREE = "Which signs should make a relative of this patient call for help at once?"
CLINIC: list[dict[str, Any]] = [
    {"question": ASTHMA, "options": ["stroke", "asthma", "diabetes"], "answer": "B", "comment": "not read"},
    {"id": "arm", "question": STROKE, "options": {"A": "stroke", "B": "asthma"}, "answer": "A"},
    {"question": FREE, "answer": "Blue lips, and speech that stops after a word."},
]
WARD: list[dict[str, Any]] = [{"question": "Which one brings thirst?", "options": ["diabetes", "stroke"], "answer": "A"}]
SYSTEMS = ["retrieval_alone", "one_agent_with_evidence", "maporl_team"]


@pytest.fixture(autouse=True)
def _only_the_bundled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for on the network."""
    monkeypatch.setattr(published, "PUBLISHED", {"safety": published.PUBLISHED["safety"]})


def asked(tmp_path: Path, *files: Path) -> Settings:
    """The smoke profile with these files, a copy of the safety set, and three systems."""
    safety = tmp_path / "data" / "safety" / "items.jsonl"
    safety.parent.mkdir(parents=True, exist_ok=True)
    safety.write_bytes((Path(__file__).parents[2] / "data" / "safety" / "items.jsonl").read_bytes())
    changes: dict[str, Any] = {"paths.own_benchmarks": [str(file) for file in files], "paths.data": str(tmp_path / "data")}
    changes |= {"paths.outputs": str(tmp_path / "outputs"), "evaluation.systems": SYSTEMS, "evaluation.coalitions": 0}
    return load_profile("smoke", {**changes, "team.max_header_tokens": 360, "team.max_new_tokens": dict(BUDGETS)})


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return write_lines(tmp_path / "clinic.jsonl", *CLINIC), write_lines(tmp_path / "ward.jsonl", *WARD)


def read(settings: Settings, make_job: JobMaker) -> Path:
    job = make_job("sources/benchmarks", settings, sections=())
    published.run(job)
    return job.out


def answered(name: str, settings: Settings, inputs: dict[str, Path], make_job: JobMaker) -> tuple[Job, Outcome]:
    job = make_job(f"evaluation/{name}", settings, inputs, sections=SECTIONS)
    return job, evaluate.run(job)


def test_the_files_become_benchmarks_by_kind_and_their_rows_know_their_file(
    two: tuple[Path, Path], tmp_path: Path, make_job: JobMaker
) -> None:
    folder = read(asked(tmp_path, *two), make_job)
    choice, text = (load(name, {"sources/benchmarks": folder}) for name in ("own_choice", "own_text"))
    assert [(row.id, row.answer_text, row.category, row.origin) for row in choice] == [
        ("clinic:1", "asthma", "clinic.jsonl", "clinic.jsonl:1"), ("clinic:arm", "stroke", "clinic.jsonl", "clinic.jsonl:2"),
        ("ward:1", "diabetes", "ward.jsonl", "ward.jsonl:1"),
    ]  # fmt: skip
    assert [(row.id, row.question, row.answer) for row in text] == [("clinic:3", FREE, CLINIC[2]["answer"])]
    told = store.read_json(folder / CONTENTS)
    assert told["own_choice"]["files"] == {file.name: store.sha256_file(file) for file in two}
    assert (told["own_choice"]["questions"], list(told["own_text"]["files"])) == (3, ["clinic.jsonl"])


def test_without_a_file_nothing_is_told_and_the_asset_is_what_it_was(tmp_path: Path, make_job: JobMaker) -> None:
    folder = read(asked(tmp_path), make_job)
    assert not OWN.keys() & store.read_json(folder / CONTENTS).keys()
    assert {row.source for row in store.read_examples(folder)} == {"safety"}


def test_no_training_row_shows_a_question_of_a_users_benchmark(
    two: tuple[Path, Path], tmp_path: Path, make_job: JobMaker, reporter: Collected
) -> None:
    """The same words in another case, and a row that holds a part of a question in its answer."""
    settings = asked(tmp_path, *two)
    rows = [
        {"question": ASTHMA.upper(), "answer": "Asthma is what fits best here."},
        {"question": "How did the story of the old neighbour begin?", "answer": f"It began like this, she said: {STROKE}"},
        {"question": "What helps against amber fever in the rain?", "answer": "Plenty of tea and a long rest help."},
    ]
    (settings.data / "custom").mkdir()
    write_lines(settings.data / "custom" / "mine.jsonl", *rows)
    custom = make_job("sources/custom", settings, sections=("corpus",))
    sources.run(custom)
    folders = {"sources/custom": custom.out, "sources/benchmarks": read(settings, make_job)}
    clean = make_job("corpus/clean", settings, folders, sections=("corpus",))
    outcome = cleaning.run(clean)
    assert [row.question for row in store.read_examples(clean.out)] == [rows[2]["question"]]
    matches = store.read_json(clean.out / "contamination.json")["matches"]
    assert [(match["benchmark"], match["item"], match["how"]) for match in matches] == [
        ("own_choice", "clinic:1", "same question"), ("own_choice", "clinic:arm", "shared run"),
    ]  # fmt: skip
    assert {"benchmark": "own_choice", "questions": 3, "status": "ok"} in outcome.metadata["decontaminated_against"]["table"]
    assert any("own row" in line for line in reporter.warnings)


def test_a_tiny_team_answers_a_users_questions(one_thread: None, two: tuple[Path, Path], tmp_path: Path, make_job: JobMaker) -> None:
    settings = asked(tmp_path, *two)
    inputs = {**make_inputs(tmp_path / "inputs"), "sources/benchmarks": read(settings, make_job)}
    job, outcome = answered("own_choice", settings, inputs, make_job)
    summary = store.read_json(job.out / "summary.json")
    assert outcome.status == "ok" and list(summary["systems"]) == SYSTEMS and (summary["n"], summary["metric"]) == (3, "accuracy")
    assert summary["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    kinds = [(row["kind"], row["n"]) for row in summary["by_field"]["maporl_team"]["category"]]
    assert kinds == [("clinic.jsonl", 2), ("ward.jsonl", 1)]
    rows = [row for row in items.read(job.out) if row["system"] == "maporl_team"]
    assert [(row["id"], row["answer"]) for row in rows] == [("clinic:1", "B"), ("clinic:arm", "A"), ("ward:1", "A")]
    assert all(row["score"] == float(row["prediction"] == row["answer"]) for row in rows)


def test_where_no_file_has_such_questions_the_evaluation_is_finished_empty_and_fails_nothing(tmp_path: Path, make_job: JobMaker) -> None:
    ward = write_lines(tmp_path / "ward.jsonl", *WARD)
    settings = asked(tmp_path, ward)
    inputs = {"sources/benchmarks": read(settings, make_job)}  # no model is loaded: there is none
    job, outcome = answered("own_text", settings, inputs, make_job)
    assert outcome.status == "ok" and all(check.passed and "nobody was asked" in check.description for check in outcome.checks)
    assert [check.name for check in outcome.checks] == ["available", "above_chance", "answers_parsed"]
    summary = store.read_json(job.out / "summary.json")
    assert (summary["n"], summary["chance"], summary["systems"]) == (0, None, {}) and items.read(job.out) == []


def test_a_release_rests_on_the_projects_benchmarks_alone() -> None:
    assert not OWN.keys() & BENCHMARKS.keys()


BAD: list[tuple[str, str]] = [
    ("{", "line 2: got text that is not JSON"),
    ("[]", "line 2: got list, expected a JSON object"),
    ('{"answer": "B"}', "line 2: got NoneType as question, expected text"),
    ('{"question": " ", "answer": "B"}', "line 2: got an empty text as question"),
    ('{"question": "Who?", "answer": 2}', "line 2: got int as answer, expected text"),
    ('{"question": "Who?", "answer": "D", "options": ["a", "b", "c"]}', "line 2: got answer 'D', expected one letter from A to C"),
    ('{"question": "Who?", "answer": "b", "options": ["a", "b"]}', "line 2: got answer 'b', expected one letter from A to B"),
    ('{"question": "Who?", "answer": "A", "options": ["a"]}', r"line 2: got options \['a'\], expected from 2 to 26 texts"),
    ('{"question": "Who?", "answer": "A", "options": ["a", "a"]}', "none empty and no two equal"),
    ('{"question": "Who?", "answer": "A", "options": ["a", ""]}', "none empty and no two equal"),
    ('{"question": "Who?", "answer": "A", "options": "a, b"}', "line 2: got options a, b, expected from 2"),
    ('{"question": "Who?", "answer": "A", "options": {"a": "x", "b": "y"}}', "line 2: got options"),
    (json.dumps({"question": "Who?", "answer": "A", "options": {chr(65 + n): str(n) for n in range(27)}}), "line 2: got options"),
    ('{"question": "Who?", "answer": "\\ud800"}', "line 2: got answer ="),
    ('{"id": 1, "question": "Who again?", "answer": "He."}', r"line 2: the id of own\.jsonl:1 again"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), BAD, ids=[line[:60] for line, _ in BAD])
def test_a_row_that_can_not_be_asked_is_named_with_file_and_line(tmp_path: Path, line: str, told: str) -> None:
    good = json.dumps({"question": "Who is it?", "answer": "She."})
    path = tmp_path / "own.jsonl"
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(MedpipeError, match=told) as caught:
        own_items(path)
    assert f"in {path}: correct the file" in str(caught.value) and "got 1 rows that can't be asked" in str(caught.value)


def test_of_many_bad_rows_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("{}\n" * 9, encoding="utf-8")
    with pytest.raises(MedpipeError, match=r"got 9 rows .*line 5: .*; and 4 more\)"):
        own_items(path)


def test_files_as_windows_writes_them_are_read_and_empty_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "Who?", "answer": "She."}\r\n\r\n{"question": "What?", "answer": "It."}\r\n')
    assert [(row.question, row.origin) for row in own_items(path)] == [("Who?", "own.jsonl:1"), ("What?", "own.jsonl:3")]


def test_a_file_that_is_missing_or_empty_stops_the_run_and_is_named(tmp_path: Path, make_job: JobMaker) -> None:
    with pytest.raises(MedpipeError, match=r"got No such file.*paths\.own_benchmarks: .*gone\.jsonl: correct the path"):
        read(asked(tmp_path, tmp_path / "gone.jsonl"), make_job)
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(MedpipeError, match="got no rows"):
        read(asked(tmp_path, tmp_path / "empty.jsonl"), make_job)


def test_the_stamp_follows_what_the_files_hold(two: tuple[Path, Path], tmp_path: Path) -> None:
    settings = asked(tmp_path, *two)
    first = stamp(settings, "run 1")
    assert first["own 0 clinic.jsonl"] == store.sha256_file(two[0]) and stamp(settings, "run 1") == first
    two[1].write_text("{}\n", encoding="utf-8")
    assert {name for name, value in stamp(settings, "run 1").items() if value != first[name]} == {"own 1 ward.jsonl"}
    assert not [name for name in stamp(asked(tmp_path), "run 1") if name.startswith("own")]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["mine.csv"], r"paths\.own_benchmarks\.0 = 'mine\.csv', expected the path of a file that ends in \.jsonl"),
        ("mine.jsonl", r"paths\.own_benchmarks = 'mine\.jsonl', expected a list"),
        (["a/mine.jsonl", "b/mine.jsonl"], "files of different names"),
    ],
)
def test_settings_that_name_no_such_files_are_refused(files: Any, told: str) -> None:
    with pytest.raises(MedpipeError, match=told):
        load_profile("smoke", {"paths.own_benchmarks": files})
