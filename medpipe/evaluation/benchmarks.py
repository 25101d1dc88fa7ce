"""The benchmarks that are run: what each is, where its questions come from, which of them are asked.

    from medpipe.evaluation.benchmarks import BENCHMARKS, choose, load
    rows = choose(load("medqa", job.inputs), 500, seed=0)

Five are published and one is a safety set of the project's own (all read by medpipe/corpus/benchmarks.py into the asset
sources/benchmarks), four are rows of the corpus that no split contains. Beside these ten, on which a release rests, stand the user's
own questions, from the same asset. Rows are only ever evaluated on. What this leaves out: scoring.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medpipe.corpus import benchmarks as published
from medpipe.corpus import phenotypes
from medpipe.corpus.splits import heldout
from medpipe.errors import MedpipeError, SourceUnreachable
from medpipe.schema import QAExample


@dataclass(frozen=True)
class Benchmark:
    """One benchmark; a held-out one names the `source` of its corpus rows, the others are those of sources/benchmarks."""

    name: str  # second level of its asset key, evaluation/<name>
    title: str
    kind: Literal["choice", "text", "safety"]
    licence: str
    citation: str
    url: str  # its page, for people
    options: int = 0  # per question; 0 for free text
    source: str = ""

    @property
    def metric(self) -> str:
        """What a score means: the right option, semantic similarity to the reference, or an answer that passed as safe."""
        return {"choice": "accuracy", "text": "similarity", "safety": "safe answers"}[self.kind]

    @property
    def binary(self) -> bool:
        """Whether a score is 1 or 0."""
        return self.kind != "text"


def _published(name: str) -> Benchmark:
    found = published.PUBLISHED[name]
    return Benchmark(name, found.title, "choice" if found.options else "safety", found.licence, found.citation, found.url, found.options)


_ALL = (
    _published("medxpertqa"),
    _published("medqa"),
    _published("pubmedqa"),
    _published("medmcqa"),
    _published("mmlu_medical"),
    Benchmark(
        "medquad_heldout", "MedQuAD, held-out topics (free text)", "text", "CC BY 4.0",
        "Ben Abacha and Demner-Fushman, A Question-Entailment Approach to Question Answering, BMC Bioinformatics 20 (2019) 511",
        "https://github.com/abachaa/MedQuAD", source="medquad",
    ),
    Benchmark(
        "synthetic_heldout", "Synthetic, held-out conditions (ten options)", "choice", "Apache-2.0",
        "this project, data/synthetic", "data/synthetic", 10, source="synthetic",
    ),
    Benchmark(
        "phenotypes_heldout", "Phenotypes, held-out diseases (ten options)", "choice",
        f"HPO licence, release {phenotypes.VERSION}",
        "Gargano et al., The Human Phenotype Ontology in 2024: phenotypes around the world, Nucleic Acids Research 52 (2024) D1333; "
        f"release {phenotypes.VERSION}",
        "https://hpo.jax.org", 10, source="phenotypes",
    ),
    Benchmark(
        "medquad_questions_heldout", "MedQuAD by masking, held-out topics (ten options)", "choice", "CC BY 4.0",
        "Ben Abacha and Demner-Fushman, A Question-Entailment Approach to Question Answering, BMC Bioinformatics 20 (2019) 511",
        "https://github.com/abachaa/MedQuAD", 10, source="medquad_questions",
    ),
    _published("safety"),
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""Name → benchmark, in the order in which they are shown."""
OWN: dict[str, Benchmark] = {
    name: Benchmark(name, published.OWN_TITLES[name], kind, published.OWN_LICENCE, published.OWN_CITATION, "")
    for kind, name in published.OWN.items()
}
"""The user's own questions, by their kind; nobody is asked where no file is named. Options may differ from question to question."""
ASKED: dict[str, Benchmark] = {**BENCHMARKS, **OWN}
"""All that can be asked, in the order in which they are shown."""


def load(name: str, inputs: Mapping[str, Path]) -> list[QAExample]:
    """All questions of a benchmark, in their published order; only of the user's own there may be none.

    Args:
        name: a key of ASKED.
        inputs: finished folders: "sources/benchmarks", and "corpus/clean" from which the held-out benchmarks are taken.

    Raises:
        SourceUnreachable: the benchmark could not be had, or the corpus has no such rows.
    """
    if name not in ASKED:
        raise MedpipeError(got=f"benchmark {name!r}", expected=f"one of {', '.join(ASKED)}", where="evaluation", do="use one of these")
    benchmark = ASKED[name]
    if not benchmark.source:
        return published.read(inputs["sources/benchmarks"], name)
    folder = inputs["corpus/clean"]
    rows = [row for row in heldout(folder, benchmark.source) if row.is_choice == (benchmark.kind == "choice")]
    if not rows:
        label = benchmark.title.partition(",")[0]
        raise SourceUnreachable(
            got=f"no held-out rows of the source {benchmark.source}", expected=f"{label} in the corpus", where="corpus/clean",
            do=f"make sources/{benchmark.source} reachable (a mirror folder or the network) and list it in corpus.use",
        )  # fmt: skip
    return rows


def choose(rows: Sequence[QAExample], count: int, seed: int) -> list[QAExample]:
    """At most `count` questions by seed, in their published order; the same for every system.

    Each question's place in the draw hangs on the seed and its own id only, so a smaller count asks a subset of a larger.
    """
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.id}".encode()).digest())[:count]
    ids = {row.id for row in drawn}
    return [row for row in rows if row.id in ids]


def overlap(rows: Sequence[QAExample], training_rows: Sequence[QAExample]) -> int:
    """How many benchmark questions a training row asks in the same words (case, punctuation and spacing aside).

    corpus/clean has blocked contaminated rows before, the near ones too; this counts again, on the rows that were trained on.
    """
    seen = {_normalised(row.question) for row in training_rows}
    return sum(_normalised(row.question) in seen for row in rows)


def _normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
