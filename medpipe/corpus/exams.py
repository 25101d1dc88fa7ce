"""The training splits of MedQA, MedMCQA and PubMedQA as sources of multiple-choice questions; no profile uses them by itself.

    found = medqa([Path("medqa_train.jsonl")], "medqa_train")      # found.rows, found.quarantined
    found = drawn(found, settings.corpus.exam_rows, settings.seed)

Their publishers keep these splits apart from those that are asked in an evaluation; cleaning drops what shows a question of any
benchmark all the same. What a question is about is not told, so each stands alone under its id. A row that is not as its
publisher writes it is put aside, and a file without one good row is an error.
What this leaves out: PubMedQA's unlabelled and machine-labelled parts, and judging whether a key is right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medpipe.corpus.records import Found, example, json_lines
from medpipe.errors import MedpipeError
from medpipe.schema import LETTERS

DECISIONS = ("yes", "no", "maybe")
MEDMCQA_OPTIONS = ("opa", "opb", "opc", "opd")
MEDMCQA_COLUMNS = ("id", "question", *MEDMCQA_OPTIONS, "cop", "exp", "subject_name")
BATCH = 5_000  # rows of a table that are held as Python values at once


def medqa(paths: Sequence[Path], source: str) -> Found:
    """MedQA's questions: JSON lines with question, options by their letters, and answer_idx.

    Raises:
        MedpipeError: no row can be used.
    """
    (path,), found = paths, Found()
    for line, row in json_lines(path, found):
        options = row.get("options")
        texts = [options.get(letter) for letter in LETTERS[: len(options)]] if isinstance(options, dict) else options
        _add(
            found, path, line, id=f"{source}-{line}", source=source, question=row.get("question"), options=texts,
            answer=row.get("answer_idx"), fault="" if texts else "lacks options",
        )  # fmt: skip
    return _some(found, path)


def medmcqa(paths: Sequence[Path], source: str) -> Found:
    """MedMCQA's questions: the hub's table, the right option by its number from 0; `exp` becomes the rationale.

    Raises:
        MedpipeError: the file is no such table, or no row can be used.
    """
    (path,), found = paths, Found()
    for number, row in enumerate(_table(path), 1):
        right = row["cop"]
        known = isinstance(right, int) and right in range(len(MEDMCQA_OPTIONS))
        _add(
            found, path, number, id=f"{source}-{row['id']}", source=source, question=row["question"],
            options=[row[column] for column in MEDMCQA_OPTIONS], answer=LETTERS[right] if known else None,
            category=row["subject_name"] or "general", rationale=row["exp"] or "",
            fault="" if known else f"cop: {right!r}, not the number of an option from 0 to {len(MEDMCQA_OPTIONS) - 1}",
        )  # fmt: skip
    return _some(found, path)


def pubmedqa(paths: Sequence[Path], source: str) -> Found:
    """PubMedQA's labelled questions that its official test split does not name, with the abstract's passages as context.

    Args:
        paths: ori_pqal.json and test_ground_truth.json.

    Raises:
        MedpipeError: a file is no JSON object, or no row can be used.
    """
    (path, split), found = paths, Found()
    tested = _object(split)
    for number, (id, entry) in enumerate(_object(path).items(), 1):
        if id in tested:
            continue
        about = entry if isinstance(entry, dict) else {}
        decision, passages = about.get("final_decision"), about.get("CONTEXTS")
        known = decision in DECISIONS
        _add(
            found, path, number, id=f"{source}-{id}", source=source, question=about.get("QUESTION"), options=list(DECISIONS),
            answer=LETTERS[DECISIONS.index(decision)] if known else None, rationale=about.get("LONG_ANSWER") or "", context=passages,
            fault="" if known else f"final_decision: {decision!r}, not yes, no or maybe",
        )  # fmt: skip
    return _some(found, path)


def drawn(found: Found, count: int, seed: int) -> Found:
    """At most `count` of the rows, in their order; each one's place in the draw hangs on the seed and its own id only."""
    if len(found.rows) <= count:
        return found
    chosen = sorted(found.rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.id}".encode()).digest())[:count]
    ids = {row.id for row in chosen}
    rows = [row for row in found.rows if row.id in ids]
    return replace(found, rows=rows, notes={**found.notes, "rows_published": len(found.rows)})


def _add(found: Found, path: Path, number: int, *, fault: str, **fields: Any) -> None:
    row = {"focus": fields["id"], "origin": f"{path.name}:{number}", **fields}
    if (made := example(row, found, path.name, number, names={"answer": "the right option"}, fault=fault)) is not None:
        found.rows.append(made)


def _table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of MedMCQA's table, a batch at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            missing = [column for column in MEDMCQA_COLUMNS if column not in table.schema_arrow.names]
            if missing:
                raise _wrong(path, f"a table without {', '.join(missing)}", f"the columns {', '.join(MEDMCQA_COLUMNS)}")
            for batch in table.iter_batches(BATCH, columns=list(MEDMCQA_COLUMNS)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _wrong(path, f"a file that can't be read as parquet ({error})", "the table as published") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise _wrong(path, f"text that is not JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise _wrong(path, type(value).__name__, "a JSON object")
    return value


def _some(found: Found, path: Path) -> Found:
    if not found.rows:
        first = f", the first since: {found.quarantined[0]['reason']}" if found.quarantined else ""
        raise _wrong(path, f"no row that can be used ({len(found.quarantined)} put aside{first})", "the file as published")
    return found


def _wrong(path: Path, got: str, expected: str) -> MedpipeError:
    return MedpipeError(
        got=got, expected=expected, where=str(path), do="get it again from its publisher, or take the source out of corpus.use"
    )
