import torch

from distributed_maddpg.algo.adam import Adam


def test_adam_steps_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    expected = torch.nn.Parameter(values.clone())
    grad = torch.zeros_like(values)
    ours, theirs = Adam(values, grad, 0.01), torch.optim.Adam([expected], lr=0.01)
    for scale in (1.0, 1e-3, 0.0, 1e3):
        grad.copy_(scale * torch.randn(values.shape, generator=generator, dtype=torch.float64))
        expected.grad = grad.clone()
        ours.step()
        theirs.step()
        assert torch.allclose(values, expected, rtol=0, atol=1e-12)
    assert ours.steps == 4
