"""Which focus belongs to which part; the assets splits/train and splits/validation; the rows kept for evaluation.

    part_of("Crohn's disease", settings.corpus, settings.seed)      # "train", "validation" or "heldout"

The part follows from a hash of the normalised focus and the seed, so that adding rows moves no row, and all rows about one
focus share a part across all sources. What this leaves out: synonyms of one focus, and near-duplicates across foci.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, cast, get_args

from medpipe import store
from medpipe.config import Corpus
from medpipe.corpus import expectations
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.sources import LIBRARY, count_table, sample_table
from medpipe.corpus.text import focus_key
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult, Part, QAExample

EVIDENCE = "evidence"


def part_of(focus: str, corpus: Corpus, seed: int) -> Part:
    """The part to which all rows about this focus belong."""
    # Under this prefix seed 0 leaves 31 of the 156 bundled conditions held out and 11 for validation; of 300 seeds tried,
    # 2 % leave fewer than 12 or 8, which the table "focus_groups_by_part" on the assets shows.
    digest = hashlib.sha256(f"split/{seed}/{focus_key(focus)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < corpus.heldout_share:
        return "heldout"
    return "validation" if place < corpus.heldout_share + corpus.validation_share else "train"


def heldout(folder_of_clean: Path, corpus: Corpus, seed: int, source: str) -> list[QAExample]:
    """The rows of one source that no split contains: for evaluation only."""
    return [row for row in store.read_examples(folder_of_clean) if row.source == source and part_of(row.focus, corpus, seed) == "heldout"]


def export_row(row: QAExample) -> dict[str, Any]:
    """A row as data/medxpert_*.jsonl show it; `options` only on a multiple-choice question."""
    fields = ("id", "question", "answer", "category", "source", "difficulty")
    return {name: getattr(row, name) for name in fields} | ({"options": list(row.options)} if row.is_choice else {})


def run(job: Job) -> Outcome:
    """Write one split's rows, its copy in the data folder and, for train, the evidence index."""
    part = cast(Part, job.name.partition("/")[2])
    parts: dict[Part, list[QAExample]] = defaultdict(list)
    for row in store.read_examples(job.inputs["corpus/clean"]):
        parts[part_of(row.focus, job.settings.corpus, job.settings.seed)].append(row)
    rows = parts[part]
    store.write_examples(job.out, rows)
    shown = f"medxpert_{part}.jsonl"
    store.write_jsonl(job.out / shown, map(export_row, rows))
    metadata: dict[str, Any] = {
        "rows": len(rows), "focus_groups": len({focus_key(row.focus) for row in rows}),
        "choice_questions": sum(row.is_choice for row in rows), "export": {"file": str(job.settings.data / shown)},
        "sources": {"table": count_table(rows, "source")}, "difficulty": {"table": count_table(rows, "difficulty")},
        "focus_groups_by_part": {"table": _groups_table(parts)}, "samples": {"table": sample_table(rows)},
    }  # fmt: skip
    if part == "train" and rows:
        job.report.log("indexing the evidence")
        index = EvidenceIndex.build(rows, store.read_jsonl(job.inputs["corpus/clean"] / LIBRARY))
        index.save(job.out / EVIDENCE)
        metadata["evidence_passages"] = len(index)
    job.report.log(f"{part}: {len(rows)} rows")
    checks = (expectations.validate(rows, part, job.settings.corpus), _no_overlap(parts), _not_empty(part, rows))
    return Outcome(metadata, checks, {shown: job.settings.data / shown})


def _groups_table(parts: dict[Part, list[QAExample]]) -> list[dict[str, Any]]:
    """Per source, how many foci each part holds: a hash can leave a small source thin somewhere."""
    groups = {part: {(row.source, focus_key(row.focus)) for row in rows} for part, rows in parts.items()}
    counts = {part: Counter(source for source, _ in pairs) for part, pairs in groups.items()}
    sources = sorted(set().union(*counts.values()))
    return [{"source": source} | {part: counts.get(part, Counter())[source] for part in get_args(Part)} for source in sources]


def _no_overlap(parts: dict[Part, list[QAExample]]) -> CheckResult:
    homes: dict[str, set[Part]] = defaultdict(set)
    for part, rows in parts.items():
        for row in rows:
            homes[focus_key(row.focus)].add(part)
    shared = [focus for focus, where in homes.items() if len(where) > 1]
    return CheckResult(
        name="no_focus_overlap",
        passed=not shared,
        description="no focus stands in more than one of train, validation and held-out",
        values={"focus_groups": len(homes), "shared": len(shared)},
    )


def _not_empty(part: Part, rows: list[QAExample]) -> CheckResult:
    description = "the split has rows" if rows else f"no focus fell into {part}: add rows, or change the seed or the shares"
    return CheckResult(name="not_empty", passed=bool(rows), description=description, values={"rows": len(rows)})
