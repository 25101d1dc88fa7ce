"""Evidence for multiple choice: how often is the right option's passage the first one, or among the first three?

    python bench/retrieval.py [--per-condition 14] [--seed 0] [--json]
    python bench/retrieval.py --facts

On the bundled ten-option questions, with the index that splits/train would hold: BM25 alone, MiniLM alone, and both fused, for
held-out, fine-tuning and co-training questions. CPU seconds of this process, for the index (with the encoder's start) and for
the questions. `--facts` asks the questions that need two kinds of fact (docs/learns.md): how often the first passage is on the right
option, and the first of three passages that tells the wanted fact.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medpipe.config import Corpus
from medpipe.corpus import phenotype_questions, phenotypes
from medpipe.corpus.evidence import EvidenceIndex, recall
from medpipe.corpus.groups import Groups
from medpipe.corpus.retrieval import Rankings
from medpipe.corpus.synthetic import generate, library, load_conditions

CONDITIONS = Path(__file__).parents[1] / "data" / "synthetic" / "conditions"
KS = (1, 3)


class OneOf(Rankings):
    """One of the two rankings in the place of both: fused with itself it stays as it is."""

    def __init__(self, both: Rankings, which: int) -> None:
        super().__init__(both._bm25, both._embeddings)
        self._which = which

    def scores(self, queries: Sequence[str]) -> Iterator[Any]:
        return ((each[self._which], each[self._which]) for each in super().scores(queries))


def with_facts(seed: int, count: int) -> dict[str, float]:
    """Of questions that need two kinds of fact: what the look-up gets, and what reading one fact in three passages would get."""
    known = phenotypes.read(phenotypes.package_files())
    found = phenotype_questions.generate(known, seed, diseases=2500, per_disease=8, options=5, facts=True)
    index = EvidenceIndex.build([], found.library)
    asked = random.Random(seed).sample(list(found.rows), count)
    first = told = 0
    for row, passages in zip(asked, index.for_questions(asked, 3, phenotype_questions.FACTS_CHARS), strict=True):
        fact = re.findall(r"(?:Inheritance|Onset): [^.?]+", row.question)[0]
        first += passages[0].option == row.answer_text
        told += next((p for p in passages if f"{fact}." in p.text), passages[0]).option == row.answer_text
    return {"questions": len(found.rows), "asked": count, "first passage": first / count, "first that tells the fact": told / count}


def main() -> None:
    """Build, ask and tell."""
    parser = argparse.ArgumentParser(description="Recall of the right option's passage.")
    parser.add_argument("--per-condition", type=int, default=14, help="questions about each condition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--facts", action="store_true", help="the questions that need two kinds of fact instead")
    options = parser.parse_args()
    if options.facts:
        print(json.dumps(with_facts(options.seed, 400)))
        return

    conditions = load_conditions(CONDITIONS)
    rows = generate(conditions, options.seed, options.per_condition)
    groups = Groups(Corpus(), options.seed)
    for row in rows:
        groups.link(row)
    sides = {row.id: groups.part(row) for row in rows}
    train = [row for row in rows if sides[row.id] == "train"]
    secrets = [row.rationale if row.is_choice else row.answer for row in rows if sides[row.id] not in ("train", None)]
    start = time.process_time()
    index = EvidenceIndex.build(train, library(conditions), secrets)
    built = time.process_time() - start
    both = index._rankings
    lines = []
    for name, rankings in (("BM25 alone", OneOf(both, 0)), ("MiniLM alone", OneOf(both, 1)), ("both, fused", both)):
        index._rankings = rankings
        line: dict[str, Any] = {"ranking": name}
        start = time.process_time()
        for part in ("heldout", "train", "cotrain"):
            asked = [row for row in rows if sides[row.id] == part]
            line |= {f"{part} {what}": round(value, 3) for what, value in recall(index, asked, KS, training=part == "train").items()}
        lines.append(line | {"cpu_s": round(time.process_time() - start, 1)})
    if options.json:
        print(*(json.dumps(line | {"passages": len(index), "index_cpu_s": round(built, 1)}) for line in lines), sep="\n")
        return
    print(f"{len(index)} passages, {built:.1f} CPU s to index them\n")
    print(f"| {' | '.join(lines[0])} |\n|{'---|' * len(lines[0])}")
    for line in lines:
        print(f"| {' | '.join(map(str, line.values()))} |")


if __name__ == "__main__":
    main()
