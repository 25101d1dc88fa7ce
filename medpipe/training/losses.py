"""The losses of co-training, each with its source. The value loss stands in medpipe/training/values.py."""

from __future__ import annotations

import torch
from torch import Tensor


def ppo_clip(logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate loss, token mean (Schulman et al. 2017, arXiv 1707.06347, eq. 7), and the share of clipped tokens."""
    ratio_N = (logp_N - old_N).exp()
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    loss = -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N).mean()
    return loss, (ratio_N != clipped_N).float().mean()


def kl_k3(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """Unbiased, never negative estimate of KL(policy ‖ reference) per token, nats (Schulman 2020, "Approximating KL divergence", k3)."""
    log_ratio_N = reference_N - logp_N
    return (log_ratio_N.exp() - 1 - log_ratio_N).mean()
