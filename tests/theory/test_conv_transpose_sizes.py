"""A transposed convolution's side is ``(H - 1) s - 2 p + k``, a convolution's ``(H + 2 p - k) // s + 1``."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from genlab.assemble import model_builder
from genlab.config import conf_dir
from genlab.types import DataSpec

KERNELS = [(7, 1, 0), (4, 2, 1), (3, 1, 0), (3, 2, 1), (5, 1, 2)]


@pytest.mark.parametrize(("k", "s", "p"), KERNELS)
@pytest.mark.parametrize("side", [1, 7, 14])
def test_a_transposed_convolution_enlarges(k, s, p, side):
    expected = (side - 1) * s - 2 * p + k
    assert nn.ConvTranspose2d(1, 1, k, s, p)(torch.zeros(1, 1, side, side)).shape[2:] == (expected, expected)


@pytest.mark.parametrize(("k", "s", "p"), KERNELS)
@pytest.mark.parametrize("side", [7, 14, 28])
def test_a_convolution_shrinks(k, s, p, side):
    expected = (side + 2 * p - k) // s + 1
    assert nn.Conv2d(1, 1, k, s, p)(torch.zeros(1, 1, side, side)).shape[2:] == (expected, expected)


@pytest.mark.parametrize("side", [7, 14, 28])
def test_k4_s2_p1_doubles_and_halves(side):
    enlarged = nn.ConvTranspose2d(1, 1, 4, 2, 1)(torch.zeros(1, 1, side, side))
    assert enlarged.shape[-1] == 2 * side
    assert nn.Conv2d(1, 1, 4, 2, 1)(enlarged).shape[-1] == side


def sides(net, x):
    """Of what each layer of convolution puts out."""
    found = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, y: found.append(y.shape[-1]))
    net(x)
    return found


def test_the_generator_goes_from_1_to_28_and_the_discriminator_back():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", ["model=gan", "run_name=test"]).model)
    model = model_builder(values)(DataSpec(1, 28, 28, 10))
    assert sides(model.generator, torch.zeros(2, 100)) == [7, 14, 28]
    assert sides(model.discriminator, torch.zeros(2, 1, 28, 28)) == [14, 7, 3, 1]
