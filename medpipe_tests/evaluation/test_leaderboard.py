"""The leaderboard shows every benchmark: its scores, or the reason why it was not run."""

import pytest

from medpipe import store
from medpipe.evaluation import leaderboard
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.job import scoped
from medpipe_tests.evaluation.folders import Run, benchmark, unreachable


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    made.settings = scoped(made.settings, ("evaluation",))  # what the task declares, and no more
    return made


def board_of(run):
    outcome = run.job("evaluation/leaderboard", leaderboard.run)
    return store.read_json(run.inputs["evaluation/leaderboard"] / "leaderboard.json"), outcome


def test_rows_differences_and_what_was_not_run(run):
    benchmark(run, "synthetic_heldout")
    unreachable(run, "medxpertqa", "no network, and no such file in the mirror folder")
    board, outcome = board_of(run)
    assert [row["system"] for row in board["rows"]] == ["retrieval_alone", "one_agent_with_evidence", "sft_team", "maporl_team"]
    row = board["rows"][0]
    assert (
        row["chance"] == 0.1
        and row["n"] == 16
        and row["n_unparsed"] == 2
        and row["messages"] == 16
        and row["low"] <= row["mean"] <= row["high"]
    )
    reasons = {row["benchmark"]: row["reason"] for row in board["not_run"]}
    assert reasons["medxpertqa"] == "no network, and no such file in the mirror folder"
    assert reasons["medqa"] == "it was not materialised in this run" and len(reasons) == len(BENCHMARKS) - 1
    assert outcome.metadata["benchmarks_run"] == 1 and "no network" in outcome.metadata["not_run"]
    assert any("not run: MedQA" in line for line in run.log.lines)
    assert "not medical advice" in board["notice"]


def test_a_benchmark_that_was_measured_on_other_models_is_not_in_the_table(run):
    """One table tells of one team: what a partial run left of an older one is named instead."""
    benchmark(run, "medqa", inputs={"models/maporl_team": "old", "splits/train": "s"}, created_at="2026-01-01T00:00:00+00:00")
    benchmark(run, "pubmedqa", inputs={"models/maporl_team": "new", "splits/train": "s"}, created_at="2026-01-02T00:00:00+00:00")
    board, _ = board_of(run)
    assert {row["benchmark"] for row in board["rows"]} == {"pubmedqa"}
    reasons = {row["benchmark"]: row["reason"] for row in board["not_run"]}
    assert reasons["medqa"] == (
        "it was measured on another models/maporl_team than the newest evaluation: materialise evaluation/medqa again"
    )


def test_files_are_written_and_the_plot_is_a_png_with_alternative_text(run):
    benchmark(run, "medqa")
    board, outcome = board_of(run)
    folder = run.inputs["evaluation/leaderboard"]
    assert (folder / outcome.metadata["plot"]["image"]).read_bytes().startswith(b"\x89PNG") and outcome.metadata["plot"]["alt"]
    table = (folder / "leaderboard.md").read_text()
    assert table == outcome.metadata["leaderboard"]["markdown"]
    for row in leaderboard.compared(board):  # who was right alone, on how many questions
        apart = "–" if row["only_a"] is None else f"{row['only_a']}, {row['only_b']}"
        assert f" | {apart} | {row['verdict']} |" in table
    assert "MAPoRL team of four − SFT team of four" in table and "Not run: PubMedQA" in table and "95% interval" in table
    assert len({line.count("|") for line in table.splitlines() if "(accuracy)" in line}) == 1
    head, _, scores = table.partition("| benchmark | system |")
    assert head.startswith("No gain of the co-trained team") and "team − best baseline" in head and "MAPoRL team of four" in scores


def test_with_no_benchmark_at_all_it_says_so(run, capsys):
    board, outcome = board_of(run)
    assert board["rows"] == [] and len(board["not_run"]) == len(BENCHMARKS) and outcome.metadata["benchmarks_run"] == 0
    leaderboard.print_table(board)
    assert "No benchmark was run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mean", "low", "significant", "says"),
    [
        (0.1, -0.1, False, "no gain shown"),
        (0.2, 0.01, True, "gain shown"),
        (-0.2, -0.3, True, "loss shown"),
        (0.2, 0.06, False, "no gain shown (p = 0.07 after Holm's correction)"),
    ],
)
def test_only_a_difference_that_the_exact_test_shows_too_is_called_one(mean, low, significant, says):
    told = {"mean": mean, "low": low, "high": 0.3 if mean > 0 else -0.1, "holm_p": 0.07, "significant": significant}
    assert leaderboard.verdict(told) == says


def test_a_clear_gain_and_a_clear_loss_are_said(run):
    benchmark(run, "medqa", n=60, shares=(0.1, 0.2, 0.2, 0.95))
    benchmark(run, "pubmedqa", n=60, shares=(0.95, 0.2, 0.1, 0.1))
    board, _ = board_of(run)
    said = {(row["benchmark"], row["a"], row["b"]): row["verdict"] for row in board["differences"]}
    assert said["medqa", "maporl_team", "sft_team"] == "gain shown"
    assert said["pubmedqa", "maporl_team", "retrieval_alone"] == "loss shown"


@pytest.mark.parametrize(
    ("shares", "best", "says"),
    [
        ((0.95, 0.2, 0.1, 0.6), "retrieval_alone", "a gain over the best baseline on 0 and a loss on 1 of 1 benchmark compared"),
        ((0.1, 0.95, 0.2, 0.6), "one_agent_with_evidence", "a gain over the best baseline on 0 and a loss on 1 of 1 benchmark compared"),
        ((0.2, 0.1, 0.6, 0.95), "sft_team", "a gain over the best baseline on 1 and a loss on 0 of 1 benchmark compared"),
        ((0.1, 0.1, 0.6, 0.6), "sft_team", "No gain of the co-trained team (MAPoRL) over the best baseline was shown"),
    ],
)  # fmt: skip
def test_the_team_is_compared_with_the_best_baseline_and_not_with_the_weakest(run, shares, best, says):
    benchmark(run, "medqa", n=60, shares=shares)
    board, outcome = board_of(run)
    (one,) = leaderboard.learned(board)
    assert one["best"]["system"] == best == one["difference"]["b"] and one["difference"]["a"] == "maporl_team"
    assert one["best"]["mean"] == max(row["mean"] for row in one["baselines"].values() if row)
    assert one["baselines"]["one_agent_rl"] is None  # not asked, and said so
    sentence, _ = leaderboard.headline_of(board)
    assert says in sentence and f"the best baseline ({one['best']['label']}) {100 * one['best']['mean']:.0f}%" in sentence
    assert (
        f"**{one['best']['mean']:.3f}**" in outcome.metadata["leaderboard"]["markdown"]
        and "not asked" in outcome.metadata["leaderboard"]["markdown"]
    )


def test_without_the_team_or_without_a_baseline_nothing_is_invented(run):
    benchmark(run, "medqa", missing=("maporl_team",))
    benchmark(run, "pubmedqa", missing=("retrieval_alone", "one_agent_with_evidence", "sft_team"))
    board, _ = board_of(run)
    first, second = leaderboard.learned(board)
    assert (first["team"], first["difference"]) == (None, None) and first["best"] is not None
    assert (second["best"], second["difference"]) == (None, None) and second["team"] is not None
    assert "was not compared with a baseline" in leaderboard.headline_of(board)[0]
    leaderboard.print_table(board)


def test_a_pipe_or_a_tag_in_a_reason_breaks_nothing(run, capsys):
    unreachable(run, "medqa", "a | b <script>alert(1)</script> [red]x[/red]")
    board, outcome = board_of(run)
    assert "<script" not in outcome.metadata["leaderboard"]["markdown"]
    leaderboard.print_table(board)
    assert "[red]x[/red]" in capsys.readouterr().out.replace("\n", "")


def test_the_terminal_table_shows_scores_and_verdicts(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    benchmark(run, "medxpertqa")
    board, _ = board_of(run)
    leaderboard.print_table(board)
    shown = capsys.readouterr().out
    row = next(row for row in board["rows"] if row["system"] == "maporl_team")
    assert f"{row['mean']:.3f}" in shown and f"{row['low']:.3f} to {row['high']:.3f}" in shown
    assert "no gain shown" in shown and "Not run: MedQA" in shown and "not medical advice" in shown
    missing = next(one for one in board["not_run"] if one["benchmark"] == "medqa")
    assert missing["reason"] not in shown.replace("\n", " ")  # seven of them push the result off the screen
    parts = ("What was learned", "Not run:", "co-trained team (MAPoRL)", "not medical advice")
    assert [shown.index(part) for part in parts] == sorted(shown.index(part) for part in parts)


def test_the_terminal_tells_no_system_twice(run, capsys):
    benchmark(run, "medxpertqa")
    board, _ = board_of(run)
    leaderboard.print_table(board)
    assert "All systems" not in capsys.readouterr().out
    board["rows"].append({**board["rows"][-1], "system": "base_team", "label": "base model, team of four"})
    leaderboard.print_table(board)
    shown = capsys.readouterr().out
    assert shown.index("What was learned") < shown.index("All systems") < shown.index("base model, team of four")
