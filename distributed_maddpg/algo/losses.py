"""The equations of MADDPG as pure functions (floor F2). Source: Lowe et al. 2017 (arXiv:1706.02275)."""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(rewards: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """One-step target y = r + gamma * (1 - terminated) * Q'(x', a').

    Args:
        rewards: [N, B] reward of each agent.
        terminated: [N, B] 1.0 where the agent's episode truly ended; a truncated one is bootstrapped.
        next_q: [N, B] target critics at the next joint observation and the target policies' actions.
        gamma: discount per environment step, in [0, 1].

    Returns:
        [N, B], without gradient.

    Raises:
        ValueError: if the shapes differ (a silent broadcast of [B] with [B, 1] is the classic bug).
    """
    if not rewards.shape == terminated.shape == next_q.shape:
        raise ValueError(
            f"shapes differ: rewards {tuple(rewards.shape)}, terminated {tuple(terminated.shape)}, "
            f"next_q {tuple(next_q.shape)}"
        )
    return (rewards + gamma * (1.0 - terminated) * next_q).detach()


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared TD error of each critic, eq. 6.

    Args:
        q: [N, B] values.
        target: [N, B] targets.

    Returns:
        [N].
    """
    if q.shape != target.shape:
        raise ValueError(f"shapes differ: q {tuple(q.shape)}, target {tuple(target.shape)}")
    return (q - target).square().mean(dim=1)


def actor_loss(q: Tensor, regularised: Tensor, valid: Tensor, weight: float) -> Tensor:
    """Minus each critic's mean value of its own agent's action, plus a regulariser; eq. 5 as a loss.

    Args:
        q: [N, B] values of the current policies' own actions.
        regularised: [N, B, A] what is kept small: logits (openai/maddpg) or actions (the notebook).
        valid: [N, 1, A] 1.0 at an agent's own columns, 0.0 at padding.
        weight: factor of the mean square.

    Returns:
        [N].
    """
    square = (regularised.square() * valid).sum(dim=2).mean(dim=1) / valid.sum(dim=(1, 2))
    return weight * square - q.mean(dim=1)


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise g = -log(-log u) in the shape of `like`.

    -log u is a standard exponential; the floor keeps a drawn zero finite. Jang et al. 2017
    (arXiv:1611.01144), eq. 1.
    """
    return -torch.empty_like(like).exponential_(generator=generator).clamp_min(1e-30).log()


def one_hot_like(relaxed: Tensor) -> Tensor:
    """Return the one-hot vector of the largest entry along the last axis, in the shape of `relaxed`."""
    return torch.zeros_like(relaxed).scatter_(-1, relaxed.argmax(dim=-1, keepdim=True), 1.0)


def straight_through(relaxed: Tensor) -> Tensor:
    """Return the one-hot of the largest entry in value, with the relaxed vector's gradient."""
    return (one_hot_like(relaxed) - relaxed).detach() + relaxed
