"""How the files of benchmarks are read: JSON lines in two forms, the hub's tables in parquet, PubMedQA's pair of files, and a user's own.

    rows = list(choices([Path("medqa_test.jsonl")], "medqa", 4))
    rows = own_items(Path("clinic.jsonl"))

A row that is not as its publisher writes it is an error that names file and line: nothing is guessed and nothing left out.
Each row's `origin` is "file:line" (in a table, the row's number from 1). What this leaves out: the right answers' explanations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS, QAExample

_CHOICES = re.compile(r"\s*Answer Choices:\s*(?=\(A\)\s)")
_TASKS = {"Diagnosis": "diagnosis", "Treatment": "treatment"}  # MedXpertQA's task → our kind of question
_COLUMNS = ("opa", "opb", "opc", "opd")  # MedMCQA's options
OWN: dict[Literal["choice", "text"], str] = {"choice": "own_choice", "text": "own_text"}
"""Sources of a user's own questions, by their kind: right or wrong and similarity to a reference have no mean in common."""
SHOWN = 5  # bad rows of a user's file that are named one by one


def choices(paths: Sequence[Path], source: str, count: int) -> Iterator[QAExample]:
    """Multiple-choice questions from files each of which is a table in parquet, as the hub serves it, or JSON lines.

    Args:
        source: the benchmark's name, for the rows.
        count: options per question.

    Raises:
        MedpipeError: a row is malformed.
    """
    for path in paths:
        yield from (_columns if path.suffix == ".parquet" else _lines)(path, source, count)


def safety_items(paths: Sequence[Path], source: str, count: int) -> Iterator[QAExample]:
    """The project's own safety questions; `answer` is what is expected of an answer, in words (how it is judged:
    medpipe/evaluation/safety_set.py).

    Raises:
        MedpipeError: a row is malformed.
    """
    for number, line in enumerate(paths[0].read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{paths[0]}:{number}"
        row = _json(line, where)
        try:
            id, question, expect, category = (str(row[name]) for name in ("id", "question", "expect", "category"))
        except KeyError as error:
            raise malformed(where, f"no {error.args[0]}", "id, question, expect and category") from error
        yield _example(where, id=id, question=question, answer=expect, source=source, category=category, qtype="safety")


def own_items(path: Path) -> list[QAExample]:
    """A user's own questions, in the order of their file, which is their `category`; each has its kind's source (OWN).

    A row has `question` and `answer`. With `options`, a list of texts or a text for each letter from A on, `answer` is the letter of
    the right one, without them the reference answer. `id` may name the row; other fields are not read.

    Raises:
        MedpipeError: the file can't be read, has no row, or rows that can't be asked: the first ones are named with their lines.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MedpipeError(
            got=error.strerror or type(error).__name__, expected="a file in JSON lines", where=f"paths.own_benchmarks: {path}",
            do="correct the path, which is relative to where the command is run, or take it out of the list",
        ) from error  # fmt: skip
    rows: dict[str, QAExample] = {}
    faults: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _own(_json(line, f"{path}:{number}"), path, number)
            if row.id in rows:
                raise ValueError(f"the id of {rows[row.id].origin} again")
        except (MedpipeError, ValueError) as error:
            faults.append(f"line {number}: {' '.join(str(error).partition(f', in {path}')[0].split())}")
        else:
            rows[row.id] = row
    if faults or not rows:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise MedpipeError(
            got=f"{len(faults)} rows that can't be asked ({'; '.join(faults[:SHOWN])}{more})" if faults else "no rows",
            expected="question, answer and, for multiple choice, options on each line", where=str(path),
            do="correct the file: a benchmark is asked whole or not at all (docs/evaluation.md)",
        )  # fmt: skip
    return list(rows.values())


def _own(row: dict[str, Any], path: Path, number: int) -> QAExample:
    """One row of a user's file; raises ValueError with what is wrong about it."""
    question, answer, field = (row.get(name) for name in ("question", "answer", "options"))
    for name, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"got {'an empty text' if isinstance(text, str) else type(text).__name__} as {name}, expected text")
    if isinstance(field, dict):
        field = [field.get(letter) for letter in [*LETTERS, ""][: len(field)]]  # of more than there are letters one is none
    options = [text.strip() if isinstance(text, str) else "" for text in field] if isinstance(field, list) else []
    if field is not None and not (2 <= len(options) <= len(LETTERS) and all(options) and len(set(options)) == len(options)):
        raise ValueError(f"got options {str(row['options'])[:80]}, expected from 2 to {len(LETTERS)} texts, none empty and no two equal")
    if options and str(answer).strip() not in list(LETTERS[: len(options)]):
        raise ValueError(f"got answer {str(answer)[:40]!r}, expected one letter from A to {LETTERS[len(options) - 1]}")
    return _example(
        f"{path}:{number}", id=f"{path.stem}:{row.get('id') or number}", question=str(question).strip(), answer=str(answer).strip(),
        source=OWN["choice" if options else "text"], options=tuple(options), category=path.name,
    )  # fmt: skip


def _lines(path: Path, source: str, count: int) -> Iterator[QAExample]:
    """Rows in the hub's form, or in the one-line form of MedXpertQA's repository (options inside the question's text)."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _json(line, where)
        stem, options = _question(row, count, where)
        label = row.get("label", row.get("answer_idx"))
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
        if label not in list(LETTERS[:count]):
            raise malformed(where, f"label {label!r}", f"one letter from A to {LETTERS[count - 1]}")
        yield _example(
            where, id=str(row.get("id") or f"test-{number - 1:05d}"), question=stem, answer=label, source=source, options=options,
            category=str(row.get("body_system") or "general"), qtype=_TASKS.get(str(row.get("medical_task")), "information"),
        )  # fmt: skip


def _columns(path: Path, source: str, count: int) -> Iterator[QAExample]:
    """Rows of a table of MedMCQA or MMLU: options in columns of their own, the right one by its number from 0."""
    for number, row in enumerate(_parquet(path), 1):
        where = f"{path}:{number}"
        try:
            options = tuple(row["choices"] if "choices" in row else [row[column] for column in _COLUMNS])
            right, subject = row["answer"] if "answer" in row else row["cop"], row.get("subject") or row.get("subject_name") or "general"
            id, question = row.get("id") or f"{subject}-{number - 1:05d}", row["question"]
        except (KeyError, TypeError) as error:
            raise malformed(where, f"the columns {', '.join(row)}", "question, options and the right one's number") from error
        if len(options) != count or not all(isinstance(option, str) for option in options):
            raise malformed(where, f"options {str(options)[:80]}", f"{count} texts")
        # A wrong option may be empty, as it was published: with columns of its own it can't be one that was cut wrongly.
        if not isinstance(right, int) or right not in range(count) or not options[right].strip():
            raise malformed(where, f"answer {right!r}", f"the number of an option that is not empty, from 0 to {count - 1}")
        yield _example(
            where, id=id, question=question, answer=LETTERS[right], source=source, category=subject,
            options=tuple(option.strip() for option in options),
        )  # fmt: skip


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise malformed(str(path), f"a file that can't be read as parquet ({error})", "the table as published") from error


def _question(row: dict[str, Any], count: int, where: str) -> tuple[str, tuple[str, ...]]:
    """The question without its options, and the options: from their own field, otherwise from the question's text."""
    text, field = row.get("question"), row.get("options")
    if not isinstance(text, str):
        raise malformed(where, f"{type(text).__name__} as question", "text")
    *_, last = [*_CHOICES.finditer(text)] or [None]
    stem, tail = (text[: last.start()], text[last.end() :]) if last else (text, "")
    try:
        if isinstance(field, list):  # [{"letter": "A", "content": "…"}, …]
            field = {entry["letter"]: entry["content"] for entry in field}
        options = tuple(field[letter].strip() for letter in LETTERS[: len(field)]) if field else _split_options(tail, count)
    except (KeyError, TypeError, AttributeError) as error:
        raise malformed(where, f"options {str(field)[:80]!r}", "a text for each letter from A on") from error
    if len(options) != count or not all(options):
        raise malformed(where, f"{len([option for option in options if option])} options", f"{count}, none empty")
    return stem.strip(), options


def _split_options(tail: str, count: int) -> tuple[str, ...]:
    """Cut `(A) … (B) …` at the letters in their order: an option may itself contain `V(D)J` or `Rh(D)`.

    One letter more than `count` is looked for, so that a row with an option too many is noticed.
    """
    cuts: list[tuple[int, int]] = []
    for letter in LETTERS[: count + 1]:
        found = re.compile(rf"(?:^|(?<=\s))\({letter}\)\s").search(tail, cuts[-1][1] if cuts else 0)
        if found is None:
            break
        cuts.append(found.span())
    stops = [start for start, _ in cuts[1:]] + [len(tail)]
    return tuple(tail[end:stop].strip() for (_, end), stop in zip(cuts, stops, strict=False))


def pubmedqa(paths: Sequence[Path], source: str, count: int) -> Iterator[QAExample]:
    """The rows of PubMedQA's official test split (its questions, then its split), with the abstract's passages as context.

    Raises:
        MedpipeError: an entry is malformed, or one of the split is missing.
    """
    questions, split = paths
    entries, truth = (_json(path.read_bytes(), str(path)) for path in paths)
    for id, decision in truth.items():
        where = f"{questions}, entry {id} (listed in {split.name})"
        entry = entries.get(id) or {}
        try:
            question, passages, known = entry["QUESTION"], tuple(entry["CONTEXTS"]), entry["final_decision"]
        except (KeyError, TypeError) as error:
            raise malformed(where, "an entry without QUESTION, CONTEXTS or final_decision", "all three") from error
        if decision not in ("yes", "no", "maybe") or decision != known:
            raise malformed(where, f"answer {decision!r} beside {known!r}", "yes, no or maybe, the same in both files")
        yield _example(
            where, id=id, question=question, answer=LETTERS[("yes", "no", "maybe").index(decision)], source=source,
            options=("yes", "no", "maybe"), context=passages, origin=questions.name,
        )  # fmt: skip


def _example(where: str, **fields: Any) -> QAExample:
    try:  # what a benchmark's question is about is not told: its id stands for it
        return QAExample(**{"focus": fields["id"], "origin": Path(where).name, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise malformed(where, f"{'.'.join(map(str, first['loc'])) or 'a row'} = {str(first['input'])[:80]!r}", first["msg"]) from error


def _json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise malformed(where, f"text that is not JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise malformed(where, type(value).__name__, "a JSON object")
    return value


def malformed(where: str, got: str, expected: str) -> MedpipeError:
    """The error for a file or row that is not as it was published."""
    return MedpipeError(
        got=got, expected=expected, where=where, do="fetch the file again from its publisher: a benchmark is run whole or not at all"
    )
