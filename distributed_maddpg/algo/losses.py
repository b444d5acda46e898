"""The equations of MADDPG as pure functions. Source: Lowe et al. 2017 (arXiv:1706.02275)."""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(rewards: Tensor, discounts: Tensor, next_q: Tensor) -> Tensor:
    """Return the target y = r + discount * Q'(x', a').

    Args:
        rewards: [N, B] reward of each agent, discounted and summed over the steps that led to x'.
        discounts: [N, B] gamma to the power of the number of these steps; 0 if the agent's episode terminated
            (not if it was truncated).
        next_q: [N, B] target critics at the next joint observation and the target policies' actions.

    Returns:
        [N, B], without gradient.

    Raises:
        ValueError: if the shapes differ ([B] and [B, 1] would broadcast silently).
    """
    if not rewards.shape == discounts.shape == next_q.shape:
        raise ValueError(
            f"shapes differ: rewards {tuple(rewards.shape)}, discounts {tuple(discounts.shape)}, "
            f"next_q {tuple(next_q.shape)}"
        )
    return (rewards + discounts * next_q).detach()


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared TD error of each critic, eq. 6.

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
    """Return minus each critic's mean value of its own agent's action, plus a regulariser; eq. 5 as a loss.

    Args:
        q: [N, B] values of the current policies' own actions.
        regularised: [N, A, B] what the regulariser keeps small: logits (openai/maddpg) or actions (the
            notebook).
        valid: [N, A, 1] 1.0 in an agent's own rows, 0.0 in padding.
        weight: factor of the mean square.

    Returns:
        [N].
    """
    square = (regularised.square() * valid).sum(dim=1).mean(dim=1) / valid.sum(dim=(1, 2))
    return weight * square - q.mean(dim=1)


def information_loss(differences: Tensor) -> Tensor:
    """Return the mean squared distance between actions and those with another private part, `[N]`.

    Args:
        differences: [N, A, R] of the two actions of each row, without noise; zero in padding.
    """
    return differences.square().sum(dim=1).mean(dim=1)


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Convert uniform numbers u in [0, 1) to standard Gumbel noise g = -log(-log u), in place.

    The floor keeps a draw of 0 finite. Jang et al. 2017 (arXiv:1611.01144), eq. 1.
    """
    return uniform.clamp_min_(1e-30).log_().neg_().log_().neg_()


def smoothing_noise(normal: Tensor, deviation: float) -> Tensor:
    """Convert standard normal numbers to the clipped noise of target actions, in place.

    Fujimoto et al. 2018 (arXiv:1802.09477), eq. 14.
    """
    return normal.mul_(deviation).clamp_(-2.5 * deviation, 2.5 * deviation)


def one_hot_like(relaxed: Tensor) -> Tensor:
    """Return one-hot vectors of the largest entries along axis 1 of `[N, A, B]`."""
    return torch.zeros_like(relaxed).scatter_(1, relaxed.argmax(dim=1, keepdim=True), 1.0)


def straight_through(relaxed: Tensor) -> Tensor:
    """Return one-hot vectors of the largest entries, with the gradient of `relaxed`, `[N, A, B]`."""
    return (one_hot_like(relaxed) - relaxed).detach() + relaxed
