"""MAPoRL: the four fine-tuned roles are co-trained as a team under the medical reward (docs/maporl.md).

Made alone with `dagster asset materialize -m medpipe.definitions --select models/maporl_team`. Source: Park et al.,
arXiv 2502.18439. An iteration: play episodes on questions that fine-tuning has never seen, score every message, turn scores into
returns and advantages, and take a few PPO steps per role. The adapters that are kept are those that answered most of the held-back
training-side questions. The same code trains one agent alone, as a team of one role, on as many drawn tokens (models/agent_rl): the
baseline without which a gain means nothing. Randomness is drawn from (seed, iteration), so a run that was killed goes on from its
newest whole checkpoint and ends with the same bytes on a CPU. Left out: held-out questions (evaluation/ asks them afterwards).
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
from medpipe.models.adapters import AdapterModel, weights_hash
from medpipe.models.per_role import PerRole, devices_of_roles
from medpipe.schema import AGENT, ROLES, CheckResult, QAExample, Role
from medpipe.team.episode import Episode
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Headers, Team, rollout
from medpipe.training.advantages import Cell, flat_questions
from medpipe.training.checkpoint import Checkpoints, asked_to_stop, join_optimizer, split_optimizer
from medpipe.training.curriculum import Curriculum
from medpipe.training.measures import measure, tokens_of
from medpipe.training.ranks import current
from medpipe.training.update import TOLERANCE, Batch, learners_of, shaped, targets, update
from medpipe.training.verifiers import open_verifier

EXAMPLES = 2  # questions that are played before and after, greedily
COLLAPSED = 3  # iterations over which the share of malformed messages is averaged
KL_EVERY = 10  # iterations, where maporl.kl is 0 and the KL to the start is only told
LONE_ITERATIONS = 8  # at most, for each of the team's: it draws one message where the team draws four or more
LONE = "models/agent_rl"
Models = AdapterModel | PerRole


@dataclass
class Progress:
    """What a checkpoint keeps besides the weights."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row of numbers per iteration
    before: list[dict[str, Any]] = field(default_factory=list)  # transcripts
    resumed_from: list[int] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)  # last known pass rate by question
    times: dict[str, int] = field(default_factory=dict)  # how often each was asked
    drawn: int = 0  # tokens
    slowed: int = 0  # times that the learning rate was halved
    best: int = 0  # iteration whose adapters are the best so far; 0: the start
    best_accuracy: float = -1.0  # on the held-back questions; -1: not looked at yet


def run(job: Job) -> Outcome:
    """Co-train the team (or the lone agent), write an adapter folder per role, metrics by iteration, episodes before and after.

    Raises:
        MedpipeError: the co-training split is not known to be valid, a guard tripped (KL, entropy, malformed messages), or SIGTERM
            came (then a checkpoint was written first).
    """
    require_valid(job.inputs["splits/cotrain"], "splits/cotrain")
    return CoTraining(job).run()


class CoTraining:
    """One co-training from its inputs to its outcome."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings.maporl
        self.adapters: dict[Role, str] = {"reporter": AGENT} if job.name == LONE else {role: role for role in ROLES}
        self.ranks = current(job.device)
        self.models = self._load()
        rows = store.read_examples(job.inputs["splits/cotrain"])
        self.curriculum = Curriculum(rows, self.settings.select_questions, self.settings.choice_share, job.settings.seed)
        self.index = EvidenceIndex.load(job.inputs["splits/train"] / "evidence")
        self.verifier = open_verifier(job, self.models, store.read_examples(job.inputs["splits/train"]), self.adapters)
        self.learners = learners_of(self.models, self.adapters, self.settings)
        self.checkpoints = Checkpoints(job.scratch / "checkpoints", job.report.warn)
        self.best = self._weights()
        self.headers = Headers()

    def run(self) -> Outcome:
        """Train, keep the best adapters, and say what became of them."""
        frozen_before = self._frozen_hash()
        shown = self.curriculum.order(random.Random(f"{self.job.settings.seed}/examples"))[:EXAMPLES]
        self.progress = self._resume()
        if not self.progress.before:
            self.progress.before = self._examples(shown)
        if self.progress.best_accuracy < 0:
            self._select(0)
        with asked_to_stop() as asked:
            self._iterate(asked.is_set)
        learned: dict[Role, float] = {role: self._distance(role) for role in self.adapters}
        if self.settings.select_every:
            self._restore()
        after, frame = self._examples(shown), Frame(self.models.tokenizer)
        for role, adapter in self.adapters.items():
            folder = self.job.out / role if self.job.name != LONE else self.job.out
            self.models.of(adapter).save_adapter(adapter, folder, frame.invocation(role))
        self.models.tokenizer.save_pretrained(self.job.out)
        store.write_json(self.job.out / "examples.json", {"before": self.progress.before, "after": after})
        return self._outcome(learned, frozen_before == self._frozen_hash())

    # --- playing

    def _load(self) -> Models:
        """The roles and their frozen starts: on one shared base, or each role on a base and a device of its own."""
        job = self.job
        own: dict[Role, dict[str, Path]] = {
            role: dict.fromkeys((adapter, f"start_{adapter}"), job.inputs[f"models/{adapter}"]) for role, adapter in self.adapters.items()
        }
        if self.settings.placement == "per_role":
            devices = devices_of_roles(job.device)
            job.report.log("a base for each role: " + ", ".join(f"{role} on {devices[role]}" for role in own))
            return PerRole.load(job.inputs["models/base"], own, devices, job.settings.model)
        flat = {name: folder for names in own.values() for name, folder in names.items()}
        return AdapterModel.load(job.inputs["models/base"], flat, job.device, job.settings.model)

    def _team(self, temperature: float = 0.0, seed: int = 0, scored: bool = True, say: Callable[[str], None] | None = None) -> Team:
        generator = torch.Generator().manual_seed(seed)
        rules = self.job.settings.team
        if self.job.name == LONE:  # alone there is nobody to agree with: one message is the answer, as in its evaluation
            rules = rules.model_copy(update={"max_rounds_per_episode": 1})
        return Team(self.models, self.adapters, rules, temperature, generator, self.verifier if scored else None, say)

    def _begin(self, team: Team, questions: Sequence[QAExample], samples: int) -> list[Episode]:
        rules = self.job.settings.team
        found = self.index.for_questions(questions, rules.evidence_passages, rules.evidence_chars)
        episodes = team.begin(questions, [[passage.text for passage in passages] for passages in found], samples)
        for number, episode in enumerate(episodes):
            episode.evidence_from = origin_of(found[number // samples])
        return episodes

    def _play(self, questions: Sequence[QAExample], seed: int, say: Callable[[str], None]) -> list[Batch]:
        team, samples = self._team(self.settings.temperature, seed, say=say), self.settings.samples_per_question
        episodes = self._begin(team, questions, samples)
        if self.settings.credit == "episodes" or self.job.name == LONE:
            return [Batch(episodes, rollout(team, episodes, self.headers))]
        return self._tree(team, episodes, samples)

    def _tree(self, team: Team, episodes: list[Episode], samples: int) -> list[Batch]:
        """Alternatives of each role at one context: what the first sample of each question said up to that role.

        All alternatives of a question's role answer the same transcript, and each is continued once by the later roles.
        """
        batches: list[Batch] = []
        for place, role in enumerate(self.adapters):
            if place:
                stems = [episode for episode in batches[-1].episodes if episode.sample == 0]
                episodes = [_cut(stem, place, sample) for stem in stems for sample in range(samples)]
            batches.append(Batch(episodes, rollout(team, episodes, self.headers), learns=role))
        return batches

    def _examples(self, shown: Sequence[QAExample]) -> list[dict[str, Any]]:
        team = self._team()
        episodes = self._begin(team, shown, 1)
        rollout(team, episodes)
        return [episode.transcript() for episode in episodes]

    # --- training

    def _iterate(self, asked: Callable[[], bool]) -> None:
        job, settings, progress, ranks, saved = self.job, self.settings, self.progress, self.ranks, time.monotonic()
        budget = self._token_budget()
        most = settings.iterations * (1 if budget == 0 else LONE_ITERATIONS)
        exact = job.settings.model.quantization == "none"  # quantised products are rounded by what else is in a batch
        for iteration in range(len(progress.history), most):
            started = time.monotonic()

            def tell(text: str, done: int = iteration) -> None:
                job.report.progress(done, most, text)

            batches, goals, numbers = self._draw(iteration, tell)
            flat = flat_questions(goals)
            teaching = {cell: goal for cell, goal in goals.items() if cell.question not in flat}
            episodes = [episode for batch in batches for episode in batch.episodes]
            values = _mean_of(ranks.gather(measure(batches, goals, _shaping_of(batches, settings)))) | numbers
            if self._unparsed(values):
                self._restore()
                self._slow_down()
                job.report.warn(f"iteration {iteration + 1}: messages can't be used any more; the best adapters return, at half the rate")
            else:
                look = settings.kl == 0 and iteration % KL_EVERY == KL_EVERY - 1
                seed = f"{job.settings.seed}/update/{iteration}"
                values |= update(
                    self.learners, batches, teaching, settings, exact=exact, reference=look, seed=seed, on_role=tell, ranks=ranks
                )
            drawn, seconds = ranks.total(tokens_of(batches)), time.monotonic() - started
            progress.drawn += drawn
            values |= {"tokens_per_second": drawn / seconds, "seconds": seconds, "drawn": progress.drawn}
            del batches, goals, teaching  # keys and values of all episodes: gone before the next are played
            last = iteration + 1 == most or bool(budget and progress.drawn >= budget)
            if settings.select_every and (last or (iteration + 1) % settings.select_every == 0):
                values["selection"] = self._select(iteration + 1)
            job.report.metrics(iteration + 1, values)
            told = ranks.gather([episode.transcript(timed=True) for episode in episodes])
            job.report.episodes(iteration + 1, [transcript for part in told for transcript in part])
            job.report.progress(most if last else iteration + 1, most, _line(values))
            progress.history.append(values)
            _guard(progress.history, settings, job.name)
            stop, due = ranks.total(int(asked())) > 0, time.monotonic() - saved >= settings.checkpoint_seconds  # one for all
            if not last and not ranks.index and (stop or due):
                self._save()
                saved = time.monotonic()
            if last:
                break
            if stop:
                raise MedpipeError(
                    got="the signal SIGTERM", expected=f"{most} iterations",
                    where=f"{job.name}, after iteration {iteration + 1}",
                    do="materialise it again: a checkpoint was written and the training goes on from it",
                )  # fmt: skip

    def _draw(self, iteration: int, say: Callable[[str], None]) -> tuple[list[Batch], dict[Cell, float], dict[str, float]]:
        """Play an iteration's questions, and further ones in the place of those on which all samples fared alike."""
        settings, job = self.settings, self.job
        draw = random.Random(f"{job.settings.seed}/maporl/{iteration}")
        seed = draw.getrandbits(62) + self.ranks.index
        waiting = self.ranks.part(self.curriculum.order(draw))
        wanted = len(self.ranks.part(range(settings.questions_per_iteration)))
        spare, batches, goals, asked = round(settings.redraw * wanted), [], {}, 0
        while wanted and waiting:
            questions, waiting = waiting[:wanted], waiting[wanted:]
            asked += len(questions)
            played = self._play(questions, seed + len(batches), say)
            found = {cell: goal for batch in played for cell, goal in targets(batch, settings, job.settings.rewards).items()}
            batches += played
            goals |= found
            wanted = min(len(flat_questions(found)), spare)
            spare -= wanted
        rates = {name: rate for part in self.ranks.gather(_pass_rates(batches)) for name, rate in part.items()}
        self.curriculum.learned(rates)
        self.progress.rates, self.progress.times = self.curriculum.rates, self.curriculum.times
        return batches, goals, {"flat": fmean(self.ranks.gather(len(flat_questions(goals)) / asked)), "questions": self.ranks.total(asked)}

    def _token_budget(self) -> int:
        """Tokens that the lone agent may draw: as many as the team did. 0 for the team: its iterations decide."""
        if self.job.name != LONE:
            return 0
        return int(store.read_json(self.job.inputs["models/maporl_team"] / "training_stats.json")["drawn_tokens"])

    def _select(self, iteration: int) -> float:
        """Ask the held-back questions, greedily; keep the adapters if they answer more of them than the best before."""
        if not self.settings.select_every or not self.curriculum.selection:
            return 0.0
        team = self._team(scored=False)
        self.job.report.log(f"iteration {iteration}: asking {len(self.curriculum.selection)} held-back training-side questions")
        episodes = self._begin(team, self.curriculum.selection, 1)
        size = max(1, self.settings.questions_per_iteration * 2)
        for start in range(0, len(episodes), size):
            rollout(team, episodes[start : start + size])
        accuracy = fmean(e.final.answer == e.question.answer for e in episodes)
        if accuracy > self.progress.best_accuracy:
            self.progress.best, self.progress.best_accuracy, self.best = iteration, accuracy, self._weights()
        self.job.report.log(f"iteration {iteration}: {accuracy:.3f} of them answered right")
        return accuracy

    def _unparsed(self, values: Mapping[str, float]) -> bool:
        return max(values[f"malformed/{role}"] for role in self.adapters) > self.settings.max_unparsed

    def _slow_down(self) -> None:
        self.progress.slowed += 1
        for learner in self.learners.values():
            learner.optimizer.state.clear()  # moments of steps that went wrong
            for group in learner.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate / 2**self.progress.slowed

    def _weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{role}/{name}": value.detach().clone()
            for role, adapter in self.adapters.items()
            for name, value in self.models.of(adapter).parameters(adapter).items()
        }

    @torch.no_grad()
    def _restore(self) -> None:
        """Give the adapters the weights that answered most of the held-back questions."""
        for role, adapter in self.adapters.items():
            for name, value in self.models.of(adapter).parameters(adapter).items():
                value.copy_(self.best[f"{role}/{name}"])

    # --- checkpoints: all roles of one iteration, or none

    def _save(self) -> None:
        weights, moments, plain = {}, {}, {}
        for role, learner in self.learners.items():
            state = learner.optimizer.state_dict()
            tensors, others = split_optimizer(state["state"])
            weights |= {f"{role}/{name}": value for name, value in learner.weights().items()}
            moments |= {f"{role}/{name}": value for name, value in tensors.items()}
            plain[role] = {"groups": state["param_groups"], "others": others}
        parts = {"weights": weights, "optimizers": moments, "best": self.best}
        self.checkpoints.save(len(self.progress.history), parts, {"optimizers": plain, "progress": vars(self.progress)})

    def _resume(self) -> Progress:
        newest = self.checkpoints.newest()
        if newest is None:
            return Progress()
        weights, moments, plain = newest.tensors("weights"), newest.tensors("optimizers"), newest.document("optimizers")
        for role, learner in self.learners.items():
            with torch.no_grad():
                for name, value in learner.weights().items():
                    value.copy_(weights[f"{role}/{name}"])
            own = {name.removeprefix(f"{role}/"): value for name, value in moments.items() if name.startswith(f"{role}/")}
            learner.optimizer.load_state_dict({"state": join_optimizer(own, plain[role]["others"]), "param_groups": plain[role]["groups"]})
        self.best = {name: value.to(self.best[name].device) for name, value in newest.tensors("best").items()}
        progress = Progress(**newest.document("progress"))
        progress.resumed_from.append(newest.step)
        self.curriculum.rates, self.curriculum.times = progress.rates, progress.times
        for number, row in enumerate(progress.history, 1):  # the log of the interrupted attempt is gone with its unfinished folder
            self.job.report.metrics(number, row)
        self.job.report.log(f"going on after iteration {newest.step}, from {newest.folder}")
        return progress

    # --- what a person sees

    def _outcome(self, learned: Mapping[Role, float], rest_unchanged: bool) -> Outcome:
        job, settings, history, progress = self.job, self.settings, self.progress.history, self.progress
        gaps = [row["on_policy_gap"] for row in history if "on_policy_gap" in row]
        dtype = self.models.of(next(iter(self.adapters.values()))).base.dtype
        exact = job.settings.model.quantization == "none"
        checks = (
            CheckResult(name="weights_moved_base_frozen", passed=min(learned.values()) > 0 and rest_unchanged,
                        description="every role's adapter moved while it learned; base and reference adapters did not, bit for bit",
                        values={**{f"moved_{role}": f"{d:.3e}" for role, d in learned.items()}, "rest_unchanged": rest_unchanged}),
            CheckResult(name="on_policy", passed=max(gaps, default=0.0) < TOLERANCE[dtype] or not exact,
                        description="drawn and scored log-probabilities agree",
                        values={"largest_difference": f"{max(gaps, default=0.0):.2e}", "tolerance": TOLERANCE[dtype], "enforced": exact}),
        )  # fmt: skip
        first, last = history[0], history[-1]
        stats = {
            "iterations": len(history), "episodes_per_iteration": settings.questions_per_iteration * settings.samples_per_question,
            "verifier": settings.verifier, "advantage": settings.advantage, "credit": settings.credit, "placement": settings.placement,
            "team_share": settings.team_share, "kept_iteration": progress.best, "selection_accuracy": round(progress.best_accuracy, 4),
            "selection_questions": len(self.curriculum.selection), "drawn_tokens": progress.drawn, "rate_halved": progress.slowed,
            "team_reward_first": round(first["reward/team"], 4), "team_reward_last": round(last["reward/team"], 4),
            "malformed_last": round(last["malformed"], 4), "device": job.device, "precision": str(dtype).removeprefix("torch."),
            "seconds": round(sum(row["seconds"] for row in history), 1),
            "resumed_from_iterations": ", ".join(map(str, progress.resumed_from)) or "never interrupted",
        }  # fmt: skip
        store.write_json(job.out / "training_stats.json", {**stats, "moved": dict(learned)})
        exports = {}
        if job.name != LONE:
            trained = {role: store.read_json(job.inputs[f"models/{role}"] / "training_stats.json") for role in ROLES}
            results = {"roles": trained, "maporl_team": {**stats, "moved": dict(learned)}, "notice": NOTICE}
            store.write_json(job.out / "training_results.json", results)
            exports = {"training_results.json": job.settings.outputs / "training_results.json"}
        from medpipe.evaluation.team_plots import write_team_plots

        drawn = write_team_plots(store.read_jsonl(job.out / "metrics.jsonl"), job.out)
        plots = {f"{Path(plot['image']).stem} by iteration": plot for plot in drawn}
        return Outcome({**stats, **plots, "moved (L2)": {"table": [dict(learned)]}}, checks, exports)

    def _frozen_hash(self) -> str:
        """Of everything that must not move: bases and reference adapters."""
        learning = {id(value) for learner in self.learners.values() for value in learner.weights().values()}
        rest = {
            f"{number}/{name}": value
            for number, model in enumerate(self.models.everyone)
            for name, value in model.model.named_parameters() if id(value) not in learning
        }  # fmt: skip
        return weights_hash(rest)

    def _distance(self, role: Role) -> float:
        """How far a role's adapter is from where it started, L2 over all its weights."""
        adapter = self.adapters[role]
        model = self.models.of(adapter)
        start = model.parameters(f"start_{adapter}")
        pairs = ((v, start[name.replace(f".{adapter}.", f".start_{adapter}.")]) for name, v in model.parameters(adapter).items())
        return float(sum((value.detach() - began.detach()).float().pow(2).sum() for value, began in pairs) ** 0.5)


def _cut(stem: Episode, turns: int, sample: int) -> Episode:
    """The episode's first turns as the beginning of another sample."""
    kept = stem.turns[:turns]
    tokens = stem.tokens[: stem.turns[turns].start]
    return Episode(stem.question, stem.evidence, stem.header, sample, list(kept), tokens, evidence_from=stem.evidence_from)


def _pass_rates(batches: Sequence[Batch]) -> dict[str, float]:
    """Share of samples whose final answer was right, by multiple-choice question."""
    right: dict[str, list[bool]] = {}
    for batch in batches:
        for episode in batch.episodes:
            if episode.question.is_choice:
                right.setdefault(episode.question.id, []).append(episode.final.answer == episode.question.answer)
    return {name: fmean(answers) for name, answers in right.items()}


def _shaping_of(batches: Sequence[Batch], settings: Maporl) -> dict[Cell, float]:
    return {cell: bonus for batch in batches for cell, bonus in shaped(batch, settings).items()}


def _mean_of(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over processes of what each measured; a number that a process lacks is left out of its mean."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}


def _line(values: Mapping[str, float]) -> str:
    right = f"right {values['answer_accuracy']:.2f}, " if "answer_accuracy" in values else ""
    held = f", held back {values['selection']:.3f}" if "selection" in values else ""
    return f"{right}team reward {values['reward/team']:.3f}, malformed {values['malformed']:.2f}{held}"


def _guard(history: Sequence[Mapping[str, float]], settings: Maporl, where: str) -> None:
    """Stop a team that has collapsed: it says nearly the same whatever it is asked, or what it says can't be used."""
    entropy, malformed = history[-1].get("entropy"), fmean(row["malformed"] for row in history[-COLLAPSED:])
    where = f"{where}, iteration {len(history)}"
    do = "lower maporl.learning_rate or raise maporl.kl: the policies are collapsing"
    if entropy is not None and entropy < settings.min_entropy:
        raise MedpipeError(
            got=f"an entropy of {entropy:.3f} nats per token", expected=f"at least maporl.min_entropy = {settings.min_entropy}",
            where=where, do=do,
        )  # fmt: skip
    if malformed > settings.max_malformed:
        raise MedpipeError(
            got=f"{malformed:.0%} malformed messages over the last iterations",
            expected=f"at most maporl.max_malformed = {settings.max_malformed:.0%}", where=where, do=do,
        )  # fmt: skip
