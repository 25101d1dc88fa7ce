"""Value heads and token-level advantages: the `gae` choice of MAPoRL (docs/maporl.md, section 4).

A role's value head reads the hidden states of the role's own adapter, so that learning values moves the adapter too; the
head is thrown away after training, for nobody asks for values then. Source: Schulman et al. 2016, arXiv 1506.02438
(generalised advantage estimation); Schulman et al. 2017, arXiv 1707.06347 (clipped values, as in its authors' baselines).
Shape suffixes: N tokens of all messages in one row, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ValueHead(torch.nn.Module):
    """One number per token, fp32. It starts at zero everywhere: before it has learned, a value says nothing."""

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(hidden_size, 1, device=device)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Values, shape (N,)."""
        return self.linear(hidden_NH.float()).squeeze(-1)


def gae(values: Sequence[Sequence[float]], goals: Sequence[float], discount: float, decay: float) -> list[list[float]]:
    """Advantage of every token of every message.

    Args:
        values: v(s_k) before each token of a message, one list per message.
        goals: G of the message, paid at its last token; nothing is paid before.
        discount: γ between tokens; 1 in docs/maporl.md.
        decay: λ.
    """
    out = []
    for row, goal in zip(values, goals, strict=True):
        advantages = [0.0] * len(row)
        later = 0.0
        for k in range(len(row) - 1, -1, -1):
            after = goal if k == len(row) - 1 else discount * row[k + 1]
            later = after - row[k] + discount * decay * later
            advantages[k] = later
        out.append(advantages)
    return out


def value_loss(value_N: Tensor, old_N: Tensor, target_N: Tensor, clip: float) -> Tensor:
    """Half the squared error, of the value or of the value clipped to `clip` around the old one, whichever is larger; token mean."""
    clipped_N = old_N + (value_N - old_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_N - target_N).square(), (clipped_N - target_N).square()).mean()
