import numpy as np
import pytest
import torch

from distributed_maddpg.layers import Activation, Layer, LayerNorm, Linear, Residual, apply, layer_sizes
from tests.support.networks import residual

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", torch.relu),
        ("leaky_relu", torch.nn.functional.leaky_relu),
        ("elu", torch.nn.functional.elu),
        ("silu", torch.nn.functional.silu),
        ("gelu", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
    ],
)
def test_an_activation_is_torchs_in_numpy_and_in_torch(name, expected):
    x = np.concatenate([X.ravel(), [0.0, 90.0, -90.0]]).astype(np.float32)
    for xp, own in ((np, x), (torch, torch.from_numpy(x))):
        out = Activation(name).forward(xp, [], own)
        np.testing.assert_allclose(out, expected(torch.from_numpy(x)), rtol=1e-5, atol=1e-6)
        assert str(out.dtype).endswith("float32")


def test_the_gradient_of_relu_is_torchs():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    (grad,) = torch.autograd.grad(Activation("relu").forward(torch, [], x).sum(), x)
    assert grad.tolist() == [0.0, 0.0, 1.0]


def test_layer_normalisation_is_torchs():
    scale, shift = (RNG.normal(size=(1, 6)).astype(np.float32) for _ in range(2))
    expected = torch.nn.functional.layer_norm(
        torch.from_numpy(X), (6,), torch.from_numpy(scale[0]), torch.from_numpy(shift[0])
    )
    np.testing.assert_allclose(LayerNorm().forward(np, [scale, shift], X), expected, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_is_torchs():
    layer = torch.nn.Linear(6, 5)
    weight, bias = (own.detach().numpy() for own in (layer.weight, layer.bias))
    out = Linear(5).forward(np, [weight.T, bias[None]], X)
    np.testing.assert_allclose(out, layer(torch.from_numpy(X)).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rule", "bound"), [("torch", 1 / np.sqrt(400)), ("glorot", np.sqrt(6 / 1000))])
def test_initial_weights_fill_their_bounds(rule, bound):
    weight, bias = Linear(600, rule).initial(400, np.random.default_rng(1))
    assert 0.999 * bound < np.abs(weight).max() <= bound
    assert np.abs(bias).max() <= (bound if rule == "torch" else 0.0)


def test_a_residual_block_adds_what_its_layers_make():
    layers = [Linear(8), Activation("tanh"), Linear(6)]
    parameters = Residual(*layers).initial(6, np.random.default_rng(2))
    assert [value.shape for value in parameters] == Residual(*layers).shapes(6)
    out = Residual(*layers).forward(np, parameters, X)
    np.testing.assert_array_equal(out, X + apply(layers, np, parameters, X))


def test_a_residual_block_that_changes_the_size_is_named():
    with pytest.raises(ValueError, match="Residual: its layers turn a size of 6 into 1"):
        layer_sizes([Residual(Linear(1))], 6)


def test_sizes_are_those_of_the_outputs():
    assert layer_sizes(residual("policy", 6, 2), 6) == [6, 12, 12, 12, 12, 12, 2]


def test_an_activation_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="there is no activation 'swish'; known: relu"):
        Activation("swish")


def test_a_layer_without_parameters_needs_only_forward():
    class Square(Layer):
        def forward(self, xp, parameters, x):
            return x * x

    assert Square().initial(3, RNG) == []
    np.testing.assert_array_equal(apply([Square(), Square()], np, [], X), (X * X) * (X * X))
