"""The four sources of questions: what each is, where it comes from, and the assets sources/<name>.

    stamp("medquad", settings)      # what it would be read from now, for the fingerprint
    run(job)                        # job.name = "sources/medquad"

A source that can't be had is reported in one line and stands as "unreachable"; nothing takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus import medquad, records, synthetic
from medpipe.corpus.download import fetch, find_local
from medpipe.corpus.records import Found
from medpipe.corpus.text import clip
from medpipe.errors import SourceUnreachable
from medpipe.job import Job, Outcome, Reporter
from medpipe.schema import CheckResult, QAExample

QUARANTINE = "quarantine.jsonl"
LIBRARY = "library.jsonl"
SAMPLE_CHARS = 200


@dataclass(frozen=True)
class Source:
    """A source and its papers. Either `mirror_names` (a file from elsewhere) or `files` (below the data folder) is set."""

    name: str
    title: str
    licence: str
    citation: str
    url: str
    parser: Callable[[Source, Settings, Reporter], Found]
    mirror_names: tuple[str, ...] = ()
    sha256: str | None = None  # None: the publisher's archive is made anew now and then; its checksum is recorded instead
    files: str = ""  # glob below the data folder

    def local(self, settings: Settings) -> list[Path]:
        """The local files that it would be read from now."""
        if self.files:
            return sorted(settings.data.glob(self.files))
        found = find_local(self.mirror_names, cache(settings))
        return [found] if found else []


def cache(settings: Settings) -> Path:
    """Where downloaded files lie."""
    return settings.outputs / "downloads"


def _medquad(source: Source, settings: Settings, report: Reporter) -> Found:
    archive = fetch(source.mirror_names, source.url, cache(settings), what=source.title, sha256=source.sha256, log=report.log)
    return medquad.parse(archive, report)


def _medtext(source: Source, settings: Settings, report: Reporter) -> Found:
    return records.read_medtext(next(iter(source.local(settings)), None))


def _synthetic(source: Source, settings: Settings, report: Reporter) -> Found:
    conditions = synthetic.load_conditions(settings.data / Path(source.files).parent)
    rows = synthetic.generate(conditions, settings.seed, settings.corpus.choice_questions_per_condition)
    passages = synthetic.library(conditions)
    notes = {"conditions": len(conditions), "choice_questions": sum(row.is_choice for row in rows), "reference_passages": len(passages)}
    return Found(rows, notes=notes, library=passages)


def _custom(source: Source, settings: Settings, report: Reporter) -> Found:
    return records.read_custom(source.local(settings))


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "medquad", "MedQuAD", "CC BY 4.0",
            "Ben Abacha and Demner-Fushman, A question-entailment approach to question answering, BMC Bioinformatics 20:511, 2019",
            "https://github.com/abachaa/MedQuAD/archive/refs/heads/master.zip", _medquad, mirror_names=("MedQuAD-master.zip",),
        ),
        Source(
            "medtext", "MedText", "CC BY 4.0", "BI55, MedText, Hugging Face hub, 2023",
            records.MEDTEXT_URL, _medtext, mirror_names=("medtext.jsonl", "medtext.csv"),
        ),
        Source(
            "synthetic", "medpipe's knowledge base", "Apache-2.0", "this project, data/synthetic", "", _synthetic,
            files="synthetic/conditions/*.yaml",
        ),
        Source("custom", "the user's own rows", "the user's own", "data/custom", "", _custom, files="custom/*.jsonl"),
    )
}  # fmt: skip


def stamp(name: str, settings: Settings) -> dict[str, str]:
    """File name → sha256 of what this source would be read from now; {"remote": address} where that is not local.

    Raises:
        MedpipeError: MEDPIPE_MIRROR names a folder that does not exist.
    """
    source = SOURCES[name]
    files = source.local(settings)
    return {"remote": source.url} if source.mirror_names and not files else {path.name: store.sha256_file(path) for path in files}


def run(job: Job) -> Outcome:
    """Read one source; writes rows.jsonl, quarantine.jsonl and library.jsonl (passages to read up in)."""
    source = SOURCES[job.name.partition("/")[2]]
    papers = {"source": source.title, "licence": source.licence, "citation": source.citation, "url": source.url}
    if source.name not in job.settings.corpus.use:
        return _nothing(job, "switched off by corpus.use", papers, passed=True)
    try:
        found = source.parser(source, job.settings, job.report)
    except SourceUnreachable as error:
        reason = " ".join(str(error).split())
        job.report.warn(f"{source.title} is left out of this run: {reason}")
        return _nothing(job, reason, papers, passed=False)
    store.write_examples(job.out, found.rows)
    store.write_jsonl(job.out / QUARANTINE, found.quarantined)
    store.write_jsonl(job.out / LIBRARY, found.library)
    read_from = stamp(source.name, job.settings)
    if found.quarantined:
        job.report.warn(f"{len(found.quarantined)} bad rows of {source.title} were put aside; see {QUARANTINE}")
    job.report.log(f"{source.title}: {len(found.rows)} rows")
    metadata: dict[str, Any] = {
        **papers, "rows": len(found.rows), "answered": len(found.rows), **found.notes, "quarantined": len(found.quarantined),
        "read_from": {"table": [{"file": name, "sha256": value} for name, value in read_from.items()]},
        "samples": {"table": sample_table(found.rows)}, "categories": {"table": count_table(found.rows, "category")},
    }  # fmt: skip
    check = CheckResult(name="reachable", passed=True, description="the source could be read", values={"rows": len(found.rows)})
    return Outcome(metadata, (check,))


def sample_table(rows: list[QAExample], count: int = 3) -> list[dict[str, str]]:
    """A few rows from all over, as a person wants to see them: plain text, cut short."""
    chosen = [rows[index * (len(rows) - 1) // max(count - 1, 1)] for index in range(min(count, len(rows)))]
    return [
        {"id": row.id, "question": clip(row.question, SAMPLE_CHARS), "answer": clip(row.answer_text, SAMPLE_CHARS), "focus": row.focus}
        for row in chosen
    ]


def count_table(rows: list[QAExample], field: str) -> list[dict[str, Any]]:
    """How many rows have which value of a field, the most frequent first."""
    return [{field: value, "rows": count} for value, count in Counter(getattr(row, field) for row in rows).most_common()]


def _nothing(job: Job, reason: str, papers: dict[str, Any], *, passed: bool) -> Outcome:
    store.write_examples(job.out, [])
    store.write_jsonl(job.out / QUARANTINE, [])
    store.write_jsonl(job.out / LIBRARY, [])
    check = CheckResult(name="reachable", passed=passed, description=reason)
    return Outcome({**papers, "rows": 0, "answered": 0, "quarantined": 0}, (check,), status="unreachable", reason=reason)
