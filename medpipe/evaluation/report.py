"""The report for a reader who knows medicine: one HTML page that needs nothing else.

Work of the asset release/report: gathers what the finished folders hold, renders report.html.jinja, and copies the page
to outputs/report.html. Nothing is measured here: every number comes from a folder that is named on the page. Text from
data and models is escaped, and the page's own policy forbids scripts and loading. What this leaves out: several
transcripts per benchmark, and a comparison with earlier runs. Who changed whose mind: medpipe/evaluation/transcripts.py.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medpipe import NOTICE, store
from medpipe.answers import option_text
from medpipe.errors import MedpipeError
from medpipe.evaluation import cards, guide, items, plots, tables, team_plots
from medpipe.evaluation.benchmarks import ASKED
from medpipe.evaluation.labels import BASELINES, SYSTEMS, TEAM
from medpipe.evaluation.leaderboard import compared, headline_of, learned
from medpipe.evaluation.reproduce import command_of
from medpipe.evaluation.transcripts import final_answer, pairs, side
from medpipe.job import Job, Outcome
from medpipe.schema import LEARNERS, LETTERS, ROLES, Manifest, QAExample

MODELS = ("models/base", *cards.MODELS)
SHOWN = 10  # transcripts
FEW = 20  # iterations; below, a rise or fall of a curve is no trend
BY_ROLE = {
    "value": ("mean value V", 3), "return": ("mean return", 3), "correct": ("right answers", 3), "wrong_to_right": ("wrong → right", 3),
    "right_to_wrong": ("right → wrong", 3), "copies_planner": ("first message names the planner's option", 3),
    "kl": ("KL to the start (nats per token)", 4), "entropy": ("entropy (nats per token)", 3),
    "length": ("message length (tokens)", 1), "malformed": ("malformed messages", 3),
}  # fmt: skip
"""Number of metrics.jsonl that each role has → its name in the table, and its decimals."""
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def run(job: Job) -> Outcome:
    """Render report.html into the asset's folder and copy it to outputs/report.html."""
    values = context(job)
    html = render(values)
    store.write_text(job.out / "report.html", html)
    cards.write(job, tables.summaries(job.inputs))
    job.report.log(f"report written: {job.settings.outputs / 'report.html'}")
    shown = {"loss_curves": {"image": "plots/loss.png", "alt": values["pictures"]["loss"]["alt"]}}
    shown |= {f"co_training_{Path(p['image']).stem}": {"image": p["image"], "alt": p["alt"]} for p in values["co_training"]["pictures"]}
    return Outcome(
        metadata={"report": {"file": str(job.settings.outputs / "report.html")}, "size_kib": len(html) // 1024, **shown},
        exports={"report.html": job.settings.outputs / "report.html"},
    )


def render(values: Mapping[str, Any]) -> str:
    """Fill the template; what can't stand in a page (control characters, lone surrogates) becomes U+FFFD."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("report.html.jinja").render(values)
    return _UNSHOWABLE.sub("\ufffd", html)


def context(job: Job) -> dict[str, Any]:
    """Everything that the page shows, from the job's input folders; also draws the plots into job.out/plots."""
    board = store.read_json(job.inputs["evaluation/leaderboard"] / "leaderboard.json")
    confidence = job.settings.evaluation.confidence
    counts = store.read_json(job.inputs["corpus/clean"] / "funnel.json")
    headline, caveats = headline_of(board)
    found = tables.summaries(job.inputs)
    transcripts = _transcripts(job)
    made = _manifest(job, "evaluation/leaderboard")
    sections = [("learned", "What was learned"), ("leaderboard", "Leaderboard"), ("data", "Data"), ("training", "Training")]
    sections += [("co-training", "Co-training")] + [("transcripts", "Transcripts")] * bool(transcripts)
    sections += [("models", "Models"), ("reproduce", "Reproduce"), ("not-run", "Not run")]
    return {
        "profile": job.settings.name,
        "notice": NOTICE,
        "made": made.created_at,
        "headline": headline,
        "caveats": caveats,
        "contents": sections,
        "confidence": f"{confidence:.0%}",
        "roles": ROLES,
        "board": board,
        "learned": learned(board),
        "learned_systems": [SYSTEMS[system] for system in (TEAM, *BASELINES)],
        "calibrated": any("ece" in row for row in board["rows"]),
        "not_run": _not_run(job, board, counts),
        "groups": _groups(job, board),
        "differences": [{**row, "pair": f"{SYSTEMS[row['a']]} − {SYSTEMS[row['b']]}"} for row in compared(board)],
        "funnel": tables.funnel(counts),
        "splits": tables.splits(job.inputs, counts),
        "transcripts": transcripts,
        "models": [_model(job, key) for key in MODELS],
        "command": command_of(job.settings),
        "made_from": _made_from(job, made),
        "mixed": _mixed(job, made),
        "pictures": _pictures(job, board, counts),
        "co_training": _co_training(job, board),
        "figures": guide.table(
            guide.of_folders(job.inputs.get("models/maporl_team"), job.inputs.get(f"evaluation/{job.settings.release.primary}"))
        ),
        "safety": tables.safety(found),
        "worth": tables.worth(found),
        "kinds": tables.kinds(found),
    }


def _manifest(job: Job, key: str) -> Manifest:
    manifest = store.read_manifest(job.inputs[key]) if key in job.inputs else None
    if manifest is None:
        raise MedpipeError(got=f"no finished {key}", expected="its manifest", where="release/report", do=f"materialise {key} first")
    return manifest


def _not_run(job: Job, board: Mapping[str, Any], funnel: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Sources that gave nothing, benchmarks that the corpus was not compared with or that were not run, each with its reason."""
    found = [(key, store.read_manifest(folder)) for key, folder in job.inputs.items() if key.startswith("sources/")]
    manifests = {key.removeprefix("sources/"): manifest for key, manifest in found if manifest}
    reasons = {name: manifest.reason for name, manifest in manifests.items() if manifest.status == "unreachable"}
    for row in funnel:
        told = row["source"] in manifests or row["source"] == "custom"  # no rows of the user's own is nothing amiss
        if row["step"] == "in" and row["rows"] == 0 and row["source"] in job.settings.corpus.use and not told:
            reasons[row["source"]] = f"no row of it came into the corpus; the asset sources/{row['source']} says why"
    rows = [{"kind": "Source", "title": name, "reason": reason} for name, reason in reasons.items()]
    against = store.read_json(job.inputs["corpus/clean"] / "contamination.json")["against"]
    rows += [
        {"kind": "Decontamination", "title": entry["title"], "reason": f"the corpus was not compared with it: {entry['reason']}"}
        for entry in against.values()
        if entry["status"] != "ok"
    ]
    return rows + [{"kind": "Benchmark", "title": row["title"], "reason": row["reason"]} for row in board["not_run"]]


def _groups(job: Job, board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The leaderboard's rows by benchmark, with what its summary says about chance and overlap."""
    groups = []
    for name in dict.fromkeys(row["benchmark"] for row in board["rows"]):
        summary = store.read_json(job.inputs[f"evaluation/{name}"] / "summary.json")
        rows = [{**row, "against_chance": _against_chance(row)} for row in board["rows"] if row["benchmark"] == name]
        about = {"title": summary["title"], "citation": ASKED[name].citation, "licence": ASKED[name].licence}
        seen = summary["overlap_with_training"]
        told = (
            f"{seen} of its questions stand in the training data word for word."
            if seen
            else "None of its questions stands in the training data."
        )
        groups.append({**about, "rows": rows, "chance_note": summary["chance_note"].rstrip("."), "overlap": told})
    return groups


def _against_chance(row: Mapping[str, Any]) -> str:
    if row["low"] > row["chance"]:
        return "above"
    return "below" if row["high"] < row["chance"] else "not told apart"


def _transcripts(job: Job) -> list[dict[str, Any]]:
    """SHOWN transcripts in all, from the benchmarks that ran in turn; which ones of a benchmark, evaluate.chosen has decided."""
    queues = []
    for name in ASKED:
        folder = job.inputs.get(f"evaluation/{name}", Path())
        if (folder / "transcripts.json").is_file():
            queues.append([(name, folder, told) for told in store.read_json(folder / "transcripts.json")])
    in_turn = [told for turn in zip_longest(*queues) for told in turn if told]
    return [_transcript(*told) for told in in_turn[:SHOWN]]


def _transcript(name: str, folder: Path, item: dict[str, Any]) -> dict[str, Any]:
    asked = QAExample.model_validate(item["question"])
    named = _named(asked)
    shown: dict[str, Any] = {
        "title": ASKED[name].title,
        "system": SYSTEMS[item["system"]],
        "reference": named.get(asked.answer, asked.answer),
        "key": asked.answer if asked.is_choice else "",
    }
    shown["options"] = [{"text": text, "right": letter == asked.answer} for letter, text in named.items()]
    if asked.is_choice:
        shown["answered"] = named.get(_scored(folder, item["system"], asked.id), "(none)")
        shown["outcome"] = shown["mark"] = "right" if item["score"] >= 1 else "wrong"
    else:
        shown |= {"answered": item["final"], "outcome": f"similarity to the reference {item['score']:.2f}", "mark": ""}
    return {**item, **shown}


def _named(asked: QAExample) -> dict[str, str]:
    """Letter → the option as the team read it."""
    return {letter: option_text(asked, letter) for letter, _ in zip(LETTERS, asked.options, strict=False)}


def _scored(folder: Path, system: str, id: str) -> str:
    """The letter that counted, which need not be the one that the last message names."""
    return next((row["prediction"] for row in items.read(folder) if row["system"] == system and row["id"] == id), "")


# --- co-training


def _co_training(job: Job, board: Mapping[str, Any]) -> dict[str, Any]:
    """Its numbers, its plots, and the same questions before and after; what the folder does not hold is named in `missing`."""
    folder = job.inputs["models/maporl_team"]
    rows = _metrics(job, "models/maporl_team")
    missing = []
    if absent := team_plots.without_numbers(rows):
        has = "no row of metrics.jsonl has their numbers" if rows else "the folder has no metrics.jsonl with rows"
        missing.append(f"Not drawn, since {has}: {'; '.join(absent)}.")
    before, after, fault = _played(folder)
    missing += [fault] * bool(fault)
    examples = [_example(*pair) for pair in pairs(before, after)]
    captions = {f"plots/{plot.name}.png": f"{plot.about}. {plot.caption}" for plot in team_plots.PLOTS}
    drawn = team_plots.write_team_plots(rows, job.out)
    return {
        "told": [_reward_told(rows), *_kept_told(folder), _held_out_told(board), *_examples_told(before, after)],
        "pictures": [{**plot, "src": _inline(job.out / plot["image"]), "caption": captions[plot["image"]]} for plot in drawn],
        "roles": _by_role(rows),
        "examples": examples,
        "missing": missing,
    }


def _played(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Episodes before and after co-training, and why there are none."""
    path = folder / "examples.json"
    if not path.is_file():
        return [], [], "No episodes before and after: the folder has no examples.json."
    content = store.read_json(path)
    if set(content) != {"before", "after"}:
        found = ", ".join(sorted(content)) or "nothing"
        return [], [], (
            f"No episodes before and after: examples.json holds {found}, and not before and after. "
            "An earlier version wrote it; materialise models/maporl_team again."
        )  # fmt: skip
    return content["before"], content["after"], ""


def _example(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any]:
    """One question with both of its episodes; a side that was not played is None."""
    episode = before or after
    assert episode is not None, "a pair has one side at least"
    asked = QAExample.model_validate(episode["question"])
    named = _named(asked)
    sides = (("before co-training", before), ("after co-training", after))
    return {
        "kind": "multiple choice" if asked.is_choice else "free text",
        "question": asked.question,
        "context": asked.context,
        "key": asked.answer if asked.is_choice else "",
        "options": [{"text": text, "right": letter == asked.answer} for letter, text in named.items()],
        "reference": named.get(asked.answer, asked.answer),
        "sides": [{"when": when, "played": side(played) if played else None} for when, played in sides],
    }


def _reward_told(rows: Sequence[Mapping[str, Any]]) -> str:
    reward = plots.series(rows, "reward/team")[1]
    if not reward:
        return "The team reward was not recorded."
    if len(reward) == 1:
        return f"The team reward was {reward[0]:.3f} in the one iteration: nothing to compare it with."
    count = math.ceil(len(reward) / 4)
    first, last = fmean(reward[:count]), fmean(reward[-count:])
    changed = f"{abs(last - first):.3f}"
    fell = f"no gain: it ended {changed} lower" if changed != "0.000" else "no gain: it ended where it began"
    verdict = f"it ended {changed} higher" if last > first and changed != "0.000" else fell
    of = f"mean of the first {count} and of the last {count} of {len(reward)}" if count > 1 else f"first and last of {len(reward)}"
    few = " Few iterations: a rise or fall here is no trend." if len(reward) < FEW else ""
    return f"Team reward on the training questions, {of} iterations: {first:.3f} and {last:.3f}; {verdict}.{few}"


def _kept_told(folder: Path) -> list[str]:
    """Which iteration's adapters were kept, and by what; nothing where none were chosen."""
    path = folder / "training_stats.json"
    stats = store.read_json(path) if path.is_file() else {}
    if not stats.get("selection_questions") or stats["selection_accuracy"] < 0:
        return []
    kept = (
        f"after iteration {stats['kept_iteration']}" if stats["kept_iteration"] else "before the first iteration: no later ones did better"
    )
    share, count = stats["selection_accuracy"], stats["selection_questions"]
    return [f"The adapters that were kept are those {kept}; they answered {share:.3f} of {count} held-back training-side questions."]


def _held_out_told(board: Mapping[str, Any]) -> str:
    pair = ("maporl_team", "sft_team")
    found = [f"{row['title']}: {row['verdict']}" for row in compared(board) if (row["a"], row["b"]) == pair]
    return "Against the SFT team on held-out questions: " + ("; ".join(found) or "not compared") + "."


def _examples_told(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many examples the team answered right, on multiple choice."""
    asked = [[episode for episode in played if episode["question"]["options"]] for played in (before, after)]
    if not all(asked):
        return []
    right = [sum(final_answer(episode) == episode["question"]["answer"] for episode in played) for played in asked]
    more = "" if right[1] > right[0] else " (no gain)"
    return [
        f"Multiple-choice examples below that the team answered right: {right[0]} of {len(asked[0])} before, {right[1]} of "
        f"{len(asked[1])} after{more}. So few examples show how the team works, not how well."
    ]


def _by_role(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """First and last number of each role; a number that no role has is left out."""
    found = {name: [plots.series(rows, f"{name}/{role}")[1] for role in ROLES] for name in BY_ROLE}
    told = []
    for name, values in found.items():
        title, places = BY_ROLE[name]
        cells = [f"{v[0]:.{places}f} → {v[-1]:.{places}f}" if v else "not recorded" for v in values]
        told += [{"name": title, "cells": cells}] if any(values) else []
    return told


def _model(job: Job, key: str) -> dict[str, Any]:
    manifest = _manifest(job, key)
    plain = {name.replace("_", " "): value for name, value in manifest.metadata.items() if isinstance(value, str | int | float)}
    facts = [(name, _plain(value)) for name, value in plain.items()]
    return {"name": key.removeprefix("models/"), "facts": facts, "seconds": manifest.seconds, "sha256": manifest.sha256}


def _plain(value: str | int | float) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _made_from(job: Job, made: Manifest) -> list[tuple[str, str]]:
    data = _manifest(job, "corpus/clean").sha256
    named = (("Profile", job.settings.name), ("Seed", str(job.settings.seed)), ("Commit", made.commit or "not recorded"))
    return [
        *named,
        ("Config hash", made.config_hash or "not recorded"),
        ("Data hash (corpus/clean)", data),
        ("Leaderboard hash", made.sha256),
    ]


def _mixed(job: Job, made: Manifest) -> list[str]:
    """Say so where an asset comes from an earlier run with another commit or configuration."""
    lines = []
    for what, field in (("commit", "commit"), ("configuration", "config_hash")):
        others = [key for key in ("corpus/clean", *MODELS) if getattr(_manifest(job, key), field) != getattr(made, field)]
        if others:
            lines.append(f"From an earlier run with another {what}: {', '.join(others)}.")
    return lines


def _pictures(job: Job, board: Mapping[str, Any], counts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Draw the plots; each with an alternative text that carries the numbers."""
    losses = {learner: _metrics(job, f"models/{learner}") for learner in LEARNERS}
    drawn = {
        "leaderboard": plots.leaderboard(board["rows"], job.out / "plots" / "leaderboard.png"),
        "funnel": plots.funnel(counts, job.out / "plots" / "funnel.png"),
        "loss": plots.loss_curves(losses, job.out / "plots" / "loss.png"),
    }
    ends = [(role, plots.series(rows, "loss")[1]) for role, rows in losses.items()]
    told = ", ".join(f"{role} {loss[0]:.2f} to {loss[-1]:.2f}" for role, loss in ends if loss) or "none recorded"
    alts = {
        "leaderboard": (
            "Dot plot: mean and interval of every system on each benchmark, with the chance line",
            "Dots are means, bars their intervals. The table below has the numbers.",
        ),
        "funnel": (
            "Bar chart: share of each source's rows that was kept or dropped, by reason",
            "Shares within each source; the table below has the counts.",
        ),
        "loss": (f"Line chart of training loss by step: {told}", "Loss on the tokens that each of them learns to write (training data)."),
    }
    return {name: {"src": _inline(path), "alt": alts[name][0], "caption": alts[name][1]} for name, path in drawn.items()}


def _inline(path: Path) -> str:
    """A picture as the address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _metrics(job: Job, key: str) -> list[dict[str, Any]]:
    path = job.inputs[key] / "metrics.jsonl"
    return store.read_jsonl(path) if path.is_file() else []
