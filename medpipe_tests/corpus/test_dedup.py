"""Near duplicates: what is alike and what only looks so, which row stays, and how many planted ones are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medpipe.config import Corpus
from medpipe.corpus.dedup import NearDuplicates
from medpipe.corpus.funnel import NEARLY_SAME, SAME, clean
from medpipe.corpus.synthetic import generate, load_conditions
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row
from medpipe_tests.corpus.planted import Planted, hard_negatives, near_duplicates, score

CONDITIONS = Path(__file__).parents[2] / "data/synthetic/conditions"
QUESTION = "What are the symptoms of gout?"
ANSWER = (
    "Gout brings sudden pain, swelling and redness, most often in the big toe. The joint is hot and tender for 3 to 10 days, "
    "and the attack usually begins at night."
)
INHERITED = (
    "This condition is inherited in an autosomal recessive pattern, which means both copies of the gene in each cell have mutations. "
    "The parents each carry one copy of the mutated gene."
)
TOE = ("What joint does gout most often strike first?", ("big toe", "shoulder", "jaw"), "A")


def replaced(folder: Path, *rows: QAExample) -> dict[int, int]:
    search = NearDuplicates(folder / "near")
    search.add(rows, 0)
    return search.replaced()


def words(number: int, count: int) -> str:
    """Words without a figure that no other number has."""
    mark = "".join("abcdefghij"[int(digit)] for digit in f"{number:04d}")
    return " ".join(f"{mark}{letter}word" for letter in "klmnopqrstuvwxyz"[:count])


def asked(question: str = QUESTION, answer: str = ANSWER, **changes: Any) -> QAExample:
    return row(question=question, answer=answer, **{"focus": "gout", **changes})


def choice(question: str = TOE[0], options: tuple[str, ...] = TOE[1], answer: str = TOE[2]) -> QAExample:
    return row(question=question, options=options, answer=answer, focus="gout")


ALIKE = {
    "the same": (asked(), asked()),
    "case and punctuation": (asked(), asked(QUESTION.upper(), ANSWER.upper().replace(",", " ").replace(".", "!"))),
    "two words swapped": (asked(), asked(answer=ANSWER.replace("pain, swelling", "swelling, pain"))),
    "the question's words in another order": (asked(), asked("Of gout, what are the symptoms?")),
    "little words of the question": (asked(), asked("What is the symptom of the gout?")),
    "a sentence added": (asked(), asked(answer=f"{ANSWER} Doctors see many such attacks.")),
    "much added to a short answer": (
        asked(answer="Sudden pain and swelling in the big toe at night."),
        asked(answer="Sudden pain and swelling in the big toe at night. Doctors see many such attacks, which pass after a while."),
    ),
    "a figure only in what is added": (asked(), asked(answer=f"{ANSWER} About 4 in 100 adults have had one such attack.")),
    "annotated, other words in the question": (
        asked(source="medquad", qtype="symptoms"),
        asked("How does one recognise an attack?", f"{ANSWER} Rest helps.", source="medquad", qtype="symptoms", focus="Gout"),
    ),
    "choice with the same right option": (choice(), choice("What joint does gout strike first most often?", ("wrist", "big toe"), "B")),
}  # fmt: skip
DIFFERENT = {
    "another disease": (asked(), asked("What are the symptoms of pseudogout?", ANSWER.replace("Gout", "Pseudogout"), focus="pseudogout")),
    "another figure": (asked(), asked(answer=ANSWER.replace("10", "14"))),
    "a decimal point moved": (asked(answer="The usual dose of the medicine is 0.5 mg a day in the first week."),
                              asked(answer="The usual dose of the medicine is 5 mg a day in the first week.")),
    "a negation, and a sentence more in the other": (
        asked(answer=ANSWER.replace("is hot", "is not hot")), asked(answer=f"{ANSWER} Doctors see many such attacks.")
    ),
    "names that begin alike": (
        asked("Is osteoporosis inherited?", INHERITED, focus="osteoporosis"),
        asked("Is osteopetrosis inherited?", INHERITED, focus="osteopetrosis")
    ),
    "a letter at the end of the name": (asked("What is hemophilia?", INHERITED), asked("What is hemophilia A?", INHERITED)),
    "how many and what": (asked("What is gout?"), asked("How many people have gout?")),
    "a negation": (asked(), asked(answer=ANSWER.replace("is hot", "is not hot"))),
    "another figure where a sentence is added": (asked(), asked(answer=f"{ANSWER.replace('10', '14')} Doctors see many such attacks.")),
    "an answer of which half is another": (asked(answer=words(1, 16)), asked(answer=f"{words(1, 10)} {words(2, 6)}")),
    "the answer of another question": (asked(), asked(answer="Gout follows from uric acid that settles as crystals in a joint.")),
    "the same answer to another question": (asked(), asked("What are the complications of gout?")),
    "much added to fewer than four words": (
        asked(answer="Swollen painful toe."),
        asked(answer="Swollen painful toe. The skin above it is often red, hot and so tender that a sheet hurts."),
    ),
    "not annotated, other words in the question": (asked(), asked("How does one recognise an attack?", f"{ANSWER} Rest helps.")),
    "annotated, another kind of question": (
        asked(source="medquad", qtype="symptoms"),
        asked("How does one recognise an attack?", f"{ANSWER} Rest helps.", source="medquad", qtype="diagnosis"),
    ),
    "annotated, an answer that shares less": (
        asked(source="medquad", qtype="symptoms"),
        asked("How does one recognise an attack?", f"{ANSWER} {words(1, 12)}", source="medquad", qtype="symptoms"),
    ),
    "choice with another right option": (choice(), choice(answer="B")),
    "choice with another question": (choice(), choice("Where does a bunion grow?")),
    "choice and free text": (choice(), asked(TOE[0], "big toe")),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_alike(tmp_path: Path, name: str) -> None:
    assert len(replaced(tmp_path, *ALIKE[name])) == 1
    assert len(replaced(tmp_path, *reversed(ALIKE[name]))) == 1


@pytest.mark.parametrize("name", DIFFERENT)
def test_not_alike(tmp_path: Path, name: str) -> None:
    assert replaced(tmp_path, *DIFFERENT[name]) == replaced(tmp_path, *reversed(DIFFERENT[name])) == {}


def test_of_one_source_the_longest_row_stays_and_of_equally_long_ones_the_first(tmp_path: Path) -> None:
    longer = asked(answer=f"{ANSWER} Doctors see many such attacks.")
    assert replaced(tmp_path, asked(), longer, asked()) == {0: 1, 2: 1}
    assert replaced(tmp_path, asked(), asked(), asked()) == {1: 0, 2: 0}


def test_a_row_of_a_preferred_source_stays_before_a_longer_one(tmp_path: Path) -> None:
    search = NearDuplicates(tmp_path)
    search.add([asked(answer=f"{ANSWER} Doctors see many such attacks.")], rank=2)
    search.add([asked(), asked(answer="Gout follows from uric acid that settles as crystals in a joint.")], rank=1)
    search.add([], rank=0)
    assert search.replaced() == {0: 1}


def test_batches_do_not_matter_and_no_rows_are_no_fault(tmp_path: Path) -> None:
    rows = [each for pair in ALIKE.values() for each in pair]
    in_parts = NearDuplicates(tmp_path / "parts")
    for each in rows:
        in_parts.add([each], 0)
    assert in_parts.replaced() == replaced(tmp_path, *rows) != {}
    assert NearDuplicates(tmp_path / "none").replaced() == {}


def test_one_question_with_2000_answers_keeps_them_all_and_finds_a_copy_among_them(tmp_path: Path) -> None:
    rows = [asked(answer=words(number, 12)) for number in range(2_000)]
    assert replaced(tmp_path, *rows) == {}
    assert replaced(tmp_path, *rows, asked(answer=f"{rows[1234].answer} indeed")) == {1234: 2_000}


def test_in_a_chain_each_row_goes_for_one_that_stays_and_is_like_it(tmp_path: Path) -> None:
    """Each row shares most words with the next, the first none with the last."""
    line = [word for number in range(6) for word in words(number, 16).split()]
    rows = [asked(answer=" ".join(line[start : start + 30])) for start in range(0, 60, 2)]
    gone = replaced(tmp_path, *rows)
    stays = set(range(len(rows))) - set(gone)
    assert set(gone.values()) <= stays and 5 <= len(stays) <= 12
    for one, other in gone.items():
        assert replaced(tmp_path, rows[one], rows[other]) != {}, f"row {one} went for row {other}, which is not like it"


@pytest.fixture(scope="module")
def corpus() -> list[QAExample]:
    return generate(load_conditions(CONDITIONS), seed=0, per_condition=7)


def test_planted_rows_are_made_as_told(corpus: list[QAExample]) -> None:
    near, hard = near_duplicates(corpus, 100, seed=1), hard_negatives(corpus, 100, seed=1)
    assert (near, hard) == (near_duplicates(corpus, 100, seed=1), hard_negatives(corpus, 100, seed=1))
    known = {each.id: each for each in corpus}
    for planted in (*near, *hard):
        original = known[planted.original]
        assert planted.row.id not in known
        assert (planted.row.question, planted.row.answer) != (original.question, original.answer), planted
    assert len({planted.original for planted in hard}) == 100 and {kind.kind for kind in near} == {
        "word swaps", "case", "punctuation", "sentence added",
    }  # fmt: skip


def test_planted_near_duplicates_are_found_and_what_only_looks_like_one_stays(corpus: list[QAExample]) -> None:
    near, hard = near_duplicates(corpus, 500, seed=0), hard_negatives(corpus, 200, seed=0)
    _, dropped = clean([*corpus, *(planted.row for planted in (*near, *hard))], Corpus())
    gone = {
        each.row.id: each.detail.removeprefix("of ").removesuffix(", which stays") for each in dropped if each.reason in (SAME, NEARLY_SAME)
    }
    result = score(near, hard, gone)
    print(f"recall {result.recall:.4f}, precision {result.precision:.4f}: {result.found} of 500 found, {result.false} of 200 taken for one")
    missed = [planted for planted in near if planted.row.id not in gone and planted.original not in gone]
    assert result.recall >= 0.98, missed
    assert result.precision >= 0.98, taken(hard, gone)


def taken(hard: list[Planted], gone: dict[str, str]) -> list[Planted]:
    return [planted for planted in hard if planted.row.id in gone or planted.row.id in gone.values()]


@pytest.mark.parametrize(("gone", "found", "false"), [
    ({}, 0, 0), ({"near": "a"}, 1, 0), ({"a": "near"}, 1, 0), ({"hard": ""}, 0, 1), ({"b": "hard"}, 0, 1), ({"b": "c"}, 0, 0),
])  # fmt: skip
def test_the_score_counts_either_row_of_a_pair(gone: dict[str, str], found: int, false: int) -> None:
    near, hard = [Planted(row(id="near"), "a", "case")], [Planted(row(id="hard"), "b", "number")]
    assert score(near, hard, gone)[:2] == (found, false)
