"""Token-level advantages and the value loss, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from medpipe.training.values import ValueHead, gae, value_loss


def test_gae_by_hand() -> None:
    # v = 0.2, 0.5, 0.4, paid 1 at the end, discount 1, decay 0.5: deltas 0.3, -0.1, 0.6
    assert gae([[0.2, 0.5, 0.4]], [1.0], 1.0, 0.5)[0] == pytest.approx([0.3 + 0.5 * (-0.1 + 0.5 * 0.6), -0.1 + 0.5 * 0.6, 0.6])


def test_with_decay_one_every_token_gets_what_was_paid_minus_its_value() -> None:
    assert gae([[0.2, 0.5, 0.4], [0.1]], [1.0, -1.0], 1.0, 1.0) == [pytest.approx([0.8, 0.5, 0.6]), pytest.approx([-1.1])]


def test_with_decay_zero_only_the_last_token_sees_the_pay() -> None:
    assert gae([[0.2, 0.5, 0.4]], [1.0], 1.0, 0.0)[0] == pytest.approx([0.3, -0.1, 0.6])


def test_a_value_may_not_be_paid_for_moving_beyond_the_clip() -> None:
    old, goal = torch.tensor([0.0]), torch.tensor([1.0])
    inside, beyond = torch.tensor([0.1], requires_grad=True), torch.tensor([0.6], requires_grad=True)
    assert value_loss(inside, old, goal, 0.2).item() == pytest.approx(0.5 * 0.9**2)
    loss = value_loss(beyond, old, goal, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 0.8**2) and beyond.grad is not None and beyond.grad.item() == 0.0


def test_a_fresh_head_values_everything_at_zero() -> None:
    assert ValueHead(8, torch.device("cpu"))(torch.randn(5, 8)).tolist() == [0.0] * 5
