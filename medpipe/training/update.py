"""One MAPoRL update: from played episodes to targets, advantages and PPO steps per role (docs/maporl.md, sections 2 to 4).

Called by medpipe/training/maporl.py once an iteration. Old log-probabilities are those that were recorded while the messages
were drawn; the keys and values of what stands before a message are those of the rollout, which no step of an activated adapter
changes. Shape suffix: N completion tokens of a minibatch in one row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from medpipe.config import Maporl, Rewards
from medpipe.errors import MedpipeError
from medpipe.models.adapters import AdapterModel
from medpipe.models.adapters import Turn as Place
from medpipe.schema import Role
from medpipe.team.episode import Episode, Turn
from medpipe.team.transcript import Frame
from medpipe.team.workflow import Models, Readings
from medpipe.training.advantages import Cell, leave_one_out, normalise, whiten
from medpipe.training.losses import kl_k3, ppo_clip
from medpipe.training.ranks import ALONE, Ranks
from medpipe.training.returns import returns, shaping, with_team_share
from medpipe.training.values import ValueHead, gae, value_loss

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""|Δ log-probability| between drawing a token and scoring it again, by precision (docs/maporl.md, section 6): the largest of a pass
in fp32; in bf16 their mean, for there the log-probability of an unlikely token is rounded to several tenths of a nat."""
PER_ROLE = ("kl", "entropy", "clip_fraction", "on_policy_gap", "gradient_norm", "value_loss")


@dataclass(frozen=True)
class Batch:
    """Episodes that were played together, and what was read of them.

    `learns` names the one role whose first message is learned from, where the episodes are alternatives at one context
    (`maporl.credit: tree`); None: everything that was said.
    """

    episodes: list[Episode]
    readings: Readings
    learns: Role | None = None

    def cells(self, episode: Episode) -> list[tuple[Cell, Turn]]:
        """The messages of an episode that are learned from."""
        turns = [t for t in episode.turns if self.learns is None or (t.role == self.learns and t.round == 0)]
        return [(Cell(episode.question.id, episode.sample, turn.role, turn.round), turn) for turn in turns]


@dataclass
class Item:
    """A message and what it teaches: one advantage per token and, for `gae`, its old values and their targets."""

    batch: Batch
    row: int  # the episode's place in the batch
    cell: Cell
    turn: Turn
    advantage: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    value_targets: list[float] = field(default_factory=list)

    def place(self, frame: Frame) -> Place:
        """Where the message stands."""
        return Place(self.batch.episodes[self.row].before(self.turn), frame.invocation(self.turn.role), self.turn.tokens)


@dataclass(frozen=True)
class Learner:
    """One role's policy and what moves it; a value head only for `gae`."""

    role: Role
    adapter: str
    model: AdapterModel
    optimizer: torch.optim.Optimizer
    head: ValueHead | None = None

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """All that learns: the adapter, and the value head."""
        head = {f"value_head.{name}": value for name, value in self.head.named_parameters()} if self.head else {}
        return {**self.model.parameters(self.adapter), **head}


def learners_of(models: Models, adapters: Mapping[Role, str], settings: Maporl) -> dict[Role, Learner]:
    """A learner for each role, with AdamW on its adapter (and value head)."""
    out: dict[Role, Learner] = {}
    for role, adapter in adapters.items():
        own = models.of(adapter)
        head = ValueHead(own.base.config.hidden_size, own.device) if settings.advantage == "gae" else None
        weights = [*own.parameters(adapter).values(), *(head.parameters() if head else ())]
        out[role] = Learner(role, adapter, own, torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0), head)
    return out


def targets(batch: Batch, settings: Maporl, rewards: Rewards) -> dict[Cell, float]:
    """G of every cell that is learned from: return with the team's share, plus shaping, minus the own cell's malformed penalty."""
    out: dict[Cell, float] = {}
    bonuses = shaped(batch, settings)
    for episode in batch.episodes:
        grid = [[episode.turn(t, role) for role in episode.roles] for t in range(episode.rounds)]
        values = [[turn.scored for turn in row] for row in grid]
        own = returns(values, settings.gamma, [[not turn.malformed for turn in row] for row in grid])
        shared = with_team_share(own, episode.final.scored, settings.team_share)
        for cell, turn in batch.cells(episode):
            penalty = rewards.malformed_penalty if turn.malformed else 0.0
            out[cell] = shared[turn.round][episode.roles.index(turn.role)] + bonuses[cell] - penalty
    return out


def shaped(batch: Batch, settings: Maporl) -> dict[Cell, float]:
    """The influence shaping of every cell; zero on free-text questions, which have no correctness."""
    out: dict[Cell, float] = {}
    for episode in batch.episodes:
        bonus = [[0.0] * len(episode.roles) for _ in range(episode.rounds)]
        if episode.question.is_choice:
            bonus = shaping(episode.correct(), settings.alpha0, settings.alpha1, settings.beta0, settings.beta1)
        out |= {cell: bonus[turn.round][episode.roles.index(turn.role)] for cell, turn in batch.cells(episode)}
    return out


def update(
    learners: Mapping[Role, Learner], batches: Sequence[Batch], goals: Mapping[Cell, float], settings: Maporl, *, exact: bool = True,
    reference: bool = False, seed: str = "", on_role: Callable[[str], None] | None = None, ranks: Ranks = ALONE,
) -> dict[str, float]:  # fmt: skip
    """PPO steps of every role on its own messages; base and the other roles' adapters stay as they are.

    Args:
        learners: by role; where the reference is looked at, each one's model also holds "start_<adapter>", frozen.
        batches: of this process; with several, all take the steps that one process would take on all episodes.
        goals: G per cell, from `targets`; cells without one teach nothing and are left out.
        exact: enforce the on-policy invariant; otherwise the difference is only recorded (8-bit bases).
        reference: measure the KL to the reference though `maporl.kl` is 0.
        seed: of the order in which messages are shared out over the steps.
        on_role: told when a role has taken its steps.

    Raises:
        MedpipeError: the first step is not on-policy, or the KL guard tripped.
    """
    raw = leave_one_out(goals)
    numbers: dict[str, float] = {}
    for role, learner in learners.items():
        items = [
            Item(batch, row, cell, turn)
            for batch in batches
            for row, episode in enumerate(batch.episodes)
            for cell, turn in batch.cells(episode)
            if turn.role == role and cell in goals
        ]
        _value(learner, items, goals, raw, settings, ranks)
        found = _update_role(learner, items, settings, exact, reference, f"{seed}/{role}", ranks)
        numbers |= {f"{name}/{role}": (max if name == "on_policy_gap" else fmean)(values) for name, values in found.items() if values}
        if on_role:
            on_role(f"{role} took its steps")
    told = {name: [value for key, value in numbers.items() if key.startswith(f"{name}/")] for name in PER_ROLE}
    means = {name: (max if name == "on_policy_gap" else fmean)(values) for name, values in told.items() if values}
    if means.get("kl", 0.0) > settings.max_kl:
        raise MedpipeError(
            got=f"a KL of {means['kl']:.3f} nats per token to the starting policies", expected=f"at most maporl.max_kl = {settings.max_kl}",
            where="co-training", do="lower maporl.learning_rate or raise maporl.kl: the policies are collapsing",
        )  # fmt: skip
    return {**means, **{key: value for key, value in numbers.items() if key.startswith(("kl/", "entropy/"))}}


def _value(
    learner: Learner, items: Sequence[Item], goals: Mapping[Cell, float], raw: Mapping[Cell, float], settings: Maporl, ranks: Ranks
) -> None:
    """Give every item its advantages and, for `gae`, its old values and their targets."""
    if learner.head is None:
        scaled = _of_all_ranks([[item.cell.round, raw[item.cell]] for item in items], normalise, learner.role, ranks)
        for item, advantage in zip(items, scaled, strict=True):
            item.advantage = [advantage] * len(item.turn.tokens)
        return
    values = _values(learner, items, settings)
    advantages = gae(values, [goals[item.cell] for item in items], 1.0, settings.gae_lambda)
    flat = [[item.cell.round, a] for item, row in zip(items, advantages, strict=True) for a in row]
    scaled = iter(_of_all_ranks(flat, whiten, learner.role, ranks))
    for item, row, old in zip(items, advantages, values, strict=True):
        item.advantage, item.values = [next(scaled) for _ in row], old
        item.value_targets = [a + v for a, v in zip(row, old, strict=True)]


def _of_all_ranks(
    own: list[list[Any]], scale: Callable[[Mapping[Cell, float]], dict[Cell, float]], role: Role, ranks: Ranks
) -> list[float]:
    """Advantages ([round, value] each) scaled by the spread of all processes' ones of the same round."""
    everyone = {
        Cell(rank, number, role, round_): value
        for rank, part in enumerate(ranks.gather(own)) for number, (round_, value) in enumerate(part)
    }  # fmt: skip
    scaled = scale(everyone)
    return [scaled[Cell(ranks.index, number, role, round_)] for number, (round_, _) in enumerate(own)]


def _update_role(
    learner: Learner, items: Sequence[Item], settings: Maporl, exact: bool, reference: bool, seed: str, ranks: Ranks
) -> dict[str, list[float]]:
    numbers: dict[str, list[float]] = {name: [] for name in PER_ROLE}
    looked_at = settings.kl > 0 or reference
    frozen = dict(zip(map(id, items), _logps(learner, f"start_{learner.adapter}", items, settings), strict=True)) if looked_at else {}
    for epoch in range(settings.epochs):
        for number, group in enumerate(_groups(items, settings.steps_per_batch, f"{seed}/{epoch}")):
            first = epoch == 0 and number == 0
            total = ranks.total(sum(len(item.turn.tokens) for item in group))
            learner.optimizer.zero_grad()
            for part in _passes(group, settings.minibatch):
                _backward(learner, part, total, settings, numbers, exact if first else None, [frozen[id(i)] for i in part if frozen])
            if not total:
                continue
            weights = list(learner.weights().values())
            ranks.sum_gradients(weights)
            numbers["gradient_norm"].append(torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip).item())
            learner.optimizer.step()
    return {name: [value for part in ranks.gather(values) for value in part] for name, values in numbers.items()}


def _groups(items: Sequence[Item], count: int, seed: str) -> list[list[Item]]:
    """The messages of each step, shared out at random; always `count` groups, so that all processes step together."""
    shuffled = random.Random(seed).sample(list(items), len(items))
    return [shuffled[number::count] for number in range(count)]


def _passes(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Cut a step's messages into passes: within one batch of episodes, messages behind contexts of like length together."""
    batches = {id(item.batch): item.batch for item in items}
    cut = []
    for key in batches:
        own = sorted((item for item in items if id(item.batch) == key), key=lambda item: item.turn.start)
        cut += [own[start : start + size] for start in range(0, len(own), size)]
    return cut


def _scored(learner: Learner, adapter: str, part: Sequence[Item], temperature: float) -> Any:
    frame = Frame(learner.model.tokenizer)
    batch = part[0].batch
    reading = batch.readings.held(learner.model, learner.adapter) if learner.model.activated else None
    return learner.model.score(adapter, [item.place(frame) for item in part], reading, [item.row for item in part], temperature)


def _backward(
    learner: Learner, part: Sequence[Item], total: int, settings: Maporl, numbers: dict[str, list[float]], exact: bool | None,
    frozen: Sequence[torch.Tensor],
) -> None:  # fmt: skip
    """One pass: its share of the step's gradient. `exact` is None where the weights have moved since the messages were drawn."""
    model = learner.model
    with model.use(learner.adapter, train=True):
        scored = _scored(learner, learner.adapter, part, settings.temperature)
        old_N = _flat([item.turn.logps for item in part], model)
        gap = on_policy_gap(scored.logp_N.detach(), old_N, model.base.dtype)
        if exact is not None:
            _check_on_policy(learner.role, gap, model.base.dtype, exact)
            numbers["on_policy_gap"].append(gap)
        loss, clipped = ppo_clip(scored.logp_N, old_N, _flat([item.advantage for item in part], model), settings.clip)
        if frozen:
            kl = kl_k3(scored.logp_N, torch.cat(list(frozen)))
            numbers["kl"].append(kl.item())
            loss = loss + settings.kl * kl
        if learner.head is not None:
            was_N, goal_N = (_flat([getattr(item, name) for item in part], model) for name in ("values", "value_targets"))
            missed = value_loss(learner.head(scored.hidden_NH), was_N, goal_N, settings.value_clip)
            loss = loss + settings.value_weight * missed
            numbers["value_loss"].append(missed.item())
        # Token mean over the role's whole step: each pass counts by its share of the tokens.
        (loss * (len(old_N) / total)).backward()
    numbers["entropy"].append(scored.entropy_N.mean().item())
    numbers["clip_fraction"].append(clipped.item())


@torch.no_grad()
def _logps(learner: Learner, adapter: str, items: Sequence[Item], settings: Maporl) -> list[torch.Tensor]:
    """Log-probabilities of each message's tokens under another adapter of the learner's model, in the items' order."""
    found: dict[int, torch.Tensor] = {}
    with learner.model.use(adapter):
        for part in _passes(items, settings.minibatch):
            scored = _scored(learner, adapter, part, settings.temperature)
            found |= dict(zip(map(id, part), scored.logp_N.split([len(item.turn.tokens) for item in part]), strict=True))
    return [found[id(item)] for item in items]


@torch.no_grad()
def _values(learner: Learner, items: Sequence[Item], settings: Maporl) -> list[list[float]]:
    """The values before this update, one per token of each message, in the items' order."""
    assert learner.head is not None, "values are asked for where a value head is"
    found: dict[int, list[float]] = {}
    with learner.model.use(learner.adapter):
        for part in _passes(items, settings.minibatch):
            scored = _scored(learner, learner.adapter, part, settings.temperature)
            rows = learner.head(scored.hidden_NH).split([len(item.turn.tokens) for item in part])
            found |= {id(item): row.tolist() for item, row in zip(part, rows, strict=True)}
    return [found[id(item)] for item in items]


def _flat(rows: Sequence[Sequence[float]], model: AdapterModel) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], device=model.device)


def on_policy_gap(scored_N: torch.Tensor, drawn_N: torch.Tensor, dtype: torch.dtype) -> float:
    """How far scoring is from drawing, as TOLERANCE measures it in this precision; nats."""
    apart_N = (scored_N - drawn_N).abs()
    return (apart_N.max() if dtype == torch.float32 else apart_N.mean()).item()


def _check_on_policy(role: Role, gap: float, dtype: torch.dtype, exact: bool) -> None:
    if exact and gap >= TOLERANCE[dtype]:
        raise MedpipeError(
            got=f"a log-probability difference of {gap:.2e} between drawing and scoring a token",
            expected=f"below {TOLERANCE[dtype]:.0e} before the first step", where=f"co-training, role {role}",
            do="report this as a bug: sampling and training disagree (temperature, padding, end token or adapter)",
        )  # fmt: skip
