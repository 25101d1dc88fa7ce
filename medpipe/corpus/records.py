"""Rows from JSON lines and CSV: the user's own rows, and MedText in its hub schema.

    read_custom([Path("data/custom/own.jsonl"), Path("data/custom/own.csv")]).rows

A row that can't be used is quarantined with its file, line and reason, and so is a file of the user's whose header can't be
used; a MedText file without its columns is an error. No line longer than MOST_BYTES is held in memory.
`example` and `json_lines` serve the other sources that are made of rows.
What this leaves out: other encodings than UTF-8, and removal of control tokens (text is data; tokenising treats it so).
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from medpipe.corpus import download, text
from medpipe.corpus.expectations import LONGEST_NAME
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import LETTERS, Part, QAExample

CUSTOM_FIELDS = ("id", "question", "answer", "category", "difficulty", "focus", "qtype", "options", "rationale")
DIFFICULTY_WORDS = {"low": "easy", "moderate": "medium", "high": "hard"}  # other common names of the three levels
MEDTEXT = "BI55/MedText"
MEDTEXT_URL = f"https://huggingface.co/datasets/{MEDTEXT}"
MOST_BYTES = 8 * 2**20
"""A longer line, or a longer row of a CSV file, is skipped and put aside."""
DELIMITERS = ",;\t"
OPTION_MARK = "|"  # between the options in one cell of a CSV file
SHOWN_CHARS, REASON_CHARS = 200, 300  # of a bad row
SHOWN_NAMES, NAME_CHARS = 20, 40  # of ignored fields


@dataclass
class Found:
    """What a source holds: rows, bad rows, further numbers for its page, and texts to read up in.

    `quarantined` entries are {"file", "line", "reason"} and, where there is text, "text" (its first 200 characters).
    `library` entries ({"id", "title", "text"}) go into the evidence index only; no row is made from them. `names` lists other names
    of the title; with `scope` "choice" an entry is shown to multiple-choice questions only.
    `sides` holds the side of the split that a row asks for, by its id.
    """

    rows: list[QAExample] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    library: list[dict[str, Any]] = field(default_factory=list)
    sides: dict[str, Part] = field(default_factory=dict)

    def refuse(self, file: str, line: int, reason: str, shown: str = "") -> None:
        """Put one bad row aside; `shown` is its text, of which the beginning is kept."""
        entry: dict[str, Any] = {"file": file, "line": line, "reason": _writable(text.clip(reason, REASON_CHARS))}
        if shown := _writable(text.clip(shown.strip(), SHOWN_CHARS)):
            entry["text"] = shown
        self.quarantined.append(entry)


def read_custom(paths: Iterable[Path]) -> Found:
    """The user's own rows: JSON lines or CSV with question and answer; see data/custom/README.md."""
    found, ids, ignored = Found(), set[str](), Counter[str]()
    for path in paths:
        try:
            for line, value in _records(path, found, ("question", "answer")):
                ignored.update(key for key in value if key not in (*CUSTOM_FIELDS, "source", "split"))
                side, fault = _side(value.get("split"))
                own = example(_own_row(path, line, value), found, path.name, line, fault=fault)
                if own is not None and own.id in ids:
                    given = own.id.removeprefix("custom-")
                    found.refuse(path.name, line, f"the id {given!r} was used before", own.question)
                elif own is not None:
                    ids.add(own.id)
                    found.rows.append(own)
                    found.sides |= {own.id: side} if side else {}
        except MedpipeError as error:  # the file as a whole; the user's other files are read
            found.refuse(path.name, 1, str(error))
    _refuse_two_sides(found)
    if ignored:
        names = [f"{text.clip(name, NAME_CHARS)} ({count})" for name, count in sorted(ignored.items())[:SHOWN_NAMES]]
        more = [f"and {len(ignored) - SHOWN_NAMES} more"] if len(ignored) > SHOWN_NAMES else []
        found.notes["ignored_fields"] = ", ".join(names + more)
    return found


def read_medtext(path: Path | None) -> Found:
    """MedText's columns Prompt and Completion, from a local file or, with `path` None, from the Hugging Face hub.

    Raises:
        SourceUnreachable: no local file and the hub can't be reached.
        MedpipeError: the file lacks a column.
    """
    found = Found()
    pairs = enumerate(_from_hub(), 1) if path is None else _records(path, found, ("Prompt", "Completion"))
    name = MEDTEXT if path is None else path.name
    for line, pair in pairs:
        prompt, completion = pair.get("Prompt"), pair.get("Completion")
        row = {
            "id": f"medtext-{line}", "question": prompt, "answer": completion, "source": "medtext", "category": "case",
            "qtype": "case", "origin": f"{name}:{line}",
        }  # fmt: skip
        case = example(row, found, name, line, names={"question": "Prompt", "answer": "Completion"})
        if case is not None:
            found.rows.append(case)
    return found


def _side(value: Any) -> tuple[Part | None, str]:
    """The side that a user's row asks for, None where it asks for none; and what is wrong with it."""
    if value is None or _blank(value):
        return None, ""
    side = value.strip().lower() if isinstance(value, str) else value
    if side not in get_args(Part):
        return None, f"split: {text.clip(str(value), NAME_CHARS)!r}, expected one of {', '.join(get_args(Part))}"
    return cast(Part, side), ""


def _refuse_two_sides(found: Found) -> None:
    """Put rows aside that share a focus and ask for different sides: one of them would be learned from, and the other asked."""
    asked: dict[str, dict[Part, str]] = {}  # focus → side → where it is asked for first
    for row in found.rows:
        if row.id in found.sides:
            asked.setdefault(text.focus_key(row.focus), {}).setdefault(found.sides[row.id], row.origin)
    torn = {key: sides for key, sides in asked.items() if len(sides) > 1}
    refused = [row for row in found.rows if row.id in found.sides and text.focus_key(row.focus) in torn]
    for row in refused:
        told = ", ".join(f"{side} ({origin})" for side, origin in torn[text.focus_key(row.focus)].items())
        file, _, line = row.origin.rpartition(":")
        found.refuse(file, int(line), f"split: rows with the focus {row.focus!r} ask for {told}; give them one side", row.question)
        del found.sides[row.id]
    gone = {row.id for row in refused}
    found.rows = [row for row in found.rows if row.id not in gone]


def _own_row(path: Path, line: int, value: Mapping[str, Any]) -> dict[str, Any]:
    """A user's row with its defaults; a value of a wrong type stays, for the schema to refuse."""
    row = {key: value[key] for key in CUSTOM_FIELDS if value.get(key) is not None and not _blank(value[key])}
    given = row.get("id", f"{path.name if _is_csv(path) else path.stem}-{line}")
    if isinstance(given, str) or type(given) is int:
        given = str(given) if str(given).startswith("custom-") else f"custom-{given}"
    if isinstance(row.get("difficulty"), str):
        row["difficulty"] = DIFFICULTY_WORDS.get(row["difficulty"].lower(), row["difficulty"].lower())
    if _is_csv(path) and "options" in row:
        row["options"] = [option.strip() for option in row["options"].split(OPTION_MARK)]
    return {**row, "id": given, "source": "custom", "origin": f"{path.name}:{line}"}


def example(
    row: dict[str, Any], found: Found, file: str, line: int, names: Mapping[str, str] | None = None, fault: str = ""
) -> QAExample | None:
    """The row as an example, or None after it was put aside.

    Args:
        names: the file's own names of question and answer.
        fault: what is known to be wrong with it already.
    """
    fault = fault or _fault(row, names or {})
    if not fault:
        row.setdefault("focus", text.first_words(row["question"])[:LONGEST_NAME])
        try:
            return QAExample.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"{'.'.join(str(part) for part in first['loc']) or 'row'}: {first['msg']}"
    found.refuse(file, line, fault, next((row[key] for key in ("question", "answer") if isinstance(row.get(key), str)), ""))
    return None


def _fault(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What is wrong with a row that the schema doesn't tell, or ""."""
    for key in ("question", "answer"):
        value, name = row.get(key), names.get(key, key)
        if value is None or _blank(value):
            return f"lacks {name}"
        if not isinstance(value, str):
            return f"{name}: not text but {type(value).__name__}"
    options = row["options"] if isinstance(row.get("options"), list) else []
    if len(options) > len(LETTERS):
        return f"options: {len(options)}, at most {len(LETTERS)}"
    if any(_blank(option) for option in options):
        return "options: one is empty"
    for key in ("id", "focus", "category", "qtype"):
        if isinstance(value := row.get(key), str) and len(value) > LONGEST_NAME:
            return f"{key}: {len(value)} characters, at most {LONGEST_NAME}"
    holders = [key for key, value in row.items() if isinstance(value, str) and "\0" in value]
    return f"{holders[0]}: holds a NUL character" if holders else ""


def _records(path: Path, found: Found, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, fields) of every row that can be read; the others are put aside. `needed` are the columns of a CSV file."""
    return _csv_rows(path, found, needed) if _is_csv(path) else json_lines(path, found)


def json_lines(path: Path, found: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, fields) of every line that is a JSON object; the others are put aside."""
    for line in _lines(path):
        if not line.text.strip():
            continue
        fault, value = line.fault, None
        try:
            value = None if fault else json.loads(line.text, object_pairs_hook=_object, parse_constant=_no_constant)
        except RecursionError:
            fault = "not JSON (nested too deeply)"
        except ValueError as error:
            fault = f"not JSON ({error})"
        if isinstance(value, dict):
            yield line.number, value
        else:
            found.refuse(path.name, line.number, fault or f"not a JSON object but {type(value).__name__}", line.text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {text.clip(twice, NAME_CHARS)!r} stands twice")
    "".join(value).encode()  # a lone surrogate in a name is a ValueError; in a value the schema finds it
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _csv_rows(path: Path, found: Found, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MOST_BYTES)  # the library's own limit for a cell is lower, and holds for the process
    lines = _lines(path)
    header, delimiter = _header(path, lines, needed)
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        feed.begin()
        try:
            cells, fault = next(reader), feed.fault
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            cells, fault = [""], feed.fault or f"not CSV ({error})"
        if not fault and not any(cell.strip() for cell in cells):
            continue  # what a spreadsheet leaves of an empty row
        if not fault and len(cells) != len(header):
            fault = f"{len(cells)} cells, the header has {len(header)} (a cell that holds the delimiter needs quotes)"
        if fault:
            together = f"; lines {feed.start} to {feed.last} were put aside together" if feed.last > feed.start else ""
            found.refuse(path.name, feed.start, fault + together, feed.text)
        else:
            yield feed.start, {name or "(no name)": cell for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _header(path: Path, lines: Iterator[_Line], needed: Sequence[str]) -> tuple[list[str], str]:
    """Names of the columns, and the delimiter with which the header holds the columns that are needed."""
    first = next((line for line in lines if line.text.strip()), None)
    if first is None:
        return [], ","
    columns = {delimiter: _split(first.text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(columns, key=lambda one: (len(set(needed) & set(columns[one])), len(columns[one])))
    names = columns[delimiter]
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if first.fault or twice or not set(needed) <= set(names):
        shown = text.clip(", ".join(filter(None, names)), SHOWN_CHARS) or "none"
        raise MedpipeError(
            got=f"a header that can't be read ({first.fault})" if first.fault else f"the columns {shown}",
            expected=f"the columns {' and '.join(needed)}, and none twice", where=path.name,
            do="save the file as CSV in UTF-8 with these names in its first line",
        )  # fmt: skip
    return names, delimiter


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:  # such as the line ends of an old Mac: the whole file is one line
        return []


@dataclass(frozen=True)
class _Line:
    """One line of a file; of one that is too long `text` is the beginning."""

    number: int
    text: str
    size: int  # bytes
    fault: str = ""  # why it can't be used


def _lines(path: Path) -> Iterator[_Line]:
    """The lines of a file. Bytes that are not UTF-8 stay in the text as surrogates, so that a CSV reader sees every quote."""
    if not path.is_file():  # a folder, or a pipe that would never end
        raise MedpipeError(got="something else", expected="a file", where=path.name, do="take it away")
    with path.open("rb") as handle:
        number = 0
        while raw := handle.readline(MOST_BYTES + 1):
            number += 1
            size, fault = len(raw), ""
            if size > MOST_BYTES and not raw.endswith(b"\n"):
                raw = raw[: 4 * SHOWN_CHARS]
                while rest := handle.readline(MOST_BYTES):
                    size += len(rest)
                    if rest.endswith(b"\n"):
                        break
                fault = f"a line of {size:,} bytes, above the limit of {MOST_BYTES:,}"
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                decoded = line.decode()
            except UnicodeDecodeError as error:
                decoded = line.decode(errors="surrogateescape")
                fault = fault or f"not UTF-8 ({error.reason} at byte {error.start + 1} of the line)"
            yield _Line(number, decoded, size, fault or ("holds a NUL byte" if "\0" in decoded else ""))


class _Feed:
    """Gives a CSV reader as many lines as a row's quotes span, and remembers where the row began and what is wrong with it."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self.lines = lines
        self.begin()

    def begin(self) -> None:
        """The next line is the first of a row."""
        self.start = self.last = self.size = 0
        self.text = self.fault = ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        if not self.start:
            self.start, self.text = line.number, line.text
        self.last = line.number
        self.size += line.size
        self.fault = self.fault or line.fault
        if self.size > MOST_BYTES:
            raise csv.Error(f"a row of more than {MOST_BYTES:,} bytes: is a quote left open?")
        return line.text


def _is_csv(path: Path) -> bool:
    return path.suffix == ".csv"


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _writable(shown: str) -> str:
    """The text with a question mark for whatever UTF-8 can't hold."""
    return shown.encode(errors="replace").decode()


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
