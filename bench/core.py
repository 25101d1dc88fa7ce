"""The core against the code that it replaced, on the same questions, passages and base, taking turns in one run.

    git worktree add ../medpipe-before 8939307
    python bench/core.py --old ../medpipe-before [--parts sft,episodes] [--repeat 3] [--json]

Every measurement is a process of its own on one thread and is told in CPU seconds of that process (loading and imports left out);
the table shows medians. Questions and passages are made once by the present code from the bundled corpus (outputs/bench/core) and are
the same text for both; each code makes its own prompts of them. The base is the bundled SmolLM2-135M-Instruct; adapters have r = 8 on
all linear modules of the last 15 layers. Message budgets: planner 24, researcher 40, analyst 60, reporter 52 tokens; 2 passages of 240
characters.

sft: four roles are fine-tuned on the same rows, half of them multiple choice, `--step` rows a step: rows per CPU second, where a row is one
question for all four. Before: four trainings, each role's prompt read and learned through for itself, by its own prompts, and once more
on our token ids (`on our tokens`: what each role reads and says in the transcript). `prompt tokens` is what a system without sharing
reads, `read tokens` what is read. The first run's adapters speak in the parts below.
adapters: the same rows, activated adapters against whole-sequence ones: CPU seconds, and loss on other conditions' rows, nats per token.
episodes: one iteration of co-training on 3 questions x 8 samples: rollouts, rewards and update, all messages learned from; in bf16 too.
`--lengths own`: messages end as the fine-tuned roles end them; `fixed`: each is as long as its budget, by an end token that is never
said. The former's update takes one step a role and scores a reference, as it always did; ours takes two steps without a reference.
evaluation: all systems that ask a model, of each code, on the same held-out questions: items (a system's answer to one question) per
CPU second. toy: the toy game, one seed (medpipe_tests/training/toy.py).
Left out: GPUs, several threads, whether what is learned is any good.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from parts import NEVER, QUIET, WORK, base_folder, cases, child, clock, job_for, memory, prepare, settings_for, since

if TYPE_CHECKING:
    from medpipe.config import Settings

SHARED: dict[str, Any] = {
    "training.epochs": 1, "training.batch_size": 2, "training.gradient_accumulation": 1, "training.learning_rate": 2e-3,
    "training.checkpoint_seconds": 1e6, "team.max_new_tokens": {"planner": 24, "researcher": 40, "analyst": 60, "reporter": 52},
    "team.evidence_passages": 2, "team.evidence_chars": 240, "maporl.learning_rate": 1.5e-4,
    "evaluation.batch_size": 16,
}  # fmt: skip
BEFORE = {"training.tokens_per_pass": 640, "training.max_length": 576, "team.max_prompt_tokens": 512, "maporl.minibatch": 8}
NOW = {"training.tokens_per_pass": 2048, "team.max_header_tokens": 512, "maporl.minibatch": 16}
OLD_SYSTEMS = (
    "base_agent", "sft_agent", "self_consistency", "base_team", "sft_team", "maporl_team", "without_planner", "without_researcher",
    "without_analyst", "without_reporter", "without_evidence", "one_round",
)  # fmt: skip
QUESTIONS = 3  # of an iteration of co-training
BY_FORMER = ("old", "same")
PARTS: dict[str, tuple[str, ...]] = {
    "sft": ("old", "same", "new", "bf16"), "adapters": ("new", "lora"), "episodes": ("old", "new", "bf16"),
    "evaluation": ("old", "new", "bf16"),
    "toy": ("old", "new"),
}  # fmt: skip
NAMES = {"old": "before", "same": "before, on our tokens", "new": "now", "bf16": "now, bf16", "lora": "now, whole-sequence adapters"}
UNITS = {"sft": "rows", "adapters": "rows", "episodes": "episodes", "evaluation": "items", "toy": "games"}
GIVEN = ("rows", "step", "loss-rows", "questions", "samples", "lengths")


# --- in a process of its own: the present code


def settings_now(precision: str = "fp32", **changes: Any) -> Settings:
    return settings_for({**SHARED, **NOW, "model.precision": precision, **changes})


def lessons_now(options: argparse.Namespace) -> dict[str, Any]:
    """Each role's prompts and targets as token ids, for a trainer that shares nothing."""
    from medpipe import store
    from medpipe.models import base
    from medpipe.schema import ROLES
    from medpipe.team.transcript import Frame
    from medpipe.training.rows import make_lesson

    settings = settings_now()
    frame = Frame(base.load(base_folder(), "cpu", settings.model)[1])
    lessons = [make_lesson(row, own, ROLES, frame, settings) for row, own in zip(*cases("learn", options.rows), strict=True)]
    rows = {r: [[[*t.context, *t.invocation], list(t.completion)] for t in (one.turns[r] for one in lessons)] for r in ROLES}
    store.write_json(WORK / "tokens.json", rows)
    return {"lessons": len(lessons)}


def sft_now(
    options: argparse.Namespace, kind: str = "activated", precision: str = "fp32", save: bool = True
) -> dict[str, Any]:  # fmt: skip
    from mirror import Quiet

    from medpipe.models import base
    from medpipe.models.adapters import AdapterModel
    from medpipe.schema import ROLES
    from medpipe.team.transcript import Frame
    from medpipe.training.fit import fit
    from medpipe.training.rows import make_lesson, optimizer_steps
    from medpipe.training.sft import adapter_config

    settings = settings_now(precision, **{"training.adapter": kind, "training.batch_size": options.step})
    training = settings.training
    bare, tokenizer = base.load(base_folder(), "cpu", settings.model)
    frame = Frame(tokenizer)
    lessons, held = (
        [make_lesson(row, own, ROLES, frame, settings) for row, own in zip(*cases(side, count), strict=True)]
        for side, count in (("learn", options.rows), ("held", options.loss_rows))
    )
    config = adapter_config(bare, training, settings.model.name)
    model = AdapterModel.with_new(bare, tokenizer, dict.fromkeys(ROLES, config), kind == "activated")
    steps, loaded = optimizer_steps(lessons, training.batch_size, 1, "0/sft"), memory()
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        fit(model, ROLES, steps, training, Path(folder), dict.fromkeys(ROLES, Quiet()))
        spent = since(started)
    found = {"peak_mib": memory(), "loaded_mib": loaded}
    if save:
        save_now(model, frame)
    if held:
        turns = {role: [lesson.turns[role] for lesson in held] for role in ROLES}
        sums = {role: sum(model.sum_logps(role, own, 8)) for role, own in turns.items()}
        losses = {role: -sums[role] / sum(len(turn.completion) for turn in own) for role, own in turns.items()}
        said = {role: sum(len(turn.completion) for turn in own) for role, own in turns.items()}
        mean = sum(losses[role] * said[role] for role in ROLES) / sum(said.values())
        found |= {"held_loss": round(mean, 4), "by_role": {role: round(value, 4) for role, value in losses.items()}, "held_rows": len(held)}
    own = [turn for lesson in lessons for turn in lesson.turns.values()]
    tokens = {
        "prompt_tokens": sum(len(turn.context) + len(turn.invocation) for turn in own),
        "target_tokens": sum(len(t.completion) for t in own),
        "read_tokens": sum(len(lesson.tokens) for lesson in lessons),
    }  # fmt: skip
    return {"done": len(lessons), **spent, **tokens, **found}


def save_now(model: Any, frame: Any) -> None:
    for role in model.adapters:
        folder = WORK / "new" / role
        if not (folder / "adapter_config.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            model.save_adapter(role, folder, frame.invocation(role))


def episodes_now(options: argparse.Namespace, precision: str = "fp32") -> dict[str, Any]:
    import torch

    from medpipe.models.adapters import AdapterModel
    from medpipe.schema import ROLES
    from medpipe.team.workflow import Team, rollout
    from medpipe.training.update import Batch, learners_of, targets, update
    from medpipe.training.verifiers import open_verifier

    settings = settings_now(precision, **{"team.max_rounds_per_episode": 1})
    adapters = {role: role for role in ROLES}
    folders = {name: WORK / "new" / role for role in ROLES for name in (role, f"start_{role}")}
    model = AdapterModel.load(base_folder(), folders, "cpu", settings.model)
    if options.lengths == "fixed":
        model._end = int(model.tokenizer.convert_tokens_to_ids(NEVER))  # type: ignore[arg-type]
    warm()
    verifier = open_verifier(job_for(settings, "models/maporl_team", WORK / "none"), model, cases("learn", 32)[0], adapters)
    learners, loaded = learners_of(model, adapters, settings.maporl), memory()
    questions, passages = cases("play", QUESTIONS)
    started = clock()
    team = Team(model, adapters, settings.team, 1.0, torch.Generator().manual_seed(0), verifier)
    episodes = team.begin(questions, passages, options.samples)
    batch = Batch(episodes, rollout(team, episodes))
    played = since(started)["cpu_seconds"]
    numbers = update(learners, [batch], targets(batch, settings.maporl, settings.rewards), settings.maporl, seed="0")
    spent = since(started)
    return told(episodes, spent, played, numbers, loaded)


def another(folder: Path, name: str, copies: Path) -> Path:
    """The same adapters in other bytes: those of the same bytes would be asked once, and here co-training is to have changed them."""
    for config in folder.rglob("adapter_config.json"):
        own = copies / name / config.parent.relative_to(folder)
        shutil.copytree(config.parent, own)
        (own / config.name).write_text(json.dumps(json.loads(config.read_text()), indent=7))
    return copies / name


def evaluation_now(options: argparse.Namespace, precision: str = "fp32") -> dict[str, Any]:
    from typing import get_args

    from medpipe.config import System
    from medpipe.corpus.evidence import Passage
    from medpipe.evaluation.evaluate import Asked, ask
    from medpipe.evaluation.systems import SYSTEMS, Bench
    from medpipe.schema import ROLES

    settings = settings_now(precision, **{"team.max_rounds_per_episode": 2})
    questions, texts = cases("asked", options.questions)
    inputs = {"models/base": base_folder(), "models/agent": WORK / "new/reporter", **{f"models/{r}": WORK / "new" / r for r in ROLES}}
    names = [name for name in get_args(System) if SYSTEMS[name].adapters]  # those that ask a model
    with tempfile.TemporaryDirectory() as folder:
        changed = {"models/maporl_team": WORK / "new", "models/agent_rl": WORK / "new/reporter"}
        inputs |= {key: another(made, key, Path(folder) / "made") for key, made in changed.items()}
        bench = Bench(job_for(settings, "evaluation/synthetic_heldout", Path(folder), inputs), questions, [SYSTEMS[n] for n in names])
        bench.passages = [[Passage(str(n), "", text) for n, text in enumerate(own)] for own in texts]
        loaded = len(bench.model.adapters) and memory()  # loads the model
        warm()
        started = clock()
        rows = ask(bench, {name: Asked(SYSTEMS[name], len(questions)) for name in names}, lambda asked, given: [0.0] * len(asked))
        return evaluated(rows, since(started), loaded)


# --- in a process of its own: the code before, under the same names


def settings_before(**changes: Any) -> Any:
    return settings_for({**SHARED, **BEFORE, "model.precision": "fp32", **changes})


def former(module: str) -> Any:
    """A module of the code before; some are gone from the present one."""
    return import_module(f"medpipe.{module}")


class Found:
    """The prepared passages, in place of the former index."""

    def __init__(self, passages: Sequence[Sequence[str]]) -> None:
        self._passages = passages

    def search_for_training(self, rows: Sequence[Any], k: int, max_chars: int) -> list[list[Any]]:
        """As the former EvidenceIndex."""
        from medpipe.corpus.evidence import Passage

        return [[Passage(str(n), "", text) for n, text in enumerate(own)] for own in self._passages]


def sft_before(options: argparse.Namespace, same: bool = False) -> dict[str, Any]:

    from medpipe.models import base
    from medpipe.schema import ROLES

    batches, sft, trainer = former("training.batches"), former("training.sft"), former("training.trainer")
    settings = settings_before(**{"training.batch_size": options.step})
    rows, passages = cases("learn", options.rows)
    wall = work = 0.0
    prompt_tokens = target_tokens = loaded = 0
    for role in ROLES:
        bare, tokenizer = base.load(base_folder(), "cpu", settings.model)
        with tempfile.TemporaryDirectory() as folder:
            job = job_for(settings, f"models/{role}", Path(folder))
            if same:
                made = [batches.Row(*pair) for pair in json.loads((WORK / "tokens.json").read_text(encoding="utf-8"))[role]]
            else:
                made = sft.role_rows(role, rows, Found(passages), tokenizer, job)
            policies = sft.with_adapter(bare, tokenizer, role, settings.training, settings.model.name)
            steps = batches.optimizer_steps(made, settings.training.batch_size, 1, f"0/{role}")
            loaded = loaded or memory()
            started = clock()
            trainer.fit(policies, role, steps, job)
            spent = since(started)
        wall, work = wall + spent["seconds"], work + spent["cpu_seconds"]
        prompt_tokens += sum(len(row.prompt) for row in made)
        target_tokens += sum(len(row.target) for row in made)
        folder = WORK / "old" / role
        if not same and not (folder / "adapter_config.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            policies.save_adapter(role, folder)
    tokens = {"prompt_tokens": prompt_tokens, "target_tokens": target_tokens, "read_tokens": prompt_tokens}
    return {"done": len(rows), "seconds": wall, "cpu_seconds": round(work, 2), **tokens, "peak_mib": memory(), "loaded_mib": loaded}


def episodes_before(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from medpipe.schema import ROLES

    workflow, learning = former("team.workflow"), former("training.update")
    settings = settings_before(**{"team.max_rounds_per_episode": 1})
    folders = {name: WORK / "old" / role for role in ROLES for name in (role, f"start_{role}")}
    policies = former("models.policy").Policies.load(base_folder(), folders, "cpu", settings.model)
    if options.lengths == "fixed":
        policies.tokenizer.eos_token = NEVER
    job = job_for(settings, "models/maporl_team", WORK / "none")
    warm()
    verifier = former("training.verifiers").open_verifier(job, policies, cases("learn", 32)[0])
    learners, loaded = learning.learners_of(policies, settings.maporl), memory()
    asked = zip(*cases("play", QUESTIONS), strict=True)
    episodes = [former("team.episode").Episode(question, passages, n) for question, passages in asked for n in range(options.samples)]
    started = clock()
    generator = torch.Generator().manual_seed(0)
    workflow.play(workflow.Crew(policies, {role: role for role in ROLES}, settings.team, 1.0, generator, verifier), episodes)
    played = since(started)["cpu_seconds"]
    goals = learning.targets(episodes, settings.maporl, settings.rewards)
    numbers = learning.update(learners, episodes, goals, settings.maporl, True)
    return told(episodes, since(started), played, numbers, loaded)


def evaluation_before(options: argparse.Namespace) -> dict[str, Any]:
    from medpipe.schema import ROLES

    systems, evaluate = former("evaluation.systems"), former("evaluation.evaluate")
    settings = settings_before(**{"team.max_rounds_per_episode": 2})
    questions, texts = cases("asked", options.questions)
    with tempfile.TemporaryDirectory() as folder:
        bench = systems.Bench.__new__(systems.Bench)  # without its own search for evidence
        bench.job, bench.questions = job_for(settings, "evaluation/synthetic_heldout", Path(folder)), questions
        adapters = {f"{stage}_{role}": WORK / "old" / role for stage in ("sft", "maporl") for role in ROLES}
        bench.policies = former("models.policy").Policies.load(base_folder(), adapters, "cpu", settings.model)
        bench.speakers, bench.evidence, bench.evidence_from = systems.Remembered(bench.policies), texts, ["local index"] * len(texts)
        loaded = memory()
        warm()
        started = clock()
        numbers, judge = range(len(questions)), lambda asked, given: [0.0] * len(asked)
        rows = {name: evaluate.answer(bench, name, systems.SYSTEMS[name], numbers, judge) for name in OLD_SYSTEMS}
        return evaluated(rows, since(started), loaded)


# --- for both


def warm() -> None:
    """Load what the first use would: the reward's encoder, and the workflow's library."""
    import langgraph.graph  # noqa: F401

    from medpipe.rewards.similarity import Similarity

    Similarity().pairs([("a rash", "a cough")])


def told(episodes: Sequence[Any], spent: dict[str, float], played: float, numbers: dict[str, float], loaded: int) -> dict[str, Any]:
    said = [len(turn.tokens) for episode in episodes for turn in episode.turns]
    return {
        "done": len(episodes), **spent, "rollout_cpu_seconds": played, "drawn_tokens": sum(said), "peak_mib": memory(),
        "loaded_mib": loaded,
        "on_policy_gap": float(f"{numbers['on_policy_gap']:.2g}"),
    }  # fmt: skip


def evaluated(rows: dict[str, list[dict[str, Any]]], spent: dict[str, float], loaded: int) -> dict[str, Any]:
    seconds = {name: round(sum(row["seconds"] for row in own), 1) for name, own in rows.items()}
    drawn = sum(row["tokens"] for own in rows.values() for row in own)
    return {
        "done": sum(map(len, rows.values())), **spent, "systems": len(rows), "tokens": drawn, "seconds_by_system": seconds,
        "peak_mib": memory(), "loaded_mib": loaded,
    }  # fmt: skip


def measure(part: str, system: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process, by the `medpipe` that it imports."""
    if part == "sft":
        options.loss_rows = 0
        if system in BY_FORMER:
            return sft_before(options, system == "same")
        return sft_now(options, precision="bf16" if system == "bf16" else "fp32", save=system == "new")
    if part == "adapters":
        return sft_now(options, "lora" if system == "lora" else "activated", save=False)
    if part == "episodes":
        return episodes_before(options) if system == "old" else episodes_now(options, "bf16" if system == "bf16" else "fp32")
    return evaluation_before(options) if system == "old" else evaluation_now(options, "bf16" if system == "bf16" else "fp32")


# --- in the process that was called


def toy(code: Path) -> dict[str, Any]:
    """CPU seconds of the toy game as a whole, imports included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join(part for part in (str(code), os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "medpipe_tests.training.toy", "--seeds", "1"]
    done = subprocess.run(command, env={**os.environ, **QUIET, "PYTHONPATH": path}, cwd=code, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"toy in {code}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"done": 1, "cpu_seconds": round(spent, 1), "last": done.stdout.strip().splitlines()[-1][:200]}


def table(results: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Medians by part and system, and how many times as much work a CPU second does."""
    lines: list[dict[str, Any]] = []
    for part, systems in PARTS.items():
        runs = {system: [run for run in results if (run["part"], run["system"]) == (part, system)] for system in systems}
        runs = {system: own for system, own in runs.items() if own}
        first = next(iter(runs), "")
        for system, own in runs.items():
            seconds = median(run["cpu_seconds"] for run in own)
            speed, least = own[0]["done"] / seconds, median(run["done"] / run["cpu_seconds"] for run in runs[first])
            peak = median(run.get("peak_mib", 0) for run in own)
            extra = {
                key: own[0][key] for key in ("held_loss", "drawn_tokens", "prompt_tokens", "target_tokens", "read_tokens") if key in own[0]
            }
            lines.append({
                "part": part, "system": NAMES[system], "runs": len(own), "done": own[0]["done"], "unit": UNITS[part],
                "cpu_seconds": seconds,
                "per_cpu_second": float(f"{speed:.3g}"), "ratio": round(speed / least, 2), "peak_mib": peak, **extra,
            })  # fmt: skip
    if as_json:
        print("", *map(json.dumps, lines), sep="\n")
        return
    print("\n| part | system | runs | done | CPU seconds | per CPU second | ratio | peak memory | besides |\n|---" + "|---" * 8 + "|")
    for line in lines:
        rest = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in list(line.items())[9:])
        print(
            f"| {line['part']} | {line['system']} | {line['runs']} | {line['done']} {line['unit']} | {line['cpu_seconds']:.1f} | "
            f"{line['per_cpu_second']} | {line['ratio']:.2f} x | {line['peak_mib']:,.0f} MiB | {rest} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="work tree of the former code; without it only the present one is measured")
    parser.add_argument("--parts", default="sft,adapters,episodes,evaluation,toy", help="which, separated by commas")
    parser.add_argument(
        "--systems", default="old,same,new,bf16,lora", help="which, separated by commas; bf16 takes long on a CPU without it"
    )
    parser.add_argument("--rows", type=int, default=32, help="to fine-tune on")
    parser.add_argument("--step", type=int, default=2, help="rows in an optimizer step of fine-tuning")
    parser.add_argument("--loss-rows", type=int, default=48, help="of other conditions, to measure the loss on")
    parser.add_argument("--questions", type=int, default=16, help="of the evaluation")
    parser.add_argument("--samples", type=int, default=8, help="of each question in `episodes`")
    parser.add_argument("--lengths", default="own", choices=["own", "fixed"], help="of messages in `episodes`")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="JSON lines in place of the table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        part, _, system = options.child.partition("/")
        print(
            json.dumps(measure(part, system, options) if system else {"prepare": prepare, "lessons": lambda: lessons_now(options)}[part]())
        )
        return
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"got the part {', '.join(unknown)}: known are {', '.join(PARTS)}")
    systems = options.systems.split(",")
    if unknown := [name for name in systems if name not in NAMES]:
        parser.error(f"got the system {', '.join(unknown)}: known are {', '.join(NAMES)}")
    here = Path(__file__).resolve().parents[1]
    if not (WORK / "asked.json").is_file():
        child(__file__, "prepare", options, ())
    needed = [
        role for role in ("planner", "reporter") for side in ("new", *(["old"] if options.old else [])) if not (WORK / side / role).is_dir()
    ]
    if needed and {"episodes", "evaluation"} & set(parts) and "sft" not in parts:
        parser.error("the parts episodes and evaluation need the adapters of the part sft: run it first")
    results: list[dict[str, Any]] = []
    changes = {name: getattr(options, name.replace("-", "_")) for name in GIVEN}
    if "sft" in parts and options.old:
        child(__file__, "lessons", options, (), **changes)
    for part in parts:
        for _ in range(options.repeat):
            for system in PARTS[part]:
                code = options.old.resolve() if options.old and system in BY_FORMER else None
                if system not in systems or (system in BY_FORMER and code is None):
                    continue
                found = toy(code or here) if part == "toy" else child(__file__, f"{part}/{system}", options, (), code, **changes)
                results.append({"part": part, "system": system, **found})
                print(json.dumps(results[-1]), flush=True)
    table(results, options.json)


if __name__ == "__main__":
    main()
