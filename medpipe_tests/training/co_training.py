"""Co-training of the tiny team as a process of its own, for tests that kill it or that share it out.

    python -m medpipe_tests.training.co_training run plan.json          # prints one line per finished iteration
    accelerate launch … -m medpipe_tests.training.co_training step plan.json

plan.json: {"inputs": {key: folder}, "root": folder, "set": {setting: value}}; `run` may be told a "name", `step` reads "advantage".
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medpipe import store
from medpipe.config import Maporl, Rewards
from medpipe.config import Team as Rules
from medpipe.job import Job
from medpipe.launch.worker import WorkReporter
from medpipe.models.adapters import AdapterModel
from medpipe.schema import ROLES, QAExample, Role
from medpipe.team.workflow import Team, rollout
from medpipe.training.ranks import ALONE, Ranks
from medpipe.training.update import Batch, Learner, learners_of, targets, update
from medpipe_tests.tiny_team import BUDGETS, choice_row, text_row, tiny_settings


class Aloud(WorkReporter):
    """Tells each finished iteration on standard output."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        super().metrics(step, values)
        print(f"iteration {step}", flush=True)


def run(plan: dict[str, Any]) -> None:
    """One attempt as the worker makes it: what was unfinished is thrown away, the scratch folder stays."""
    from medpipe.training import maporl

    torch.set_num_threads(1)
    root = Path(plan["root"])
    out, scratch = root / "out", root / "scratch"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    settings = tiny_settings({"paths.outputs": str(root / "outputs"), **plan["set"]})
    inputs = {key: Path(folder) for key, folder in plan["inputs"].items()}
    maporl.run(
        Job(plan.get("name", "models/maporl_team"), settings, inputs, out, scratch, "cpu", Aloud(root / "log.txt", out, lambda *_: None))
    )


def questions() -> list[QAExample]:
    return [choice_row(1), text_row(2), choice_row(3, question="What makes a person wheeze?"), text_row(4, question="Why?")]


def step(plan: dict[str, Any], ranks: Ranks = ALONE) -> None:
    """One update; a question is played alike in whichever process it falls to, and each process works on its share of them."""
    torch.set_num_threads(1)
    inputs = {key: Path(folder) for key, folder in plan["inputs"].items()}
    names = {name: inputs[f"models/{role}"] for role in ROLES for name in (role, f"start_{role}")}
    model = AdapterModel.load(inputs["models/base"], names)
    adapters: dict[Role, str] = {role: role for role in ROLES}
    rules = Rules(max_rounds_per_episode=2, consensus_share=1.0, max_header_tokens=300, max_new_tokens=BUDGETS)  # type: ignore[arg-type]
    batches = []
    for row in ranks.part(questions()):
        number = int(row.id.rpartition("-")[2])
        team = Team(model, adapters, rules, 1.0, torch.Generator().manual_seed(number))
        episodes = team.begin([row], [[]], samples=3)
        batches.append(Batch(episodes, rollout(team, episodes)))
        for place, turn in enumerate(turn for episode in episodes for turn in episode.turns):
            turn.value = ((number + place) * 7 % 10) / 10
    settings = Maporl(kl=0.1, minibatch=4, advantage=plan["advantage"], steps_per_batch=1)
    learners: dict[Role, Learner] = {
        role: Learner(role, role, model, torch.optim.SGD(learner.weights().values(), lr=1.0), learner.head)
        for role, learner in learners_of(model, adapters, settings).items()
    }
    goals = {cell: goal for batch in batches for cell, goal in targets(batch, settings, Rewards()).items()}
    numbers = update(learners, batches, goals, settings, seed="step", ranks=ranks)
    from safetensors.torch import save_file

    weights = {f"{role}/{name}": value.detach().clone() for role, learner in learners.items() for name, value in learner.weights().items()}
    folder = Path(plan["root"]) / f"rank-{ranks.index}-of-{ranks.count}"
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    store.write_json(folder / "numbers.json", numbers)


def main() -> None:
    from medpipe.training.ranks import current

    plan = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    run(plan) if sys.argv[1] == "run" else step(plan, current("cpu"))


if __name__ == "__main__":
    main()
