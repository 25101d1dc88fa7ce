"""What was learned, and one table of all benchmarks: every system's mean with its interval, chance, and what was not run and why.

Work of the asset evaluation/leaderboard: reads each benchmark's summary.json, writes leaderboard.json, leaderboard.md
and plots/leaderboard.png. `print_table` shows the same on the terminal. The co-trained team is measured against the best
baseline of each benchmark, picked by its mean: that is the hardest of the comparisons, so picking it can't make a gain.
What this leaves out: one number over all benchmarks (they measure different things), and corrections over benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe import NOTICE, results, store
from medpipe.evaluation.benchmarks import ASKED, OWN
from medpipe.evaluation.labels import BASELINES, HEADLINE, SYSTEMS, TEAM
from medpipe.job import Job, Outcome

SMALL_N = 100  # questions; below, even a fair coin's 95% interval is wider than 19 points
CAVEAT = "Each interval is over questions, for one trained model: another seed may rank the systems otherwise."


def run(job: Job) -> Outcome:
    """Put the benchmarks that ran into one table; name those that did not run, with the reason; the user's own where asked."""
    from medpipe.evaluation import plots  # matplotlib: loaded in the worker only

    board: dict[str, Any] = {"rows": [], "not_run": [], "differences": [], "notice": f"{NOTICE} {CAVEAT}"}
    board["confidence"] = job.settings.evaluation.confidence
    older = measured_on_others(job.inputs)
    for name, benchmark in ASKED.items():
        summary, reason = _summary(job.inputs.get(f"evaluation/{name}"))
        if name in OWN and not (summary and summary["n"]):
            continue  # the user named no file with such questions
        if summary and name in older:
            told = f"it was measured on another {', '.join(older[name])} than the newest evaluation: materialise evaluation/{name} again"
            summary, reason = None, told
        if summary is None:
            board["not_run"].append({"benchmark": name, "title": benchmark.title, "reason": reason})
            continue
        about = {key: summary[key] for key in ("benchmark", "title", "metric", "n", "chance")}
        known = [system for system in SYSTEMS if system in summary["systems"]]
        for system in [*known, *(other for other in summary["systems"] if other not in SYSTEMS)]:
            result = summary["systems"][system]
            numbers = {key: result[key] for key in ("mean", "low", "high", "n_unparsed", "messages")}
            numbers |= {"ece": result["ece"]} if "ece" in result else {}  # where options were scored
            board["rows"].append({**about, "system": system, "label": SYSTEMS.get(system, system), **numbers})
        for difference in summary["differences"]:
            told = {key: about[key] for key in ("benchmark", "title", "n")}
            board["differences"].append({**told, **difference, "verdict": verdict(difference)})
    store.write_json(job.out / "leaderboard.json", board)
    table = markdown(board)
    store.write_text(job.out / "leaderboard.md", table)
    plots.leaderboard(board["rows"], job.out / "plots" / "leaderboard.png")
    ran = len({row["benchmark"] for row in board["rows"]})
    job.report.log(f"{ran} of {ran + len(board['not_run'])} benchmarks ran")
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


def measured_on_others(inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Benchmarks whose evaluation is of other models than the newest one: what differs, by benchmark. One table tells of one team."""
    found = {name: store.read_manifest(inputs[f"evaluation/{name}"]) for name in ASKED if f"evaluation/{name}" in inputs}
    made = {name: manifest for name, manifest in found.items() if manifest and manifest.status == "ok"}
    if not made:
        return {}
    newest = max(made.values(), key=lambda manifest: manifest.created_at)
    models = {key: sha for key, sha in newest.inputs.items() if key.startswith("models/")}
    return {name: older for name, manifest in made.items() if (older := results.older_than(manifest, models))}


def verdict(difference: Mapping[str, Any]) -> str:
    """What a paired difference a − b shows, in plain words: an exact test with Holm's correction and the interval must both say so."""
    if difference["significant"]:
        return "gain shown" if difference["mean"] > 0 else "loss shown"
    outside = not difference["low"] <= 0 <= difference["high"]
    return f"no gain shown (p = {difference['holm_p']:.2g} after Holm's correction)" if outside else "no gain shown"


def compared(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences that the report speaks about, benchmark by benchmark."""
    return [row for row in board["differences"] if (row["a"], row["b"]) in HEADLINE]


def learned(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Benchmark by benchmark the co-trained team beside the baselines, as far as they were asked.

    Returns:
        {"benchmark", "title", "metric", "n", "chance"}, the leaderboard's row of the "team" and of each of the "baselines" (None
        where it was not asked), the "best" baseline's row, and the team's "difference" to that one.
    """
    found = []
    for name in dict.fromkeys(row["benchmark"] for row in board["rows"]):
        of = {row["system"]: row for row in board["rows"] if row["benchmark"] == name}
        about = {key: next(iter(of.values()))[key] for key in ("benchmark", "title", "metric", "n", "chance")}
        best = max((of[system] for system in BASELINES if system in of), key=lambda row: row["mean"], default=None)  # the first at a tie
        pair = (name, TEAM, best["system"]) if best else None
        difference = next((row for row in board["differences"] if (row["benchmark"], row["a"], row["b"]) == pair), None)
        baselines = {system: of.get(system) for system in BASELINES}
        found.append({**about, "team": of.get(TEAM), "baselines": baselines, "best": best, "difference": difference})
    return found


def headline_of(board: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The result in one plain sentence made from the leaderboard's numbers, and what to bear in mind beside it."""
    rows = board["rows"]
    if not rows:
        return "No benchmark was run, so there is no result to report.", []
    found = learned(board)
    verdicts = [one["difference"]["verdict"] for one in found if one["difference"]]
    gains, losses = (sum(verdict.startswith(word) for verdict in verdicts) for word in ("gain", "loss"))
    of = f"{len(verdicts)} benchmark{'s' * (len(verdicts) != 1)} compared"
    if not verdicts:
        gained = "Co-training (MAPoRL) was not compared with a baseline"
    elif gains or losses:
        gained = f"The co-trained team (MAPoRL) showed a gain over the best baseline on {gains} and a loss on {losses} of {of}"
    else:
        gained = f"No gain of the co-trained team (MAPoRL) over the best baseline was shown on any of the {of}"
    sentence = f"{gained}; {_did(_telling(found), rows, _level(board))}."
    few = min(row["n"] for row in rows)
    caveats = [f"The smallest of these benchmarks had {few} questions: only large effects can show at this size."] if few < SMALL_N else []
    if board["not_run"]:
        all_ = len(board["not_run"]) + len(found)
        caveats.append(f"{len(board['not_run'])} of {all_} benchmarks were not run; the reasons stand at the end.")
    return sentence, caveats


def _telling(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The benchmark that the sentence is about: one that was compared, and of shares, which most people can judge."""
    return max(found, key=lambda one: (one["difference"] is not None, one["metric"] == "accuracy"))


def _did(told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], level: str) -> str:
    row = told["team"] or next(row for row in reversed(rows) if row["benchmark"] == told["benchmark"])
    best = told["best"] if told["best"] is not row else None
    if row["metric"] == "accuracy":
        share, low, high, chance = (f"{100 * row[key]:.0f}%" for key in ("mean", "low", "high", "chance"))
        did = f"answered {share} of {row['n']} questions right ({level} {low} to {high}; guessing gives {chance})"
        other = f", and the best baseline ({best['label']}) {100 * best['mean']:.0f}%" if best else ""
    else:
        mean, low, high = (f"{row[key]:.2f}" for key in ("mean", "low", "high"))
        did = f"reached a mean of {mean} in {row['metric']} ({level} {low} to {high}, n = {row['n']})"
        other = f", and the best baseline ({best['label']}) {best['mean']:.2f}" if best else ""
    return f"on {row['title']} the {row['label']} {did}{other}"


def markdown(board: Mapping[str, Any]) -> str:
    """The leaderboard as markdown: what was learned, scores, differences, what was not run, and the notice."""
    lines = [_cell(headline_of(board)[0]), ""]
    if board["rows"]:
        names = [SYSTEMS[system] for system in (TEAM, *BASELINES)]
        lines += [_line("benchmark", "questions", "chance", *names, "team − best baseline"), "|" + "---|" * (len(names) + 4)]
        lines += [_learned_line(one) for one in learned(board)]
        lines += ["", f"In brackets the {_level(board)}. In bold the best baseline.", ""]
    lines += [
        f"| benchmark | system | mean | {_level(board)} | chance | questions | unparsed | messages |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in board["rows"]:
        cells = (f"{row['title']} ({row['metric']})", row["label"], _number(row["mean"]), _interval(row), _number(row["chance"]))
        lines.append(_line(*cells, row["n"], row["n_unparsed"], row["messages"]))
    if not board["rows"]:
        lines.append(_line("no benchmark was run", *[""] * 7))
    if compared(board):
        lines += ["", f"| benchmark | difference | mean | {_level(board)} | won, lost | verdict |", "|---|---|---|---|---|---|"]
        for row in compared(board):
            pair = f"{SYSTEMS[row['a']]} − {SYSTEMS[row['b']]}"
            won = "–" if row["only_a"] is None else f"{row['only_a']}, {row['only_b']}"  # free text has scores, not right and wrong
            lines.append(_line(row["title"], pair, f"{row['mean']:+.3f}", _interval(row), won, row["verdict"]))
    lines += ["", *(f"- Not run: {_cell(missing['title'])}: {_cell(missing['reason'])}" for missing in board["not_run"])]
    return "\n".join([*lines, "", board["notice"], ""])


def _learned_line(one: Mapping[str, Any]) -> str:
    team, difference, best = one["team"], one["difference"], one["best"]
    cells = [f"{_number(team['mean'])} ({_interval(team)})" if team else "not asked"]
    for row in one["baselines"].values():
        shown = _number(row["mean"]) if row else "not asked"
        cells.append(f"**{shown}**" if row and row is best else shown)
    told = f"{difference['mean']:+.3f} ({_interval(difference)}): {difference['verdict']}" if difference else "not compared"
    return _line(one["title"], one["n"], _number(one["chance"]), *cells, told)


def print_table(leaderboard: dict[str, Any]) -> None:
    """Print leaderboard.json's content to the terminal, the result last, where a terminal is read first.

    Left to the report: further differences, and why a benchmark was not run where others were.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if leaderboard["rows"]:
        console.print(_learned_table(leaderboard))
    if {row["system"] for row in leaderboard["rows"]} - {TEAM, *BASELINES}:
        console.print(_systems_table(leaderboard))
    missing = leaderboard["not_run"]
    if missing and leaderboard["rows"]:
        titles = "; ".join(one["title"] for one in missing)
        console.print(Text(f"Not run: {titles}. evaluation/leaderboard and the report say why.", style="yellow"))
    elif missing:
        for one in missing:
            console.print(Text(f"Not run: {one['title']}: {one['reason']}", style="yellow"))
    console.print(Text(headline_of(leaderboard)[0], style="bold"))
    console.print(Text(leaderboard["notice"], style="dim"))


def _systems_table(board: Mapping[str, Any]) -> Any:
    """Every system on every benchmark."""
    from rich.text import Text

    table, previous = _table("All systems", "mean", "interval", "chance", "unparsed"), None
    for row in board["rows"]:
        if previous != row["benchmark"]:
            table.add_section()
            table.add_row(Text(f"{row['title']}, {row['metric']}, n = {row['n']}", style="bold"))
        cells = (_number(row["mean"]), _interval(row), _number(row["chance"]), str(row["n_unparsed"]))
        table.add_row(Text(f"  {row['label']}"), *cells)
        previous = row["benchmark"]
    return table


def _learned_table(board: Mapping[str, Any]) -> Any:
    """The team beside the baselines that were asked, and its difference to the best of them."""
    from rich.text import Text

    table = _table("What was learned", "mean", "interval", "unparsed")
    for one in learned(board):
        table.add_section()
        table.add_row(Text(f"{one['title']}, {one['metric']}, n = {one['n']}, chance {_number(one['chance'])}", style="bold"))
        for row in (one["team"], *one["baselines"].values()):
            if row:
                best = " (best baseline)" if row is one["best"] else ""
                table.add_row(Text(f"  {row['label']}{best}"), _number(row["mean"]), _interval(row), str(row["n_unparsed"]))
        if difference := one["difference"]:
            told = Text(f"  team − best baseline: {difference['verdict']}", style="bold")
            table.add_row(told, f"{difference['mean']:+.3f}", _interval(difference))
    return table


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("benchmark and system", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _summary(folder: Path | None) -> tuple[dict[str, Any] | None, str]:
    manifest = store.read_manifest(folder) if folder else None
    if folder is None or manifest is None:
        return None, "it was not materialised in this run"
    if manifest.status == "unreachable":
        return None, manifest.reason
    return store.read_json(folder / "summary.json"), ""


def _level(board: Mapping[str, Any]) -> str:
    return f"{board['confidence']:.0%} interval"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    """Text from data that can't break a table or become a tag."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
