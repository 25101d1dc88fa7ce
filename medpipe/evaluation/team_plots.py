"""The pictures of co-training: what the team was paid, how the roles valued, drifted, wrote and changed their minds.

    from medpipe.evaluation.team_plots import write_team_plots
    write_team_plots(store.read_jsonl(folder / "metrics.jsonl"), folder)

PLOTS says which number of metrics.jsonl stands in which panel (docs/maporl.md says what each is). Every number is a mean over
the episodes of one iteration; beyond UNSMOOTHED iterations the lines are running means, as their axis says. A role keeps its
colour, line style and marker in every panel. A panel whose numbers are absent is left out, and a picture without a panel is
not written: nothing empty is drawn. What this leaves out: intervals, and several runs in one picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medpipe.evaluation import plots
from medpipe.evaluation.plots import BLUE, GREEN, INK, MARKERS, ORANGE, PURPLE, RED, ROLE_COLOURS, SKY, STYLES, WIDTH, MetricRow, series

COMPONENTS = {"accuracy": BLUE, "relevance": ORANGE, "safety": RED, "collaboration": GREEN, "evidence": PURPLE, "reasoning": SKY}
UNSMOOTHED = 20  # iterations; four lines of more single iterations cover each other
ALL = "all roles"
"""Label of a line that is not one role's or one component's."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what it shows, its unit, and its lines, metric → (label, colour)."""

    title: str
    unit: str
    lines: Mapping[str, tuple[str, str]]

    def drawn(self, rows: Sequence[MetricRow]) -> dict[str, tuple[list[int], list[float]]]:
        """Iterations and values of the lines that have any."""
        found = {name: series(rows, name) for name in self.lines}
        return {name: values for name, values in found.items() if values[1]}


@dataclass(frozen=True)
class Plot:
    """One picture: its file's name, what it is about, how to read it, and its panels."""

    name: str
    about: str
    caption: str
    panels: tuple[Panel, ...]
    one_scale: bool = False  # the panels are to be compared with each other

    def drawn(self, rows: Sequence[MetricRow]) -> list[Panel]:
        """The panels that have numbers."""
        return [panel for panel in self.panels if panel.drawn(rows)]


def _by_role(metric: str) -> dict[str, tuple[str, str]]:
    return {f"{metric}/{role}": (role, colour) for role, colour in ROLE_COLOURS.items()}


PLOTS = (
    Plot(
        "reward", "Team reward and its components", "Of the reporter's last message in each episode.",
        (
            Panel("Team reward", "reward (0 to 1)", {"reward/team": ("team", INK)}),
            Panel("Its components", "score (0 to 1)", {f"reward/{name}": (name, colour) for name, colour in COMPONENTS.items()}),
        ),
    ),
    Plot(
        "value", "What a message was worth, by role",
        "V is the verifier's score of a message; the return adds what the team scored in later rounds, and the pay for influence.",
        (Panel("Mean value V", "V (0 to 1)", _by_role("value")), Panel("Mean return", "return (no unit)", _by_role("return"))),
    ),
    Plot(
        "drift", "Distance from the start, and entropy, by role",
        "KL says how far a role has moved from its fine-tuned start; without a KL penalty only some iterations measure it. An entropy near "
        "zero says that a role repeats itself.",
        (
            Panel("KL to the start", "nats per token", _by_role("kl")),
            Panel("Entropy", "nats per token", _by_role("entropy")),
        ),
    ),
    Plot(
        "samples", "What the samples could teach, and held-back questions",
        "A question on which all samples fared alike teaches nothing; another is then drawn in its place. Held-back training-side "
        "questions choose which iteration's adapters are kept.",
        (
            Panel("Questions asked", "number", {"questions": ("asked", INK)}),
            Panel("Alike in all samples", "share (0 to 1)", {"flat": ("questions", INK)}),
            Panel("Held-back questions", "share right (0 to 1)", {"selection": ("team", INK)}),
        ),
    ),
    Plot(
        "messages", "Length and usability of the messages, by role",
        "A malformed message is empty, looping, cut off, or settles on no single answer; it is worth nothing.",
        (
            Panel("Message length", "tokens", _by_role("length")),
            Panel("Malformed messages", "share (0 to 1)", {**_by_role("malformed"), "malformed": (ALL, INK)}),
        ),
    ),
    Plot(
        "answers", "Right answers and changes of mind, by role",
        "Multiple-choice questions only. Changes are shares of a role's answers from one round to the next; an answer that can't be "
        "read counts as wrong. A role copies the planner where its first message names the planner's option.",
        (
            Panel("Right answers", "share (0 to 1)", {**_by_role("correct"), "answer_accuracy": ("team's last answer", INK)}),
            Panel("Wrong → right", "share (0 to 1)", _by_role("wrong_to_right")),
            Panel("Right → wrong", "share (0 to 1)", _by_role("right_to_wrong")),
            Panel("Copies the planner", "share (0 to 1)", _by_role("copies_planner")),
        ),
        one_scale=True,
    ),
)  # fmt: skip


def write_team_plots(rows: Sequence[MetricRow], folder: Path) -> list[dict[str, str]]:
    """Draw what `rows` has numbers for into `folder`/plots.

    Args:
        rows: one per iteration, as in metrics.jsonl: "step" (1-based) and numbers by name.
        folder: where the folder plots/ is or will be.

    Returns:
        For each picture {"image": path relative to `folder`, "alt": a text with the first and last number of every line}.
    """
    written = []
    for plot in PLOTS:
        if panels := plot.drawn(rows):
            image = f"plots/{plot.name}.png"
            _draw(panels, rows, plot.one_scale, folder / image)
            written.append({"image": image, "alt": _alt(plot, panels, rows)})
    return written


def without_numbers(rows: Sequence[MetricRow]) -> list[str]:
    """What is not drawn because no row carries it: a panel's title with the names of its numbers."""
    absent = [panel for plot in PLOTS for panel in plot.panels if not panel.drawn(rows)]
    return [f"{panel.title} ({', '.join(panel.lines)})" for panel in absent]


def _draw(panels: Sequence[Panel], rows: Sequence[MetricRow], one_scale: bool, path: Path) -> None:
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    labels = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=one_scale)[0], panels, strict=True):
        _fill(axes, panel, rows)
        if one_scale:
            axes.label_outer()
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True)) if len(names) > 1 else {}
        plots.title(axes, panel.title, 78 // len(panels))
    if labels:  # one legend below all panels: inside, it would cover lines that cross
        columns = len(labels) if len(labels) < 6 else 3
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    plots.save(figure, path)


def _fill(axes: Axes, panel: Panel, rows: Sequence[MetricRow]) -> None:
    drawn, window = panel.drawn(rows), math.ceil(len(rows) / UNSMOOTHED)
    for number, (name, (label, colour)) in enumerate(panel.lines.items()):
        if name in drawn:
            steps, values = drawn[name]
            style = {"color": colour, "linestyle": STYLES[number % 6], "marker": MARKERS[number % 6], "linewidth": 1.5}
            smooth = [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
            axes.plot(steps, smooth, markersize=4, markevery=max(1, len(steps) // 12), label=label, **style)
    axes.set(xlabel="MAPoRL iteration" + (f"\n(running mean of {window})" if window > 1 else ""), ylabel=panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if len({step for steps, _ in drawn.values() for step in steps}) == 1:
        axes.set_xticks(next(steps for steps, _ in drawn.values()))  # the locator would invent parts of an iteration
    if all(value == 0 for _, values in drawn.values() for value in values):
        axes.set_ylim(-0.05, 1)  # all on the zero line: without a scale, zero would look like any other number
    plots.bare(axes)


def _alt(plot: Plot, panels: Sequence[Panel], rows: Sequence[MetricRow]) -> str:
    told = []
    for panel in panels:
        lines = [f"{panel.lines[name][0]} {_change(values)}" for name, (_, values) in panel.drawn(rows).items()]
        told.append(f"{panel.title}, {panel.unit}: {', '.join(lines)}.")
    count = len({step for panel in panels for steps, _ in panel.drawn(rows).values() for step in steps})
    over = f"over {count} iterations, first to last" if count > 1 else "in one iteration"
    return f"{plot.about}, {over}. {' '.join(told)}"


def _change(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"
