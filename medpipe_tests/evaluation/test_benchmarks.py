"""Benchmark files are read whole in each published form, or refused with file and line."""

import json
import os
import string

import pytest

from medpipe.corpus.download import MIRROR
from medpipe.corpus.splits import part_of
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.evaluation.benchmarks import BENCHMARKS, choose, load, overlap, stamp
from medpipe.schema import QAExample
from medpipe.store import write_examples

PUBLISHED = os.environ.get(MIRROR, "")  # before a fixture hides it
CELLS = ["B-cell maturation", "V(D)J recombination", "Rh(D) (C) typing (B)", "Negative selection"]
CHOICES = "(A) B-cell maturation (B) V(D)J recombination (C) Rh(D) (C) typing (B) (D) Negative selection"
CASE = {"id": "test-7", "question": f"Which step?\nAnswer Choices: {CHOICES}"}
TEN = {letter: f"option {letter.lower()}" for letter in string.ascii_uppercase[:10]}
TEN_TEXT = " ".join(f"({letter}) {text}" for letter, text in TEN.items())
NAMES = {"medxpertqa": "medxpertqa_text_sampled.jsonl", "medqa": "medqa_test.jsonl"}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv(MIRROR, str(folder))
    return folder


def read(name, rows, mirror, settings, tmp_path):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (mirror / NAMES[name]).write_text(text, encoding="utf-8")
    return load(name, tmp_path, settings)


def test_the_five_benchmarks_stand_in_their_order_and_name_their_papers():
    assert list(BENCHMARKS) == ["medxpertqa", "medqa", "pubmedqa", "medquad_heldout", "synthetic_heldout"]
    assert [benchmark.kind for benchmark in BENCHMARKS.values()] == ["choice", "choice", "choice", "text", "choice"]
    assert [benchmark.metric for benchmark in BENCHMARKS.values()].count("similarity") == 1
    assert all(name == benchmark.name and benchmark.licence and benchmark.citation for name, benchmark in BENCHMARKS.items())
    assert BENCHMARKS["pubmedqa"].mirror_names == ("ori_pqal.json", "test_ground_truth.json")


@pytest.mark.parametrize("label", ["C", ["C"]])
def test_options_inside_the_question_are_cut_at_their_letters_in_order(label, mirror, settings, tmp_path):
    (row,) = read("medqa", [{**CASE, "label": label}], mirror, settings, tmp_path)
    assert row.question == "Which step?" and list(row.options) == CELLS and row.answer == "C" and row.source == "medqa"


@pytest.mark.parametrize("options", [TEN, [{"letter": letter, "content": text} for letter, text in TEN.items()], None])
def test_medxpertqa_is_read_in_all_three_forms(options, mirror, settings, tmp_path):
    raw = {
        "id": "Text-1",
        "question": f"Which?\nAnswer Choices: {TEN_TEXT}",
        "label": ["J"],
        "medical_task": "Diagnosis",
        "body_system": "Renal",
    }
    (row,) = read("medxpertqa", [{**raw, "options": options} if options else raw], mirror, settings, tmp_path)
    assert row.question == "Which?" and row.options == tuple(TEN.values()) and row.answer_text == "option j"
    assert (row.qtype, row.category) == ("diagnosis", "Renal")


def test_medqa_is_read_as_the_hub_serves_it(mirror, settings, tmp_path):
    hub = {
        "question": "What (A) now?",
        "options": dict(zip("ABCD", CELLS, strict=True)),
        "answer": CELLS[1],
        "answer_idx": "B",
        "meta_info": "step1",
    }
    first, second = read("medqa", [hub, hub], mirror, settings, tmp_path)
    assert first.question == "What (A) now?" and first.answer_text == "V(D)J recombination" and first.id != second.id


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("<!doctype html>", "not JSON"),
        ("[]", "a JSON object"),
        ({**CASE, "label": "E"}, "label 'E'"),
        ({**CASE, "label": "AB"}, "label 'AB'"),
        ({**CASE, "label": ["A", "B"]}, "one letter from A to D"),
        ({**CASE}, "label None"),
        ({"id": "x", "question": "No options", "label": "A"}, "0 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C) c", "label": "A"}, "3 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C) c (D) d (E) e", "label": "A"}, "5 options"),
        ({"id": "x", "question": "Q?\nAnswer Choices: (A) a (B) b (C)  (D) d", "label": "A"}, "3 options"),
        ({"id": "x", "question": "Q?", "options": {"A": "a", "B": None, "C": "c", "D": "d"}, "label": "A"}, "a text for each letter"),
        ({"id": "x", "question": "Q?", "options": {"A": "a", "C": "c", "D": "d", "E": "e"}, "label": "A"}, "a text for each letter"),
        ({"id": "x", "question": None, "label": "A"}, "NoneType as question"),
        ({"id": "x", "question": "\nAnswer Choices: (A) a (B) b (C) c (D) d", "label": "A"}, "question = ''"),
        ({"id": "ok", "question": "Q?", "options": dict(zip("ABCD", "abcd", strict=True)), "label": "A"}, "the id ok again"),
    ],
)
def test_a_wrong_row_stops_the_benchmark_and_names_file_and_line(row, says, mirror, settings, tmp_path):
    good = {**CASE, "id": "ok", "label": "A"}
    with pytest.raises(MedpipeError) as caught:
        read("medqa", [good, row], mirror, settings, tmp_path)
    assert says in str(caught.value) and "medqa_test.jsonl, line 2" in str(caught.value)


def test_an_empty_file_is_refused(mirror, settings, tmp_path):
    with pytest.raises(MedpipeError, match="no rows"):
        read("medqa", ["", ""], mirror, settings, tmp_path)


def pubmedqa(mirror, truth, **changes):
    entry = {"QUESTION": "Does it work?", "CONTEXTS": ["Background.", "Results."], "final_decision": "maybe", **changes}
    entry = {key: value for key, value in entry.items() if value is not None}
    (mirror / "ori_pqal.json").write_text(json.dumps({"11": entry, "12": {**entry, "final_decision": "yes"}}))
    (mirror / "test_ground_truth.json").write_text(json.dumps(truth))


def test_pubmedqa_takes_the_official_split_with_context(mirror, settings, tmp_path):
    pubmedqa(mirror, {"11": "maybe"})
    (row,) = load("pubmedqa", tmp_path, settings)
    assert (row.id, row.answer, row.answer_text) == ("11", "C", "maybe")
    assert row.options == ("yes", "no", "maybe") and row.context == ("Background.", "Results.")


@pytest.mark.parametrize(
    ("truth", "changes", "says"),
    [
        ({"99": "yes"}, {}, "entry 99"),
        ({"11": "yes"}, {}, "the same in both files"),
        ({"11": "perhaps"}, {}, "yes, no or maybe"),
        ({"11": "maybe"}, {"CONTEXTS": None}, "without QUESTION, CONTEXTS"),
        ({"11": "maybe"}, {"QUESTION": ""}, "question = ''"),
        ({}, {}, "no rows"),
        ([], {}, "a JSON object"),
    ],
)
def test_a_wrong_pubmedqa_entry_is_refused(truth, changes, says, mirror, settings, tmp_path):
    pubmedqa(mirror, truth, **changes)
    with pytest.raises(MedpipeError, match=says):
        load("pubmedqa", tmp_path, settings)


@pytest.mark.skipif(not PUBLISHED, reason=f"needs the published benchmark files: set {MIRROR}")
@pytest.mark.parametrize(("name", "n", "options"), [("medxpertqa", 244, 10), ("medqa", 1273, 4), ("pubmedqa", 500, 3)])
def test_every_row_of_the_published_files_parses(name, n, options, settings, tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR, PUBLISHED)
    rows = load(name, tmp_path, settings)
    assert len(rows) == len({row.id for row in rows}) == n and {len(row.options) for row in rows} == {options}
    assert not any("Answer Choices" in row.question for row in rows)


def heldout_rows(source, count):
    options = tuple(TEN.values())
    text = [QAExample(id=f"t{i}", question=f"What is {i}?", answer="a text", source=source, focus=f"focus {i // 4}") for i in range(count)]
    choice = [
        QAExample(id=f"c{i}", question=f"Which is {i}?", answer="A", source=source, focus=f"focus {i // 4}", options=options)
        for i in range(count)
    ]
    return text + choice


def test_heldout_benchmarks_take_only_rows_of_topics_that_no_split_trains_on(settings, tmp_path):
    write_examples(tmp_path, heldout_rows("synthetic", 200))
    rows = load("synthetic_heldout", tmp_path, settings)
    assert 0 < len(rows) < 100 and all(row.is_choice for row in rows)
    assert {part_of(row.focus, settings.corpus, settings.seed) for row in rows} == {"heldout"}


def test_a_source_that_is_not_in_the_corpus_is_unreachable_with_its_reason(settings, tmp_path):
    write_examples(tmp_path, heldout_rows("synthetic", 40))
    with pytest.raises(SourceUnreachable, match="expected MedQuAD in the corpus"):
        load("medquad_heldout", tmp_path, settings)


def test_stamp_follows_the_mirrors_content_and_not_an_earlier_download(mirror, settings):
    remote = stamp("medqa", settings)
    assert list(remote) == ["remote"] and remote["remote"].startswith("https://")
    cache = settings.outputs / "downloads"
    cache.mkdir(parents=True)
    (cache / "medqa_test.jsonl").write_text("{}\n")
    assert stamp("medqa", settings) == remote
    (mirror / "medqa_test.jsonl").write_text("{}\n")
    first = stamp("medqa", settings)
    assert list(first) == ["medqa_test.jsonl"] and len(first["medqa_test.jsonl"]) == 64
    (mirror / "medqa_test.jsonl").write_text("{} \n")
    assert stamp("medqa", settings) != first
    assert stamp("synthetic_heldout", settings) == {} and len(stamp("pubmedqa", settings)) == 2


def test_an_unknown_benchmark_is_named(settings, tmp_path):
    with pytest.raises(MedpipeError, match="one of medxpertqa"):
        load("medmcqa", tmp_path, settings)


def example(number, question=""):
    return QAExample(id=f"q{number}", question=question or f"Question {number}?", answer="an answer", source="s", focus="f")


def test_choose_is_seeded_nested_and_keeps_the_published_order():
    rows = [example(number) for number in range(50)]
    ten, twenty = choose(rows, 10, 1), choose(rows, 20, 1)
    assert len(ten) == 10 and ten == choose(list(rows), 10, 1) and ten != choose(rows, 10, 2)
    assert {row.id for row in ten} < {row.id for row in twenty}
    assert [rows.index(row) for row in twenty] == sorted(rows.index(row) for row in twenty)
    assert choose(rows, 500, 1) == rows


def test_overlap_ignores_case_punctuation_and_spacing():
    training = [example(1, "What  is ASTHMA"), example(2, "What is gout?")]
    assert overlap([example(3, "what is asthma?"), example(4, "What is asthma in children?")], training) == 1
