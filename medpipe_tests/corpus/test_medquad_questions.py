"""Questions from MedQuAD by masking: no name told, no passage from the sentence's own answer, fair options, the same bytes again."""

from __future__ import annotations

import json

import pytest

from medpipe.config import Corpus
from medpipe.corpus.funnel import clean
from medpipe.corpus.groups import Groups, keys
from medpipe.corpus.medquad_questions import MASK, PASSAGE_CHARS, RUN, generate
from medpipe.corpus.options import stems
from medpipe.corpus.records import Found
from medpipe.corpus.shingles import word_list
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import LETTERS, QAExample

SUBJECTS = 30
BOILER = "This condition is passed on by both parents and nobody else in the whole family has to be affected by it."


def mark(number: int) -> str:
    """A made-up word that no other subject has: qaaa, qbaa, …"""
    return "".join(chr(97 + number // 26**place % 26) for place in range(3))


def answers(number: int) -> dict[str, str]:
    """Three answers on one subject: each has a sentence that names it, and they share a word of their own."""
    name, own = f"{mark(number)}itis", f"{mark(number)}finding"
    return {
        "information": f"{name.title()} (Q{mark(number)}) is a disorder in which {own} appears below the knees after long walks. {BOILER}",
        "symptoms": f"First complaints of {name} are usually {own}, weakness, dizziness, trembling hands. {name} comes back each winter.",
        "treatment": f"Doctors treat {own} with rest, cold water, stretching exercises, careful walking. {BOILER}",
    }


def rows(count: int = SUBJECTS) -> list[QAExample]:
    return [
        QAExample(
            id=f"medquad-X-{number}-{kind}", source="medquad", category="disorders", focus=f"{mark(number)}itis", qtype=kind,
            question=f"What about {mark(number)}itis?", answer=answer, synonyms=(f"morbus {mark(number)}",), semantic_types=("T047",),
            cuis=("C1",) if number in (0, 1) else (),
        )
        for number in range(count)
        for kind, answer in answers(number).items()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Found:
    return generate(rows(), seed=0, count=100, options=10)


def test_one_question_a_subject_with_ten_options_that_are_subjects(made: Found) -> None:
    assert sorted(row.focus for row in made.rows) == sorted(f"{mark(number)}itis" for number in range(SUBJECTS))
    foci = {row.focus for row in made.rows}
    for row in made.rows:
        assert len(set(row.options)) == 10 and set(row.options) <= foci and row.options[LETTERS.index(row.answer)] == row.focus
        assert (row.source, row.category, row.semantic_types) == ("medquad_questions", "disorders", ("T047",))
        assert row.question.startswith('Which condition does this describe: "') and MASK in row.question


def test_no_question_tells_the_name_a_synonym_or_an_abbreviation(made: Found) -> None:
    for row in made.rows:
        word = row.focus.removesuffix("itis")
        assert row.focus not in row.question.lower() and f"q{word}" not in row.question.lower().replace(f"{word}finding", "")
        assert row.focus in row.rationale.lower()


def test_a_sentence_that_is_said_of_several_subjects_is_neither_asked_nor_shown(made: Found) -> None:
    assert all(BOILER not in row.question for row in made.rows) and all(BOILER not in entry["text"] for entry in made.library)


def test_a_sentence_that_no_passage_bears_on_is_not_asked(made: Found) -> None:
    assert all("comes back each winter" not in row.question for row in made.rows)


def test_passages_come_from_the_other_answers(made: Found) -> None:
    answer = {row.id: row.answer for row in rows()}
    of = {row.focus: row for row in made.rows}
    for entry in made.library:
        assert set(entry) == {"id", "title", "names", "text", "scope"} and entry["scope"] == "choice"
        assert len(f"{entry['title']}: {entry['text']}") <= PASSAGE_CHARS
        row = of[entry["title"]]
        source, _, _ = entry["id"].removeprefix("medquad_questions-").rpartition("-")
        assert source != row.id.removeprefix("medquad_questions-") and entry["text"] in answer[source]
        words, said = word_list(entry["text"]), word_list(row.rationale)
        runs = {tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)}
        assert not any(tuple(said[place : place + RUN]) in runs for place in range(len(said) - RUN + 1))
    assert {entry["title"] for entry in made.library} == set(of)


def test_an_answer_that_repeats_the_sentence_gives_no_passage_with_it() -> None:
    copies = [row.model_copy(update={"id": f"{row.id}-again"}) for row in rows() if row.qtype == "information"]
    for row, entries in _with_passages(generate([*rows(), *copies], 0, 100, 10)):
        assert all(row.rationale not in entry["text"] for entry in entries)


def _with_passages(found: Found) -> list[tuple[QAExample, list[dict[str, str]]]]:
    return [(row, [entry for entry in found.library if entry["title"] == row.focus]) for row in found.rows]


def test_subjects_that_share_a_concept_are_not_options_together(made: Found) -> None:
    one, other = f"{mark(0)}itis", f"{mark(1)}itis"
    for row in made.rows:
        assert not {one, other} <= set(row.options) or row.focus not in (one, other)


def test_a_question_falls_with_its_subject(made: Found) -> None:
    for seed in range(5):
        groups = Groups(Corpus(), seed)
        for row in (*rows(), *made.rows):
            groups.link(row)
        sides = {row.focus: groups.part(row) for row in rows()}
        assert all(groups.part(row) == sides[row.focus] for row in made.rows)
        assert sides[f"{mark(0)}itis"] == sides[f"{mark(1)}itis"]
    assert all("cui C1" in keys(row) for row in made.rows if row.focus in (f"{mark(0)}itis", f"{mark(1)}itis"))


def test_difficulty_is_that_of_the_overlap_rule(made: Found) -> None:
    passages = {row.focus: [stems(f"{entry['title']} {entry['text']}") for entry in entries] for row, entries in _with_passages(made)}
    for row in made.rows:
        asked = stems(row.question.partition('"')[2])
        scores = [max(len(asked & passage) for passage in passages[option]) for option in row.options]
        ahead = scores[LETTERS.index(row.answer)] - max(
            score for letter, score in zip(LETTERS, scores, strict=False) if letter != row.answer
        )
        assert row.difficulty == ("easy" if ahead > 1 else "medium" if ahead == 1 else "hard")


def test_the_same_seed_gives_the_same_bytes_and_fewer_are_a_part(made: Found) -> None:
    def text(found: Found) -> str:
        return json.dumps([[row.model_dump() for row in found.rows], found.library, found.notes])

    assert text(generate(rows(), 0, 100, 10)) == text(made) != text(generate(rows(), 1, 100, 10))
    few = generate(rows(), 0, 12, 10)
    assert len({row.focus for row in few.rows}) == 12 and {row.id for row in few.rows} < {row.id for row in made.rows}


def test_cleaning_keeps_them_all_beside_the_answers(made: Found) -> None:
    _, dropped = clean([*rows(), *made.rows], Corpus())
    assert [each for each in dropped if each.row.is_choice] == []


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(MedpipeError, match=r"got corpus.medquad_questions = 4, expected at least 10"):
        generate(rows(), 0, 4, 10)
    with pytest.raises(SourceUnreachable, match=r"subjects that can be asked about, expected at least 10"):
        generate(rows(4), 0, 100, 10)
