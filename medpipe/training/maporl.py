"""MAPoRL: the four fine-tuned roles are co-trained as a team under the medical reward (docs/maporl.md).

Made alone with `dagster asset materialize -m medpipe.definitions --select models/maporl_team`. Source: Park et al.,
arXiv 2502.18439. Four adapters learn on one shared base; each role's fine-tuned adapter, frozen, is its reference.
An iteration: play episodes on training questions, score every message, turn scores into returns and advantages, and take
one PPO step per role. Left out: the `gae` advantage, the `learned` verifier, one device per role, resuming inside a run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from medpipe import NOTICE, store
from medpipe.corpus.evidence import EvidenceIndex
from medpipe.corpus.validation import require_valid
from medpipe.job import Job, Outcome
from medpipe.models import base
from medpipe.models.policy import Policies, weights_hash
from medpipe.rewards.compose import MedicalReward
from medpipe.rewards.relevance import Lexicon
from medpipe.rewards.similarity import Similarity
from medpipe.schema import ROLES, CheckResult, QAExample, Role
from medpipe.team.episode import Episode
from medpipe.team.workflow import Crew, play
from medpipe.training.update import ON_POLICY_TOLERANCE, targets, update
from medpipe.training.verifiers import TeamVerifier, mean_parts


def run(job: Job) -> Outcome:
    """Co-train the team, write one adapter folder per role, metrics by iteration, and example episodes.

    Raises:
        MedpipeError: the training split is not known to be valid, or the policy moved too far in one iteration.
    """
    require_valid(job.inputs["splits/train"], "splits/train")
    settings = job.settings.maporl
    adapters = {name: job.inputs[f"models/{role}"] for role in ROLES for name in (role, f"start_{role}")}
    policies = Policies.load(job.inputs["models/base"], adapters, job.device, job.settings.model)
    rows = store.read_examples(job.inputs["splits/train"])
    index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
    reward = MedicalReward(job.settings.rewards, Lexicon.from_rows(rows), Similarity())
    verifier = TeamVerifier(reward, policies, "start_reporter", job.settings)
    choice = job.settings.model  # 8-bit products are rounded by the largest number of a batch: scoring differs from drawing
    exact = base.resolve_precision(job.device, choice.precision) == torch.float32 and choice.quantization != "8bit"
    optimizers: dict[Role, torch.optim.Optimizer] = {
        role: torch.optim.AdamW(policies.parameters(role).values(), lr=settings.learning_rate, weight_decay=0.0) for role in ROLES
    }
    everything = {**dict(policies.model.named_parameters())}
    learning = {name for role in ROLES for name in policies.parameters(role)}
    frozen_before = weights_hash({n: p for n, p in everything.items() if n not in learning})
    before = {role: _snapshot(policies, role) for role in ROLES}

    examples: dict[str, dict[str, Any]] = {}
    history: list[dict[str, float]] = []
    for iteration in range(settings.iterations):
        started = time.monotonic()
        draw = random.Random(f"{job.settings.seed}/maporl/{iteration}")
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        episodes = new_episodes(_questions(rows, settings.questions_per_iteration, settings.choice_share, draw), index, job)

        def tell(text: str, done: int = iteration) -> None:
            job.report.progress(done, settings.iterations, text)

        crew = Crew(policies, {role: role for role in ROLES}, job.settings.team, settings.temperature, generator, verifier, tell)
        play(crew, episodes)
        goals = targets(episodes, settings, job.settings.rewards)
        numbers = update(policies, optimizers, episodes, goals, settings, exact, tell)
        seconds = time.monotonic() - started
        values = {**_measure(episodes, reward), **numbers, "tokens_per_second": _tokens(episodes) / seconds, "seconds": seconds}
        values |= {f"return/{role}": fmean(g for cell, g in goals.items() if cell.role == role) for role in ROLES}
        job.report.metrics(iteration + 1, values)
        job.report.progress(iteration + 1, settings.iterations, f"team reward {values['reward/team']:.3f}, KL {values['kl']:.4f}")
        history.append(values)
        examples["last"] = episodes[0].transcript()
        examples.setdefault("first", episodes[0].transcript())

    for role in ROLES:
        policies.model.save_pretrained(job.out, selected_adapters=[role], save_embedding_layers=False)
    (job.out / "README.md").unlink(missing_ok=True)  # peft's empty model card, which names a folder of this machine
    policies.tokenizer.save_pretrained(job.out)
    store.write_json(job.out / "examples.json", examples)
    distance = {role: _distance(before[role], policies, role) for role in ROLES}
    frozen_after = weights_hash({n: p for n, p in policies.model.named_parameters() if n not in learning})
    from medpipe.evaluation.plots import reward_curves

    reward_curves(store.read_jsonl(job.out / "metrics.jsonl"), job.out / "plots" / "reward.png")
    gap = max(row["on_policy_gap"] for row in history)
    checks = (
        CheckResult(name="weights_moved_base_frozen", passed=min(distance.values()) > 0 and frozen_before == frozen_after,
                    description="every role's adapter moved; base and reference adapters did not, bit for bit",
                    values={**{f"moved_{role}": f"{d:.3e}" for role, d in distance.items()},
                            "rest_unchanged": frozen_before == frozen_after}),
        CheckResult(name="on_policy", passed=gap < ON_POLICY_TOLERANCE or not exact, description="drawn and scored log-probabilities agree",
                    values={"largest_difference": f"{gap:.2e}", "enforced": exact}),
    )  # fmt: skip
    first, last = history[0], history[-1]
    stats = {
        "iterations": settings.iterations, "episodes_per_iteration": settings.questions_per_iteration * settings.samples_per_question,
        "verifier": settings.verifier, "team_reward_first": round(first["reward/team"], 4),
        "team_reward_last": round(last["reward/team"], 4),
        "kl_last": round(last["kl"], 6), "malformed_last": round(last["malformed"], 4), "device": job.device,
        "seconds": round(sum(row["seconds"] for row in history), 1),
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", {**stats, "moved": distance})
    trained = {role: store.read_json(job.inputs[f"models/{role}"] / "training_stats.json") for role in ROLES}
    store.write_json(job.out / "training_results.json", {"roles": trained, "maporl_team": {**stats, "moved": distance}, "notice": NOTICE})
    plot = {"image": "plots/reward.png", "alt": f"team reward by iteration, from {first['reward/team']:.2f} to {last['reward/team']:.2f}"}
    exports = {"training_results.json": job.settings.outputs / "training_results.json"}
    return Outcome({**stats, "rewards": plot, "moved (L2)": {"table": [distance]}}, checks, exports)


def new_episodes(questions: Sequence[QAExample], index: EvidenceIndex, job: Job) -> list[Episode]:
    """Episodes with their evidence: every question as often as it is sampled; a training row never finds its own answer."""
    team, samples = job.settings.team, job.settings.maporl.samples_per_question
    found = index.search_for_training(questions, team.evidence_passages, team.evidence_chars)
    return [Episode(q, [p.text for p in passages], n) for q, passages in zip(questions, found, strict=True) for n in range(samples)]


def _questions(rows: Sequence[QAExample], count: int, choice_share: float, draw: random.Random) -> list[QAExample]:
    choice, text = [row for row in rows if row.is_choice], [row for row in rows if not row.is_choice]
    wanted = min(len(choice), round(count * choice_share) if text else count)
    return draw.sample(choice, wanted) + draw.sample(text, min(len(text), count - wanted))


def _measure(episodes: Sequence[Episode], reward: MedicalReward) -> dict[str, float]:
    turns = [turn for episode in episodes for turn in episode.turns]
    finals = [episode.final for episode in episodes]
    words = [turn.text.split() for turn in turns]
    pairs = [pair for text in words for pair in pairwise(text)]
    choice = [episode for episode in episodes if episode.question.is_choice]
    numbers = {
        "reward/team": fmean(turn.value or 0.0 for turn in finals),
        "malformed": fmean(bool(turn.malformed) for turn in turns),
        "mean_length": fmean(len(turn.tokens) for turn in turns),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "rounds": fmean(episode.rounds for episode in episodes),
    }
    if choice:
        numbers["answer_accuracy"] = fmean(e.final.answer == e.question.answer for e in choice)
    return numbers | {f"reward/{name}": value for name, value in mean_parts(finals).items()}


def _tokens(episodes: Sequence[Episode]) -> int:
    return sum(len(turn.tokens) for episode in episodes for turn in episode.turns)


def _snapshot(policies: Policies, role: str) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policies.parameters(role).items()}


def _distance(before: dict[str, torch.Tensor], policies: Policies, role: str) -> float:
    now = policies.parameters(role)
    return float(sum((now[name].detach() - value).float().pow(2).sum() for name, value in before.items()) ** 0.5)
