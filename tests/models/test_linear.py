"""The fully connected layer computes what torch's does, whichever library multiplies."""

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from genlab.nets import linear
from genlab.nets.linear import Linear


@pytest.fixture(params=["onednn", "mkl"])
def layer(request, monkeypatch):
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", request.param == "onednn")
    torch.manual_seed(0)
    return Linear(160, 136)


def _twin(layer: nn.Linear) -> nn.Linear:
    twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    twin.load_state_dict(layer.state_dict())
    return twin


def _results(layer, x):
    y = layer(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    inputs = [x, *layer.parameters()]
    # The second derivative too: what a gradient penalty is made of.
    return [y, dx, *torch.autograd.grad(dx.square().sum() + y.sum(), inputs)]


@pytest.mark.parametrize("shape", [(32, 160), (1, 160), (2, 3, 5, 160), (0, 160)])
def test_values_and_gradients_are_those_of_torch(layer, shape):
    x = torch.randn(shape, requires_grad=True)
    for ours, theirs in zip(_results(layer, x), _results(_twin(layer), x), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_columns_of_a_wider_matrix_are_read_right(layer):
    wide = torch.randn(32, 400, requires_grad=True)
    ours, theirs = _results(layer, wide[:, 100:260]), _results(_twin(layer), wide[:, 100:260])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_it_has_a_jacobian_by_functional_transforms(layer):
    x = torch.randn(4, 160)
    jacobian = vmap(jacrev(layer))(x)
    torch.testing.assert_close(jacobian, layer.weight.expand(4, -1, -1))


def test_several_gradients_are_had_at_once(layer):
    x = torch.randn(1, 160, requires_grad=True)
    (rows,) = torch.autograd.grad(layer(x)[0], x, torch.eye(136), is_grads_batched=True)
    torch.testing.assert_close(rows[:, 0], layer.weight.detach())


def test_without_a_bias_and_with_frozen_weights(layer):
    bare = Linear(160, 136, bias=False).requires_grad_(False)
    x = torch.randn(8, 160, requires_grad=True)
    bare(x).sum().backward()
    torch.testing.assert_close(x.grad, bare.weight.sum(0).expand(8, -1))
    assert bare.weight.grad is None


def test_double_precision_stays_double(layer):
    x = torch.randn(8, 160, dtype=torch.float64)
    y = layer.double()(x)
    assert torch.equal(y, F.linear(x, layer.weight, layer.bias))


def test_bfloat16_by_autocast_is_left_to_torch(layer):
    x = torch.randn(8, 160)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), _twin(layer)(x))


def test_the_switch_of_onednn_is_obeyed(layer, monkeypatch):
    def refuse(*_):
        raise AssertionError("oneDNN was asked")

    monkeypatch.setattr(linear, "_onednn", refuse)
    with torch.backends.mkldnn.flags(enabled=False):
        layer(torch.randn(8, 160))
