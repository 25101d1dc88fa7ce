"""The corpus' pictures are real PNG files that show their data, also for odd data."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from medpipe.corpus import plots
from medpipe.schema import QAExample
from medpipe_tests.corpus.makers import row


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.parametrize("rows", [[row(1)], [row(1), row(2, question="?" * 5000)], [row(1, options=("", "no"), answer="A")]])
def test_lengths_are_drawn(rows: list[QAExample], tmp_path: Path) -> None:
    plots.lengths(rows, tmp_path / "plots" / "lengths.png")
    assert size(tmp_path / "plots" / "lengths.png") == (770, 396)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["lengths.png"]  # nothing temporary is left


def test_other_lengths_give_another_picture_and_the_same_ones_the_same(tmp_path: Path) -> None:
    for name, text in (("a", "x" * 30), ("b", "x" * 30), ("c", "x" * 300)):
        plots.lengths([row(1), row(2, answer=text)], tmp_path / name)
    first, second, third = [(tmp_path / name).read_bytes() for name in "abc"]
    assert first == second != third


def test_every_row_is_within_the_bins() -> None:
    for low, high in ((1, 1), (1, 2), (3, 7), (12, 8000), (7, 5003)):
        edges = plots._edges(low, high)
        assert edges[0] == low and edges[-1] == max(high, low + 1) and edges == sorted(edges)


def test_the_largest_categories_are_drawn_by_source(tmp_path: Path) -> None:
    counts = {(f"category {number}", ("custom", "medquad")[number % 2]): number + 1 for number in range(20)}
    few = dict(list(counts.items())[:2])
    colours = {"custom": "#009E73", "medquad": "#E69F00"}
    plots.categories(counts, tmp_path / "many.png", ("custom", "medquad"), colours)
    plots.categories(few, tmp_path / "few.png", ("custom", "medquad"), colours)
    assert size(tmp_path / "many.png")[1] > size(tmp_path / "few.png")[1]  # a bar for each category
    plots.categories(few, tmp_path / "other.png", ("medquad", "custom"), {**colours, "custom": "#000000"})
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "few.png").read_bytes()
