"""The life of one row, from its source's file to its side of the split; and why a row is not in the corpus.

    medpipe data show synthetic-asthma-causes
    medpipe data why-dropped "what is glaucoma"

Read from what the last run left in the outputs folder; nothing is computed but the repairs, which are shown step by step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medpipe import NOTICE, store
from medpipe.corpus.cleaning import QUARANTINE as DROPPED
from medpipe.corpus.repair import repair
from medpipe.corpus.sources import QUARANTINE, SOURCES
from medpipe.corpus.splits import PARTS
from medpipe.corpus.text import clip
from medpipe.errors import MedpipeError
from medpipe.schema import QAExample

SHOWN = 300  # characters of a text
MOST = 10  # rows listed


def show(id: str, outputs: Path) -> str:
    """Where a row comes from, every change made to it, and where it went.

    Raises:
        MedpipeError: no source that was materialised holds the row.
    """
    row = next((row for row in _raw_rows(outputs) if row.id == id), None)
    if row is None:
        known = next(_raw_rows(outputs), None)
        raise MedpipeError(
            got=f"the id {id!r}", expected="the id of a row" + (f", such as {known.id}" if known else ""), where=str(outputs / "sources"),
            do="look it up in data/medxpert_complete.jsonl" if known else "materialise the sources (medpipe run -s 'group:sources')",
        )  # fmt: skip
    source = SOURCES[row.source]
    lines = [f"{row.id}", f"  source    {source.title} ({source.licence}); {row.origin or 'made by the generator'}"]
    lines += [f"  page      {row.url}"] if row.url else []
    lines += [f"  focus     {row.focus}   kind: {row.qtype}   category: {row.category}   difficulty: {row.difficulty}"]
    lines += [f"  names     {'; '.join((*row.synonyms, *row.cuis))}"] if row.synonyms or row.cuis else []
    lines += ["as it came", *_texts(row)]
    repaired, changes = repair(row)
    for number, change in enumerate(changes, 1):
        lines.append(f"change {number}: {change.step} in the {change.field}, {len(change.before)} to {len(change.after)} characters")
    lines += ["as it is used", *_texts(repaired)] if changes else ["nothing was changed"]
    return "\n".join([*lines, "where it went", f"  {_fate(id, outputs)}", NOTICE])


def why_dropped(wanted: str, outputs: Path) -> str:
    """The dropped rows whose id is `wanted`, or whose question or answer holds it (case aside), each with its reason.

    Raises:
        MedpipeError: corpus/clean was not materialised, or no row at all fits.
    """
    key = wanted.casefold()
    dropped = [row for row in _dropped(outputs) if wanted == row["id"] or key in f"{row['question']}\n{row['answer']}".casefold()]
    lines = [
        f"{row['id']}  ({row['source']}, {row['origin']})\n  {_because(row)}\n  {clip(row['question'], SHOWN)}" for row in dropped[:MOST]
    ]
    refused = [
        f"{source}: {entry['file']}, line {entry['line']}\n  could not be read: {entry['reason']}"
        for source in SOURCES
        for entry in _lines(outputs / "sources" / source / QUARANTINE)
        if key in json.dumps(entry, ensure_ascii=False).casefold()
    ]
    lines += refused[: MOST - len(lines)]
    more = len(dropped) + len(refused) - len(lines)
    lines += [f"and {more} more: give more of the text, or the id"] if more else []
    if not lines:
        kept = next(
            (row for row in store.iter_examples(outputs / "corpus" / "clean") if wanted == row.id or key in row.question.casefold()), None
        )
        if kept is None:
            raise MedpipeError(
                got=f"{wanted!r}", expected="an id, or part of a question or an answer", where=str(outputs / "corpus" / "clean"),
                do="try fewer words; a row that no source holds was never there to be dropped",
            )  # fmt: skip
        lines = [f"{kept.id} was not dropped: {_fate(kept.id, outputs)}"]
    return "\n".join(lines)


def _fate(id: str, outputs: Path) -> str:
    clean = outputs / "corpus" / "clean"
    if not (clean / PARTS).is_file():
        return "nowhere yet: corpus/clean was not materialised"
    place = next((place for place in store.iter_jsonl(clean / PARTS) if place["id"] == id), None)
    if place:
        held = " (for evaluation only, in no file of the data folder)" if place["part"] == "heldout" else ""
        return f"kept, on the side {place['part']}{held}, in the group {place['group']!r}"
    entry = next((row for row in _dropped(outputs) if row["id"] == id), None)
    return _because(entry) if entry else "neither kept nor dropped: corpus/clean is older than the source; materialise it again"


def _because(entry: dict[str, Any]) -> str:
    return f"dropped: {entry['reason']}" + (f" ({entry['detail']})" if entry["detail"] else "")


def _dropped(outputs: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    path = outputs / "corpus" / "clean" / DROPPED
    if not path.is_file():
        raise MedpipeError(
            got="no clean corpus",
            expected=DROPPED,
            where=str(path.parent),
            do="materialise it first (medpipe run -s '*corpus/clean')",
        )
    return parquet.read_table(path).to_pylist()


def _raw_rows(outputs: Path) -> Iterator[QAExample]:
    for name in SOURCES:
        folder = outputs / "sources" / name
        if (folder / store.ROWS).is_file():
            yield from store.iter_examples(folder)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from store.iter_jsonl(path)


def _texts(row: QAExample) -> list[str]:
    options = [f"  option {number}  {clip(option, SHOWN)}" for number, option in enumerate(row.options, 1)]
    return [f"  question  {clip(row.question, SHOWN)!r}", *options, f"  answer    {clip(row.answer, SHOWN)!r}"]
