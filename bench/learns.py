"""Does co-training teach a real model? SmolLM2-135M on held-out multiple choice with evidence, by seed (docs/learns.md).

    python bench/learns.py [--questions facts] [--seeds 3] [--count 200] [--set maporl.iterations=8]
    python bench/learns.py --trial --seeds 1      # validation questions only: to choose a recipe by

The corpus and the base are made once by the graph (bench/learns.yaml). Then, for each seed, by the functions that the graph runs: the four
roles and the lone agent are fine-tuned on the same rows, the team is co-trained on the co-training split, the lone agent is trained by RL
on as many drawn tokens, the four roles are fine-tuned on all rows that the co-trained team has seen for about as long (`sft_more`), and all
answer the same held-out questions, once, at the end: a look-up without any model, the agent before and after, the team before and after,
and the team with more fine-tuning. Held-out are the topics: no row about them was learned from.

Told are the share of right answers with its interval, and the co-trained team's difference to each of the others, paired, with a
bootstrap interval over topics, whose questions are alike. Each step is a process of its own; what is finished is not made again, and a
training that was killed goes on from its checkpoint. `--questions` chooses the bundled conditions, diseases of the Human Phenotype
Ontology by their findings, or these by two kinds of fact. Left out: free text, and other models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mirror import Quiet

if TYPE_CHECKING:
    from medpipe.config import Settings
    from medpipe.job import Job

PROFILE = Path(__file__).with_suffix(".yaml")
SOURCES = {"bundled": "synthetic", "phenotypes": "phenotypes", "facts": "phenotypes"}
FACTS = (
    "corpus.phenotype_facts=true", "corpus.phenotype_diseases=2500", "corpus.phenotype_questions_per_disease=8",
    "corpus.question_options=5", "corpus.cotrain_share=0.35", "corpus.heldout_share=0.2", "team.evidence_passages=3",
    "team.evidence_chars=240",
)  # fmt: skip
ROLES = ("planner", "researcher", "analyst", "reporter")
SYSTEMS = ("retrieval_alone", "one_agent_with_evidence", "one_agent_rl", "sft_team", "maporl_team")
MORE = "sft_more"
TEAM = "maporl_team"
TEAMS = ("sft_team", TEAM)
STEPS = ("sft", "team", "agent", "more", "ask")
TRIAL = ("sft", "team", "trial")
MORE_EPOCHS = 2
"""Of fine-tuning on all rows: about the time that fine-tuning and co-training take together."""
MADE = ("sources/benchmarks", "corpus/clean", "splits/train", "splits/cotrain", "splits/validation", "models/base")
"""What the graph makes, for all seeds."""


# --- in a process of its own


class Told(Quiet):
    """A reporter that keeps the metrics and says how far it is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        self._file.unlink(missing_ok=True)

    def log(self, text: str) -> None:
        """Say it."""
        print(text, file=sys.stderr, flush=True)

    warn = log

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep them; of co-training a line with the most telling ones."""
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        names = ("reward/team", "answer_accuracy", "flat", "malformed", "seconds")
        if "reward/team" in values:
            self.log(f"{step}: " + ", ".join(f"{name} {values[name]:.3f}" for name in names if name in values))


def job_of(name: str, settings: Settings, folder: Path, made: Mapping[str, Path], scratch: str) -> Job:
    """The job that the graph would run, on folders of this script."""
    from medpipe.job import Job

    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    (folder / "scratch" / scratch).mkdir(parents=True, exist_ok=True)
    return Job(name, settings, made, out, folder / "scratch" / scratch, "cpu", Told(out))


def step(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Do one step for one seed, unless it is done; returns what is to be told of it."""
    from medpipe import store

    settings = settings_of(options)
    folder = settings.outputs / f"seed-{seed}"
    left_out = "".join(f"-without-{one}" for one in sorted(options.without))
    done = folder / f"{name}{f'-{options.count}{left_out}' if name == 'ask' else ''}.json"
    if not done.is_file():
        began = time.monotonic()
        made = {key: settings.outputs / key for key in MADE}
        made |= {f"models/{model}": folder / "models" / model for model in (*ROLES, "agent", "maporl_team", "agent_rl")}
        found = {"sft": fine_tune, "team": co_train, "agent": co_train, "more": fine_tune_more, "trial": trial, "ask": ask}[name](
            name, settings, seed, folder, made, options
        )
        store.write_json(done, {"step": name, "seed": seed, "seconds": round(time.monotonic() - began, 1), **found})
    return store.read_json(done)


def fine_tune(
    name: str, settings: Settings, seed: int, folder: Path, made: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """The four roles and the lone agent, in one pass."""
    return fitted((*ROLES, "agent"), settings.model_copy(update={"seed": seed}), folder, made)


def fine_tune_more(
    name: str, settings: Settings, seed: int, folder: Path, made: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """The four roles from the beginning, on the rows they had and on all of the co-training split."""
    from medpipe import store
    from medpipe.corpus.validation import FILE, Validation, require_valid
    from medpipe.training import sft

    training, both = settings.training, folder / MORE / "splits" / "train"
    parts = ("splits/train", "splits/cotrain")
    for part in parts:
        require_valid(made[part], part)
    shown, further = (store.read_examples(made[part]) for part in parts)
    rows = [*sft.pick(shown, training.max_examples, training.choice_share, seed), *further]
    both.mkdir(parents=True, exist_ok=True)
    store.write_examples(both, rows)
    if not (both / "evidence").exists():
        (both / "evidence").symlink_to((made["splits/train"] / "evidence").resolve())
    passed = Validation.model_validate_json((made["splits/train"] / FILE).read_bytes())  # each part passed its own
    same = passed.model_copy(update={"rows": len(rows), "rows_sha256": store.sha256_file(both / store.ROWS)})
    store.write_json(both / FILE, same.model_dump(mode="json"))
    longer = training.model_copy(update={"max_examples": len(rows), "epochs": MORE_EPOCHS})
    own = settings.model_copy(update={"seed": seed, "training": longer})
    return fitted(ROLES, own, folder / MORE, {**made, "splits/train": both}) | {"rows": len(rows)}


def fitted(learners: Sequence[str], settings: Settings, folder: Path, made: Mapping[str, Path]) -> dict[str, Any]:
    """Fine-tune them together; their loss on validation rows."""
    from medpipe.training import sft

    keys = [f"models/{learner}" for learner in learners]
    outcomes = sft.run({key: job_of(key, settings, folder, made, "sft") for key in keys})
    refuse_failed(
        {check.name for outcome in outcomes.values() for check in outcome.checks if not check.passed and check.severity == "error"}
    )
    return {"validation_loss": {key.partition("/")[2]: outcomes[key].metadata["validation_loss_after"] for key in keys}}


def co_train(
    name: str, settings: Settings, seed: int, folder: Path, made: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """The team, or the lone agent on as many drawn tokens."""
    from medpipe.training import maporl

    key = "models/maporl_team" if name == "team" else "models/agent_rl"
    outcome = maporl.run(job_of(key, settings.model_copy(update={"seed": seed}), folder, made, name))
    refuse_failed({check.name for check in outcome.checks if not check.passed and check.severity == "error"})
    names = ("iterations", "kept_iteration", "selection_accuracy", "drawn_tokens", "rate_halved", "malformed_last")
    return {name: outcome.metadata[name] for name in names}


def ask(
    name: str, settings: Settings, seed: int, folder: Path, made: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """All systems on the same held-out questions, whatever the seed."""
    from medpipe import store
    from medpipe.evaluation import benchmarks, evaluate

    benchmark = f"{SOURCES[options.questions]}_heldout"

    def answered(asked: Sequence[str], models: Mapping[str, Path], scratch: str) -> dict[str, list[dict[str, Any]]]:
        chosen = settings.evaluation.model_copy(update={"systems": tuple(asked), "max_questions": options.count, "limits": {}})
        job = job_of(f"evaluation/{benchmark}", settings.model_copy(update={"evaluation": chosen}), folder, models, scratch)
        evaluate.run(job)
        return {system: store.read_jsonl(job.scratch / "items" / f"{system}.jsonl") for system in asked}

    rows = answered([system for system in systems(options) if system != MORE], made, f"ask-{options.count}")
    if MORE in systems(options):
        more = {f"models/{role}": folder / MORE / "models" / role for role in ROLES}
        rows[MORE] = answered(["sft_team"], {**made, **more}, f"ask-more-{options.count}")["sft_team"]
    topics = {row.id: row.focus for row in benchmarks.load(benchmark, made)}
    scores = {system: {row["id"]: float(row["score"]) for row in own} for system, own in rows.items()}
    unparsed = {system: sum(not row["parsed"] for row in own) for system, own in rows.items()}
    tokens = {system: fmean(row["tokens"] for row in own) for system, own in rows.items()}
    return {
        "scores": scores, "topics": {id: topics[id] for id in scores[TEAM]}, "unparsed": unparsed, "tokens": tokens,
        "by_role": {system: by_role(rows[system]) for system in (*TEAMS, MORE) if system in rows}, "caught": caught(rows),
    }  # fmt: skip


def trial(
    name: str, settings: Settings, seed: int, folder: Path, made: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """Shares of right answers on the validation split, by role: what a recipe is chosen by, while nobody is asked a held-out question."""
    from medpipe import store
    from medpipe.evaluation.systems import SYSTEMS as KNOWN
    from medpipe.evaluation.systems import Bench, answer

    questions = [row for row in store.read_examples(made["splits/validation"]) if row.is_choice]
    asked = [system for system in systems(options) if system not in (MORE, "one_agent_rl")]
    bench = Bench(job_of("trial", settings, folder, made, name), questions, [KNOWN[system] for system in asked])
    told: dict[str, Any] = {"questions": len(questions)}
    for system in asked:
        found = answer(bench, KNOWN[system], range(len(questions)))
        told[system] = round(fmean(one.decision.prediction == row.answer for one, row in zip(found, questions, strict=True)), 3)
        if system in TEAMS:
            rows = [{"answer": row.answer, "transcript": one.transcript} for one, row in zip(found, questions, strict=True)]
            told[f"{system} by role"] = by_role(rows)
    return told


def by_role(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each role's messages: the share that is right, and the share that settles on what the planner said."""
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        turns = {turn["role"]: turn["answer"] for turn in row["transcript"]["turns"]}
        for role, answer in turns.items():
            found[role]["right"].append(answer == row["answer"])
            found[role]["as the planner"].append(answer is not None and answer == turns["planner"])
    return {role: {name: round(fmean(values), 3) for name, values in own.items()} for role, own in found.items()}


def caught(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """One question before and after: the first by id that the planner got wrong both times and only the co-trained team got right."""
    from medpipe.schema import LETTERS

    before, after = ({row["id"]: row for row in rows[system]} for system in TEAMS)
    for id in sorted(after):
        wrong = [one[id]["transcript"]["turns"][0]["answer"] != one[id]["answer"] for one in (before, after)]
        if all(wrong) and after[id]["score"] > before[id]["score"]:
            told = {name: [turn["text"] for turn in one[id]["transcript"]["turns"]] for name, one in (("before", before), ("after", after))}
            question = after[id]["transcript"]["question"]
            options = dict(zip(LETTERS, question["options"], strict=False))
            return {"question": question["question"], "options": options, "answer": after[id]["answer"],
                    "evidence": after[id]["transcript"]["evidence"], **told}  # fmt: skip
    return {}


def refuse_failed(names: set[str]) -> None:
    """Numbers of a training whose checks failed mean nothing."""
    if names:
        raise RuntimeError(f"got failed checks {sorted(names)}, expected none")


def systems(options: argparse.Namespace) -> list[str]:
    """Who is asked: all but those whose training is left out."""
    trained = {"one_agent_rl": "agent", MORE: "more"}
    return [system for system in (*SYSTEMS, MORE) if trained.get(system) not in options.without]


def settings_of(options: argparse.Namespace) -> Settings:
    from medpipe.config import load_profile, parse_override

    return load_profile(str(PROFILE), dict(parse_override(text) for text in overrides(options)))


def overrides(options: argparse.Namespace) -> list[str]:
    """The exceptions to the profile: which questions, where to, and what the caller sets."""
    outputs = Path(options.work) / options.questions
    facts = FACTS if options.questions == "facts" else ()
    return [*facts, f"corpus.use=[{SOURCES[options.questions]}]", f"paths.outputs={outputs}", f"paths.data={outputs}/data", *options.set]


# --- in the process that was called


def child(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a step prints last; what it says meanwhile goes to this process's errors."""
    given = ["--questions", options.questions, "--count", str(options.count), "--work", options.work]
    given += [part for one in options.without for part in ("--without", one)]
    given += [part for text in options.set for part in ("--set", text)]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, "--child", f"{name}/{seed}", *given]
    done = subprocess.run(command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} of seed {seed} ended with {done.returncode}: what it said stands above")
    return json.loads(done.stdout.splitlines()[-1])


def corpus_and_base(options: argparse.Namespace) -> None:
    """By the graph; nothing where they are there."""
    data = Path(options.work) / options.questions / "data"
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.exists():  # the bundled knowledge is read from there, and the corpus files are written there
        import shutil

        shutil.copytree("data", data)
    select = ",".join(f"*{key}" for key in ("splits/train", "splits/cotrain", "splits/validation", "models/base"))
    flags = [part for text in overrides(options) for part in ("--set", text)]
    command = [sys.executable, "-m", "medpipe.cli", "run", "-p", str(PROFILE), "-s", select, *flags]
    subprocess.run(command, check=True, stdout=sys.stderr)


def difference(found: Sequence[Mapping[str, Any]], other: str) -> dict[str, float]:
    """The co-trained team's score less another system's: mean over seeds and questions, 95% over topics."""
    from medpipe.evaluation.statistics import bootstrap_mean

    by_topic: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for id, score in one["scores"][TEAM].items():
            by_topic[one["topics"][id]].append(score - one["scores"][other][id])
    low, high = bootstrap_mean([fmean(values) for values in by_topic.values()], 10_000, 0.95, 0)
    mean = fmean(value for values in by_topic.values() for value in values)
    return {name: round(value, 4) for name, value in (("mean", mean), ("low", low), ("high", high))}


def conclude(found: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Print the tables and one line of JSON."""
    from medpipe.evaluation.statistics import wilson

    topics = set(found[0]["topics"].values())
    print(f"\n{len(found[0]['topics'])} held-out questions on {len(topics)} topics ({options.questions})\n")
    seeds = " | ".join(f"seed {one['seed']}" for one in found)
    print(f"| system | {seeds} | mean | 95% (first seed) | unparsed | tokens |")
    print("|---" * (5 + len(found)) + "|")
    means: dict[str, list[float]] = {}
    for system in systems(options):
        own = means[system] = [fmean(one["scores"][system].values()) for one in found]
        first = found[0]["scores"][system].values()
        low, high = wilson(round(sum(first)), len(first), 0.95)
        unparsed, tokens = (fmean(one[key][system] for one in found) for key in ("unparsed", "tokens"))
        cells = " | ".join(f"{value:.3f}" for value in own)
        print(f"| {system} | {cells} | {fmean(own):.3f} | {low:.3f} to {high:.3f} | {unparsed:.0f} | {tokens:.0f} |")
    apart = {other: difference(found, other) for other in systems(options) if other != TEAM}
    print(f"\n| {TEAM} − | mean of seeds | 95% over topics |\n|---|---|---|")
    for other, own in apart.items():
        print(f"| {other} | {own['mean']:+.3f} | {own['low']:+.3f} to {own['high']:+.3f} |")
    rounded = {system: [round(value, 4) for value in own] for system, own in means.items()}
    print(json.dumps({"questions": options.questions, "n": len(found[0]["topics"]), "accuracy": rounded, "differences": apart}))


CURVES = (
    ("Right while learning", "share of messages", {"correct/reporter": "reporter"}),
    ("Right on held-back questions", "share of answers", {"selection": "team"}),
    ("Answers as the planner did", "share of messages", {f"copies_planner/{role}": role for role in ROLES[1:]}),
)
"""Panels: title, unit, number of metrics.jsonl → what it is."""


def draw(seeds: int, options: argparse.Namespace, path: Path) -> Path:
    """Curves of co-training by seed: what was right, what the held-back questions said, and who copied whom."""
    from matplotlib.figure import Figure

    from medpipe import store
    from medpipe.evaluation import plots

    figure = Figure(figsize=(plots.WIDTH, 3.2), layout="constrained")
    for axes, (title, unit, lines) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        for seed in range(seeds):
            rows = store.read_jsonl(settings_of(options).outputs / f"seed-{seed}" / "models" / "maporl_team" / "metrics.jsonl")
            for number, (name, label) in enumerate(lines.items()):
                steps, values = plots.series(rows, name)
                colour = (plots.BLUE, plots.ORANGE, plots.GREEN)[seed % 3 if len(lines) == 1 else number]
                told = f"seed {seed}" if len(lines) == 1 else (label if seed == 0 else None)
                axes.plot(steps, values, color=colour, linestyle=("-", "--", ":")[seed % 3], label=told, linewidth=1.4)
        axes.set_xlabel("iteration")
        axes.set_ylabel(unit)
        axes.set_ylim(0, 1)
        plots.title(axes, title, width=18)
        plots.bare(axes)
        axes.legend(frameon=False, fontsize=7)
    return plots.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default="facts", choices=list(SOURCES))
    parser.add_argument("--seeds", type=int, default=3, help="of the trainings; corpus and questions are the same for all")
    parser.add_argument("--count", type=int, default=200, help="held-out questions")
    parser.add_argument(
        "--without", action="append", default=[], choices=["agent", "more"], help="a training to leave out; may be repeated"
    )
    parser.add_argument("--trial", action="store_true", help="fine-tune, co-train and ask validation questions only: to choose a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="exception to bench/learns.yaml; may be repeated")
    parser.add_argument("--work", default="outputs/bench/learns", help="folder for all that is made")
    parser.add_argument("--plot", type=Path, help="where the curves are drawn, such as docs/img/learns.png")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, _, seed = options.child.partition("/")
        print(json.dumps(step(name, int(seed), options)))
        return
    began = time.monotonic()
    corpus_and_base(options)
    found = []
    steps = TRIAL if options.trial else [step for step in STEPS if step not in options.without]
    for seed in range(options.seeds):
        for name in steps:
            told = child(name, seed, options)
            print(json.dumps({key: value for key, value in told.items() if key not in ("scores", "topics", "caught")}), flush=True)
            if name == "ask":
                found.append(told)
    if not options.trial:
        conclude(found, options)
    if options.plot:
        print(f"drawn: {draw(options.seeds, options, options.plot)}")
    print(f"{time.monotonic() - began:.0f} s in this call")


if __name__ == "__main__":
    main()
