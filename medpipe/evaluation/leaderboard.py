"""One table of all benchmarks: every system's mean with its interval and the chance line, and what was not run and why.

Work of the asset evaluation/leaderboard: reads each benchmark's summary.json, writes leaderboard.json, leaderboard.md
and plots/leaderboard.png. `print_table` shows the same on the terminal. What this leaves out: one number over all
benchmarks (they measure different things), and corrections for comparing many systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe import NOTICE, store
from medpipe.evaluation.benchmarks import BENCHMARKS
from medpipe.evaluation.labels import HEADLINE, SYSTEMS
from medpipe.job import Job, Outcome

SMALL_N = 100  # questions; below, even a fair coin's 95% interval is wider than 19 points
CAVEAT = "Each interval is over questions, for one trained model: another seed may rank the systems otherwise."


def run(job: Job) -> Outcome:
    """Put the benchmarks that ran into one table; name those that did not run, with the reason."""
    from medpipe.evaluation import plots  # matplotlib: loaded in the worker only

    board: dict[str, Any] = {"rows": [], "not_run": [], "differences": [], "notice": f"{NOTICE} {CAVEAT}"}
    for name, benchmark in BENCHMARKS.items():
        summary, reason = _summary(job.inputs.get(f"evaluation/{name}"))
        if summary is None:
            board["not_run"].append({"benchmark": name, "title": benchmark.title, "reason": reason})
            continue
        about = {key: summary[key] for key in ("benchmark", "title", "metric", "n", "chance")}
        known = [system for system in SYSTEMS if system in summary["systems"]]
        for system in [*known, *(other for other in summary["systems"] if other not in SYSTEMS)]:
            result = summary["systems"][system]
            numbers = {key: result[key] for key in ("mean", "low", "high", "n_unparsed", "messages")}
            board["rows"].append({**about, "system": system, "label": SYSTEMS.get(system, system), **numbers})
        for difference in summary["differences"]:
            told = {key: about[key] for key in ("benchmark", "title", "n")}
            board["differences"].append({**told, **difference, "verdict": verdict(difference)})
    store.write_json(job.out / "leaderboard.json", board)
    table = markdown(board, job.settings.evaluation.confidence)
    store.write_text(job.out / "leaderboard.md", table)
    plots.leaderboard(board["rows"], job.out / "plots" / "leaderboard.png")
    ran = len(BENCHMARKS) - len(board["not_run"])
    job.report.log(f"{ran} of {len(BENCHMARKS)} benchmarks ran")
    for missing in board["not_run"]:
        job.report.log(f"not run: {missing['title']}")
    return Outcome(
        metadata={
            "leaderboard": {"markdown": table},
            "plot": {"image": "plots/leaderboard.png", "alt": "Mean and interval of every system on every benchmark, with the chance line"},
            "benchmarks_run": ran,
            "not_run": "; ".join(f"{missing['title']}: {missing['reason']}" for missing in board["not_run"]) or "none",
        }
    )


def verdict(difference: Mapping[str, Any]) -> str:
    """What a paired difference a − b shows, in plain words: an exact test with Holm's correction and the interval must both say so."""
    if difference["significant"]:
        return "gain shown" if difference["mean"] > 0 else "loss shown"
    outside = not difference["low"] <= 0 <= difference["high"]
    return f"no gain shown (p = {difference['holm_p']:.2g} after Holm's correction)" if outside else "no gain shown"


def compared(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences that the report speaks about, benchmark by benchmark."""
    return [row for row in board["differences"] if (row["a"], row["b"]) in HEADLINE]


def headline_of(board: Mapping[str, Any], confidence: float) -> tuple[str, list[str]]:
    """The result in one plain sentence made from the leaderboard's numbers, and what to bear in mind beside it."""
    rows = board["rows"]
    if not rows:
        return "No benchmark was run, so there is no result to report.", []
    ran = list(dict.fromkeys(row["benchmark"] for row in rows))
    verdicts = [row["verdict"] for row in compared(board) if (row["a"], row["b"]) == ("maporl_team", "sft_team")]
    gains, losses = (sum(verdict.startswith(word) for verdict in verdicts) for word in ("gain", "loss"))
    of = f"{len(verdicts)} benchmark{'s' * (len(verdicts) != 1)} compared"
    if not verdicts:
        gained = "Co-training (MAPoRL) was not compared with the SFT team"
    elif gains or losses:
        gained = f"Co-training (MAPoRL) showed a gain over the SFT team on {gains} and a loss on {losses} of {of}"
    else:
        gained = f"No gain of co-training (MAPoRL) over the SFT team was shown on any of the {of}"
    told = next((row["benchmark"] for row in rows if row["metric"] == "accuracy"), ran[0])  # what most people can judge
    first = [row for row in rows if row["benchmark"] == told]
    row = next((row for row in first if row["system"] == "maporl_team"), first[-1])
    level = f"{confidence:.0%} interval"
    if row["metric"] == "accuracy":
        share, low, high, chance = (f"{100 * row[key]:.0f}%" for key in ("mean", "low", "high", "chance"))
        did = f"answered {share} of {row['n']} questions right ({level} {low} to {high}; guessing gives {chance})"
    else:
        mean, low, high = (f"{row[key]:.2f}" for key in ("mean", "low", "high"))
        did = f"reached a mean of {mean} in {row['metric']} ({level} {low} to {high}, n = {row['n']})"
    sentence = f"{gained}; on {row['title']} the {row['label']} {did}."
    few = min(row["n"] for row in rows)
    caveats = [f"The smallest of these benchmarks had {few} questions: only large effects can show at this size."] if few < SMALL_N else []
    if board["not_run"]:
        caveats.append(f"{len(board['not_run'])} of {len(board['not_run']) + len(ran)} benchmarks were not run; the reasons are below.")
    return sentence, caveats


def markdown(board: Mapping[str, Any], confidence: float) -> str:
    """The leaderboard as markdown: scores, differences, what was not run, and the notice."""
    lines = [
        f"| benchmark | system | mean | {confidence:.0%} interval | chance | questions | unparsed | messages |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in board["rows"]:
        cells = (f"{row['title']} ({row['metric']})", row["label"], _number(row["mean"]), _interval(row), _number(row["chance"]))
        lines.append(_line(*cells, row["n"], row["n_unparsed"], row["messages"]))
    if not board["rows"]:
        lines.append(_line("no benchmark was run", *[""] * 7))
    if compared(board):
        lines += ["", f"| benchmark | difference | mean | {confidence:.0%} interval | verdict |", "|---|---|---|---|---|"]
        for row in compared(board):
            pair = f"{SYSTEMS[row['a']]} − {SYSTEMS[row['b']]}"
            lines.append(_line(row["title"], pair, f"{row['mean']:+.3f}", _interval(row), row["verdict"]))
    lines += ["", *(f"- Not run: {_cell(missing['title'])}: {_cell(missing['reason'])}" for missing in board["not_run"])]
    return "\n".join([*lines, "", board["notice"], ""])


def print_table(leaderboard: dict[str, Any]) -> None:
    """Print leaderboard.json's content to the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Leaderboard", title_justify="left")
    table.add_column("benchmark and system", overflow="fold")
    for name in ("mean", "interval", "chance", "unparsed"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in leaderboard["rows"]:
        if previous != row["benchmark"]:
            table.add_section()
            table.add_row(Text(f"{row['title']}, {row['metric']}, n = {row['n']}", style="bold"))
        cells = (_number(row["mean"]), _interval(row), _number(row["chance"]), str(row["n_unparsed"]))
        table.add_row(Text(f"  {row['label']}"), *cells)
        previous = row["benchmark"]
    console = Console()
    console.print(table if leaderboard["rows"] else Text("No benchmark was run."))
    for row in compared(leaderboard):
        pair = f"{SYSTEMS[row['a']]} − {SYSTEMS[row['b']]}"
        console.print(Text(f"{row['title']}: {pair} = {row['mean']:+.3f} ({_interval(row)}): {row['verdict']}"))
    for missing in leaderboard["not_run"]:
        console.print(Text(f"not run: {missing['title']}: {missing['reason']}", style="yellow"))
    console.print(Text(leaderboard["notice"], style="dim"))


def _summary(folder: Path | None) -> tuple[dict[str, Any] | None, str]:
    manifest = store.read_manifest(folder) if folder else None
    if folder is None or manifest is None:
        return None, "it was not materialised in this run"
    if manifest.status == "unreachable":
        return None, manifest.reason
    return store.read_json(folder / "summary.json"), ""


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    """Text from data that can't break a table or become a tag."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
