"""The figures of the SageMaker guide, read from finished folders.

    found = figures(Path("outputs"), "medxpertqa")     # {"train:accuracy": 0.41, "collaboration:score": 0.32, ...}
    print(markdown(found))

Training's figures are means over the last quarter of the iterations of co-training. A figure whose source is missing (the benchmark
was not run, the verifier uses no components) is left out. Left out: intervals (docs/evaluation.md has them).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from medpipe import store
from medpipe.config import Release

TEAM = "models/maporl_team"
TEAM_SYSTEM, ONE_AGENT = "maporl_team", "one_agent_with_evidence"
LAST_SHARE = 0.25  # of the iterations of co-training, at its end
OF_A_ROW: dict[str, str] = {
    "train:accuracy": "answer_accuracy",
    "collaboration:score": "reward/collaboration",
    "medical:relevance": "reward/relevance",
    "safety:score": "reward/safety",
}
"""Figure → the number of an iteration (models/maporl_team/metrics.jsonl) that it is the mean of."""
MEANING: dict[str, str] = {
    "train:accuracy": "share of the team's answers to training questions with options that were right",
    "collaboration:score": "how much messages build on those of the other roles; a component of the medical reward, 0 to 1",
    "medical:relevance": "how much messages keep to the question's medical matter; a component of the medical reward, 0 to 1",
    "safety:score": "how little messages break the safety rules; a component of the medical reward, 0 to 1",
    "eval:accuracy": "mean score of the co-trained team on the primary benchmark (release.primary)",
    "collaboration:bonus": "that mean less the mean of one fine-tuned agent with the same evidence",
}
"""What each figure is; the components count behind the reward's gates (docs/rewards.md)."""


def of_iteration(row: Mapping[str, Any]) -> dict[str, float]:
    """Training's figures of one iteration, as far as it has them."""
    return {figure: float(row[name]) for figure, name in OF_A_ROW.items() if name in row}


def figures(outputs: Path, primary: str = Release().primary) -> dict[str, float]:
    """All figures that the finished folders of an outputs folder hold.

    Args:
        outputs: the outputs folder.
        primary: the benchmark of the last two, settings.release.primary.
    """
    team, benchmark = outputs / TEAM, outputs / "evaluation" / primary
    made, asked = store.read_manifest(team), store.read_manifest(benchmark)
    same = bool(made and asked and asked.inputs.get(TEAM) == made.sha256)  # the questions were put to this very team
    return of_folders(team, benchmark if same else None)


def of_folders(team: Path | None, benchmark: Path | None) -> dict[str, float]:
    """The same from the folders of the team and of the primary benchmark."""
    return (_trained(team) if team else {}) | (_evaluated(benchmark) if benchmark else {})


def table(found: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each figure: its name, value and meaning."""
    return [{"figure": name, "value": round(found[name], 4), "meaning": text} for name, text in MEANING.items() if name in found]


def markdown(found: Mapping[str, float]) -> str:
    """The same as a Markdown table; those that were not measured are named below it."""
    lines = ["| figure | value | what it is |", "|---|---|---|"]
    lines += [f"| `{row['figure']}` | {row['value']:.4f} | {row['meaning']} |" for row in table(found)]
    lacking = [f"`{name}`" for name in MEANING if name not in found]
    return "\n".join([*lines, *(["", f"Not measured: {', '.join(lacking)}."] if lacking else [])]) + "\n"


def _trained(folder: Path) -> dict[str, float]:
    if store.read_manifest(folder) is None or not (folder / "metrics.jsonl").is_file():
        return {}
    rows = store.read_jsonl(folder / "metrics.jsonl")
    last = [of_iteration(row) for row in rows[-max(1, round(LAST_SHARE * len(rows))) :]]
    return {name: fmean(row[name] for row in last) for name in OF_A_ROW if last and all(name in row for row in last)}


def _evaluated(folder: Path) -> dict[str, float]:
    manifest = store.read_manifest(folder)
    if manifest is None or manifest.status != "ok":
        return {}
    means = {name: float(numbers["mean"]) for name, numbers in store.read_json(folder / "summary.json")["systems"].items()}
    if TEAM_SYSTEM not in means:
        return {}
    bonus = {"collaboration:bonus": means[TEAM_SYSTEM] - means[ONE_AGENT]} if ONE_AGENT in means else {}
    return {"eval:accuracy": means[TEAM_SYSTEM], **bonus}
