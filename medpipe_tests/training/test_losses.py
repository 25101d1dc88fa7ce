"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.training.losses import kl_k3, ppo_clip

LOGPS = st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=9)


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor(ratios).log()


@pytest.mark.parametrize(
    ("ratios", "advantages", "loss", "clipped"),
    [
        ((1.0, 1.0), (2.0, -1.0), -0.5, 0.0),
        ((1.1,), (1.0,), -1.1, 0.0),
        ((1.5,), (1.0,), -1.2, 1.0),  # a gain is counted up to 1 + clip
        ((1.5,), (-1.0,), 1.5, 1.0),  # a loss is counted in full
        ((0.5,), (1.0,), -0.5, 1.0),
        ((0.5,), (-1.0,), 0.8, 1.0),
        ((1.5, 0.9), (1.0, 2.0), -(1.2 + 1.8) / 2, 0.5),
    ],
)
def test_the_clipped_surrogate(ratios: tuple[float, ...], advantages: tuple[float, ...], loss: float, clipped: float) -> None:
    found, share = ppo_clip(logs(*ratios), torch.zeros(len(ratios)), torch.tensor(advantages), 0.2)
    assert float(found) == pytest.approx(loss, abs=1e-6)
    assert float(share) == clipped


@pytest.mark.parametrize(
    ("advantage", "ratio", "direction"), [(1, 1.0, 1), (-1, 1.0, -1), (1, 1.5, 0), (-1, 0.5, 0), (-1, 1.5, -1), (1, 0.5, 1), (0, 1.0, 0)]
)
def test_a_step_down_the_gradient_moves_the_token_with_its_advantage(advantage: float, ratio: float, direction: int) -> None:
    logp = logs(ratio).requires_grad_()
    ppo_clip(logp, torch.zeros(1), torch.tensor([float(advantage)]), 0.2)[0].backward()
    assert logp.grad is not None and float(torch.sign(-logp.grad[0])) == direction


def test_at_the_first_step_the_gradient_is_the_plain_policy_gradient() -> None:
    old, advantages = torch.tensor([-1.0, -2.0, -3.0, -0.5]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    logp = old.clone().requires_grad_()
    ppo_clip(logp, old, advantages, 0.2)[0].backward()
    assert torch.allclose(logp.grad, -advantages / 4)  # type: ignore[arg-type]


def test_k3_by_hand() -> None:
    assert float(kl_k3(logs(0.5, 0.25), logs(0.25, 0.25))) == pytest.approx((0.5 - 1 - math.log(0.5)) / 2, abs=1e-6)


@given(pairs=LOGPS)
def test_k3_is_never_negative_and_zero_only_for_equals(pairs: list[tuple[float, float]]) -> None:
    logp, reference = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    assert float(kl_k3(logp, reference)) >= -1e-12
    assert float(kl_k3(logp, logp)) == 0.0


def test_k3_averages_to_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    drawn = torch.multinomial(p, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert float(kl_k3(p.log()[drawn], q.log()[drawn])) == pytest.approx(float((p * (p / q).log()).sum()), abs=0.01)


def test_k3_pulls_towards_the_reference() -> None:
    logp = torch.tensor([-1.0, -3.0], requires_grad=True)
    kl_k3(logp, torch.tensor([-2.0, -2.0])).backward()
    assert logp.grad is not None and torch.sign(-logp.grad).tolist() == [-1.0, 1.0]
