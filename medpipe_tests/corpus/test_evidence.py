"""The evidence index: finds by words, hides a row's own text, reads back what it wrote, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe import store
from medpipe.corpus.evidence import CHUNK_CHARS, EvidenceIndex
from medpipe.errors import MedpipeError
from medpipe_tests.corpus.makers import row

ROWS = [
    row(1, focus="Gout", answer="Gout comes from uric acid crystals in a joint. Treatment lowers the uric acid."),
    row(2, focus="Migraine", answer="Migraine is a throbbing headache. Light makes it worse."),
    row(3, focus="Migraine", answer="Migraine is a throbbing headache. Light makes it worse."),
    row(4, focus="Anaemia", answer="Anaemia makes people pale and tired because blood carries less oxygen."),
    row(5, focus="Choice", options=("uric acid", "headache"), answer="A"),
]


@pytest.fixture(scope="module")
def index() -> EvidenceIndex:
    return EvidenceIndex.build(ROWS)


def test_the_best_passage_comes_first_with_its_title(index: EvidenceIndex) -> None:
    best = index.search("Why does uric acid hurt?", 3)[0]
    assert (best.id, best.title) == ("custom-1#1", "Gout") and best.text.startswith("Gout: Gout comes from uric acid")
    assert len(index) == 3  # one text in two rows is one passage; a choice question is no evidence


def test_a_row_never_reads_its_own_text_even_under_another_id(index: EvidenceIndex) -> None:
    assert [passage.id for passage in index.search("throbbing headache", 3)] == ["custom-2#1"]
    assert index.search("throbbing headache", 3, exclude="custom-2") == []
    assert index.search("throbbing headache", 3, exclude="custom-3") == []


@pytest.mark.parametrize("question", ["zzz qqq", "", "the of and", "?!"])
def test_no_shared_word_no_evidence(index: EvidenceIndex, question: str) -> None:
    assert index.search(question, 3) == []


def test_many_at_once_equal_one_by_one(index: EvidenceIndex) -> None:
    questions = [("uric acid", None), ("throbbing headache", "custom-2"), ("", None), ("tired people", "unknown")]
    assert index.search_many(questions, 2) == [index.search(text, 2, exclude=exclude) for text, exclude in questions]
    assert index.search_many([], 2) == []


def test_long_answers_become_chunks_of_whole_sentences() -> None:
    sentences = [f"Sentence number {number} tells one more thing about uric acid." for number in range(30)]
    index = EvidenceIndex.build([row(1, focus="Gout", answer=" ".join(sentences)), row(2, focus="Long", answer="word " * 500)])
    passages = index.search("uric acid word", 100, max_chars=10_000)
    assert all(len(passage.text) <= CHUNK_CHARS + len("Gout: ") for passage in passages)
    told = [
        passage.text.removeprefix("Gout: ")
        for passage in sorted(passages, key=lambda each: int(each.id.partition("#")[2]))
        if passage.title == "Gout"
    ]
    assert " ".join(told) == " ".join(sentences) and all(text.endswith(".") for text in told)
    assert all(len(passage.text) <= 100 for passage in index.search("uric acid word", 100, max_chars=100))


def test_saved_and_loaded_without_pickle(index: EvidenceIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "evidence")
    assert {path.suffix for path in (tmp_path / "evidence").iterdir()} == {".npy", ".json", ".jsonl"}
    assert not any(b"\x80\x04" in path.read_bytes()[:256] for path in (tmp_path / "evidence").glob("*.npy"))
    again = EvidenceIndex.load(tmp_path / "evidence")
    assert again.search("uric acid", 3) == index.search("uric acid", 3) and len(again) == len(index)


def test_another_process_writes_the_very_same_files(index: EvidenceIndex, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medpipe_tests.corpus.test_evidence import ROWS;"
        "from medpipe.corpus.evidence import EvidenceIndex; EvidenceIndex.build(ROWS).save(Path(sys.argv[1]))"
    )
    trees = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True
        )
        trees.append(store.hash_tree(folder))
    assert trees[0] == trees[1]


def test_the_library_is_found_and_is_nobodys_answer() -> None:
    library = [{"id": "reference-gout-1", "title": "Gout", "text": "Urate in excess settles as needles inside a toe."}]
    index = EvidenceIndex.build(ROWS, library)
    best = index.search("needles in a toe", 3)[0]
    assert (best.id, best.title, best.text) == ("reference-gout-1#1", "Gout", "Gout: Urate in excess settles as needles inside a toe.")
    assert index.search("needles in a toe", 3, exclude="custom-1")[0] == best
    assert len(EvidenceIndex.build([], library)) == 1


def test_nothing_to_index_and_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="no free-text row"):
        EvidenceIndex.build([ROWS[-1]])
    with pytest.raises(MedpipeError, match="no evidence index"):
        EvidenceIndex.load(tmp_path)
