"""For tests that make a folder of rows by hand: the file that says they passed their validation."""

from __future__ import annotations

from pathlib import Path

from medpipe import store
from medpipe.corpus.validation import FILE, Statistics, Validation


def mark_valid(folder: Path) -> None:
    """Write a validation.json that vouches for the rows.jsonl which lies in the folder now."""
    rows = folder / store.ROWS
    validation = Validation(
        suite="split", part=folder.name, passed=True, rows=len(store.read_jsonl(rows)), rows_sha256=store.sha256_file(rows),
        expectations=(), statistics=Statistics(medians={}, shares={}),
    )  # fmt: skip
    store.write_json(folder / FILE, validation.model_dump(mode="json"))
