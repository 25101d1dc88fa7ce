"""The sources of questions: what each is, where it comes from, and the assets sources/<name>.

    stamp("medquad", settings)      # what it would be read from now, for the fingerprint
    run(job)                        # job.name = "sources/medquad"

A source that can't be had is reported in one line and stands as "unreachable"; nothing takes its place.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus import (
    exams,
    expectations,
    medquad,
    medquad_questions,
    own_rows,
    phenotype_questions,
    phenotypes,
    plots,
    records,
    synthetic,
)
from medpipe.corpus.download import HUB, fetched, find_local, hub_address
from medpipe.corpus.records import Found
from medpipe.corpus.text import clip
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.job import Job, Outcome, Reporter
from medpipe.schema import CheckResult, QAExample

QUARANTINE = "quarantine.jsonl"
LIBRARY = "library.jsonl"
OFF = "switched off by corpus.use"
LENGTHS = "plots/lengths.png"
SAMPLE_CHARS = 200
NOTHING_TO_CHECK = (
    CheckResult(name="schema_and_ranges", passed=True, description="no row to check"),
    CheckResult(name="drift", passed=True, severity="warn", description="no row to compare"),
)


@dataclass(frozen=True)
class Remote:
    """A file from elsewhere: the names it may have in the mirror folder, the preferred one first, and its address."""

    names: tuple[str, ...]
    url: str


@dataclass(frozen=True)
class Source:
    """A source and its papers.

    One of `mirror_names` (a file from elsewhere), `remote` (several), `files` (below the data folder) and `package` is set.
    """

    name: str
    title: str
    url: str  # where it is published, or its page on the hub
    licence: str
    citation: str
    parser: Callable[[Source, Settings, Reporter], Found]
    mirror_names: tuple[str, ...] = ()  # file names looked for in the mirror folder, the preferred one first
    sha256: str | None = None  # expected checksum; None: the one read at first use is recorded in the lock file and then enforced
    remote: tuple[Remote, ...] = ()  # all of them are needed; their checksums are recorded in the lock file
    files: tuple[str, ...] = ()  # globs below the data folder
    package: Callable[[], dict[str, Path]] | None = None  # the files of an installed package, by name

    def local(self, settings: Settings) -> list[Path]:
        """The local files that it would be read from now.

        Raises:
            MedpipeError: MEDPIPE_MIRROR names no folder, or something else stands in the place of a folder of rows.
        """
        if self.package:
            return sorted(path for path in self.package().values() if path.is_file())
        if self.files:
            for folder in dict.fromkeys(settings.data / Path(pattern).parent for pattern in self.files):
                if os.path.lexists(folder) and not folder.is_dir():
                    raise MedpipeError(
                        got="a file, or a link that leads nowhere", expected="a folder, or nothing", where=str(folder),
                        do=f"move it away, make the folder, and put the rows into it (such as {folder / 'own.jsonl'})",
                    )  # fmt: skip
            return sorted({path for pattern in self.files for path in settings.data.glob(pattern) if path.is_file()})
        wanted = [remote.names for remote in self.remote] or [self.mirror_names]
        found = [find_local(names, cache(settings)) for names in wanted]
        return [path for path in found if path] if all(found) else []


def cache(settings: Settings) -> Path:
    """Where downloaded files lie."""
    return settings.outputs / "downloads"


def lock_file(settings: Settings) -> Path:
    """Where the checksums of files from elsewhere are recorded at first use."""
    return settings.data / "sources.lock.json"


def _medquad(source: Source, settings: Settings, report: Reporter) -> Found:
    with fetched(
        source.mirror_names, source.url, cache(settings), what=source.title, sha256=source.sha256, lock=lock_file(settings), report=report
    ) as archive:  # fmt: skip
        return medquad.parse(archive, report)


def _medquad_questions(source: Source, settings: Settings, report: Reporter) -> Found:
    rows = _medquad(source, settings, report).rows  # what can't be read is told by sources/medquad
    report.log("masking the subjects of sentences")
    return medquad_questions.generate(rows, settings.seed, settings.corpus.medquad_questions, settings.corpus.question_options)


def _exam(parser: Callable[[Sequence[Path], str], Found]) -> Callable[[Source, Settings, Reporter], Found]:
    """How an exam's training split is read: its files are had, parsed, and then recorded."""

    def read(source: Source, settings: Settings, report: Reporter) -> Found:
        with ExitStack() as stack:
            paths = []
            for remote in source.remote:
                here = find_local(remote.names, cache(settings))
                url = remote.url if here else hub_address(remote.url, remote.names)
                file = fetched(remote.names, url, cache(settings), what=source.title, lock=lock_file(settings), report=report)
                paths.append(stack.enter_context(file))
            return exams.drawn(parser(paths, source.name), settings.corpus.exam_rows, settings.seed)

    return read


def _phenotypes(source: Source, settings: Settings, report: Reporter) -> Found:
    known, corpus = phenotypes.read(source.package() if source.package else {}), settings.corpus
    return phenotype_questions.generate(
        known, settings.seed, corpus.phenotype_diseases, corpus.phenotype_questions_per_disease, corpus.question_options,
        corpus.phenotype_facts,
    )  # fmt: skip


def _medtext(source: Source, settings: Settings, report: Reporter) -> Found:
    return records.read_medtext(next(iter(source.local(settings)), None))


def _synthetic(source: Source, settings: Settings, report: Reporter) -> Found:
    conditions = synthetic.load_conditions(settings.data / Path(source.files[0]).parent)
    rows = synthetic.generate(conditions, settings.seed, settings.corpus.choice_questions_per_condition)
    passages = synthetic.library(conditions)
    notes = {"conditions": len(conditions), "choice_questions": sum(row.is_choice for row in rows), "reference_passages": len(passages)}
    return Found(rows, notes=notes, library=passages)


def _custom(source: Source, settings: Settings, report: Reporter) -> Found:
    files = source.local(settings)
    own_rows.tell_unread(settings.data, files, report)
    return records.read_custom(files)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "medquad", "MedQuAD", "https://github.com/abachaa/MedQuAD/archive/refs/heads/master.zip", "CC BY 4.0",
            "Ben Abacha and Demner-Fushman, A question-entailment approach to question answering, BMC Bioinformatics 20:511, 2019",
            _medquad, mirror_names=("MedQuAD-master.zip",),
        ),
        Source(
            "medtext", "MedText", records.MEDTEXT_URL, "CC BY 4.0", "BI55, MedText, Hugging Face hub, 2023",
            _medtext, mirror_names=("medtext.jsonl", "medtext.csv"),
        ),
        Source(
            "synthetic", "medpipe's knowledge base", "", "Apache-2.0", "this project, data/synthetic",
            _synthetic, files=("synthetic/conditions/*.yaml",),
        ),
        Source(
            "phenotypes", f"Human Phenotype Ontology, release {phenotypes.VERSION}", "https://hpo.jax.org",
            f"HPO licence (https://hpo.jax.org/license): cite with the version, {phenotypes.VERSION}; content unaltered",
            "Gargano et al., The Human Phenotype Ontology in 2024: phenotypes around the world, Nucleic Acids Research 52(D1):D1333-D1346, "
            f"2024; release {phenotypes.VERSION}, http://www.human-phenotype-ontology.org",
            _phenotypes, package=phenotypes.package_files,
        ),
        Source(
            "medquad_questions", "MedQuAD, questions by masking", "https://github.com/abachaa/MedQuAD/archive/refs/heads/master.zip",
            "CC BY 4.0",
            "Ben Abacha and Demner-Fushman, A question-entailment approach to question answering, BMC Bioinformatics 20:511, 2019; "
            "sentences with their subject masked by this project",
            _medquad_questions, mirror_names=("MedQuAD-master.zip",),
        ),
        Source(
            own_rows.SOURCE, "the user's own rows", "", "the user's own", "data/custom",
            _custom, files=own_rows.FILES,
        ),
        Source(
            "medqa_train", "MedQA (USMLE, four options), training split", f"{HUB}/datasets/GBaker/MedQA-USMLE-4-options",
            "MIT (the hub's copy says CC BY 4.0)",
            "Jin et al., What Disease Does This Patient Have?, Applied Sciences 11 (2021) 6421, arXiv 2009.13081",
            _exam(exams.medqa),
            remote=(
                Remote(
                    ("medqa_train.jsonl", "phrases_no_exclude_train.jsonl"),
                    f"{HUB}/datasets/GBaker/MedQA-USMLE-4-options/resolve/main/phrases_no_exclude_train.jsonl",
                ),
            ),
        ),
        Source(
            "medmcqa_train", "MedMCQA, training split", f"{HUB}/datasets/openlifescienceai/medmcqa", "MIT (the hub's copy says Apache-2.0)",
            "Pal et al., MedMCQA: A Large-scale Multi-Subject Multi-Choice Dataset for Medical domain Question Answering, "
            "CHIL 2022, arXiv 2203.14371",
            _exam(exams.medmcqa),
            remote=(
                Remote(
                    ("medmcqa_train.parquet",),
                    f"{HUB}/datasets/openlifescienceai/medmcqa/resolve/main/data/train-00000-of-00001.parquet",
                ),
            ),
        ),
        Source(
            "pubmedqa_train", "PubMedQA, labelled questions outside its test split", "https://pubmedqa.github.io", "MIT",
            "Jin et al., PubMedQA: A Dataset for Biomedical Research Question Answering, EMNLP 2019, arXiv 1909.06146",
            _exam(exams.pubmedqa),
            remote=tuple(
                Remote((name,), f"https://raw.githubusercontent.com/pubmedqa/pubmedqa/master/data/{name}")
                for name in ("ori_pqal.json", "test_ground_truth.json")
            ),
        ),
    )
}  # fmt: skip


def stamp(name: str, settings: Settings) -> dict[str, str]:
    """File name → sha256 of what this source would be read from now; {"remote": address} where that is not local.

    Nothing for a source that is not in `corpus.use`: its result is the same whatever lies there.

    Raises:
        MedpipeError: MEDPIPE_MIRROR names no folder, or something else stands in the place of a folder of rows.
    """
    source = SOURCES[name]
    if name not in settings.corpus.use:
        return {}
    files = source.local(settings)
    if (source.mirror_names or source.remote) and not files:
        return {"remote": source.url}
    return {_name_of(path, settings): store.sha256_file(path) for path in files}


def _name_of(path: Path, settings: Settings) -> str:
    """What a file is called in a fingerprint: below the data folder by its path there, for two folders may hold files of one name."""
    return path.relative_to(settings.data).as_posix() if path.is_relative_to(settings.data) else path.name


def run(job: Job) -> Outcome:
    """Read one source; writes rows.jsonl, quarantine.jsonl and library.jsonl (passages to read up in)."""
    source = SOURCES[job.name.partition("/")[2]]
    papers = {"source": source.title, "url": source.url, "licence": source.licence, "citation": source.citation}
    if source.name not in job.settings.corpus.use:
        return _nothing(job, OFF, papers, status="ok")
    try:
        found = source.parser(source, job.settings, job.report)
    except SourceUnreachable as error:
        reason = " ".join(str(error).split())
        job.report.warn(f"{source.title} is left out of this run: {reason}")
        return _nothing(job, reason, papers, status="unreachable")
    store.write_examples(job.out, found.rows)
    store.write_jsonl(job.out / QUARANTINE, found.quarantined)
    store.write_jsonl(job.out / LIBRARY, found.library)
    own_rows.write_sides(job.out, found.sides)
    read_from = stamp(source.name, job.settings)
    if source.name == own_rows.SOURCE:
        own_rows.tell_put_aside(found.quarantined, job.report, str(job.settings.outputs / job.name / QUARANTINE))
        if "ignored_fields" in found.notes:
            job.report.warn(f"fields of your rows that are not known and ignored: {found.notes['ignored_fields']}")
    elif found.quarantined:
        job.report.warn(f"{len(found.quarantined)} bad rows of {source.title} were put aside; see {QUARANTINE}")
    job.report.log(f"{source.title}: {len(found.rows)} rows")
    if found.rows:
        plots.lengths(found.rows, job.out / LENGTHS)
    metadata: dict[str, Any] = {
        **papers, "rows": len(found.rows), "answered": len(found.rows), **found.notes, "quarantined": len(found.quarantined),
        "read_from": {"table": [{"file": name, "sha256": value} for name, value in read_from.items()]},
        "samples": {"table": sample_table(found.rows)}, "categories": {"table": count_table(found.rows, "category")},
        **({"lengths": {"image": LENGTHS, "alt": "histograms: length of the questions and of the answers"}} if found.rows else {}),
    }  # fmt: skip
    checks = [CheckResult(name="reachable", passed=True, description="the source could be read", values={"rows": len(found.rows)})]
    if found.rows:
        metadata["validation_report"] = {"file": "docs/index.html"}
        previous = job.settings.outputs / job.name
        checks += expectations.validate(found.rows, "raw", source.name, job.settings.corpus, job.out, previous=previous)
    else:
        checks += NOTHING_TO_CHECK
    return Outcome(metadata, tuple(checks))


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


def _nothing(job: Job, reason: str, papers: dict[str, Any], *, status: Literal["ok", "unreachable"]) -> Outcome:
    """No rows: of a source that can't be had, which is tried again in each run, or of one that is switched off, which stands."""
    store.write_examples(job.out, [])
    store.write_jsonl(job.out / QUARANTINE, [])
    store.write_jsonl(job.out / LIBRARY, [])
    check = CheckResult(name="reachable", passed=status == "ok", description=reason)
    checks = (check, *NOTHING_TO_CHECK)
    return Outcome({**papers, "rows": 0, "answered": 0, "quarantined": 0, "not_used": reason}, checks, status=status, reason=reason)
