import math

import pytest
import torch

from distributed_maddpg.algo.losses import (
    actor_loss,
    critic_loss,
    gumbel_noise,
    one_hot_like,
    straight_through,
    td_target,
)


def test_td_target_adds_the_discounted_value():
    rewards = torch.tensor([[1.0, 1.0], [-2.0, 0.5]])
    discounts = torch.tensor([[0.9, 0.0], [0.9, 0.9]])
    next_q = torch.tensor([[10.0, 10.0], [4.0, -2.0]])
    target = td_target(rewards, discounts, next_q)
    assert torch.allclose(target, torch.tensor([[10.0, 1.0], [1.6, -1.3]]))


def test_td_target_carries_no_gradient():
    next_q = torch.ones(2, 3, requires_grad=True)
    assert not td_target(torch.zeros(2, 3), torch.zeros(2, 3), next_q).requires_grad


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_td_target_refuses_shapes_that_would_broadcast(odd):
    tensors = [torch.zeros(2, 3) for _ in range(3)]
    tensors[odd] = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"shapes differ: rewards .*\(2, 1\)|\(2, 1\)"):
        td_target(*tensors)


def test_critic_loss_is_the_mean_square_per_critic():
    q = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, -3.0]])
    assert critic_loss(q, target).tolist() == pytest.approx([13 / 3, 6.0])


def test_critic_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"q \(2, 3\), target \(2, 1\)"):
        critic_loss(torch.zeros(2, 3), torch.zeros(2, 1))


def test_critic_loss_gradient_by_finite_differences():
    q, target = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 3).double()
    assert torch.autograd.gradcheck(lambda values: critic_loss(values, target), q)


def test_actor_loss_averages_squares_over_an_agents_own_columns_only():
    q = torch.tensor([[2.0, 4.0], [1.0, -1.0]])
    regularised = torch.tensor([[[1.0, 3.0], [2.0, 4.0]], [[5.0, 1.0], [99.0, 99.0]]])
    valid = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])
    loss = actor_loss(q, regularised, valid, 0.1)
    assert loss.tolist() == pytest.approx([0.1 * 30 / 4 - 3.0, 0.1 * 26 / 2 - 0.0])


def test_actor_loss_gradient_by_finite_differences():
    q, logits = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (2, 2, 3))
    )
    valid = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]]).double()
    assert torch.autograd.gradcheck(lambda a, b: actor_loss(a, b, valid, 0.3), (q, logits))


def test_gumbel_noise_has_the_gumbel_distribution():
    noise = gumbel_noise(torch.rand(200_000, generator=torch.Generator().manual_seed(1)))
    for x in (-1.0, 0.0, 1.0, 3.0):
        assert (noise <= x).double().mean().item() == pytest.approx(math.exp(-math.exp(-x)), abs=5e-3)


def test_gumbel_noise_is_finite_at_both_ends_of_the_unit_interval():
    assert gumbel_noise(torch.tensor([0.0, 1.0 - 2**-24])).isfinite().all()


def test_one_hot_like_marks_the_largest_entry():
    relaxed = torch.tensor([[[0.2, 0.6], [0.5, 0.1], [0.3, 0.3]]])
    assert one_hot_like(relaxed).tolist() == [[[0, 1], [1, 0], [0, 0]]]


def test_straight_through_is_hard_forward_and_relaxed_backward():
    logits = torch.tensor([[[0.1], [0.7], [0.2]]], requires_grad=True)
    hard = straight_through(torch.softmax(logits, 1))
    assert hard.flatten().tolist() == [0, 1, 0]
    weights = torch.tensor([[[1.0], [2.0], [3.0]]])
    got = torch.autograd.grad((hard * weights).sum(), logits)[0]
    expected = torch.autograd.grad((torch.softmax(logits, 1) * weights).sum(), logits)[0]
    assert torch.allclose(got, expected)
