"""The asset corpus/clean: all sources' rows, tidied, with what can't be used dropped and counted.

    kept, dropped = clean(rows, settings.corpus)      # pure

Also written: the funnel, the quarantine, the sources' library (for the evidence index), and in the data folder
medxpert_complete.jsonl and dataset_summary.json.
What this leaves out: near-duplicates, removal of markup, decontamination against the benchmarks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medpipe import NOTICE, store
from medpipe.config import Corpus
from medpipe.corpus import expectations
from medpipe.corpus.sources import LIBRARY, QUARANTINE, count_table, sample_table
from medpipe.corpus.splits import export_row, part_of
from medpipe.corpus.text import clip, compare_key, tidy
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult, QAExample

ORDER = ("custom", "synthetic", "medtext", "medquad")  # of two equal rows the one from the earlier source stays
REASONS = (
    "question too short", "question too long", "answer too short", "answer too long", "exact duplicate question and answer",
)  # fmt: skip
COLOURS: dict[str, str] = dict(
    zip(ORDER, ("#009E73", "#0072B2", "#CC79A7", "#E69F00"), strict=True)
)  # Okabe and Ito: told apart by the colour-blind
PLOTTED = 15  # categories


def clean(rows: Iterable[QAExample], corpus: Corpus) -> tuple[list[QAExample], list[tuple[QAExample, str]]]:
    """Tidy the rows and drop what can't be used; returns (kept, [(dropped row, reason)]), both in the order of sources."""
    kept: list[QAExample] = []
    dropped: list[tuple[QAExample, str]] = []
    seen: set[bytes] = set()
    for row in sorted(rows, key=lambda row: ORDER.index(row.source)):
        row = _tidy(row)
        reason = _reason(row, corpus) or _duplicate(row, seen)
        if reason:
            dropped.append((row, reason))
        else:
            kept.append(row)
    return kept, dropped


def run(job: Job) -> Outcome:
    """Clean the rows of all sources; writes rows.jsonl, quarantine.jsonl, funnel.json and the data exports.

    Raises:
        MedpipeError: no row is left, or the funnel does not add up.
    """
    folders = [job.inputs[f"sources/{name}"] for name in ORDER if f"sources/{name}" in job.inputs]
    rows = [row for folder in folders for row in store.read_examples(folder)]
    job.report.log(f"cleaning {len(rows)} rows")
    kept, dropped = clean(rows, job.settings.corpus)
    funnel = _funnel(rows, kept, dropped)
    check_funnel(funnel)
    if not kept:
        raise MedpipeError(
            got=f"an empty corpus (0 of {len(rows)} rows left)", expected="at least one row", where="corpus/clean",
            do="add synthetic to corpus.use, put rows into data/custom, or set MEDPIPE_MIRROR",
        )  # fmt: skip
    store.write_examples(job.out, kept)
    store.write_jsonl(
        job.out / QUARANTINE,
        ({"source": row.source, "id": row.id, "reason": reason, "text": clip(row.question, 200)} for row, reason in dropped),
    )
    store.write_json(job.out / "funnel.json", funnel)
    store.write_jsonl(job.out / LIBRARY, (passage for folder in folders for passage in store.read_jsonl(folder / LIBRARY)))
    _plot_categories(kept, job.out / "plots" / "categories.png")
    exports = _exports(kept, job)
    counts = Counter(reason for _, reason in dropped)
    job.report.log(f"kept {len(kept)} of {len(rows)} rows")
    metadata = {
        "rows": len(kept), "dropped": len(dropped), "funnel": {"table": funnel}, "samples": {"table": sample_table(kept)},
        "drop_reasons": {"table": [{"reason": reason, "rows": counts[reason]} for reason in REASONS]},
        "categories": {"image": "plots/categories.png", "alt": "bars: rows per category, stacked by source"},
    }  # fmt: skip
    ids = {row.id for row in kept}
    checks = (
        expectations.validate(kept, "corpus", job.settings.corpus),
        CheckResult(
            name="unique_ids", passed=len(ids) == len(kept), description="no id stands twice", values={"ids": len(ids), "rows": len(kept)}
        ),
        CheckResult(
            name="funnel_adds_up", passed=True, description="per source, rows in equal rows kept and dropped", values={"rows_in": len(rows)}
        ),
    )
    return Outcome(metadata, checks, exports)


def check_funnel(funnel: Sequence[dict[str, Any]]) -> None:
    """Raise MedpipeError where a source's rows in are not the sum of its rows kept and dropped."""
    for source in {step["source"] for step in funnel}:
        steps = {step["step"]: step["rows"] for step in funnel if step["source"] == source}
        rest = sum(count for name, count in steps.items() if name != "in")
        if rest != steps["in"]:
            raise MedpipeError(
                got=f"{rest} rows of {source} kept or dropped", expected=f"{steps['in']}, as many as came in", where="corpus/clean",
                do="report this as a fault of the cleaning step",
            )  # fmt: skip


def _tidy(row: QAExample) -> QAExample:
    return row.model_copy(
        update={
            "question": tidy(row.question), "answer": tidy(row.answer), "focus": tidy(row.focus) or row.focus,
            "options": tuple(map(tidy, row.options)), "rationale": tidy(row.rationale), "category": tidy(row.category) or "general",
        }
    )  # fmt: skip


def _reason(row: QAExample, corpus: Corpus) -> str:
    if len(row.question) < corpus.min_question_chars:
        return REASONS[0]
    if len(row.question) > corpus.max_question_chars:
        return REASONS[1]
    if not row.is_choice and len(row.answer) < corpus.min_answer_chars:
        return REASONS[2]
    return REASONS[3] if not row.is_choice and len(row.answer) > corpus.max_answer_chars else ""


def _duplicate(row: QAExample, seen: set[bytes]) -> str:
    key = hashlib.sha256(f"{compare_key(row.question)}\0{compare_key(row.answer_text)}".encode()).digest()
    if key in seen:
        return REASONS[4]
    seen.add(key)
    return ""


def _funnel(rows: list[QAExample], kept: list[QAExample], dropped: list[tuple[QAExample, str]]) -> list[dict[str, Any]]:
    came, stayed = Counter(row.source for row in rows), Counter(row.source for row in kept)
    gone = Counter((row.source, reason) for row, reason in dropped)
    funnel: list[dict[str, Any]] = []
    for source in ORDER:
        funnel.append({"source": source, "step": "in", "rows": came[source]})
        funnel += [{"source": source, "step": f"dropped: {reason}", "rows": gone[source, reason]} for reason in REASONS]
        funnel.append({"source": source, "step": "kept", "rows": stayed[source]})
    return funnel


def _exports(kept: list[QAExample], job: Job) -> dict[str, Path]:
    """Write what the data folder shows of the corpus; the held-out rows stay out of them, only their number is told."""
    parts = [part_of(row.focus, job.settings.corpus, job.settings.seed) for row in kept]
    shown = [row for row, part in zip(kept, parts, strict=True) if part != "heldout"]
    store.write_jsonl(job.out / "medxpert_complete.jsonl", map(export_row, shown))
    counts = {field: {entry[field]: entry["rows"] for entry in count_table(shown, field)} for field in ("category", "source", "difficulty")}
    summary = {
        "total_samples": len(shown), "categories": counts["category"], "sources": counts["source"],
        "difficulty_levels": counts["difficulty"], "training_samples": parts.count("train"),
        "validation_samples": parts.count("validation"), "heldout_samples": parts.count("heldout"),
        "notice": NOTICE,
    }  # fmt: skip
    store.write_json(job.out / "dataset_summary.json", summary)
    return {name: job.settings.data / name for name in ("medxpert_complete.jsonl", "dataset_summary.json")}


def _plot_categories(rows: list[QAExample], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = Counter((row.category, row.source) for row in rows)
    categories = [entry["category"] for entry in count_table(rows, "category")[:PLOTTED]][::-1]
    figure = Figure(figsize=(7, 0.6 + 0.32 * len(categories) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = [0] * len(categories)
    for source in [name for name in ORDER if any(row.source == name for row in rows)]:
        widths = [counts[category, source] for category in categories]
        axes.barh([category.replace("_", " ")[:40] for category in categories], widths, left=left, color=COLOURS[source], label=source)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("rows")
    axes.set_title("Rows per category" + (f" (the {PLOTTED} largest)" if len(categories) == PLOTTED else ""))
    axes.bar_label(axes.containers[-1], labels=[str(end) for end in left], padding=3)  # type: ignore[arg-type]
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    with store.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
