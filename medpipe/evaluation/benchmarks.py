"""The five benchmarks: where each comes from, how its file is read, which questions are asked.

    from medpipe.evaluation.benchmarks import BENCHMARKS, choose, load
    rows = choose(load("medqa", clean_folder, settings), 500, seed=0)

A file is taken from the mirror folder, then from outputs/downloads, then from the network. Every row of a benchmark
must parse: a wrong row stops the run, because a benchmark with rows left out is another benchmark. Rows are only ever
evaluated on. What this leaves out: scoring, and decontamination of the training rows (only exact overlap is counted).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medpipe.config import Settings
from medpipe.corpus.download import fetch, find_local
from medpipe.corpus.splits import heldout
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import LETTERS, QAExample
from medpipe.store import sha256_file

_MEDXPERTQA = "https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA"
_MEDQA = "https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options"
_PUBMEDQA = "https://raw.githubusercontent.com/pubmedqa/pubmedqa/master/data"
_CHOICES = re.compile(r"\s*Answer Choices:\s*(?=\(A\)\s)")
_TASKS = {"Diagnosis": "diagnosis", "Treatment": "treatment"}  # MedXpertQA's task → our kind of question


@dataclass(frozen=True)
class File:
    """One file of a benchmark: the names it may have in a mirror folder, and where it is published."""

    names: tuple[str, ...]
    url: str


@dataclass(frozen=True)
class Benchmark:
    """One benchmark; a held-out one has no files and takes the corpus rows of `source` that no training row came from."""

    name: str  # second level of its asset key, evaluation/<name>
    title: str
    kind: Literal["choice", "text"]
    licence: str
    citation: str
    url: str  # its page, for people
    options: int = 0  # per question; 0 for free text
    files: tuple[File, ...] = ()
    source: str = ""

    @property
    def metric(self) -> Literal["accuracy", "similarity"]:
        """What a score means: an exact match of the option's letter, or semantic similarity to the reference."""
        return "accuracy" if self.kind == "choice" else "similarity"

    @property
    def mirror_names(self) -> tuple[str, ...]:
        """Every file name that is looked for in the mirror folder."""
        return tuple(name for file in self.files for name in file.names)


_ALL = (
    Benchmark(
        "medxpertqa", "MedXpertQA (text, ten options)", "choice", "MIT",
        "Zuo et al., MedXpertQA: Benchmarking Expert-Level Medical Reasoning and Understanding, 2025, arXiv 2501.18362",
        _MEDXPERTQA, 10,
        (File(("medxpertqa_text_test.jsonl", "medxpertqa_text_sampled.jsonl"), f"{_MEDXPERTQA}/resolve/main/Text/test.jsonl"),),
    ),
    Benchmark(
        "medqa", "MedQA (USMLE, four options)", "choice", "MIT (the hub's copy says CC BY 4.0)",
        "Jin et al., What Disease Does This Patient Have?, Applied Sciences 11 (2021) 6421, arXiv 2009.13081",
        _MEDQA, 4,
        (File(("medqa_test.jsonl",), f"{_MEDQA}/resolve/main/phrases_no_exclude_test.jsonl"),),
    ),
    Benchmark(
        "pubmedqa", "PubMedQA (yes, no or maybe)", "choice", "MIT",
        "Jin et al., PubMedQA: A Dataset for Biomedical Research Question Answering, EMNLP 2019, arXiv 1909.06146",
        "https://pubmedqa.github.io", 3,
        (File(("ori_pqal.json",), f"{_PUBMEDQA}/ori_pqal.json"), File(("test_ground_truth.json",), f"{_PUBMEDQA}/test_ground_truth.json")),
    ),
    Benchmark(
        "medquad_heldout", "MedQuAD, held-out topics (free text)", "text", "CC BY 4.0",
        "Ben Abacha and Demner-Fushman, A Question-Entailment Approach to Question Answering, BMC Bioinformatics 20 (2019) 511",
        "https://github.com/abachaa/MedQuAD", source="medquad",
    ),
    Benchmark(
        "synthetic_heldout", "Synthetic, held-out conditions (ten options)", "choice", "Apache-2.0",
        "this project, data/synthetic", "data/synthetic", 10, source="synthetic",
    ),
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""Name → benchmark, in the order in which they are shown."""


def stamp(name: str, settings: Settings) -> dict[str, str]:
    """What the benchmark's rows depend on besides the corpus, cheaply: file name → sha256, or {"remote…": url}.

    A file in the mirror folder is known by its content. One that is missing, or that an earlier run downloaded, is known
    by its url: a download must not make the next run's fingerprint another one.
    """
    parts: dict[str, str] = {}
    for file in _known(name).files:
        cache = settings.outputs / "downloads"
        found = find_local(file.names, cache)
        key = f"remote {file.names[0]}" if len(_known(name).files) > 1 else "remote"
        if found is None or found.resolve().is_relative_to(cache.resolve()):
            parts[key] = file.url
        else:
            parts[found.name] = sha256_file(found)
    return parts


def load(name: str, clean_folder: Path, settings: Settings) -> list[QAExample]:
    """All questions of a benchmark, in their published order.

    Args:
        name: a key of BENCHMARKS.
        clean_folder: the finished corpus/clean, from which the two held-out benchmarks are taken.
        settings: reads `outputs`, `seed` and, for the held-out ones, `corpus`.

    Raises:
        SourceUnreachable: neither mirror nor network has the file, or the corpus has no such rows.
        MedpipeError: a row is malformed; the message names file and line.
    """
    benchmark = _known(name)
    if benchmark.files:
        cache = settings.outputs / "downloads"
        paths = [fetch(file.names, file.url, cache, what=benchmark.title) for file in benchmark.files]
        rows = list(_pubmedqa(*paths) if name == "pubmedqa" else _lines(benchmark, paths[0]))
    else:
        rows = heldout(clean_folder, settings.corpus, settings.seed, benchmark.source)
        rows = [row for row in rows if row.is_choice == (benchmark.kind == "choice")]
        if not rows:
            label = benchmark.title.partition(",")[0]
            raise SourceUnreachable(
                got=f"no held-out rows of the source {benchmark.source}", expected=f"{label} in the corpus", where=str(clean_folder),
                do=f"make sources/{benchmark.source} reachable (a mirror folder or the network) and list it in corpus.use",
            )  # fmt: skip
    if not rows:
        raise _malformed(str(paths[0]), "no rows", "at least one question")
    return rows


def choose(rows: Sequence[QAExample], count: int, seed: int) -> list[QAExample]:
    """At most `count` questions by seed, in their published order; the same for every system.

    Each question's place in the draw hangs on the seed and its own id only, so a smaller count asks a subset of a larger.
    """
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.id}".encode()).digest())[:count]
    ids = {row.id for row in drawn}
    return [row for row in rows if row.id in ids]


def overlap(rows: Sequence[QAExample], training_rows: Sequence[QAExample]) -> int:
    """How many benchmark questions a training row asks in the same words (case, punctuation and spacing aside)."""
    seen = {_normalised(row.question) for row in training_rows}
    return sum(_normalised(row.question) in seen for row in rows)


def _normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _known(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise MedpipeError(got=f"benchmark {name!r}", expected=f"one of {', '.join(BENCHMARKS)}", where="evaluation", do="use one of these")
    return BENCHMARKS[name]


def _lines(benchmark: Benchmark, path: Path) -> Iterator[QAExample]:
    """Rows of a MedXpertQA or MedQA file, in the hub's form or in the one-line form of MedXpertQA's repository."""
    seen: set[str] = set()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _json(line, where)
        id = str(row.get("id") or f"test-{number - 1:05d}")
        stem, options = _question(row, benchmark.options, where)
        label = row.get("label", row.get("answer_idx"))
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
        if label not in list(LETTERS[: benchmark.options]):
            raise _malformed(where, f"label {label!r}", f"one letter from A to {LETTERS[benchmark.options - 1]}")
        if id in seen:
            raise _malformed(where, f"the id {id} again", "one row for each id")
        seen.add(id)
        category, task = str(row.get("body_system") or "general"), _TASKS.get(str(row.get("medical_task")), "information")
        yield _example(where, id=id, question=stem, answer=label, source=benchmark.name, category=category, qtype=task, options=options)


def _question(row: dict[str, Any], count: int, where: str) -> tuple[str, tuple[str, ...]]:
    """The question without its options, and the options: from their own field, otherwise from the question's text."""
    text, field = row.get("question"), row.get("options")
    if not isinstance(text, str):
        raise _malformed(where, f"{type(text).__name__} as question", "text")
    *_, last = [*_CHOICES.finditer(text)] or [None]
    stem, tail = (text[: last.start()], text[last.end() :]) if last else (text, "")
    try:
        if isinstance(field, list):  # [{"letter": "A", "content": "…"}, …]
            field = {entry["letter"]: entry["content"] for entry in field}
        options = tuple(field[letter].strip() for letter in LETTERS[: len(field)]) if field else _split_options(tail, count)
    except (KeyError, TypeError, AttributeError) as error:
        raise _malformed(where, f"options {str(field)[:80]!r}", "a text for each letter from A on") from error
    if len(options) != count or not all(options):
        raise _malformed(where, f"{len([option for option in options if option])} options", f"{count}, none empty")
    return stem.strip(), options


def _split_options(tail: str, count: int) -> tuple[str, ...]:
    """Cut `(A) … (B) …` at the letters in their order: an option may itself contain `V(D)J` or `Rh(D)`.

    One letter more than `count` is looked for, so that a row with an option too many is noticed.
    """
    cuts: list[tuple[int, int]] = []
    for letter in LETTERS[: count + 1]:
        found = re.compile(rf"(?:^|(?<=\s))\({letter}\)\s").search(tail, cuts[-1][1] if cuts else 0)
        if found is None:
            break
        cuts.append(found.span())
    stops = [start for start, _ in cuts[1:]] + [len(tail)]
    return tuple(tail[end:stop].strip() for (_, end), stop in zip(cuts, stops, strict=False))


def _pubmedqa(questions: Path, split: Path) -> Iterator[QAExample]:
    """The rows of the official test split, with the abstract's passages as context."""
    entries, truth = (_json(path.read_bytes(), str(path)) for path in (questions, split))
    for id, decision in truth.items():
        where = f"{questions}, entry {id} (listed in {split.name})"
        entry = entries.get(id) or {}
        try:
            question, passages, known = entry["QUESTION"], tuple(entry["CONTEXTS"]), entry["final_decision"]
        except (KeyError, TypeError) as error:
            raise _malformed(where, "an entry without QUESTION, CONTEXTS or final_decision", "all three") from error
        if decision not in ("yes", "no", "maybe") or decision != known:
            raise _malformed(where, f"answer {decision!r} beside {known!r}", "yes, no or maybe, the same in both files")
        answer = LETTERS[("yes", "no", "maybe").index(decision)]
        yield _example(where, id=id, question=question, answer=answer, source="pubmedqa", options=("yes", "no", "maybe"), context=passages)


def _example(where: str, *, id: str, **fields: Any) -> QAExample:
    try:
        return QAExample(id=id, focus=id, **fields)  # what a benchmark's question is about is not told: its id stands for it
    except ValidationError as error:
        first = error.errors()[0]
        raise _malformed(where, f"{'.'.join(map(str, first['loc'])) or 'a row'} = {str(first['input'])[:80]!r}", first["msg"]) from error


def _json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:  # not UTF-8 or not JSON
        raise _malformed(where, f"text that is not JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise _malformed(where, type(value).__name__, "a JSON object")
    return value


def _malformed(where: str, got: str, expected: str) -> MedpipeError:
    return MedpipeError(
        got=got, expected=expected, where=where, do="fetch the file again from its publisher: a benchmark is run whole or not at all"
    )
