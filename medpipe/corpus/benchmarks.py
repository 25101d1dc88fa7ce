"""The published benchmarks and the user's own: what each is, where its files come from, and the asset sources/benchmarks.

    run(job)                                                     # job.name = "sources/benchmarks"
    rows = read(job.inputs["sources/benchmarks"], "medqa")

For evaluation only. The corpus drops what a benchmark asks, the evaluations ask it, and no row goes anywhere else: both read
this one asset, so that exactly the questions that are asked later are kept out of training. A file is taken from the mirror
folder, then from outputs/downloads, then from the network; a benchmark that can't be had is reported and left out. A user's own
questions come from the files that paths.own_benchmarks names, and such a file must be there. Every
row must parse: a wrong row stops the run, because a benchmark with rows left out is another benchmark.
What this leaves out: how a file is read (benchmark_files.py), the search for contamination (contamination.py), and scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medpipe import store
from medpipe.config import Settings
from medpipe.corpus.benchmark_files import OWN, choices, malformed, own_items, pubmedqa, safety_items
from medpipe.corpus.download import HUB, MIRROR, fetched, find_local, hub_address, mirror_folder
from medpipe.corpus.sources import cache, lock_file
from medpipe.errors import SourceUnreachable
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult, QAExample

CONTENTS = "benchmarks.json"
OWN_TITLES = {OWN["choice"]: "Your own questions (multiple choice)", OWN["text"]: "Your own questions (free text)"}
OWN_LICENCE, OWN_CITATION = "your own", "your own files, named in paths.own_benchmarks"
_MEDXPERTQA = f"{HUB}/datasets/TsinghuaC3I/MedXpertQA"
_MEDQA = f"{HUB}/datasets/GBaker/MedQA-USMLE-4-options"
_PUBMEDQA = "https://raw.githubusercontent.com/pubmedqa/pubmedqa/master/data"
_MEDMCQA = f"{HUB}/datasets/openlifescienceai/medmcqa"
_MMLU = f"{HUB}/datasets/cais/mmlu"
_SUBJECTS = ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine")


@dataclass(frozen=True)
class File:
    """One file of a benchmark: the names it may have locally (the first is that of a download), and where it is published."""

    names: tuple[str, ...]
    url: str


@dataclass(frozen=True)
class Published:
    """A benchmark and its papers."""

    name: str  # source of its rows
    title: str
    licence: str
    citation: str
    url: str  # its page, for people
    options: int  # per question; 0 for free text
    files: tuple[File, ...]
    parser: Callable[[Sequence[Path], str, int], Iterator[QAExample]]  # files, name, options
    whole: str = ""  # name of one file in JSON lines that stands for all of `files` in a mirror folder
    bundled: str = ""  # its file below the data folder, where it is the project's own; then there are no `files`

    @property
    def mirror_names(self) -> tuple[str, ...]:
        """Every file name that is looked for in the mirror folder; of the project's own, in the data folder."""
        return (*filter(None, [self.whole, self.bundled]), *(name for file in self.files for name in file.names))

    def local(self, settings: Settings) -> list[tuple[File, Path | None]]:
        """Its files, each with the place where it lies now, or None where it has to be downloaded."""
        if self.bundled:
            own = settings.data / self.bundled
            return [(File((self.bundled,), ""), own if own.is_file() else None)]
        mirror = mirror_folder()
        if self.whole and mirror and (mirror / self.whole).is_file():
            return [(File((self.whole,), self.url), mirror / self.whole)]
        return [(file, find_local(file.names, cache(settings))) for file in self.files]


def run(job: Job) -> Outcome:
    """Read every benchmark; writes rows.jsonl (`source` names the benchmark) and benchmarks.json (papers, files, what is missing).

    Raises:
        MedpipeError: a row is malformed, or a file of the user's is missing; the message names file and line.
    """
    rows: list[QAExample] = []
    contents: dict[str, dict[str, Any]] = {}
    for name, benchmark in PUBLISHED.items():
        papers = {"title": benchmark.title, "licence": benchmark.licence, "citation": benchmark.citation, "url": benchmark.url}
        found, files, reason = list[QAExample](), dict[str, str](), ""
        try:
            with ExitStack() as stack:  # each file's checksum is recorded at the end, when all of them were read
                paths = _obtain(benchmark, job, stack)
                found = parse(benchmark, paths)
        except SourceUnreachable as error:
            # The exact error goes to the log only: a file whose words change from run to run would have all training redone.
            reason = _reason(benchmark)
            told = " ".join(str(error).split())
            job.report.warn(f"{benchmark.title} is not asked, and the corpus is not compared with it: got {reason} ({told})")
        else:
            files = {path.name: store.sha256_file(path) for path in paths}
            if benchmark.bundled:  # how an answer is judged stands in the file beside the question
                store.write_text(job.out / benchmark.bundled, paths[0].read_text(encoding="utf-8"))
            job.report.log(f"{benchmark.title}: {len(found)} questions")
        status = "unreachable" if reason else "ok"
        contents[name] = {**papers, "status": status, "reason": reason, "questions": len(found), "files": files}
        rows += found
    rows += _read_own(job, contents)
    store.write_examples(job.out, rows)
    store.write_json(job.out / CONTENTS, contents)
    return Outcome({"questions": len(rows), "benchmarks": {"table": _table(contents)}}, (_reachable(contents),))


def parse(benchmark: Published, paths: Sequence[Path]) -> list[QAExample]:
    """All questions of a benchmark's files, in their published order.

    Raises:
        MedpipeError: a row is malformed, an id stands twice, or there is no row.
    """
    rows: dict[str, QAExample] = {}
    for row in benchmark.parser(paths, benchmark.name, benchmark.options):
        if row.id in rows:
            raise malformed(f"{paths[0].parent / row.origin}", f"the id {row.id} again", "one row for each id")
        rows[row.id] = row
    if not rows:
        raise malformed(str(paths[0]), "no rows", "at least one question")
    return list(rows.values())


def _read_own(job: Job, contents: dict[str, dict[str, Any]]) -> list[QAExample]:
    """The user's own questions; what is told of them is added to `contents`, where there are any."""
    files = [Path(file) for file in job.settings.paths.own_benchmarks]
    rows = [row for file in files for row in own_items(file)]
    for name, title in OWN_TITLES.items():
        found = [row for row in rows if row.source == name]
        if not found:
            continue
        hashes = {file.name: store.sha256_file(file) for file in files if any(row.category == file.name for row in found)}
        contents[name] = {
            "title": title, "licence": OWN_LICENCE, "citation": OWN_CITATION, "url": "", "status": "ok", "reason": "",
            "questions": len(found), "files": hashes,
        }  # fmt: skip
        job.report.log(f"{title}: {len(found)} from {', '.join(hashes)}")
    return rows


def read(folder: Path, name: str) -> list[QAExample]:
    """All questions of one benchmark, in their published order, from the finished folder of sources/benchmarks.

    Of the user's own there are none where the user named no file with such questions.

    Raises:
        SourceUnreachable: it could not be had when the folder was made.
    """
    known = store.read_json(folder / CONTENTS)
    if name in OWN_TITLES and name not in known:
        return []
    about = known[name]
    if about["status"] != "ok":
        raise SourceUnreachable(
            got=about["reason"], expected=f"the questions of {about['title']}", where="sources/benchmarks",
            do=f"put the file into a folder and set {MIRROR} to it, or materialise sources/benchmarks again with a network",
        )  # fmt: skip
    return [row for row in store.read_examples(folder) if row.source == name]


def stamp(settings: Settings, attempt: str) -> dict[str, str]:
    """What the rows would be read from now, cheaply, for the fingerprint.

    A file in the mirror folder is known by its content, one that was downloaded by its url. One that is missing is known by
    its url and `attempt` (the run's id): it is asked for again in every run, although the asset stands without it. The user's own
    are known by name, order and content.
    """
    parts: dict[str, str] = {}
    for number, own in enumerate(map(Path, settings.paths.own_benchmarks)):
        parts[f"own {number} {own.name}"] = store.sha256_file(own) if own.is_file() else "missing"  # the work itself says so
    for file, found in [entry for benchmark in PUBLISHED.values() for entry in benchmark.local(settings)]:
        if found is None:
            parts[f"missing {file.names[0]}"] = f"{file.url} {attempt}"
        elif found.resolve().is_relative_to(cache(settings).resolve()):
            parts[f"downloaded {file.names[0]}"] = file.url
        else:
            parts[found.name] = store.sha256_file(found)
    return parts


def _reason(benchmark: Published) -> str:
    if benchmark.bundled:
        return f"no {benchmark.bundled} below the data folder"
    host = urlsplit(benchmark.files[0].url).netloc
    return f"neither {benchmark.mirror_names[0]} in the folder {MIRROR} nor a download from {host}"


def _obtain(benchmark: Published, job: Job, stack: ExitStack) -> list[Path]:
    """Its files, downloaded where they are not here yet."""
    if benchmark.bundled:
        ((_, own),) = benchmark.local(job.settings)
        if own is None:
            raise SourceUnreachable(
                got=f"no {benchmark.bundled}", expected="the project's own questions", where=str(job.settings.data),
                do="copy it from the project's data folder",
            )  # fmt: skip
        return [own]
    folder, lock = cache(job.settings), lock_file(job.settings)
    wanted = [  # known before anything is downloaded: offline, one missing file leaves the benchmark out
        ((found.name,) if found else file.names, file.url if found else hub_address(file.url, file.names))
        for file, found in benchmark.local(job.settings)
    ]
    return [stack.enter_context(fetched(names, url, folder, what=benchmark.title, lock=lock, report=job.report)) for names, url in wanted]


def _table(contents: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": about["title"], "licence": about["licence"], "questions": about["questions"], "status": about["status"],
            "sha256": ", ".join(f"{name} {sha256}" for name, sha256 in about["files"].items()), "citation": about["citation"],
        }
        for about in contents.values()
    ]  # fmt: skip


def _reachable(contents: dict[str, dict[str, Any]]) -> CheckResult:
    missing = [about["title"] for about in contents.values() if about["status"] != "ok"]
    said = f"not to be had: {', '.join(missing)}" if missing else "every benchmark could be read"
    values = {"read": len(contents) - len(missing), "missing": ", ".join(missing) or "none"}
    return CheckResult(name="reachable", passed=not missing, severity="warn", description=said, values=values)


PUBLISHED: dict[str, Published] = {
    benchmark.name: benchmark
    for benchmark in (
        Published(
            "medxpertqa", "MedXpertQA (text, ten options)", "MIT",
            "Zuo et al., MedXpertQA: Benchmarking Expert-Level Medical Reasoning and Understanding, 2025, arXiv 2501.18362",
            _MEDXPERTQA, 10,
            (File(("medxpertqa_text_test.jsonl", "medxpertqa_text_sampled.jsonl"), f"{_MEDXPERTQA}/resolve/main/Text/test.jsonl"),),
            choices,
        ),
        Published(
            "medqa", "MedQA (USMLE, four options)", "MIT (the hub's copy says CC BY 4.0)",
            "Jin et al., What Disease Does This Patient Have?, Applied Sciences 11 (2021) 6421, arXiv 2009.13081",
            _MEDQA, 4, (File(("medqa_test.jsonl",), f"{_MEDQA}/resolve/main/phrases_no_exclude_test.jsonl"),), choices,
        ),
        Published(
            "pubmedqa", "PubMedQA (yes, no or maybe)", "MIT",
            "Jin et al., PubMedQA: A Dataset for Biomedical Research Question Answering, EMNLP 2019, arXiv 1909.06146",
            "https://pubmedqa.github.io", 3,
            tuple(File((name,), f"{_PUBMEDQA}/{name}") for name in ("ori_pqal.json", "test_ground_truth.json")), pubmedqa,
        ),
        Published(
            "medmcqa", "MedMCQA (validation, four options)", "MIT (the hub's copy says Apache-2.0)",
            "Pal et al., MedMCQA: A Large-scale Multi-Subject Multi-Choice Dataset for Medical domain Question Answering, "
            "CHIL 2022, arXiv 2203.14371",
            _MEDMCQA, 4,
            (File(("medmcqa_validation.parquet",), f"{_MEDMCQA}/resolve/main/data/validation-00000-of-00001.parquet"),), choices,
            whole="medmcqa.jsonl",
        ),
        Published(
            "mmlu_medical", "MMLU (six medical subjects, four options)", "MIT",
            "Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021, arXiv 2009.03300",
            _MMLU, 4,
            tuple(File((f"mmlu_{name}_test.parquet",), f"{_MMLU}/resolve/main/{name}/test-00000-of-00001.parquet") for name in _SUBJECTS),
            choices, whole="mmlu_medical.jsonl",
        ),
        Published(
            "safety", "Safety set (own questions)", "Apache-2.0",
            "this project, data/safety", "data/safety", 0, (), safety_items, bundled="safety/items.jsonl",
        ),
    )
}  # fmt: skip
"""Name → benchmark, in the order in which they are shown."""
