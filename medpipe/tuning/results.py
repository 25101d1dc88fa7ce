"""What a study leaves for a person: a table of its trials, the best settings, and two pictures.

    write_results(found, settings)      # study.json, best.yaml, plots/history.png, plots/importance.png in found.home

All of it is drawn from the study's own trials. A picture that has nothing to show is not drawn; study.json says why. Left out:
the words of each training (trials/<number>/*.log).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medpipe import NOTICE, store
from medpipe.config import Settings
from medpipe.tuning.trial import as_flags

if TYPE_CHECKING:
    from medpipe.tuning.study import Row, Studied

HISTORY, IMPORTANCE = "plots/history.png", "plots/importance.png"
FILES = ("study.json", "best.yaml", HISTORY, IMPORTANCE)
OBJECTIVE = "reward components of the last quarter of co-training, weighted by the profile; training questions, no benchmark"


def write_results(found: Studied, settings: Settings) -> None:
    """Write all FILES into the study's folder; one that can't be drawn is absent."""
    store.write_json(
        found.home / "study.json",
        {
            "objective": OBJECTIVE if settings.maporl.verifier == "medical" else f"score of the {settings.maporl.verifier} verifier",
            "best": asdict(found.best), "set": " ".join(as_flags(found.best.values)), "importance": found.importance,
            "importance_unknown": found.unknown, "trials": [asdict(row) for row in found.rows], "notice": NOTICE,
        },
    )  # fmt: skip
    sections: dict[str, dict[str, Any]] = {}
    for name, value in found.best.values.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    store.write_text(found.home / "best.yaml", yaml.safe_dump(sections, sort_keys=False))
    (found.home / IMPORTANCE).unlink(missing_ok=True)
    draw_history(found.rows, found.home / HISTORY)
    if found.importance:
        draw_importance(found.importance, found.home / IMPORTANCE)


def pictures(found: Studied) -> dict[str, Any]:
    """The pictures as an asset's metadata, each with its alternative text; words in the place of one that could not be drawn."""
    count = sum(row.value is not None for row in found.rows)
    history = f"team value and validation loss by trial; {count} of {len(found.rows)} trials finished, the best is {found.best.number}"
    shown: dict[str, Any] = {"history": {"image": HISTORY, "alt": history}}
    if found.unknown:
        return {**shown, "importance": found.unknown}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.importance.items())
    return {**shown, "importance": {"image": IMPORTANCE, "alt": f"share of the value's variance that each setting explains: {shares}"}}


def draw_history(rows: list[Row], path: Path) -> Path:
    """Team value (0 to 1) and validation loss (nats per token) by trial, with the best value so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from medpipe.evaluation.plots import BLUE, GREY, ORANGE, RED, WIDTH, bare, save, title

    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    worth = [(row.number, row.value) for row in rows if row.value is not None]
    numbers = [number for number, _ in worth]
    best = [max(value for _, value in worth[: end + 1]) for end in range(len(worth))]
    upper.step(numbers, best, where="post", color=GREY, linewidth=1.4, label="best so far")
    upper.plot(numbers, [value for _, value in worth], "o", color=BLUE, markersize=5, label="finished")
    for state, colour, marker in (("finished", BLUE, "o"), ("pruned", ORANGE, "v"), ("failed", RED, "X")):
        of = [(row.number, row.loss) for row in rows if row.state == state and row.loss is not None]
        if of:
            lower.plot(*zip(*of, strict=True), marker, color=colour, markersize=6, linestyle="none", label=state)
    upper.set_ylabel("team value")
    lower.set(xlabel="trial", ylabel="validation loss (nats)")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    pruned = sum(row.state == "pruned" for row in rows)
    title(upper, f"{len(worth)} trials finished, {pruned} pruned before co-training")
    for axes in (upper, lower):
        axes.legend(frameon=False, fontsize=8.5)
        bare(axes)
    return save(figure, path)


def draw_importance(importance: dict[str, float], path: Path) -> Path:
    """The share of the value's variance that each setting explains, most important first."""
    from matplotlib.figure import Figure

    from medpipe.evaluation.plots import BLUE, INK, WIDTH, bare, save, title

    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    names = list(importance)
    axes.barh(names, [importance[name] for name in names], color=BLUE, height=0.6)
    for position, name in enumerate(names):
        axes.annotate(f" {importance[name]:.2f}", (importance[name], position), va="center", fontsize=8.5, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="share of the explained variance (fANOVA)", xlim=(0, 1.08))
    title(axes, f"What matters most: {names[0]}", 48)
    bare(axes)
    return save(figure, path)
