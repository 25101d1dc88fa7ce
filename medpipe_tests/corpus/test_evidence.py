"""The evidence index: finds by words, hides a row's own text, gives no held-back answer away, the same in every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from medpipe import store
from medpipe.config import Corpus
from medpipe.corpus.evidence import CHUNK_CHARS, EvidenceIndex, Passage, _telling
from medpipe.corpus.groups import part_of
from medpipe.corpus.synthetic import generate, library, load_conditions
from medpipe.errors import MedpipeError
from medpipe.roles import question_text
from medpipe.schema import QAExample
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


SECRET = "The usual course is mild, and most people with it recover within three weeks without any treatment at all."
OTHER = "Rest in a dark room helps most of those who come to a clinic with a throbbing head for the first time in life."
"""Both of more than twelve words, which share no run of eight."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SECRET, True),
        (SECRET.upper().replace(",", " --"), True),
        (SECRET.replace("at all", "whatsoever"), True),  # nearly
        (SECRET.partition(" without")[0] + ".", True),  # two thirds of it
        (f"{OTHER} {SECRET}", True),  # with something else around it
        (f"It is known that {SECRET.partition(' three')[0]}.", True),  # less than half of it, and nearly nothing else
        (f"{OTHER} The usual course is mild, and most people with it stay in bed for a long time.", False),  # a sixth of it
        ("Most people with it recover. The course is mild and takes three weeks, and nobody needs a treatment.", False),  # in other words
        (OTHER, False),
    ],
)
def test_a_passage_that_nearly_holds_a_secret_is_left_out(text: str, told: bool) -> None:
    rows = [row(1, focus="Flu", answer=text), row(2, focus="Other", answer="Something else is told of other things here.")]
    index = EvidenceIndex.build(rows, secrets=[SECRET])
    assert (index.left_out, len(index)) == (int(told), 2 - told)
    assert bool(index.search(text, 1, max_chars=10_000)) != told


def test_the_library_keeps_secrets_too_and_short_secrets_hide_nothing() -> None:
    entry = {"id": "reference-1", "title": "Flu", "text": SECRET}
    assert EvidenceIndex.build(ROWS, [entry], [SECRET]).left_out == 1
    assert EvidenceIndex.build(ROWS, [entry], ["", "gout", "Gout comes from uric acid crystals in"]).left_out == 0  # no run of eight words
    with pytest.raises(MedpipeError, match="only passages that give away answers"):
        EvidenceIndex.build([row(1, answer=SECRET)], secrets=[SECRET])


def test_a_secret_is_found_in_every_piece_of_a_long_text() -> None:
    text = " ".join(f"Sentence number {number} tells one more thing that a long answer about it holds." for number in range(30))
    index = EvidenceIndex.build([row(1, answer=text), row(2, answer=OTHER)], secrets=[text])
    assert len(index) == 1 and index.left_out > 4


class Bundled(NamedTuple):
    """The bundled corpus with answers that sources give in the same words for many diseases, split."""

    train: list[QAExample]
    held_back: list[QAExample]
    library: list[dict[str, str]]

    def index(self, *, guarded: bool) -> EvidenceIndex:
        secrets = [each.rationale if each.is_choice else each.answer for each in self.held_back]
        return EvidenceIndex.build(self.train, self.library, secrets if guarded else ())

    def asked(self) -> list[QAExample]:
        """Held-back free-text rows with an answer of at least twelve words."""
        return [each for each in self.held_back if not each.is_choice and len(re.findall(r"\w+", each.answer)) >= 12]


BOILERPLATE = (
    "The trait passes on as a recessive one, so that a child falls ill only if both parents hand down the changed copy of the gene. "
    "Parents with a single such copy seldom notice anything of it in all their lives, and a test can tell them.",
    "Clinics that know {} well may help with its diagnosis and treatment, and keep lists of groups for families.",
    "How common {} is in the population is unknown, for only a few affected families have been described in the literature. " * 5,
)


@pytest.fixture(scope="module")
def bundled() -> Bundled:
    conditions = load_conditions(Path(__file__).parents[2] / "data" / "synthetic" / "conditions")
    rows = generate(conditions, seed=0, per_condition=1)
    for number in range(180):
        focus, kind = f"inherited disease {number // 3}", number % 3
        answer = BOILERPLATE[kind].replace("{}", focus).strip()
        question = f"Is {focus} inherited?" if kind == 0 else f"What is told of {focus}, part {kind}?"
        rows.append(row(number, source="medquad", focus=focus, question=question, answer=answer.upper() if number % 7 == 0 else answer))
    sides = {each.focus: part_of(each.focus, Corpus(), 0) for each in rows}
    train = [each for each in rows if sides[each.focus] == "train"]
    return Bundled(train, [each for each in rows if sides[each.focus] != "train"], library(conditions))


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}


def given_away(index: EvidenceIndex, rows: list[QAExample]) -> set[str]:
    """Ids of rows whose answer stands to half or more in a passage that its question, or the answer itself, brings up."""
    found = set()
    by_question, by_answer = (index.search_many([(text, None) for text in texts], 3, max_chars=10_000) for texts in zip(
        *((each.question, each.answer) for each in rows), strict=True
    ))  # fmt: skip
    for each, *passages in zip(rows, by_question, by_answer, strict=True):
        answer = runs(each.answer)
        if any(2 * len(answer & runs(passage.text)) >= len(answer) for some in passages for passage in some):
            found.add(each.id)
    return found


def test_no_held_back_answer_of_the_bundled_corpus_can_be_looked_up(bundled: Bundled) -> None:
    asked = bundled.asked()
    assert len(asked) > 600 and sum(each.source == "medquad" for each in asked) > 20
    assert given_away(bundled.index(guarded=True), asked) == set()


def test_without_the_secrets_answers_can_be_looked_up(bundled: Bundled) -> None:
    told = given_away(bundled.index(guarded=False), bundled.asked())
    same_words = {each.id for each in bundled.asked() if each.question.endswith("inherited?")}
    assert len(same_words) > 10 and same_words <= told
    assert len(told - same_words) > 10  # the ones that carry the disease's name among the same words


def test_held_back_conditions_can_still_be_read_up_on(bundled: Bundled) -> None:
    index, free = bundled.index(guarded=True), bundled.index(guarded=False)
    assert index.left_out == len(free) - len(index) < 0.1 * len(free)
    for entry in bundled.library:
        assert any(found.id.startswith(f"{entry['id']}#") for found in index.search(entry["text"], 1)), entry["id"]


def test_a_secret_is_found_wherever_its_passage_stands() -> None:
    """Long lists are compared in batches; a passage on a border between two must not be missed."""
    secret = " ".join(f"word{number}" for number in range(21))
    passages = [f"{' '.join(f'other{n}x{number}' for number in range(40))} {' '.join(secret.split()[:16])}" for n in range(4_100)]
    assert all(_telling(passages, [secret]))


def titled(rows: list[QAExample], found: list[list[Passage]]) -> float:
    """Share of multiple-choice rows whose right option has a passage of its own."""
    titles = [{passage.title.casefold() for passage in passages} for passages in found]
    return sum(each.answer_text.casefold() in known for each, known in zip(rows, titles, strict=True)) / len(rows)


def test_having_a_passage_tells_the_right_option_no_more_in_training_than_elsewhere(bundled: Bundled) -> None:
    """The index holds the training rows' texts: shown as they are, they would mark the right option in nearly every training row."""
    index = bundled.index(guarded=True)
    train, other = ([each for each in rows if each.is_choice][:300] for rows in (bundled.train, bundled.held_back))
    elsewhere = titled(other, index.search_many([(question_text(each), None) for each in other], 3))
    naive = titled(train, index.search_many([(question_text(each), each.id) for each in train], 3))
    assert naive > elsewhere + 0.2
    assert abs(titled(train, index.search_for_training(train, 3)) - elsewhere) < 0.15
