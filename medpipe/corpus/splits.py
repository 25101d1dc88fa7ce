"""The assets splits/train and splits/validation, and the rows kept for evaluation.

    heldout(folder_of_clean, "synthetic")       # rows that no split contains

Which side a row falls on is decided in groups.py and stands in parts.jsonl of corpus/clean. splits/train holds the evidence index
too, and tells how well it finds the right option's passage, for training and for held-out rows. Training refuses a split whose
validation.json is missing, failed or about other rows (validation.py).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast, get_args

from medpipe import store
from medpipe.corpus import expectations, plots
from medpipe.corpus.evidence import EvidenceIndex, recall
from medpipe.corpus.groups import keys
from medpipe.corpus.sources import LIBRARY, count_table, sample_table
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.schema import CheckResult, Part, QAExample

PARTS = "parts.jsonl"
EVIDENCE = "evidence"
ENOUGH = 50  # groups of a source, below which its shares are up to chance
FAR = 0.05  # a share of groups this far from the one asked for is told
ASKED = 104  # multiple-choice rows of a source and side for which evidence is looked up to measure it
ENOUGH_ASKED = 100  # of them from one source, below which a difference between the sides is up to chance
APART = 0.10  # a difference between training and held-out rows that is told
KS = (1, 3)  # passages among which the right option's is looked for


def assigned(folder_of_clean: Path) -> Iterator[tuple[QAExample, Part, str]]:
    """Every row of the clean corpus with its side and its group."""
    placed = store.iter_jsonl(folder_of_clean / PARTS)
    for row, place in zip_longest(store.iter_examples(folder_of_clean), placed):
        if row is None or place is None or row.id != place["id"]:
            got = f"the row {row.id if row else None!r} beside {place['id'] if place else None!r}"
            raise MedpipeError(
                got=got, expected="the same rows in the same order",
                where=f"{store.ROWS} and {PARTS} in {folder_of_clean}", do="materialise corpus/clean again",
            )  # fmt: skip
        yield row, place["part"], place["group"]


def heldout(folder_of_clean: Path, source: str) -> list[QAExample]:
    """The rows of one source that no split contains: for evaluation only."""
    return [row for row, part, _ in assigned(folder_of_clean) if part == "heldout" and row.source == source]


def export_row(row: QAExample) -> dict[str, Any]:
    """A row as data/medxpert_*.jsonl show it; `options` only on a multiple-choice question."""
    fields = ("id", "question", "answer", "category", "source", "difficulty")
    return {name: getattr(row, name) for name in fields} | ({"options": list(row.options)} if row.is_choice else {})


def run(job: Job) -> Outcome:
    """Write one split's rows, its copy in the data folder and, for train, the evidence index."""
    part = cast(Part, job.name.partition("/")[2])
    clean = job.inputs["corpus/clean"]
    rows: list[QAExample] = []
    others: dict[Part, list[QAExample]] = {"cotrain": [], "heldout": []}  # their multiple choice: the evidence is measured on it too
    secrets: list[str] = []  # answers that the evidence must not give away
    overview = _Overview()
    for row, side, group in assigned(clean):
        overview.note(row, side, group)
        if side == part:
            rows.append(row)
        elif side != "train":
            secrets.append(row.rationale if row.is_choice else row.answer)
        if side in others and row.is_choice:
            others[side].append(row)
    store.write_examples(job.out, rows)
    shown = f"medxpert_{part}.jsonl"
    store.write_jsonl(job.out / shown, map(export_row, rows))
    metadata: dict[str, Any] = {
        "rows": len(rows), "focus_groups": len(overview.groups[part]), "choice_questions": sum(row.is_choice for row in rows),
        "export": {"file": str(job.settings.data / shown)}, "validation_report": {"file": "docs/index.html"},
        "sources": {"table": count_table(rows, "source")}, "difficulty": {"table": count_table(rows, "difficulty")},
        "parts_by_source": {"table": overview.table()}, "samples": {"table": sample_table(rows)},
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    if part == "train" and rows:
        job.report.log("indexing the evidence")
        index = EvidenceIndex.build(rows, store.read_jsonl(clean / LIBRARY), secrets)
        index.save(job.out / EVIDENCE)
        metadata["evidence_passages"], metadata["passages_left_out"] = len(index), index.left_out
        found = _recall(index, {"train": rows, **others}, job.settings.seed)
        metadata["retrieval"] = {"table": found}
    if rows:
        plots.lengths(rows, job.out / "plots" / "lengths.png")
        metadata["lengths"] = {"image": "plots/lengths.png", "alt": "histograms: lengths of questions and answers"}
    job.report.log(f"{part}: {len(rows)} rows")
    previous = job.settings.outputs / job.name
    validated = expectations.validate(rows, "split", part, job.settings.corpus, job.out, previous=previous, known_ids=overview.ids)
    checks = [*validated, overview.no_overlap(), overview.near_shares(job), _not_empty(part, rows)]
    if part == "train":
        checks.append(_alike(found))
    return Outcome(metadata, tuple(checks), {shown: job.settings.data / shown})


class _Overview:
    """What one pass over all parts tells: ids, groups, and which side each key stands on."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.groups: dict[Part, set[tuple[str, str]]] = {part: set() for part in get_args(Part)}
        self._rows: Counter[tuple[str, Part]] = Counter()
        self._sides: dict[str, Part] = {}
        self._shared: set[str] = set()

    def note(self, row: QAExample, part: Part, group: str) -> None:
        self.ids.add(row.id)
        self.groups[part].add((row.source, group))
        self._rows[row.source, part] += 1
        for key in keys(row):
            if self._sides.setdefault(key, part) != part:
                self._shared.add(key)

    def table(self) -> list[dict[str, Any]]:
        """Per source, how many groups and rows each part holds: a hash can leave a small source thin somewhere."""
        counts: dict[str, dict[str, Any]] = defaultdict(dict)
        for source in sorted({source for source, _ in self._rows}):
            for part, pairs in self.groups.items():
                counts[source] |= {f"{part} groups": sum(name == source for name, _ in pairs), f"{part} rows": self._rows[source, part]}
        return [{"source": source, **numbers} for source, numbers in counts.items()]

    def no_overlap(self) -> CheckResult:
        return CheckResult(
            name="no_focus_overlap",
            passed=not self._shared,
            description="no disease, synonym or UMLS concept stands in more than one of train, validation and held-out",
            values={"names": len(self._sides), "shared": len(self._shared), "such_as": ", ".join(sorted(self._shared)[:5])},
        )

    def near_shares(self, job: Job) -> CheckResult:
        """Warns where a source's groups fall far from the shares that the profile asks for."""
        corpus = job.settings.corpus
        wanted: dict[Part, float] = {
            "heldout": corpus.heldout_share, "validation": corpus.validation_share, "cotrain": corpus.cotrain_share,
        }  # fmt: skip
        far = []
        for source in sorted({source for source, _ in self._rows}):
            counts = {part: sum(name == source for name, _ in pairs) for part, pairs in self.groups.items()}
            total = sum(counts.values())
            if total < ENOUGH:
                continue
            far += [
                f"{source}: {counts[part]} of {total} groups in {part}, {share:.0%} wanted"
                for part, share in wanted.items()
                if abs(counts[part] / total - share) > FAR
            ]
        return CheckResult(
            name="shares_by_source", passed=not far, severity="warn",
            description="each source is split in the shares that the profile asks for" + (f"; but {'; '.join(far)}" if far else ""),
            values={"far": len(far)},
        )  # fmt: skip


def _not_empty(part: Part, rows: list[QAExample]) -> CheckResult:
    description = "the split has rows" if rows else f"no focus fell into {part}: add rows, or change the seed or the shares"
    return CheckResult(name="not_empty", passed=bool(rows), description=description, values={"rows": len(rows)})


def _recall(index: EvidenceIndex, sides: Mapping[Part, Sequence[QAExample]], seed: int) -> list[dict[str, Any]]:
    """By source and side, how often the right option's passage is the first, or among the first few."""
    table: list[dict[str, Any]] = []
    for part, rows in sides.items():
        by_source: dict[str, list[QAExample]] = defaultdict(list)
        for row in rows:
            if row.is_choice:
                by_source[row.source].append(row)
        for source, choice in by_source.items():
            asked = random.Random(f"{seed}/recall/{source}").sample(choice, min(ASKED, len(choice)))
            table.append({"source": source, "part": part, **recall(index, asked, KS, training=part == "train")})
    return sorted(table, key=lambda line: line["source"])


def _alike(found: Sequence[Mapping[str, Any]]) -> CheckResult:
    """Warns where evidence marks the right option more or less often for training rows than for held-out ones."""
    sides: dict[str, dict[Part, Mapping[str, Any]]] = defaultdict(dict)
    for line in found:
        if line["rows"] >= ENOUGH_ASKED:
            sides[line["source"]][line["part"]] = line
    differences = {
        f"{source}, recall@{k} in {part}": line[f"recall@{k}"] - lines["heldout"][f"recall@{k}"]
        for source, lines in sides.items() if "heldout" in lines
        for part, line in lines.items() if part != "heldout" for k in KS
    }  # fmt: skip
    apart = [f"{what}: {difference:+.2f}" for what, difference in differences.items() if abs(difference) > APART]
    return CheckResult(
        name="retrieval_alike", passed=not apart, severity="warn",
        description="training rows are shown the right option's passage as often as held-out ones, within ten points"
        + (f"; but {'; '.join(apart)}" if apart else ""),
        values={"compared": len(differences), "apart": len(apart), "largest": round(max(map(abs, differences.values()), default=0.0), 4)},
    )  # fmt: skip
