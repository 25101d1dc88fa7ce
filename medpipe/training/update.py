"""One MAPoRL update: from played episodes to targets, advantages and a PPO step per role (docs/maporl.md, sections 2 to 6).

Called by medpipe/training/maporl.py once an iteration. Left out: value heads (`gae`), several devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch

from medpipe.config import Maporl, Rewards
from medpipe.errors import MedpipeError
from medpipe.models.policy import Policies
from medpipe.schema import ROLES, Role
from medpipe.team.episode import Episode, Turn
from medpipe.training.advantages import Cell, leave_one_out, normalise, zero_variance_share
from medpipe.training.losses import kl_k3, ppo_clip
from medpipe.training.returns import returns, shaping

ON_POLICY_TOLERANCE = 1e-3
"""Largest |Δ log-probability| between drawing a token and scoring it again, in fp32 (docs/maporl.md, section 6)."""


def targets(episodes: Sequence[Episode], settings: Maporl, rewards: Rewards) -> dict[Cell, float]:
    """G of every cell that happened: return plus shaping, minus the own cell's malformed penalty."""
    out: dict[Cell, float] = {}
    for episode in episodes:
        grid = [[episode.turn(t, role) for role in ROLES] for t in range(episode.rounds)]
        values = returns([[_value(turn) for turn in row] for row in grid], settings.gamma)
        bonus = [[0.0] * len(ROLES) for _ in grid]
        if episode.question.is_choice:
            bonus = shaping(episode.correct(), settings.alpha0, settings.alpha1, settings.beta0, settings.beta1)
        for t, row in enumerate(grid):
            for a, turn in enumerate(row):
                penalty = rewards.malformed_penalty if turn.malformed else 0.0
                out[Cell(episode.question.id, episode.sample, turn.role, t)] = values[t][a] + bonus[t][a] - penalty
    return out


def update(
    policies: Policies, optimizers: Mapping[Role, torch.optim.Optimizer], episodes: Sequence[Episode], goals: Mapping[Cell, float],
    settings: Maporl, exact: bool, on_role: Callable[[str], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """One PPO step of every role on its own messages; base and the other roles' adapters stay as they are.

    Args:
        policies: adapters named by role (learning) and "start_<role>" (frozen reference).
        goals: G per cell, from `targets`.
        exact: enforce the on-policy invariant (fp32); in half precision the difference is only recorded.
        on_role: told when a role has taken its step.

    Raises:
        MedpipeError: the first minibatch is not on-policy, or the KL guard tripped.
    """
    raw = leave_one_out(goals)
    advantages = normalise(raw)
    numbers: dict[str, list[float]] = {name: [] for name in ("kl", "entropy", "clip_fraction", "on_policy_gap", "gradient_norm")}
    for role in ROLES:
        batch = [
            (turn, advantages[Cell(e.question.id, e.sample, role, turn.round)]) for e in episodes for turn in e.turns if turn.role == role
        ]
        # The gradient is summed over the whole batch before its one step, so the order is free: like lengths waste no padding.
        batch.sort(key=lambda item: len(item[0].prompt) + len(item[0].tokens))
        for name, values in _update_role(policies, role, optimizers[role], batch, settings, exact).items():
            numbers[name] += values
        if on_role:
            on_role(f"{role} took its step")
    means = {name: fmean(values) for name, values in numbers.items() if values}
    means["on_policy_gap"] = max(numbers["on_policy_gap"], default=0.0)
    if means["kl"] > settings.max_kl:
        raise MedpipeError(
            got=f"a KL of {means['kl']:.3f} nats per token to the starting policies", expected=f"at most maporl.max_kl = {settings.max_kl}",
            where="models/maporl_team", do="lower maporl.learning_rate or raise maporl.kl: the policies are collapsing",
        )  # fmt: skip
    return {**means, "zero_variance": zero_variance_share(raw)}


def _update_role(
    policies: Policies, role: Role, optimizer: torch.optim.Optimizer, batch: Sequence[tuple[Turn, float]], settings: Maporl,
    exact: bool,
) -> dict[str, list[float]]:  # fmt: skip
    reference = _reference_logps(policies, role, [turn for turn, _ in batch], settings)
    numbers: dict[str, list[float]] = {name: [] for name in ("kl", "entropy", "clip_fraction", "on_policy_gap", "gradient_norm")}
    total = sum(len(turn.tokens) for turn, _ in batch)
    for epoch in range(settings.epochs):
        optimizer.zero_grad()
        for start in range(0, len(batch), settings.minibatch):
            chosen = range(start, min(start + settings.minibatch, len(batch)))
            turns = [batch[i][0] for i in chosen]
            with policies.use(role, train=True):
                scored = policies.score([t.prompt for t in turns], [t.tokens for t in turns], settings.temperature)
                old_N = torch.tensor([p for t in turns for p in t.logps], device=policies.device)
                gap = (scored.logp_N.detach() - old_N).abs().max().item()
                if epoch == 0:
                    _check_on_policy(role, gap, exact)
                    numbers["on_policy_gap"].append(gap)
                advantage_N = torch.tensor([batch[i][1] for i in chosen], device=policies.device)[scored.row_N]
                loss, clipped = ppo_clip(scored.logp_N, old_N, advantage_N, settings.clip)
                reference_N = torch.cat([reference[i] for i in chosen])
                kl = kl_k3(scored.logp_N, reference_N)
                # Token mean over the role's whole batch: each minibatch counts by its share of the tokens.
                ((loss + settings.kl * kl) * (len(old_N) / total)).backward()
            numbers["kl"].append(kl.item())
            numbers["entropy"].append(scored.entropy_N.mean().item())
            numbers["clip_fraction"].append(clipped.item())
        norm = torch.nn.utils.clip_grad_norm_(list(policies.parameters(role).values()), settings.gradient_clip)
        numbers["gradient_norm"].append(norm.item())
        optimizer.step()
    return numbers


@torch.no_grad()
def _reference_logps(policies: Policies, role: Role, turns: Sequence[Turn], settings: Maporl) -> list[torch.Tensor]:
    out: list[torch.Tensor] = []
    with policies.use(f"start_{role}"):
        for start in range(0, len(turns), settings.minibatch):
            part = turns[start : start + settings.minibatch]
            scored = policies.score([t.prompt for t in part], [t.tokens for t in part], settings.temperature)
            out += scored.logp_N.split([len(t.tokens) for t in part])
    return out


def _check_on_policy(role: Role, gap: float, exact: bool) -> None:
    if exact and gap >= ON_POLICY_TOLERANCE:
        raise MedpipeError(
            got=f"a log-probability difference of {gap:.2e} between drawing and scoring a token",
            expected=f"below {ON_POLICY_TOLERANCE:.0e} before the first step", where=f"models/maporl_team, role {role}",
            do="report this as a bug: sampling and training disagree (temperature, padding, end token or adapter)",
        )  # fmt: skip


def _value(turn: Turn) -> float:
    if turn.value is None:
        raise ValueError(f"got no score for the {turn.role}'s message of round {turn.round}, expected V in [0, 1]: run the verifier first")
    return turn.value
