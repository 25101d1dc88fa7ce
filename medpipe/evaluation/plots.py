"""The pictures of the report: funnel, loss curves, leaderboard; and what all pictures share (palette, frame, saving).

    from medpipe.evaluation.plots import loss_curves
    loss_curves({"planner": rows}, Path("loss.png"))

Each function writes one PNG, atomically, and returns its path. Colours are the palette of Okabe and Ito (Color Universal
Design, 2008), doubled by line styles, markers or direct labels, so that nothing hangs on colour alone. What this leaves
out: co-training (medpipe/evaluation/team_plots.py), and anything interactive. Matplotlib is imported here, so only workers
import this module.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medpipe import store

BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, INK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#1f2933", "#8a94a0"
)  # fmt: skip
ROLE_COLOURS = {"planner": BLUE, "researcher": ORANGE, "analyst": GREEN, "reporter": PURPLE}
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 7.0  # inches: 700 px at the size at which the report shows it
MetricRow = Mapping[str, Any]


def series(rows: Sequence[MetricRow], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, leaving out rows that do not carry it."""
    kept = [row for row in rows if isinstance(row.get(name), int | float)]
    return [int(row["step"]) for row in kept], [float(row[name]) for row in kept]


def loss_curves(curves: Mapping[str, Sequence[MetricRow]], path: Path) -> Path:
    """Fine-tuning loss of each role, and of the agent alone, by optimiser step (nats per completion token).

    A batch of few rows makes single steps jump, so the lines are running means and the ends are means of a quarter each.
    """
    figure, axes = _figure(3.3)
    fell = drawn = 0
    for number, (role, rows) in enumerate(curves.items()):
        steps, loss = series(rows, "loss")
        if loss:
            quarter, window = math.ceil(len(loss) / 4), math.ceil(len(loss) / 8)
            first, last = fmean(loss[:quarter]), fmean(loss[-quarter:])
            drawn, fell = drawn + 1, fell + (last < first)
            smooth = [fmean(loss[max(0, end - window) : end]) for end in range(1, len(loss) + 1)]
            style = {"color": ROLE_COLOURS.get(role, GREY), "linestyle": STYLES[number % 6], "marker": MARKERS[number % 6]}
            axes.plot(steps, smooth, markersize=4, markevery=max(1, len(steps) // 12), label=f"{role} ({first:.2f} → {last:.2f})", **style)
    axes.set(xlabel="optimiser step", ylabel="loss (nats per token), running mean")
    title(axes, f"Training loss: last quarter below the first in {fell} of {drawn}")
    _finish(axes)
    return save(figure, path)


def training_curves(role: str, rows: Sequence[MetricRow], path: Path) -> Path:
    """One role's fine-tuning: its loss (nats per completion token) and its learning rate by optimiser step."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axes, name, label, colour in (
        (upper, "loss", "loss (nats per token)", ROLE_COLOURS.get(role, GREY)), (lower, "learning_rate", "learning rate", GREY)
    ):  # fmt: skip
        axes.plot(*series(rows, name), color=colour, linewidth=1.6)
        axes.set_ylabel(label)
        _finish(axes, legend=False)
    lower.set_xlabel("optimiser step")
    title(upper, f"Fine-tuning of the {role}")
    return save(figure, path)


def funnel(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Where each source's rows went, as shares of what came in; `rows` as in corpus/clean's funnel.json."""
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    steps = ["kept", *dict.fromkeys(str(row["step"]) for row in rows if row["rows"] and row["step"] not in ("in", "kept"))]
    counts = {(str(row["source"]), str(row["step"])): int(row["rows"]) for row in rows}
    total = sum(counts.get((source, "in"), 0) for source in sources)
    kept = sum(counts.get((source, "kept"), 0) for source in sources)
    figure, axes = _figure(1.5 + 0.5 * len(sources) + 0.16 * len(steps))
    left = dict.fromkeys(sources, 0.0)
    fills = (BLUE, ORANGE, PURPLE, YELLOW, GREEN, RED, SKY, GREY)
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
    for number, step in enumerate(steps):
        shares = [100 * counts.get((source, step), 0) / max(1, counts.get((source, "in"), 0)) for source in sources]
        look = {"color": fills[number % 8], "hatch": hatches[number % 8], "edgecolor": "white", "linewidth": 0}
        n = sum(counts.get((source, step), 0) for source in sources)
        axes.barh(sources, shares, left=[left[source] for source in sources], height=0.62, label=f"{step} ({n:,})", **look)
        for source, share in zip(sources, shares, strict=True):
            left[source] += share
    axes.set_yticks(range(len(sources)), [f"{source}\n{counts.get((source, 'in'), 0):,} rows" for source in sources])
    axes.invert_yaxis()
    axes.set(xlabel="share of the source's rows (%)", xlim=(0, 100))
    title(axes, f"{kept:,} of {total:,} rows were kept")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.55 / (0.5 * len(sources) + 0.6)), ncols=2, frameon=False, fontsize=9)
    bare(axes)
    return save(figure, path)


def leaderboard(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One panel per benchmark: each system's mean as a dot with its interval, and what guessing gives as a dashed line."""
    names = list(dict.fromkeys(str(row["benchmark"]) for row in rows))
    groups = [[row for row in rows if row["benchmark"] == name] for name in names]
    if not groups:
        figure, axes = _figure(1.2)
        axes.text(0.5, 0.5, "No benchmark was run", ha="center", va="center", fontsize=11, color=INK)
        axes.set_axis_off()
        return save(figure, path)
    sizes = [len(group) + 1.9 for group in groups]
    figure = Figure(figsize=(WIDTH, 0.29 * sum(sizes) + 0.3), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        first = group[0]
        for position, row in enumerate(group):
            colour = (GREY, ORANGE, GREEN, BLUE)[position % 4]
            axes.plot([row["low"], row["high"]], [position, position], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot([row["mean"]], [position], color=colour, marker=MARKERS[position % 6], markersize=7)
            told = f"{row['mean']:.2f}  ({row['low']:.2f} to {row['high']:.2f})"
            axes.annotate(told, (1.02, position), xycoords=("axes fraction", "data"), fontsize=8.5, va="center", color=INK)
        axes.axvline(first["chance"], color=INK, linestyle="--", linewidth=1.1)
        beside = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8.5, "va": "top"}
        axes.annotate(f"chance {first['chance']:.2f}", (first["chance"], 1), (4, 0), **beside)
        axes.set_yticks(range(len(group)), [str(row.get("label", row["system"])) for row in group])
        axes.set(xlim=(min(-0.02, *(row["low"] - 0.02 for row in group)), 1.02), ylim=(len(group) - 0.4, -1.2))
        axes.set_xlabel(
            {"accuracy": "share of questions answered right", "similarity": "mean similarity to the reference"}.get(
                first["metric"], f"share of {first['metric']}"
            )
        )
        title(axes, f"{first['title']}, {first['n']} questions")
        bare(axes)
    return save(figure, path)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes, legend: bool = True) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing was recorded", ha="center", va="center", transform=axes.transAxes, color=INK)
    elif legend:
        axes.legend(frameon=False, fontsize=8.5)
    bare(axes)


def bare(axes: Axes) -> None:
    """Without the frame's upper and right side; small, dark labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.xaxis.label.set(size=9.5, color=INK)
    axes.yaxis.label.set(size=9.5, color=INK)


def title(axes: Axes, text: str, width: int = 78) -> None:
    """A title from the left, wrapped at `width` characters. Matplotlib reads $…$ as mathematics: a dollar from data stays a dollar."""
    axes.set_title(textwrap.fill(text, width).replace("$", r"\$"), fontsize=10.5, fontweight="bold", loc="left", color=INK)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically; equal data give equal bytes."""
    FigureCanvasAgg(figure)
    with store.atomic_path(path) as temporary:
        # Twice the shown size for sharp print; a software stamp would change the bytes with Matplotlib's version.
        figure.savefig(temporary, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return path
