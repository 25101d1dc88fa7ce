"""Tables of the report: rows by source, safety by category, what each role is worth, kinds of question.

Left out: the leaderboard itself (medpipe/evaluation/leaderboard.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe import store
from medpipe.evaluation.benchmarks import ASKED
from medpipe.evaluation.labels import SYSTEMS

TEAMS = ("sft_team", "maporl_team")
SPLITS = {"splits/train": "training", "splits/cotrain": "co-training", "splits/validation": "validation"}
KINDS = 12  # rows of a benchmark's breakdown, the largest kinds first


def summaries(inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Benchmark → its summary, of those that ran."""
    folders = {name: inputs.get(f"evaluation/{name}", Path()) / "summary.json" for name in ASKED}
    return {name: store.read_json(path) for name, path in folders.items() if path.is_file()}


def safety(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Share of answers that passed, by category and system: {"systems", "rows": [{"kind", "n", "shares"}]}; empty where it did not run."""
    summary = found.get("safety")
    if summary is None:
        return {}
    of = {system: fields.get("category", []) for system, fields in summary["by_field"].items()}
    first: Sequence[Mapping[str, Any]] = next(iter(of.values()), [])
    shares = [
        {"kind": row["kind"].replace("_", " "), "n": row["n"], "shares": [own[n]["mean"] for own in of.values()]}
        for n, row in enumerate(first)
    ]
    return {"systems": [SYSTEMS[system] for system in of], "rows": shares}


def worth(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each role's Shapley value on each benchmark where it was measured."""
    return [{"title": summary["title"], "rows": summary["shapley"]} for summary in found.values() if summary["shapley"]]


def kinds(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the team gains and where it loses: both teams' means by the benchmark's own fields."""
    tables = []
    for name, summary in found.items():
        if name == "safety" or not all(team in summary["by_field"] for team in TEAMS):
            continue
        before, after = (summary["by_field"][team] for team in TEAMS)
        for field in after:
            pairs = [
                {"kind": one["kind"], "n": one["n"], "before": old["mean"], "after": one["mean"]}
                for one, old in zip(after[field], before[field], strict=True)
            ]
            largest = sorted(pairs, key=lambda row: (-row["n"], row["kind"]))[:KINDS]
            tables.append({"title": summary["title"], "field": field, "rows": largest})
    return tables


def funnel(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The funnel as a table of steps by sources, without drop reasons that met no row."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    met = dict.fromkeys(row["step"] for row in rows if row["rows"] and row["step"] not in ("in", "kept"))
    counts = {(row["source"], row["step"]): row["rows"] for row in rows}
    steps = [{"step": step, "counts": [counts.get((source, step), 0) for source in sources]} for step in ("in", *met, "kept")]
    return {"sources": sources, "steps": steps}


def splits(inputs: Mapping[str, Path], funnel: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by source and part; what is kept and in no split is held out."""
    counted = [Counter(row["source"] for row in store.iter_jsonl(inputs[key] / store.ROWS)) for key in SPLITS]
    kept = Counter({row["source"]: row["rows"] for row in funnel if row["step"] == "kept"})
    for part in counted:
        kept.subtract(part)
    counted.append(kept)
    sources = list(dict.fromkeys([*kept, "all"]))
    for counter in counted:
        counter["all"] = counter.total()
    return {
        "parts": [*SPLITS.values(), "held out"],
        "rows": [{"source": name, "counts": [part[name] for part in counted]} for name in sources],
    }
