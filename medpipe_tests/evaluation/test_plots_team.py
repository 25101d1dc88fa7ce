"""The pictures of co-training are real PNG files of what was recorded; what was not recorded is named, not drawn."""

import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from medpipe.evaluation.plots import ROLE_COLOURS, STYLES
from medpipe.evaluation.team_plots import PLOTS, Panel, _fill, without_numbers, write_team_plots
from medpipe.schema import ROLES
from medpipe_tests.evaluation.folders import PARTS, metrics


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Rows of six iterations, the folder, and what was written there."""
    rows, folder = metrics(6), tmp_path_factory.mktemp("drawn")
    return rows, folder, write_team_plots(rows, folder)


def only(rows, *starts):
    """The rows with these numbers alone: the other pictures need not be drawn again."""
    return [{name: value for name, value in row.items() if name == "step" or name.startswith(starts)} for row in rows]


def names(written):
    return [Path(plot["image"]).stem for plot in written]


def test_each_picture_is_a_png_below_the_folder_and_told_in_words(drawn):
    rows, folder, written = drawn
    assert names(written) == ["reward", "value", "drift", "samples", "messages", "answers"] and without_numbers(rows) == []
    for plot in written:
        assert set(plot) == {"image", "alt"} and plot["image"].startswith("plots/")
        head = (folder / plot["image"]).read_bytes()[:24]
        assert head.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">I", head[16:20]) == (1400,)
    assert len(list((folder / "plots").iterdir())) == 6  # nothing temporary is left


def test_the_words_hold_every_lines_first_and_last_number(drawn):
    rows, _, written = drawn
    alts = dict(zip(names(written), (plot["alt"] for plot in written), strict=True))
    for picture, panel, metric in (
        ("value", "Mean value V", "value"), ("value", "Mean return", "return"), ("drift", "KL to the start", "kl"),
        ("drift", "Entropy", "entropy"), ("messages", "Message length", "length"), ("messages", "Malformed messages", "malformed"),
        ("answers", "Wrong → right", "wrong_to_right"), ("answers", "Right → wrong", "right_to_wrong"),
    ):  # fmt: skip
        told = alts[picture].partition(f"{panel}, ")[2].partition(". ")[0]
        for role in ROLES:
            assert f"{role} {rows[0][f'{metric}/{role}']:.3g} to {rows[-1][f'{metric}/{role}']:.3g}" in told, (panel, role)
    for part in PARTS:
        assert f"{part} {rows[0][f'reward/{part}']:.3g} to" in alts["reward"]


def test_without_choice_questions_no_changes_are_drawn_and_they_are_named(tmp_path):
    rows = metrics(4, changes=False)
    assert names(write_team_plots(rows, tmp_path)) == ["reward", "value", "drift", "samples", "messages"]
    assert not (tmp_path / "plots" / "answers.png").exists()
    named = without_numbers(rows)
    assert [text.partition(" (")[0] for text in named] == ["Right answers", "Wrong → right", "Right → wrong", "Copies the planner"]
    assert "wrong_to_right/planner" in named[1]


def test_a_number_that_only_some_iterations_have_is_drawn_from_those(tmp_path):
    rows = [{"step": step, **({"kl/planner": 0.01 * step} if step in (1, 11) else {})} for step in range(1, 13)]
    (drift,) = write_team_plots(rows, tmp_path)
    assert "planner 0.01 to 0.11" in drift["alt"]


def test_a_panel_without_numbers_leaves_the_others_their_place(tmp_path):
    (answers,) = write_team_plots(only(metrics(4), "correct/"), tmp_path)
    assert "Right answers, share (0 to 1): planner" in answers["alt"] and "→" not in answers["alt"]


@pytest.mark.parametrize("iterations", [1, 2, 200])
def test_few_and_many_iterations_are_drawn_and_counted(iterations, tmp_path):
    written = write_team_plots(only(metrics(iterations), "reward/", "kl/"), tmp_path)
    assert names(written) == ["reward", "drift"]
    told = "in one iteration. Team reward, reward (0 to 1): team 0.32." if iterations == 1 else f"over {iterations} iterations"
    assert told in written[0]["alt"]


def test_twenty_iterations_are_drawn_as_they_are_and_more_as_running_means(tmp_path):
    panel = PLOTS[2].panels[0]
    for iterations, window in ((20, 1), (60, 3)):
        rows = only(metrics(iterations), "kl/")
        rows[-1]["kl/planner"] = 9.0
        axes = Figure().subplots()
        _fill(axes, panel, rows)
        last = [row["kl/planner"] for row in rows[-window:]]
        line = np.asarray(axes.lines[0].get_ydata())
        assert len(line) == iterations and line[-1] == pytest.approx(sum(last) / window)
        assert ("running mean of 3" in axes.get_xlabel()) == (window == 3)


def test_nothing_recorded_draws_nothing(tmp_path):
    assert write_team_plots([], tmp_path) == [] and not (tmp_path / "plots").exists()
    assert len(without_numbers([{"step": 1, "seconds": 3.0}])) == sum(len(plot.panels) for plot in PLOTS)


def test_iterations_that_lack_a_number_leave_no_hole(tmp_path):
    rows = only(metrics(4), "wrong_to_right/")
    del rows[0]["wrong_to_right/planner"], rows[3]["wrong_to_right/planner"]
    told = write_team_plots(rows, tmp_path)[-1]["alt"]
    assert f"planner {rows[1]['wrong_to_right/planner']:.3g} to {rows[2]['wrong_to_right/planner']:.3g}" in told


def test_other_numbers_give_another_picture_and_the_same_ones_the_same(tmp_path):
    rows = only(metrics(3), "kl/", "value/")
    changed = [*rows[:-1], {**rows[-1], "kl/analyst": 9.0}]
    for name, given in (("a", rows), ("b", rows), ("c", changed)):
        write_team_plots(given, tmp_path / name)
    first, again, other = ((tmp_path / name / "plots" / "drift.png").read_bytes() for name in "abc")
    assert first == again != other
    assert (tmp_path / "a" / "plots" / "value.png").read_bytes() == (tmp_path / "c" / "plots" / "value.png").read_bytes()


@pytest.mark.parametrize("panel", [panel for plot in PLOTS for panel in plot.panels], ids=lambda panel: panel.title)
def test_lines_of_a_panel_differ_in_colour_and_in_style(panel: Panel):
    colours = [colour for _, colour in panel.lines.values()]
    assert len(set(colours)) == len(colours) <= len(STYLES)
    roles = {label: colour for label, colour in panel.lines.values() if label in ROLE_COLOURS}
    assert roles in ({}, ROLE_COLOURS)
