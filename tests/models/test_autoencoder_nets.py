"""Encoders and decoders: shapes for every size of image, and what is refused."""

import pytest
import torch

from genlab.errors import ConfigError
from genlab.nets.autoencoder import ConvConfig, decoder, encoder
from genlab.nets.mlp import MLP, MLPConfig

NETS = {
    "mlp": MLPConfig(hidden_dim=8, num_layers=2),
    "gated mlp": MLPConfig(hidden_dim=8, num_layers=1, activation="glu"),
    "mlp on tanh features": MLPConfig(hidden_dim=8, num_layers=1, tanh_features=True),
    "conv": ConvConfig(channels=(4, 6), hidden_dim=8),
    "conv without a fully connected layer": ConvConfig(channels=(4,), hidden_dim=0),
    "resnet": ConvConfig(channels=(4, 6), num_blocks=2, hidden_dim=8),
    "three strides": ConvConfig(channels=(4, 6, 5), num_blocks=1, hidden_dim=8),
}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 29, 31), (1, 9, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize("batch", [1, 3])
def test_images_become_vectors_and_vectors_images(net, shape, batch):
    assert encoder(net, shape, 10)(torch.rand(batch, *shape)).shape == (batch, 10)
    assert decoder(net, 5, shape)(torch.randn(batch, 5)).shape == (batch, *shape)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_every_pixel_counts_and_every_parameter_learns(net):
    torch.manual_seed(0)
    shape = (2, 16, 12)
    x = torch.rand(4, *shape, requires_grad=True)
    down, up = encoder(net, shape, 6), decoder(net, 6, shape)
    image = up(down(x))
    gradients = torch.autograd.grad(image.square().sum(), [x, *down.parameters(), *up.parameters()])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
    if "relu" not in net.activation:
        assert (gradients[0] != 0).all()


def test_every_pixel_of_a_decoded_odd_image_depends_on_the_code():
    torch.manual_seed(0)
    up = decoder(NETS["conv"], 3, (1, 9, 11))
    a, b = up(torch.randn(2, 3))
    assert (a != b).all()


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 28)])
def test_an_image_that_cannot_be_halved_so_often_is_refused_in_one_line(size):
    with pytest.raises(ConfigError, match=f"3 strided convolutions are too many for {size[0]}x{size[1]}") as e:
        encoder(ConvConfig(channels=(2, 2, 2)), (1, *size), 4)
    assert "\n" not in str(e.value)


def test_the_smallest_image_that_can_be_halved_is_taken():
    shape = (1, 8, 15)
    net = ConvConfig(channels=(2, 2, 2), hidden_dim=0)
    assert encoder(net, shape, 4)(torch.rand(1, *shape)).shape == (1, 4)
    assert decoder(net, 4, shape)(torch.rand(1, 4)).shape == (1, *shape)


def test_a_gated_layer_is_one_linear_map_times_the_sigmoid_of_another():
    torch.manual_seed(0)
    net, x = MLP(MLPConfig(hidden_dim=5, num_layers=1, activation="glu"), 3, 2), torch.randn(7, 3)
    first, _, last = net
    (a, b), (c, d) = first.weight.chunk(2), first.bias.chunk(2)
    gated = (x @ a.T + c) * torch.sigmoid(x @ b.T + d)
    assert torch.allclose(net(x), last(gated), atol=1e-6)


def test_tanh_features_stand_beside_the_input():
    net, x = MLP(MLPConfig(hidden_dim=5, num_layers=1, tanh_features=True), 3, 2), torch.randn(7, 3)
    assert torch.equal(net[0](x), torch.cat([x, torch.tanh(2 * x)], 1))
    assert net(x).shape == (7, 2)
