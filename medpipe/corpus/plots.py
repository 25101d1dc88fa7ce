"""The corpus' pictures: how long questions and answers are, and how many rows each category has. Drawn without a screen.

    lengths(rows, job.out / "plots" / "lengths.png")

What this leaves out: the pictures of training and evaluation (medpipe/evaluation/plots.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.schema import QAExample
from medpipe.store import atomic_path

PLOTTED = 15  # categories
BINS = 30
QUESTION, ANSWER = "#0072B2", "#E69F00"  # Okabe and Ito: told apart by the colour-blind


def lengths(rows: Sequence[QAExample], path: Path) -> None:
    """Histograms of the length in characters, on a logarithmic scale: questions above, answers (an option's text) below."""
    figure = _figure(7, 3.6)
    for place, (name, colour, texts) in enumerate(
        (("question", QUESTION, [row.question for row in rows]), ("answer", ANSWER, [row.answer_text for row in rows])), 1
    ):
        axes = figure.add_subplot(2, 1, place)
        values = [max(len(text), 1) for text in texts]  # an empty text can't stand on a logarithmic scale
        axes.hist(values, bins=_edges(min(values, default=1), max(values, default=1)), color=colour)
        axes.set_xscale("log")
        axes.set_ylabel("rows")
        axes.set_title(f"{name}: {_median(values)} characters at the median", fontsize="medium")
    figure.axes[-1].set_xlabel("characters")
    _save(figure, path)


def categories(counts: Mapping[tuple[str, str], int], path: Path, order: Sequence[str], colours: Mapping[str, str]) -> None:
    """Bars of the rows per category, stacked by source; the largest categories only.

    Args:
        counts: (category, source) → rows.
        order: the sources, from left to right in each bar.
        colours: a colour for each source.
    """
    totals = Counter[str]()
    for (category, _), rows in counts.items():
        totals[category] += rows
    largest = [category for category, _ in totals.most_common(PLOTTED)][::-1]
    figure = _figure(7, 0.6 + 0.32 * len(largest) + 0.8)
    axes = figure.add_subplot()
    left = [0] * len(largest)
    present = {source for _, source in counts}
    for source in [name for name in order if name in present]:
        widths = [counts.get((category, source), 0) for category in largest]
        axes.barh([category.replace("_", " ")[:40] for category in largest], widths, left=left, color=colours[source], label=source)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("rows")
    axes.set_title("Rows per category" + (f" (the {PLOTTED} largest)" if len(largest) == PLOTTED else ""))
    axes.bar_label(axes.containers[-1], labels=[str(end) for end in left], padding=3)
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty picture, in inches; of its own, so that no global state of matplotlib is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _edges(low: int, high: int) -> list[float]:
    """Edges of bins that look equally wide on a logarithmic scale."""
    high = max(high, low + 1)
    return [*(low * (high / low) ** (number / BINS) for number in range(BINS)), high]


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2] if values else 0
