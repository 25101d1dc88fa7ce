"""Rows from JSON lines and CSV: the user's own rows, and MedText in its hub schema.

A row that can't be used is quarantined with its file, line and reason; a file that can't be used at all is an error.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medpipe.corpus import download, text
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import QAExample

CUSTOM_FIELDS = ("id", "question", "answer", "category", "difficulty", "focus", "qtype", "options", "rationale")
DIFFICULTY_WORDS = {"low": "easy", "moderate": "medium", "high": "hard"}  # other common names of the three levels
MEDTEXT = "BI55/MedText"
MEDTEXT_URL = f"https://huggingface.co/datasets/{MEDTEXT}"


@dataclass
class Found:
    """What a source holds: rows, bad rows ({"file", "line", "reason"}), further numbers for its page, and texts to read up in.

    `library` entries ({"id", "title", "text"}) go into the evidence index only; no row is made from them.
    """

    rows: list[QAExample] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    library: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, file: str, line: int, reason: str) -> None:
        """Put one bad row aside."""
        self.quarantined.append({"file": file, "line": line, "reason": reason})


def read_custom(paths: Iterable[Path]) -> Found:
    """The user's own rows: JSON lines with question and answer; see data/custom/README.md."""
    found, ids, ignored = Found(), set[str](), Counter[str]()
    for path in paths:
        for line, value in _json_lines(path, found):
            ignored.update(key for key in value if key not in CUSTOM_FIELDS and key != "source")
            row = {key: value[key] for key in CUSTOM_FIELDS if value.get(key) not in (None, "")}
            given = str(row.get("id", f"{path.stem}-{line}"))
            row |= {"id": given if given.startswith("custom-") else f"custom-{given}", "source": "custom"}
            if "difficulty" in row:
                row["difficulty"] = DIFFICULTY_WORDS.get(str(row["difficulty"]).lower(), str(row["difficulty"]).lower())
            if row["id"] in ids:
                found.refuse(path.name, line, f"the id {given!r} was used before")
            elif (example := _example(row, found, path.name, line)) is not None:
                ids.add(example.id)
                found.rows.append(example)
    if ignored:
        found.notes["ignored_fields"] = ", ".join(f"{name} ({count})" for name, count in sorted(ignored.items()))
    return found


def read_medtext(path: Path | None) -> Found:
    """MedText's columns Prompt and Completion, from a local file or, with `path` None, from the Hugging Face hub.

    Raises:
        SourceUnreachable: no local file and the hub can't be reached.
        MedpipeError: the file lacks a column.
    """
    found = Found()
    name, pairs = (MEDTEXT, enumerate(_from_hub(), 1)) if path is None else (path.name, _local_pairs(path, found))
    for line, pair in pairs:
        prompt, completion = pair.get("Prompt"), pair.get("Completion")
        row = {
            "id": f"medtext-{line}", "question": prompt, "answer": completion, "source": "medtext", "category": "case",
            "qtype": "case", "focus": text.first_words(prompt) if isinstance(prompt, str) else "",
        }  # fmt: skip
        example = _example(row, found, name, line, names={"question": "Prompt", "answer": "Completion"})
        if example is not None:
            found.rows.append(example)
    return found


def _example(row: dict[str, Any], found: Found, file: str, line: int, names: Mapping[str, str] | None = None) -> QAExample | None:
    """The row as an example, or None after it was put aside."""
    names = names or {}
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            found.refuse(file, line, f"lacks {names.get(key, key)}")
            return None
    row.setdefault("focus", text.first_words(row["question"]))
    try:
        return QAExample.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        found.refuse(file, line, f"{'.'.join(str(part) for part in first['loc']) or 'row'}: {first['msg']}")
        return None


def _json_lines(path: Path, found: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                found.refuse(path.name, number, f"not JSON ({type(error).__name__}: {text.clip(str(error), 120)})")
                continue
            if isinstance(value, dict):
                yield number, value
            else:
                found.refuse(path.name, number, f"not a JSON object but {type(value).__name__}")


def _local_pairs(path: Path, found: Found) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix != ".csv":
        yield from _json_lines(path, found)
        return
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        missing = {"Prompt", "Completion"} - set(reader.fieldnames or ())
        if missing:
            raise MedpipeError(
                got=f"the columns {reader.fieldnames}", expected="the columns Prompt and Completion", where=path.name,
                do="get the file again",
            )  # fmt: skip
        yield from ((reader.line_num, row) for row in reader)


def _from_hub() -> Iterable[Any]:
    """Rows of the hub's train split. Names of time limits must be set before the library is imported."""
    expected = f"medtext.jsonl or medtext.csv in the folder {download.MIRROR}, or a network"
    for variable in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(variable, "10")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):  # offline, the hub's own cache may still hold it
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        download.require_reachable(f"{endpoint}/datasets/{MEDTEXT}", expected=expected)
    import httpx
    from datasets import load_dataset

    try:
        return list(load_dataset(MEDTEXT, split="train"))
    except (ConnectionError, FileNotFoundError, httpx.HTTPError) as error:
        raise SourceUnreachable(
            got=f"{type(error).__name__} ({text.clip(str(error), 200)})", expected=expected, where=MEDTEXT_URL,
            do=f"put the file into a folder and set {download.MIRROR} to it, or run again with a network",
        ) from error  # fmt: skip
