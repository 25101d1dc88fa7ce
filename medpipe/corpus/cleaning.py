"""The asset corpus/clean: all sources' rows as one table, each drop with its reason, none that shows a benchmark's question.

Writes rows.jsonl, parts.jsonl (side and group of each row), quarantine.parquet (dropped rows with reason and detail),
funnel.json, contamination.json (what matched what), library.jsonl (passages for the evidence index), validation.json
and docs/; and in the data folder medxpert_complete.jsonl and dataset_summary.json. What happens to a row is in funnel.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from medpipe import NOTICE, store
from medpipe.corpus import expectations, own_rows, plots
from medpipe.corpus.contamination import Items
from medpipe.corpus.funnel import CONTAMINATED, NEARLY_SAME, ORDER, REASONS, Dropped, Funnel, Kept
from medpipe.corpus.sources import LIBRARY, sample_table
from medpipe.corpus.splits import PARTS, export_row
from medpipe.corpus.text import clip
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult, QAExample

QUARANTINE = "quarantine.parquet"
COMPLETE, SUMMARY = "medxpert_complete.jsonl", "dataset_summary.json"
BENCHMARKS = "sources/benchmarks"
SHOWN_MATCHES = 20
SAMPLES = 3  # and at least one of each source
COLOURS: dict[str, str] = dict(
    zip(
        ORDER,
        ("#009E73", "#0072B2", "#56B4E9", "#CC79A7", "#E69F00", "#D55E00", "#F0E442", "#000000", "#999999"),
        strict=True,
    )
)  # Okabe and Ito: told apart by the colour-blind


def run(job: Job) -> Outcome:
    """Clean the rows of all sources against all benchmarks.

    Raises:
        MedpipeError: no row is left, or the funnel does not add up.
    """
    folders = {name: job.inputs[f"sources/{name}"] for name in ORDER if f"sources/{name}" in job.inputs}
    known = store.read_json(job.inputs[BENCHMARKS] / "benchmarks.json")
    items = Items.of(store.read_examples(job.inputs[BENCHMARKS]))
    sides = own_rows.asked_sides(job.inputs[f"sources/{own_rows.SOURCE}"])
    own = own_rows.OwnRows(sides)
    with ExitStack() as stack:
        put_aside = stack.enter_context(_quarantine(job.out / QUARANTINE))

        def drop(dropped: Dropped) -> None:
            put_aside(dropped)
            own.dropped(dropped)

        funnel = Funnel(job.settings.corpus, job.settings.seed, items, job.scratch, drop, sides)
        for name, folder in folders.items():
            funnel.pour(_told(store.iter_examples(folder), job, name))
        job.report.log("looking for near duplicates")
        written = _write(funnel.kept(), job.out, own)
    own.tell(job.report)
    table = funnel.table()
    came, kept = sum(funnel.counts[name, "in"] for name in ORDER), sum(funnel.counts[name, "kept"] for name in ORDER)
    if not kept:
        raise MedpipeError(
            got=f"an empty corpus (0 of {came} rows left)", expected="at least one row", where="corpus/clean",
            do="add synthetic to corpus.use, put rows into data/custom, or set MEDPIPE_MIRROR",
        )  # fmt: skip
    library = _write_library(folders.values(), items, job.out)
    matches = [
        {"source": source, "row": id, "benchmark": match.benchmark, "item": match.item, "how": match.how, "words": clip(match.words, 200)}
        for source, id, match in funnel.matches
    ]
    store.write_json(job.out / "funnel.json", table)
    store.write_json(job.out / "contamination.json", {"matches": matches, "against": known})
    plots.categories(written.categories, job.out / "plots" / "categories.png", ORDER, COLOURS)
    store.write_json(job.out / SUMMARY, written.summary())
    job.report.log(f"kept {kept} of {came} rows")
    metadata: dict[str, Any] = {
        "rows": kept, "dropped": came - kept, "near_duplicates": sum(funnel.counts[name, NEARLY_SAME] for name in ORDER),
        "contaminated": sum(funnel.counts[name, CONTAMINATED] for name in ORDER), "library_passages": library,
        "funnel": {"table": table}, "by_source": {"table": _by_source(funnel)},
        "samples": {"table": sample_table(written.samples, len(written.samples))},
        "decontaminated_against": {"table": [{"benchmark": name, **_told_of(entry)} for name, entry in known.items()]},
        "contaminated_rows": {"table": matches[:SHOWN_MATCHES]},
        "categories": {"image": "plots/categories.png", "alt": "bars: rows per category, stacked by source"},
        "validation_report": {"file": "docs/index.html"},
    }  # fmt: skip
    previous = job.settings.outputs / job.name
    checks = (
        *expectations.validate(store.iter_examples(job.out), "clean", "corpus", job.settings.corpus, job.out, previous=previous),
        CheckResult(
            name="unique_ids", passed=written.ids == kept, description="no id stands twice", values={"ids": written.ids, "rows": kept}
        ),
        CheckResult(name="funnel_adds_up", passed=True, description="per source, rows in = rows kept + dropped", values={"rows_in": came}),
        _decontaminated(known),
        own.check(),
    )
    return Outcome(metadata, checks, {name: job.settings.data / name for name in (COMPLETE, SUMMARY)})


class _Written:
    """What is told of the rows that were kept, gathered while they are written."""

    def __init__(self) -> None:
        self.categories: Counter[tuple[str, str]] = Counter()
        self.samples: list[QAExample] = []
        self.ids = 0
        self._parts: Counter[str] = Counter()
        self._shown: dict[str, Counter[str]] = {"category": Counter(), "source": Counter(), "difficulty": Counter()}

    def note(self, kept: Kept) -> None:
        row = kept.row
        self.categories[row.category, row.source] += 1
        self._parts[kept.part] += 1
        if kept.part != "heldout":
            if len(self.samples) < SAMPLES or row.source not in {sample.source for sample in self.samples}:
                self.samples.append(row)
            for field, counts in self._shown.items():
                counts[getattr(row, field)] += 1

    def summary(self) -> dict[str, Any]:
        """dataset_summary.json: of the rows that the data folder shows; of the held-out ones only their number is told."""
        counts = {field: dict(counter.most_common()) for field, counter in self._shown.items()}
        return {
            "total_samples": sum(self._parts[part] for part in ("train", "cotrain", "validation")), "categories": counts["category"],
            "sources": counts["source"], "difficulty_levels": counts["difficulty"], "training_samples": self._parts["train"],
            "cotraining_samples": self._parts["cotrain"], "validation_samples": self._parts["validation"],
            "heldout_samples": self._parts["heldout"], "notice": NOTICE,
        }  # fmt: skip


def _write(kept: Iterable[Kept], out: Path, own: own_rows.OwnRows) -> _Written:
    """Write rows, parts and the export in one go."""
    written, ids = _Written(), set[str]()
    with (
        store.examples_writer(out) as rows, store.jsonl_writer(out / PARTS) as parts, store.jsonl_writer(out / COMPLETE) as shown
    ):  # fmt: skip
        for each in kept:
            rows(each.row)
            parts({"id": each.row.id, "part": each.part, "group": each.group})
            if each.part != "heldout":
                shown(export_row(each.row))
            ids.add(each.row.id)
            written.note(each)
            own.kept(each)
    written.ids = len(ids)
    return written


def _write_library(folders: Iterable[Path], items: Items, out: Path) -> int:
    """Pass the sources' passages on, but for those that show a benchmark's question; returns their number."""
    passages = list(chain.from_iterable(store.iter_jsonl(folder / LIBRARY) for folder in folders))
    as_rows = [
        QAExample(id=entry["id"], question=entry["title"], answer=entry["text"], source="library", focus=entry["title"])
        for entry in passages
    ]
    matches = items.matches(as_rows)
    return store.write_jsonl(out / LIBRARY, (entry for number, entry in enumerate(passages) if number not in matches))


@contextmanager
def _quarantine(path: Path) -> Iterator[Any]:
    """A function that takes dropped rows, and writes them as Parquet in batches."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, pa.string()) for name in ("source", "id", "reason", "detail", "question", "answer", "origin")])
    waiting: list[dict[str, str]] = []
    with store.atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        def drop(dropped: Dropped) -> None:
            row = dropped.row
            waiting.append(
                {"source": row.source, "id": row.id, "reason": dropped.reason, "detail": dropped.detail, "question": row.question,
                 "answer": row.answer_text, "origin": row.origin}
            )  # fmt: skip
            if len(waiting) >= 10_000:
                flush()

        yield drop
        flush()


def _told(rows: Iterator[QAExample], job: Job, name: str) -> Iterator[QAExample]:
    """The rows, with a line now and then of how many came by."""
    number = 0
    for number, row in enumerate(rows, 1):
        if number % 5_000 == 0:
            job.report.log(f"{name}: {number} rows cleaned")
        yield row
    if number:
        job.report.log(f"{name}: all {number} rows cleaned")


def _by_source(funnel: Funnel) -> list[dict[str, Any]]:
    """The funnel the other way round: one line for each source."""
    counts = funnel.counts
    return [
        {"source": source, "in": counts[source, "in"], "text repaired": counts[source, "repaired"]}
        | {reason: counts[source, reason] for reason in REASONS}
        | {"kept": counts[source, "kept"]}
        for source in ORDER
    ]


def _told_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {"questions": entry["questions"], "status": entry["status"]}


def _decontaminated(known: dict[str, dict[str, Any]]) -> CheckResult:
    missing = [name for name, entry in known.items() if entry["status"] != "ok"]
    return CheckResult(
        name="decontaminated",
        passed=not missing,
        severity="warn",
        description="no row shows a question of a benchmark"
        + (f"; not checked, since unreachable: {', '.join(missing)}" if missing else ""),
        values={"benchmarks": len(known) - len(missing), "questions": sum(entry["questions"] for entry in known.values())},
    )
