"""The user's own rows: where they lie, which side of the split they ask for, and what is said of them.

    sides = asked_sides(folder_of_sources_custom)      # id of a row → "train", for the rows that name a side
    own = OwnRows(sides)                               # told of every row that is kept or dropped
    own.tell(job.report)                               # what became of them, on the screen

A user has few rows and cares about each: every one that is dropped is named with file, line and reason, and so is the side on
which the others fall. What this leaves out: reading the files (records.py), and deciding about sides (groups.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from medpipe import store
from medpipe.corpus.text import clip
from medpipe.job import Reporter
from medpipe.schema import CheckResult, Part

if TYPE_CHECKING:
    from medpipe.corpus.funnel import Dropped, Kept

SOURCE = "custom"
FILES = ("custom/*.jsonl", "custom/*.csv", "custom_medical.jsonl")
"""Where they lie below the data folder."""
SIDES = "sides.jsonl"  # in the folder of sources/custom: {"id", "split"} of the rows that ask for a side
CHECK = "own_rows"
FEW = 200  # rows; of more, a hash gives each side its share well enough
SHOWN = 5  # rows that are named one by one
REASON_CHARS = 300
GUIDE = "data/custom/README.md"


def write_sides(folder: Path, sides: Mapping[str, Part]) -> None:
    """Write which side the rows of a source ask for; nothing where none does."""
    if sides:
        store.write_jsonl(folder / SIDES, ({"id": id, "split": side} for id, side in sides.items()))


def asked_sides(folder: Path) -> dict[str, Part]:
    """Id → the side that the row asks for, from the finished folder of sources/custom."""
    return {line["id"]: line["split"] for line in store.iter_jsonl(folder / SIDES)} if (folder / SIDES).is_file() else {}


def tell_put_aside(quarantined: Sequence[Mapping[str, Any]], report: Reporter, rest: str) -> None:
    """Name the first bad rows with file, line and reason; `rest` says where the others stand."""
    for entry in quarantined[:SHOWN]:
        report.warn(f"own row {entry['file']}, line {entry['line']}, is not used: {clip(entry['reason'], REASON_CHARS)}")
    if len(quarantined) > SHOWN:
        report.warn(f"and {len(quarantined) - SHOWN} more of your rows are not used: see {rest}")


def tell_unread(data: Path, read: Iterable[Path], report: Reporter) -> None:
    """Name what lies in the user's folder and is not read, such as a table in another format."""
    taken, folder = set(read), data / SOURCE
    others = sorted(path.name for path in folder.glob("*") if path not in taken and path.name != "README.md" and path.name[0] != ".")
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        report.warn(f"not read in {folder}: {', '.join(others[:SHOWN])}{more}; rows are taken from files named *.jsonl and *.csv")


class OwnRows:
    """What becomes of the user's rows in cleaning; rows of other sources are let by."""

    def __init__(self, sides: Mapping[str, Part]) -> None:
        self._sides = sides
        self._parts: Counter[Part] = Counter()
        self._asked = 0  # rows that were kept on the side they ask for
        self._dropped = 0
        self._first: list[dict[str, Any]] = []  # of the dropped ones

    def dropped(self, dropped: Dropped) -> None:
        """Note a row that cleaning dropped."""
        if dropped.row.source != SOURCE:
            return
        self._dropped += 1
        if len(self._first) < SHOWN:
            file, _, line = dropped.row.origin.rpartition(":")
            reason = dropped.reason + (f" ({dropped.detail})" if dropped.detail else "")
            self._first.append({"file": file, "line": line, "reason": reason})

    def kept(self, kept: Kept) -> None:
        """Note a row that stays."""
        if kept.row.source == SOURCE:
            self._parts[kept.part] += 1
            self._asked += kept.row.id in self._sides

    def tell(self, report: Reporter) -> None:
        """Say how many rows are on which side, how to choose, and which ones were dropped and why."""
        tell_put_aside(self._first, report, "")
        if self._dropped > len(self._first):
            report.warn(f"and {self._dropped - len(self._first)} more of your rows are not used: medpipe data why-dropped <words of a row>")
        rows = self._parts.total()
        by_hash = rows - self._asked
        if rows:
            report.log(f"your own rows: {self._on_sides()}")
        if by_hash and rows < FEW and rows > self._parts["train"]:
            report.warn(
                f"{by_hash} of your {rows} rows name no split, and a hash of what they are about chose: {self._on_sides()}. "
                f"To choose yourself, give a row the field split: train, cotrain, validation or heldout ({GUIDE})"
            )

    def check(self) -> CheckResult:
        """How many rows stand on which side; warns where some were dropped, or none is learned from and not all asked for that."""
        rows = self._parts.total()
        unused = bool(rows) and not self._parts["train"] and self._asked < rows
        told = f"your own rows: {self._on_sides()}; {self._dropped} dropped" if rows or self._dropped else "there are no rows of your own"
        return CheckResult(
            name=CHECK, passed=not self._dropped and not unused, severity="warn", description=told,
            values={**{part: self._parts[part] for part in get_args(Part)}, "dropped": self._dropped, "side_asked_for": self._asked},
        )  # fmt: skip

    def _on_sides(self) -> str:
        return ", ".join(f"{self._parts[part]} in {part}" for part in get_args(Part))
