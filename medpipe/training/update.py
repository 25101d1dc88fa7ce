"""One MAPoRL update: from played episodes to targets, advantages and a PPO step per role (docs/maporl.md, sections 2 to 4).

Called by medpipe/training/maporl.py once an iteration. Old log-probabilities are those that were recorded while the messages
were drawn; nothing but the reference's (and, for `gae`, the values) is computed before the training pass.
Shape suffix: N completion tokens of a minibatch in one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from medpipe.config import Maporl, Rewards
from medpipe.errors import MedpipeError
from medpipe.models.policy import Policies
from medpipe.models.spread import Spread
from medpipe.schema import ROLES, Role
from medpipe.team.episode import Episode, Turn
from medpipe.training.advantages import Cell, leave_one_out, normalise, whiten, zero_variance_share
from medpipe.training.losses import kl_k3, ppo_clip
from medpipe.training.ranks import ALONE, Ranks
from medpipe.training.returns import returns, shaping
from medpipe.training.values import ValueHead, gae, value_loss

ON_POLICY_TOLERANCE = 1e-3
"""Largest |Δ log-probability| between drawing a token and scoring it again, in fp32 (docs/maporl.md, section 4)."""
PER_ROLE = ("kl", "entropy", "clip_fraction", "on_policy_gap", "gradient_norm", "value_loss")


@dataclass
class Item:
    """A message and what it teaches: one advantage per token and, for `gae`, its old values and their targets."""

    turn: Turn
    advantage: list[float]
    values: list[float] = field(default_factory=list)
    value_targets: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Learner:
    """One role's policy and what moves it; a value head only for `gae`."""

    role: Role
    policies: Policies
    optimizer: torch.optim.Optimizer
    head: ValueHead | None = None

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """All that learns: the adapter, and the value head."""
        head = {f"value_head.{name}": value for name, value in self.head.named_parameters()} if self.head else {}
        return {**self.policies.parameters(self.role), **head}


def learners_of(policies: Policies | Spread, settings: Maporl) -> dict[Role, Learner]:
    """A learner for each role, with AdamW on its adapter (and value head)."""
    out: dict[Role, Learner] = {}
    for role in ROLES:
        own = policies.of(role)
        head = ValueHead(own.base.config.hidden_size, own.device) if settings.advantage == "gae" else None
        weights = [*own.parameters(role).values(), *(head.parameters() if head else ())]
        out[role] = Learner(role, own, torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0), head)
    return out


def targets(episodes: Sequence[Episode], settings: Maporl, rewards: Rewards) -> dict[Cell, float]:
    """G of every cell that happened: return plus shaping, minus the own cell's malformed penalty."""
    out: dict[Cell, float] = {}
    bonuses = shaped(episodes, settings)
    for episode in episodes:
        grid = [[episode.turn(t, role) for role in ROLES] for t in range(episode.rounds)]
        values = returns([[turn.scored for turn in row] for row in grid], settings.gamma)
        for t, row in enumerate(grid):
            for a, turn in enumerate(row):
                penalty = rewards.malformed_penalty if turn.malformed else 0.0
                cell = Cell(episode.question.id, episode.sample, turn.role, t)
                out[cell] = values[t][a] + bonuses[cell] - penalty
    return out


def shaped(episodes: Sequence[Episode], settings: Maporl) -> dict[Cell, float]:
    """The influence shaping of every cell; zero on free-text questions, which have no correctness."""
    out: dict[Cell, float] = {}
    for episode in episodes:
        bonus = [[0.0] * len(ROLES) for _ in range(episode.rounds)]
        if episode.question.is_choice:
            bonus = shaping(episode.correct(), settings.alpha0, settings.alpha1, settings.beta0, settings.beta1)
        out |= {Cell(episode.question.id, episode.sample, role, t): row[a] for t, row in enumerate(bonus) for a, role in enumerate(ROLES)}
    return out


def update(
    learners: Mapping[Role, Learner], episodes: Sequence[Episode], goals: Mapping[Cell, float], settings: Maporl, exact: bool,
    on_role: Callable[[str], None] | None = None, ranks: Ranks = ALONE,
) -> dict[str, float]:  # fmt: skip
    """One PPO step of every role on its own messages; base and the other roles' adapters stay as they are.

    Args:
        learners: by role; each one's policies also hold "start_<role>", the frozen reference.
        episodes: of this process; with several, all take the step that one process would take on all episodes.
        goals: G per cell, from `targets`.
        exact: enforce the on-policy invariant (fp32); in half precision the difference is only recorded.
        on_role: told when a role has taken its step.

    Raises:
        MedpipeError: the first minibatch is not on-policy, or the KL guard tripped.
    """
    raw = leave_one_out(goals)
    numbers: dict[str, float] = {}
    for role, learner in learners.items():
        turns = [(episode, turn) for episode in episodes for turn in episode.turns if turn.role == role]
        turns = _in_order(turns)
        cells = [Cell(episode.question.id, episode.sample, role, turn.round) for episode, turn in turns]
        items = _items(learner, [turn for _, turn in turns], cells, goals, raw, settings, ranks)
        found = _update_role(learner, items, settings, exact, ranks)
        numbers |= {f"{name}/{role}": (max if name == "on_policy_gap" else fmean)(values) for name, values in found.items() if values}
        if on_role:
            on_role(f"{role} took its step")
    shares = [name for name in PER_ROLE if any(key.startswith(f"{name}/") for key in numbers)]
    whole = {name: [value for key, value in numbers.items() if key.startswith(f"{name}/")] for name in shares}
    means = {name: (max if name == "on_policy_gap" else fmean)(values) for name, values in whole.items()}
    if means["kl"] > settings.max_kl:
        raise MedpipeError(
            got=f"a KL of {means['kl']:.3f} nats per token to the starting policies", expected=f"at most maporl.max_kl = {settings.max_kl}",
            where="models/maporl_team", do="lower maporl.learning_rate or raise maporl.kl: the policies are collapsing",
        )  # fmt: skip
    told = {key: value for key, value in numbers.items() if key.startswith(("kl/", "entropy/"))}
    return {**means, **told, "zero_variance": fmean(ranks.gather(zero_variance_share(raw)))}


def _in_order(turns: Sequence[tuple[Episode, Turn]]) -> list[tuple[Episode, Turn]]:
    """The gradient is summed over the whole batch before its one step, so the order is free.

    Samples of one question and round stay together: what their prompts share is computed once. Like lengths then waste no padding.
    """
    groups: dict[tuple[str, int], list[tuple[Episode, Turn]]] = {}
    for episode, turn in turns:
        groups.setdefault((episode.question.id, turn.round), []).append((episode, turn))
    longest = sorted(groups.values(), key=lambda group: max(len(turn.prompt) + len(turn.tokens) for _, turn in group))
    return [pair for group in longest for pair in group]


def _items(
    learner: Learner, turns: Sequence[Turn], cells: Sequence[Cell], goals: Mapping[Cell, float], raw: Mapping[Cell, float],
    settings: Maporl, ranks: Ranks,
) -> list[Item]:  # fmt: skip
    if learner.head is None:
        own = [[cell.round, raw[cell]] for cell in cells]
        scaled = _of_all_ranks(own, normalise, learner.role, ranks)
        return [Item(turn, [advantage] * len(turn.tokens)) for turn, advantage in zip(turns, scaled, strict=True)]
    values = _values(learner, turns, settings)
    advantages = gae(values, [goals[cell] for cell in cells], 1.0, settings.gae_lambda)
    flat = [[cell.round, a] for cell, row in zip(cells, advantages, strict=True) for a in row]
    scaled = iter(_of_all_ranks(flat, whiten, learner.role, ranks))
    return [
        Item(turn, [next(scaled) for _ in row], old, [a + v for a, v in zip(row, old, strict=True)])
        for turn, row, old in zip(turns, advantages, values, strict=True)
    ]


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


def _update_role(learner: Learner, items: Sequence[Item], settings: Maporl, exact: bool, ranks: Ranks) -> dict[str, list[float]]:
    policies, role = learner.policies, learner.role
    reference = _reference_logps(learner, [item.turn for item in items], settings)
    numbers: dict[str, list[float]] = {name: [] for name in PER_ROLE}
    total = ranks.total(sum(len(item.turn.tokens) for item in items))
    for epoch in range(settings.epochs):
        learner.optimizer.zero_grad()
        for start in range(0, len(items), settings.minibatch):
            part = items[start : start + settings.minibatch]
            turns = [item.turn for item in part]
            with policies.use(role, train=True):
                scored = policies.score([t.prompt for t in turns], [t.tokens for t in turns], settings.temperature)
                old_N = _flat([t.logps for t in turns], policies)
                gap = (scored.logp_N.detach() - old_N).abs().max().item()
                if epoch == 0:
                    _check_on_policy(role, gap, exact)
                    numbers["on_policy_gap"].append(gap)
                loss, clipped = ppo_clip(scored.logp_N, old_N, _flat([item.advantage for item in part], policies), settings.clip)
                kl = kl_k3(scored.logp_N, torch.cat(reference[start : start + settings.minibatch]))
                loss = loss + settings.kl * kl
                if learner.head is not None:
                    value_N, (was_N, goal_N) = learner.head(scored.hidden_NH), (
                        _flat([getattr(item, name) for item in part], policies) for name in ("values", "value_targets")
                    )  # fmt: skip
                    missed = value_loss(value_N, was_N, goal_N, settings.value_clip)
                    loss = loss + settings.value_weight * missed
                    numbers["value_loss"].append(missed.item())
                # Token mean over the role's whole batch: each minibatch counts by its share of the tokens.
                (loss * (len(old_N) / total)).backward()
            numbers["kl"].append(kl.item())
            numbers["entropy"].append(scored.entropy_N.mean().item())
            numbers["clip_fraction"].append(clipped.item())
        weights = list(learner.weights().values())
        ranks.sum_gradients(weights)
        numbers["gradient_norm"].append(torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip).item())
        learner.optimizer.step()
    return {name: [value for part in ranks.gather(values) for value in part] for name, values in numbers.items()}


@torch.no_grad()
def _reference_logps(learner: Learner, turns: Sequence[Turn], settings: Maporl) -> list[torch.Tensor]:
    out: list[torch.Tensor] = []
    with learner.policies.use(f"start_{learner.role}"):
        for start in range(0, len(turns), settings.minibatch):
            part = turns[start : start + settings.minibatch]
            scored = learner.policies.score([t.prompt for t in part], [t.tokens for t in part], settings.temperature)
            out += scored.logp_N.split([len(t.tokens) for t in part])
    return out


@torch.no_grad()
def _values(learner: Learner, turns: Sequence[Turn], settings: Maporl) -> list[list[float]]:
    """The values before this update, one per token of each message."""
    assert learner.head is not None, "values are asked for where a value head is"
    out: list[list[float]] = []
    with learner.policies.use(learner.role):
        for start in range(0, len(turns), settings.minibatch):
            part = turns[start : start + settings.minibatch]
            scored = learner.policies.score([t.prompt for t in part], [t.tokens for t in part], settings.temperature)
            out += [row.tolist() for row in learner.head(scored.hidden_NH).split([len(t.tokens) for t in part])]
    return out


def _flat(rows: Sequence[Sequence[float]], policies: Policies) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], device=policies.device)


def _check_on_policy(role: Role, gap: float, exact: bool) -> None:
    if exact and gap >= ON_POLICY_TOLERANCE:
        raise MedpipeError(
            got=f"a log-probability difference of {gap:.2e} between drawing and scoring a token",
            expected=f"below {ON_POLICY_TOLERANCE:.0e} before the first step", where=f"models/maporl_team, role {role}",
            do="report this as a bug: sampling and training disagree (temperature, padding, end token or adapter)",
        )  # fmt: skip
