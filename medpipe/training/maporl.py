"""MAPoRL: the four fine-tuned roles are co-trained as a team under the medical reward (docs/maporl.md).

Made alone with `dagster asset materialize -m medpipe.definitions --select models/maporl_team`. Source: Park et al.,
arXiv 2502.18439. Each role's fine-tuned adapter, frozen, is its reference. An iteration: play episodes on training
questions, score every message, turn scores into returns and advantages, and take one PPO step per role. Its randomness is
drawn from (seed, iteration), so a run that was killed goes on from its newest whole checkpoint and ends with the same bytes
on a CPU. Left out: held-out questions while training (evaluation/ asks them afterwards).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from medpipe import NOTICE, store
from medpipe.config import Maporl
from medpipe.corpus.evidence import EvidenceIndex, origin_of
from medpipe.corpus.validation import require_valid
from medpipe.errors import MedpipeError
from medpipe.job import Job, Outcome
from medpipe.models import base
from medpipe.models.policy import Policies, weights_hash
from medpipe.models.spread import Spread, devices_of_roles
from medpipe.schema import ROLES, CheckResult, QAExample, Role
from medpipe.team.episode import Episode
from medpipe.team.workflow import Crew, play
from medpipe.training.checkpoint import Checkpoints, asked_to_stop, join_optimizer, split_optimizer
from medpipe.training.measures import measure, tokens_of
from medpipe.training.ranks import Ranks, current
from medpipe.training.update import ON_POLICY_TOLERANCE, Learner, learners_of, shaped, targets, update
from medpipe.training.verifiers import open_verifier

EXAMPLES = 2  # questions that are played before and after, greedily
COLLAPSED = 3  # iterations over which the share of malformed messages is averaged
Team = Policies | Spread


@dataclass
class Progress:
    """What a checkpoint keeps besides the weights."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row of numbers per iteration
    before: list[dict[str, Any]] = field(default_factory=list)  # transcripts
    resumed_from: list[int] = field(default_factory=list)


def run(job: Job) -> Outcome:
    """Co-train the team, write one adapter folder per role, metrics by iteration, and episodes before and after.

    Raises:
        MedpipeError: the training split is not known to be valid, a guard tripped (KL, entropy, malformed messages), or SIGTERM
            came (then a checkpoint was written first).
    """
    require_valid(job.inputs["splits/train"], "splits/train")
    ranks = current(job.device)
    team = load_team(job)
    rows = store.read_examples(job.inputs["splits/train"])
    index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
    verifier = open_verifier(job, team, rows)
    learners = learners_of(team, job.settings.maporl)
    learning = {f"{role}/{name}" for role in ROLES for name in team.parameters(role)}
    frozen_before = _frozen_hash(team)
    shown = _questions(rows, EXAMPLES, 0.5, random.Random(f"{job.settings.seed}/examples"))

    def examples() -> list[dict[str, Any]]:
        crew = Crew(team, {role: role for role in ROLES}, job.settings.team, verifier=verifier)
        return [episode.transcript() for episode in play(crew, new_episodes(shown, index, job, 1))]

    checkpoints = Checkpoints(job.scratch / "checkpoints", job.report.warn)
    progress = _resume(checkpoints, learners, job)
    if not progress.before:
        progress.before = examples()
    with asked_to_stop() as asked:
        _iterate(job, team, learners, rows, index, verifier, progress, checkpoints, asked.is_set, ranks)
    after = examples()

    for role in ROLES:
        team.of(role).save_adapter(role, job.out / role)
    team.tokenizer.save_pretrained(job.out)
    store.write_json(job.out / "examples.json", {"before": progress.before, "after": after})
    return _outcome(job, team, progress, len(learning), frozen_before == _frozen_hash(team))


def load_team(job: Job) -> Team:
    """The four roles and their frozen starts: on one shared base, or each role on a base and a device of its own."""
    adapters: dict[Role, dict[str, Any]] = {role: dict.fromkeys((role, f"start_{role}"), job.inputs[f"models/{role}"]) for role in ROLES}
    if job.settings.maporl.placement == "per_role":
        devices = devices_of_roles(job.device)
        job.report.log("a base for each role: " + ", ".join(f"{role} on {device}" for role, device in devices.items()))
        return Spread.load(job.inputs["models/base"], adapters, devices, job.settings.model)
    flat = {name: folder for own in adapters.values() for name, folder in own.items()}
    return Policies.load(job.inputs["models/base"], flat, job.device, job.settings.model)


def _iterate(
    job: Job, team: Team, learners: Mapping[Role, Learner], rows: Sequence[QAExample], index: EvidenceIndex, verifier: Any,
    progress: Progress, checkpoints: Checkpoints, asked: Callable[[], bool], ranks: Ranks,
) -> None:  # fmt: skip
    settings, saved = job.settings.maporl, time.monotonic()
    exact = is_exact(job)
    for iteration in range(len(progress.history), settings.iterations):
        started = time.monotonic()
        draw = random.Random(f"{job.settings.seed}/maporl/{iteration}")
        seed = draw.getrandbits(62) + ranks.index
        questions = ranks.part(_questions(rows, settings.questions_per_iteration, settings.choice_share, draw))

        def tell(text: str, done: int = iteration) -> None:
            job.report.progress(done, settings.iterations, text)

        generator = torch.Generator().manual_seed(seed)
        crew = Crew(team, {role: role for role in ROLES}, job.settings.team, settings.temperature, generator, verifier, tell)
        episodes = play(crew, new_episodes(questions, index, job, settings.samples_per_question))
        goals = targets(episodes, settings, job.settings.rewards)
        numbers = update(learners, episodes, goals, settings, exact, tell, ranks)
        seconds = time.monotonic() - started
        values = _mean_of(ranks.gather(measure(episodes, goals, shaped(episodes, settings)))) | numbers
        values |= {"tokens_per_second": ranks.total(tokens_of(episodes)) / seconds, "seconds": seconds}
        job.report.metrics(iteration + 1, values)
        told = ranks.gather([episode.transcript(timed=True) for episode in episodes])
        job.report.episodes(iteration + 1, [transcript for part in told for transcript in part])
        job.report.progress(iteration + 1, settings.iterations, f"team reward {values['reward/team']:.3f}, KL {values['kl']:.4f}")
        progress.history.append(values)
        _guard(progress.history, settings)
        last = iteration + 1 == settings.iterations
        stop, due = ranks.total(int(asked())) > 0, time.monotonic() - saved >= settings.checkpoint_seconds  # one for all
        if not last and not ranks.index and (stop or due):
            _save(checkpoints, learners, progress)
            saved = time.monotonic()
        if stop and not last:
            raise MedpipeError(
                got="the signal SIGTERM", expected=f"{settings.iterations} iterations",
                where=f"{job.name}, after iteration {iteration + 1}",
                do="materialise it again: a checkpoint was written and the training goes on from it",
            )  # fmt: skip


def is_exact(job: Job) -> bool:
    """Whether drawing and scoring must agree to ON_POLICY_TOLERANCE: in fp32."""
    choice = job.settings.model  # 8-bit products are rounded by the largest number of a batch: scoring differs from drawing
    return base.resolve_precision(job.device, choice.precision) == torch.float32 and choice.quantization != "8bit"


def new_episodes(questions: Sequence[QAExample], index: EvidenceIndex, job: Job, samples: int) -> list[Episode]:
    """Episodes with their evidence: every question as often as it is sampled; a training row never finds its own answer."""
    team = job.settings.team
    found = index.search_for_training(questions, team.evidence_passages, team.evidence_chars)
    return [
        Episode(q, [p.text for p in passages], n, evidence_from=origin_of(passages))
        for q, passages in zip(questions, found, strict=True)
        for n in range(samples)
    ]


def _questions(rows: Sequence[QAExample], count: int, choice_share: float, draw: random.Random) -> list[QAExample]:
    choice, text = [row for row in rows if row.is_choice], [row for row in rows if not row.is_choice]
    wanted = min(len(choice), round(count * choice_share) if text else count)
    return draw.sample(choice, wanted) + draw.sample(text, min(len(text), count - wanted))


def _mean_of(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over processes of what each measured; a number that a process lacks is left out of its mean."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}


def _guard(history: Sequence[Mapping[str, float]], settings: Maporl) -> None:
    """Stop a team that has collapsed: it says nearly the same whatever it is asked, or what it says can't be used."""
    entropy, malformed = history[-1]["entropy"], fmean(row["malformed"] for row in history[-COLLAPSED:])
    where = f"models/maporl_team, iteration {len(history)}"
    do = "lower maporl.learning_rate or raise maporl.kl: the policies are collapsing"
    if entropy < settings.min_entropy:
        raise MedpipeError(
            got=f"an entropy of {entropy:.3f} nats per token", expected=f"at least maporl.min_entropy = {settings.min_entropy}",
            where=where, do=do,
        )  # fmt: skip
    if malformed > settings.max_malformed:
        raise MedpipeError(
            got=f"{malformed:.0%} malformed messages over the last iterations",
            expected=f"at most maporl.max_malformed = {settings.max_malformed:.0%}", where=where, do=do,
        )  # fmt: skip


# --- checkpoints: all four roles of one iteration, or none


def _save(checkpoints: Checkpoints, learners: Mapping[Role, Learner], progress: Progress) -> None:
    weights, moments, plain = {}, {}, {}
    for role, learner in learners.items():
        state = learner.optimizer.state_dict()
        tensors, others = split_optimizer(state["state"])
        weights |= {f"{role}/{name}": value for name, value in learner.weights().items()}
        moments |= {f"{role}/{name}": value for name, value in tensors.items()}
        plain[role] = {"groups": state["param_groups"], "others": others}
    documents = {"optimizers": plain, "progress": {name: getattr(progress, name) for name in ("history", "before", "resumed_from")}}
    checkpoints.save(len(progress.history), {"weights": weights, "optimizers": moments}, documents)


def _resume(checkpoints: Checkpoints, learners: Mapping[Role, Learner], job: Job) -> Progress:
    newest = checkpoints.newest()
    if newest is None:
        return Progress()
    weights, moments, plain = newest.tensors("weights"), newest.tensors("optimizers"), newest.document("optimizers")
    for role, learner in learners.items():
        with torch.no_grad():
            for name, value in learner.weights().items():
                value.copy_(weights[f"{role}/{name}"])
        own = {name.removeprefix(f"{role}/"): value for name, value in moments.items() if name.startswith(f"{role}/")}
        state = {"state": join_optimizer(own, plain[role]["others"]), "param_groups": plain[role]["groups"]}
        learner.optimizer.load_state_dict(state)
    progress = Progress(**newest.document("progress"))
    progress.resumed_from.append(newest.step)
    for number, row in enumerate(progress.history, 1):  # the log of the interrupted attempt is gone with its unfinished folder
        job.report.metrics(number, row)
    job.report.log(f"going on after iteration {newest.step}, from {newest.folder}")
    return progress


# --- what a person sees


def _outcome(job: Job, team: Team, progress: Progress, learning: int, rest_unchanged: bool) -> Outcome:
    from medpipe.evaluation.team_plots import write_team_plots

    settings, history = job.settings.maporl, progress.history
    distance = {role: _distance(team, role) for role in ROLES}
    gap, exact = max(row["on_policy_gap"] for row in history), is_exact(job)
    checks = (
        CheckResult(name="weights_moved_base_frozen", passed=min(distance.values()) > 0 and rest_unchanged,
                    description="every role's adapter moved; base and reference adapters did not, bit for bit",
                    values={**{f"moved_{role}": f"{d:.3e}" for role, d in distance.items()}, "rest_unchanged": rest_unchanged}),
        CheckResult(name="on_policy", passed=gap < ON_POLICY_TOLERANCE or not exact, description="drawn and scored log-probabilities agree",
                    values={"largest_difference": f"{gap:.2e}", "enforced": exact}),
    )  # fmt: skip
    first, last = history[0], history[-1]
    stats = {
        "iterations": settings.iterations, "episodes_per_iteration": settings.questions_per_iteration * settings.samples_per_question,
        "verifier": settings.verifier, "advantage": settings.advantage, "placement": settings.placement,
        "team_reward_first": round(first["reward/team"], 4), "team_reward_last": round(last["reward/team"], 4),
        "kl_last": round(last["kl"], 6), "malformed_last": round(last["malformed"], 4), "device": job.device,
        "learning_tensors": learning, "seconds": round(sum(row["seconds"] for row in history), 1),
        "resumed_from_iterations": ", ".join(map(str, progress.resumed_from)) or "never interrupted",
    }  # fmt: skip
    store.write_json(job.out / "training_stats.json", {**stats, "moved": distance})
    trained = {role: store.read_json(job.inputs[f"models/{role}"] / "training_stats.json") for role in ROLES}
    store.write_json(job.out / "training_results.json", {"roles": trained, "maporl_team": {**stats, "moved": distance}, "notice": NOTICE})
    workflow = {"workflow": " → ".join((*ROLES, "judge")) + ", then another round or the end (picture: docs/maporl.md)"}
    drawn = write_team_plots(store.read_jsonl(job.out / "metrics.jsonl"), job.out)
    plots = {f"{Path(plot['image']).stem} by iteration": plot for plot in drawn}
    exports = {"training_results.json": job.settings.outputs / "training_results.json"}
    return Outcome({**stats, **workflow, **plots, "moved (L2)": {"table": [distance]}}, checks, exports)


def _frozen_hash(team: Team) -> str:
    """Of everything that must not move: bases and reference adapters."""
    learning = {id(value) for role in ROLES for value in team.parameters(role).values()}
    rest = {
        f"{number}/{name}": value
        for number, policies in enumerate(team.everyone)
        for name, value in policies.model.named_parameters() if id(value) not in learning
    }  # fmt: skip
    return weights_hash(rest)


def _distance(team: Team, role: Role) -> float:
    """How far a role's adapter is from where it started, L2 over all its weights."""
    start = team.parameters(f"start_{role}")
    pairs = ((value, start[name.replace(f".{role}.", f".start_{role}.")]) for name, value in team.parameters(role).items())
    return float(sum((value.detach() - began.detach()).float().pow(2).sum() for value, began in pairs) ** 0.5)
