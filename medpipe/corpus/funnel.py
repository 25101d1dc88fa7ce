"""The way of a row through cleaning: repaired, kept or dropped with a reason, and counted either way.

    kept, dropped = clean(rows, settings.corpus, seed=0)      # in memory, for a look at a few rows

The funnel, in this order: texts repaired (repair.py); bounds of length; questions about nothing and answers that say nothing;
rows that show a benchmark's question (contamination.py); rows that would join two sides of the split (groups.py); exact and
near duplicates of a row that stays (dedup.py): the row of the earlier source in ORDER stays, in one source the longer
one. Rows stream through a memory-mapped Arrow file: a million of them need little more memory
than their signatures (512 bytes each).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medpipe.config import Corpus
from medpipe.corpus.contamination import Items, Match
from medpipe.corpus.dedup import NearDuplicates
from medpipe.corpus.groups import ANNOTATED, REFUSED, Groups, keys
from medpipe.corpus.repair import names_nothing, repair, says_nothing
from medpipe.corpus.shingles import word_list
from medpipe.errors import MedpipeError
from medpipe.schema import Part, QAExample

ORDER = (
    "custom",
    "synthetic",
    "phenotypes",
    "medtext",
    "medquad",
    "medquad_questions",
    "medqa_train",
    "medmcqa_train",
    "pubmedqa_train",
)  # of two equal rows the one from the earlier source stays
TOO_SHORT, TOO_LONG = "question too short", "question too long"
ANSWER_TOO_SHORT, ANSWER_TOO_LONG = "answer too short", "answer too long"
NO_SUBJECT, NO_ANSWER = "question about nothing", "answer that says nothing"
TWO_RIGHT = "right option stands twice"
OTHER_SIDE = "asks for another side of the split than its focus is on"
SAME, CONTAMINATED, NEARLY_SAME = "exact duplicate", "shows a benchmark's question", "near duplicate"
REASONS = (
    TOO_SHORT,
    TOO_LONG,
    ANSWER_TOO_SHORT,
    ANSWER_TOO_LONG,
    NO_SUBJECT,
    NO_ANSWER,
    TWO_RIGHT,
    CONTAMINATED,
    REFUSED,
    OTHER_SIDE,
    SAME,
    NEARLY_SAME,
)
BATCH = 2_000  # rows
DIGEST = 16  # bytes


@dataclass(frozen=True)
class Dropped:
    """A row that was dropped, why, and the row or the benchmark's item on which that rests."""

    row: QAExample
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Kept:
    """A row that stays, the side of the split it falls on, and its group."""

    row: QAExample
    part: Part
    group: str


class Funnel:
    """First `pour` every source's rows in the order of ORDER, then take what is `kept`; drops go to `drop` at once."""

    def __init__(
        self, corpus: Corpus, seed: int, items: Items, scratch: Path, drop: Callable[[Dropped], None],
        sides: Mapping[str, Part] | None = None,
    ) -> None:  # fmt: skip
        """`sides`: id → the side of the split that a user's row asks for."""
        self.counts: Counter[tuple[str, str]] = Counter()  # (source, "in" | "repaired" | "kept" | a reason) → rows
        self.matches: list[tuple[str, str, Match]] = []  # (source, id of the row, what it shares with a benchmark)
        self._corpus, self._items, self._drop, self._sides = corpus, items, drop, sides or {}
        self._exact = bytearray()  # DIGEST bytes of each row in the spool: equal ones are exact duplicates
        # Number in the spool, source, keys and asked side of the rows that may join two sides, or ask for another than theirs.
        self._doubtful: list[tuple[int, str, list[str], Part | None]] = []
        self._near = NearDuplicates(scratch / "near")
        self._groups = Groups(corpus, seed)
        self._spool = _Spool(scratch / "rows.arrow")
        self._ids: list[str] = []

    def pour(self, rows: Iterable[QAExample]) -> None:
        """Take rows in. Those that no later row can change the fate of are dropped now."""
        for batch in _batches(rows):
            self._take([row for row in map(self._repaired, batch) if row is not None])

    def kept(self) -> Iterator[Kept]:
        """What stays, in the order in which it came; then the counts are whole."""
        self._spool.close()
        found = ((number, self._groups.conflict(source, names, asked)) for number, source, names, asked in self._doubtful)
        refused = {number: conflict for number, conflict in found if conflict}
        replaced = self._near.replaced(refused.keys())
        for number, row in enumerate(self._spool.rows()):
            if number in refused:
                self._out(row, OTHER_SIDE if row.id in self._sides else REFUSED, refused[number])
            elif number in replaced:
                stays = replaced[number]
                same = self._digest(number) == self._digest(stays)
                self._out(row, SAME if same else NEARLY_SAME, f"of {self._ids[stays]}, which stays")
            else:
                self.counts[row.source, "kept"] += 1
                part = self._groups.part(row)
                assert part is not None, "only rows that were doubtful can be refused"
                yield Kept(row, part, self._groups.group(row))

    def _digest(self, number: int) -> bytes:
        return bytes(self._exact[number * DIGEST : (number + 1) * DIGEST])

    def table(self) -> list[dict[str, Any]]:
        """The funnel as rows of a table: source, step, rows.

        Raises:
            MedpipeError: a source's rows in are not the sum of its rows kept and dropped.
        """
        steps: list[dict[str, Any]] = []
        for source in ORDER:
            came, kept = self.counts[source, "in"], self.counts[source, "kept"]
            gone = {reason: self.counts[source, reason] for reason in REASONS}
            if came != kept + sum(gone.values()):
                raise MedpipeError(
                    got=f"{kept} rows of {source} kept and {sum(gone.values())} dropped", expected=f"{came} together, as many as came in",
                    where="corpus/clean", do="report this as a fault of the cleaning step",
                )  # fmt: skip
            steps.append({"source": source, "step": "in", "rows": came})
            steps += [{"source": source, "step": f"dropped: {reason}", "rows": count} for reason, count in gone.items()]
            steps.append({"source": source, "step": "kept", "rows": kept})
        return steps

    def _repaired(self, row: QAExample) -> QAExample | None:
        self.counts[row.source, "in"] += 1
        row, changes = repair(row)
        self.counts[row.source, "repaired"] += any(change.step != "spaces" for change in changes)
        reason = _reason(row, self._corpus)
        if reason:
            self._out(row, reason)
            return None
        return row

    def _take(self, rows: list[QAExample]) -> None:
        matches = self._items.matches(rows)
        for number, match in sorted(matches.items()):
            row = rows[number]
            self.matches.append((row.source, row.id, match))
            self._out(row, CONTAMINATED, f"{match.how} with {match.benchmark} {match.item}: {match.words}")
        staying = [row for number, row in enumerate(rows) if number not in matches]
        for source in dict.fromkeys(row.source for row in staying):
            ours = [row for row in staying if row.source == source]
            self._near.add(ours, ORDER.index(source))
            self._spool.add(ours)
            for row in ours:
                text = f"{' '.join(word_list(row.question))}\0{' '.join(word_list(row.answer_text))}"
                self._exact += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
                asked = self._sides.get(row.id)
                if asked or source in ANNOTATED:
                    self._doubtful.append((len(self._ids), source, keys(row), asked))
                self._ids.append(row.id)
                self._groups.link(row, asked)

    def _out(self, row: QAExample, reason: str, detail: str = "") -> None:
        self.counts[row.source, reason] += 1
        self._drop(Dropped(row, reason, detail))


def clean(
    rows: Iterable[QAExample], corpus: Corpus, seed: int = 0, benchmarks: Iterable[QAExample] = ()
) -> tuple[list[QAExample], list[Dropped]]:
    """Everything in one call and in memory: (kept rows, dropped rows), each in the order in which it was decided."""
    dropped: list[Dropped] = []
    with tempfile.TemporaryDirectory() as folder:
        funnel = Funnel(corpus, seed, Items.of(list(benchmarks)), Path(folder), dropped.append)
        funnel.pour(sorted(rows, key=lambda row: ORDER.index(row.source)))
        return [each.row for each in funnel.kept()], dropped


def _reason(row: QAExample, corpus: Corpus) -> str:
    """Why a row can't be used, judged by itself alone."""
    if len(row.question) < corpus.min_question_chars:
        return TOO_SHORT
    if len(row.question) > corpus.max_question_chars:
        return TOO_LONG
    if row.is_choice:
        return TWO_RIGHT if [_plain(option) for option in row.options].count(_plain(row.answer_text)) > 1 else ""
    if len(row.answer) > corpus.max_answer_chars:
        return ANSWER_TOO_LONG
    if names_nothing(row.question):
        return NO_SUBJECT
    if says_nothing(row.question, row.answer):
        return NO_ANSWER
    return ANSWER_TOO_SHORT if len(row.answer) < corpus.min_answer_chars else ""


def _plain(option: str) -> str:
    """An option as one reads it: signs count, "< 5" is not "> 5"."""
    return " ".join(option.casefold().split())


def _batches(rows: Iterable[QAExample]) -> Iterator[list[QAExample]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


class _Spool:
    """Rows on disk as one Arrow file of JSON lines, written in batches and read back memory-mapped."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._schema = path, pa.schema([("line", pa.large_string())])
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def add(self, rows: list[QAExample]) -> None:
        import pyarrow as pa

        lines = pa.array([row.model_dump_json() for row in rows], pa.large_string())
        self._writer.write_batch(pa.record_batch([lines], schema=self._schema))

    def close(self) -> None:
        self._writer.close()

    def rows(self) -> Iterator[QAExample]:
        import pyarrow as pa

        with pa.memory_map(str(self._path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield from map(QAExample.model_validate_json, reader.get_batch(number).column(0).to_pylist())
