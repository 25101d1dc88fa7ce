"""Does co-training teach a real model? SmolLM2-135M on held-out multiple choice with evidence, three seeds (docs/learns.md).

    python bench/learns.py [--seeds 3] [--questions 80] [--plot docs/img/learns.png]

Four roles are fine-tuned once on the bundled corpus (bench/learns.yaml, through the graph). From there one team per seed is
co-trained by medpipe/training/maporl.py itself. Then the fine-tuned team and every co-trained one play the same held-out
questions, greedily, in the same workflow, scored by the same medical reward. Held-out are the conditions: no row about them
was learned from; what the library says of them may be looked up, as in training.

Told are the answer's accuracy (the reporter's letter; none counts as wrong), the team reward (mean V of the four messages),
and the differences to the fine-tuned team with paired bootstrap intervals: over questions, and over conditions, whose
questions are alike. Each part is a process of its own; what is finished is not made again, and a co-training that was
killed goes on from its checkpoint. Left out: free text, seeds of the fine-tuning, other models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mirror import Quiet

if TYPE_CHECKING:
    from medpipe.config import Settings
    from medpipe.job import Job

PROFILE = Path(__file__).with_suffix(".yaml")
WORK = Path("outputs/bench/learns")
ROLES = ("planner", "researcher", "analyst", "reporter")
START = "fine-tuned"
COMPARED = ("accuracy", "reward")


# --- in a process of its own


class Told(Quiet):
    """A reporter that keeps the metrics and says one line per iteration."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        self._file.unlink(missing_ok=True)

    def log(self, text: str) -> None:
        """Say it."""
        print(text, file=sys.stderr, flush=True)

    warn = log

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep them; a line with the most telling ones."""
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        names = ("reward/team", "answer_accuracy", "kl", "entropy", "malformed", "seconds")
        self.log(f"{step}: " + ", ".join(f"{name} {values[name]:.3f}" for name in names))


def job_of(settings: Settings, out: Path) -> Job:
    """The job that the graph would run as models/maporl_team, on folders that the graph has made."""
    from medpipe.job import Job

    made = {key: WORK / key for key in ("models/base", "splits/train", *(f"models/{role}" for role in ROLES))}
    out.mkdir(parents=True, exist_ok=True)
    return Job("models/maporl_team", settings, made, out, out / "scratch", "cpu", Told(out))


def train(seed: int, settings: Settings) -> dict[str, Any]:
    """Co-train one team, unless it is there."""
    from medpipe import store
    from medpipe.training import maporl

    out = WORK / f"seed-{seed}"
    done = out / "done.json"
    if not done.is_file():
        outcome = maporl.run(job_of(settings.model_copy(update={"seed": seed}), out))
        failed = [check.name for check in outcome.checks if not check.passed]
        if failed:
            raise RuntimeError(f"got failed checks {failed}, expected none, in the co-training with seed {seed}")
        rows = store.read_jsonl(out / "metrics.jsonl")
        store.write_json(done, {"seed": seed, "seconds": round(sum(row["seconds"] for row in rows), 1), "iterations": len(rows)})
    return store.read_json(done)


def play(seed: int | None, settings: Settings, count: int) -> list[dict[str, Any]]:
    """One team on the held-out questions, greedily: one row per question."""
    from medpipe.models.policy import Policies

    from medpipe import store
    from medpipe.corpus.evidence import EvidenceIndex
    from medpipe.corpus.splits import heldout
    from medpipe.evaluation.benchmarks import choose
    from medpipe.roles import question_text
    from medpipe.schema import ROLES, Role
    from medpipe.team.episode import Episode
    from medpipe.team.workflow import Crew
    from medpipe.team.workflow import play as played
    from medpipe.training.verifiers import open_verifier

    team, rules = ("start" if seed is None else f"seed-{seed}"), settings.team
    file = WORK / f"played-{team}-{count}.json"
    if not file.is_file():
        out = WORK / ("models" if seed is None else team)
        adapters = {role: out / role for role in ROLES}
        # The verifier's helper scores free text only, of which there is none here.
        policies = Policies.load(WORK / "models/base", {**adapters, "start_reporter": WORK / "models/reporter"}, "cpu", settings.model)
        job = job_of(settings, WORK / "scratch")
        verifier = open_verifier(job, policies, store.read_examples(WORK / "splits/train"))
        questions = choose([row for row in heldout(WORK / "corpus/clean", "synthetic") if row.is_choice], count, settings.seed)
        asked = [(question_text(question), None) for question in questions]
        found = EvidenceIndex.load(WORK / "splits/train/evidence").search_many(asked, rules.evidence_passages, rules.evidence_chars)
        speakers: dict[Role, str | None] = {role: role for role in ROLES}
        crew, rows = Crew(policies, speakers, rules, verifier=verifier), []
        for start in range(0, len(questions), 16):
            pairs = zip(questions[start : start + 16], found[start : start + 16], strict=True)
            rows += [_told(e) for e in played(crew, [Episode(q, [p.text for p in passages]) for q, passages in pairs])]
        store.write_json(file, rows)
    return store.read_json(file)


def _told(episode: Any) -> dict[str, Any]:
    right = episode.question.answer
    best = episode.evidence[0].partition(":")[0] if episode.evidence else ""
    return {
        "id": episode.question.id, "condition": episode.question.focus, "accuracy": float(episode.final.answer == right),
        "reward": fmean(turn.scored for turn in episode.turns), "malformed": fmean(bool(turn.malformed) for turn in episode.turns),
        "tokens": sum(len(turn.tokens) for turn in episode.turns), "first_passage_right": float(best == episode.question.answer_text),
        **{turn.role: float(turn.answer == right) for turn in episode.turns},
        "transcript": episode.transcript(),
    }  # fmt: skip


# --- in the process that was called


def child(what: str, options: argparse.Namespace) -> Any:
    """What a process of this script prints last; what it says meanwhile goes to this one's errors."""
    command = [sys.executable, __file__, "--child", what, "--questions", str(options.questions)]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{what} ended with {done.returncode}: what it said stands above")
    return json.loads(done.stdout.splitlines()[-1])


def fine_tune() -> None:
    """The corpus and the four roles, made by the graph; nothing where they are there."""
    shutil.copytree("data/synthetic", WORK / "data/synthetic", dirs_exist_ok=True)
    select = ",".join(f"*models/{role}" for role in ROLES)
    subprocess.run([sys.executable, "-m", "medpipe.cli", "run", "-p", str(PROFILE), "-s", select], check=True, stdout=sys.stderr)


def difference(rows: Sequence[dict[str, Any]], start: Sequence[dict[str, Any]], number: str) -> dict[str, float]:
    """Mean of rows − start over the same questions, its 95% interval over questions, and that over conditions."""
    from medpipe.evaluation.statistics import bootstrap_mean, paired_bootstrap

    mean, low, high = paired_bootstrap([row[number] for row in rows], [row[number] for row in start], 10_000, 0.95, 0)
    by_condition: dict[str, list[float]] = defaultdict(list)
    for row, before in zip(rows, start, strict=True):
        by_condition[row["condition"]].append(row[number] - before[number])
    wide = bootstrap_mean([fmean(values) for values in by_condition.values()], 10_000, 0.95, 0)
    named = zip(("mean", "low", "high", "low_by_condition", "high_by_condition"), (mean, low, high, *wide), strict=True)
    return {name: round(value, 4) for name, value in named}


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One team in numbers, and the letter that most of its messages name."""
    named = Counter(turn["answer"] for row in rows for turn in row["transcript"]["turns"])
    ((letter, count),) = named.most_common(1)
    numbers = {name: round(fmean(row[name] for row in rows), 4) for name in (*COMPARED, *ROLES, "malformed", "first_passage_right")}
    return {"questions": len(rows), **numbers, "named_most": letter, "by_messages": count, "messages": named.total()}


def line(team: str, rows: Sequence[dict[str, Any]]) -> str:
    """A table row: means over the questions."""
    mean = {number: fmean(row[number] for row in rows) for number in ("accuracy", "reward", *ROLES, "malformed", "tokens")}
    return f"| {team} | " + " | ".join(f"{value:.3f}" if name != "tokens" else f"{value:.0f}" for name, value in mean.items()) + " |"


def conclude(options: argparse.Namespace, start: list[dict[str, Any]], teams: dict[int, list[dict[str, Any]]]) -> None:
    """Print the tables and one line of JSON."""
    print(f"\n{len(start)} held-out questions on {len({row['condition'] for row in start})} conditions, ten options each: chance is 0.1")
    first = fmean(row["first_passage_right"] for row in start)
    print(f"the best passage is about the right option in {first:.3f} of them\n")
    print("| team | answer right | team reward | " + " | ".join(f"{role} right" for role in ROLES) + " | malformed | tokens |")
    print("|---" * 9 + "|")
    print(line(START, start))
    for seed, rows in teams.items():
        print(line(f"co-trained, seed {seed}", rows))
    pooled = [
        {
            "condition": before["condition"],
            **{number: fmean(rows[n][number] for rows in teams.values()) for number in COMPARED},
        }
        for n, before in enumerate(start)
    ]
    found = {number: difference(pooled, start, number) for number in COMPARED}
    each = {seed: {number: difference(rows, start, number) for number in COMPARED} for seed, rows in teams.items()}
    print(
        "\n| co-trained − fine-tuned | answer right | 95% over questions | 95% over conditions | team reward | 95% | 95% over conditions |"
    )
    print("|---" * 7 + "|")
    for name, both in [*((f"seed {seed}", numbers) for seed, numbers in each.items()), ("mean of seeds", found)]:
        cells = [
            f"{d['mean']:+.3f} | {d['low']:+.3f} to {d['high']:+.3f} | {d['low_by_condition']:+.3f} to {d['high_by_condition']:+.3f}"
            for d in both.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(json.dumps({"questions": len(start), "seeds": list(teams), "mean_of_seeds": found, "by_seed": each}))


def draw(seeds: Sequence[int], file: Path) -> None:
    """Team reward while it trains, one line per seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from medpipe import store

    figure, axes = plt.subplots(figsize=(6.4, 3.2), dpi=120, layout="constrained")
    for seed, style in zip(seeds, ("-", "--", ":", "-."), strict=False):
        rows = store.read_jsonl(WORK / f"seed-{seed}" / "metrics.jsonl")
        axes.plot([row["step"] for row in rows], [row["reward/team"] for row in rows], style, color="#0072B2", label=f"seed {seed}")
    axes.set(xlabel="iteration of co-training", ylabel="team reward (sampled messages)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=80, help="held-out ones")
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--plot", type=Path, help="PNG of the team reward by iteration")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        from medpipe.config import load_profile

        settings = load_profile(str(PROFILE))
        what, _, team = options.child.partition("/")
        seed = int(team) if team else None
        if what == "train" and seed is not None:
            print(json.dumps(train(seed, settings)))
        else:
            print(json.dumps(means(play(seed, settings, options.questions))))
        return
    began = time.monotonic()
    fine_tune()
    seeds = list(range(options.seeds))
    with ThreadPoolExecutor(options.at_once) as pool:
        trained = [*pool.map(lambda seed: child(f"train/{seed}", options), seeds)]
        print(json.dumps(trained), flush=True)
        list(pool.map(lambda team: child(f"play/{team}", options), ["", *seeds]))
    from medpipe.config import load_profile

    settings = load_profile(str(PROFILE))
    start, *others = [play(seed, settings, options.questions) for seed in (None, *seeds)]
    conclude(options, start, dict(zip(seeds, others, strict=True)))
    if options.plot:
        draw(seeds, options.plot)
    print(f"{time.monotonic() - began:.0f} s in this call")


if __name__ == "__main__":
    main()
