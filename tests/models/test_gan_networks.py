"""Generators and discriminators: the layers of the table, and any size of image."""

import pytest
import torch
from players import NETS, SPEC, build, images, noise, of_nets
from torch import nn

from genlab.errors import ConfigError
from genlab.types import DataSpec, Samples

DCGAN_GENERATOR = [
    (nn.ConvTranspose2d, 100, 128, 7, 1, 0),
    (nn.BatchNorm2d, 128),
    (nn.ReLU,),
    (nn.ConvTranspose2d, 128, 64, 4, 2, 1),
    (nn.BatchNorm2d, 64),
    (nn.ReLU,),
    (nn.ConvTranspose2d, 64, 1, 4, 2, 1),
    (nn.Sigmoid,),
]
DCGAN_DISCRIMINATOR = [
    (nn.Conv2d, 1, 64, 4, 2, 1),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 64, 128, 4, 2, 1),
    (nn.BatchNorm2d, 128),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 128, 256, 4, 2, 1),
    (nn.BatchNorm2d, 256),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 256, 512, 3, 1, 0),
    (nn.BatchNorm2d, 512),
    (nn.LeakyReLU, 0.2),
    (nn.Linear, 512, 1),
]


def described(net):
    """Its layers in the order of their calls, but for those that only reshape."""
    rows = []
    for layer in net.modules():
        match layer:
            case nn.Conv2d() | nn.ConvTranspose2d():
                sizes = []
                for value in (layer.kernel_size, layer.stride, layer.padding):
                    assert value[0] == value[1]
                    sizes.append(value[0])
                kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
                rows.append((kind, layer.in_channels, layer.out_channels, *sizes))
            case nn.Linear():
                rows.append((nn.Linear, layer.in_features, layer.out_features))
            case nn.BatchNorm2d():
                rows.append((nn.BatchNorm2d, layer.num_features))
            case nn.LeakyReLU():
                rows.append((nn.LeakyReLU, layer.negative_slope))
            case nn.ReLU() | nn.Sigmoid():
                rows.append((type(layer),))
            case _:
                assert not list(layer.parameters(recurse=False)), layer
    return rows


def sizes_after_convolutions(net, *inputs):
    """``(planes, height, width)`` in the order of the calls."""
    seen = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    net(*inputs)
    return seen


def test_the_networks_for_28x28_images_are_those_of_the_table():
    model = build(spec=DataSpec(1, 28, 28, 10))
    assert described(model.generator) == DCGAN_GENERATOR
    assert described(model.discriminator) == DCGAN_DISCRIMINATOR
    assert sizes_after_convolutions(model.generator, noise(model, 2)) == [
        (128, 7, 7),
        (64, 14, 14),
        (1, 28, 28),
    ]
    assert sizes_after_convolutions(model.discriminator, torch.rand(2, 1, 28, 28)) == [
        (64, 14, 14),
        (128, 7, 7),
        (256, 3, 3),
        (512, 1, 1),
        (1,),
    ]


def test_the_networks_for_28x28_images_have_as_many_parameters_as_the_table_says():
    """Kernels, two for each normalised plane, biases where there is no norm."""
    model = build(spec=DataSpec(1, 28, 28, 10))
    generator = 100 * 128 * 49 + 2 * 128 + 128 * 64 * 16 + 2 * 64 + (64 * 16 + 1)
    discriminator = (
        (64 * 16 + 64)
        + (64 * 128 * 16 + 2 * 128)
        + (128 * 256 * 16 + 2 * 256)
        + (256 * 512 * 9 + 2 * 512)
        + (512 + 1)
    )
    assert sum(p.numel() for p in model.generator.parameters()) == generator
    assert sum(p.numel() for p in model.discriminator.parameters()) == discriminator
    assert sum(p.numel() for p in model.parameters()) == generator + discriminator


def test_kernels_start_as_dcgan_has_them():
    """From N(0, 0.02), of which so many draws tell the deviation to a few per cent."""
    model = build(spec=DataSpec(1, 28, 28))
    for net in (model.generator, model.discriminator):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 32), (2, 9, 13)], ids=str)
@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
@pytest.mark.parametrize("net", NETS)
def test_every_generator_gives_images_of_any_size_on_its_scale(net, output, size):
    model = of_nets(net, "mlp", f"model.generator.output={output}", spec=DataSpec(*size))
    with torch.no_grad():
        made = model.generate(50 * noise(model, 4), None)  # far out, where it saturates
    assert made.shape == (4, *size)
    assert made.min() >= (-1 if output == "tanh" else 0)
    assert made.max() <= 1
    if output == "tanh":
        assert made.min() < 0
    sample = model.eval().sample(2)
    assert (sample.shape, sample.dtype) == ((2, *size), torch.uint8)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 32), (2, 9, 13)], ids=str)
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "spectral"])
@pytest.mark.parametrize("net", NETS)
def test_every_discriminator_gives_one_number_for_an_image_of_any_size(net, norm, size):
    model = of_nets("mlp", net, f"model.discriminator.norm={norm}", spec=DataSpec(*size))
    with torch.no_grad():
        values = model.eval().discriminator(torch.rand(4, *size))
    assert (values.shape, values.dtype) == ((4,), torch.float32)
    assert values.isfinite().all()
    assert values.std() > 0


@pytest.mark.parametrize("discriminator", NETS)
@pytest.mark.parametrize("generator", NETS)
def test_every_pair_of_networks_plays(generator, discriminator):
    model, batch = of_nets(generator, discriminator), images()
    model.initialize(batch)
    assert isinstance(model, Samples)
    assert [u.group for u in model.updates(batch, "train", 0)] == ["discriminator", "generator"]
    assert model.eval().sample(3).shape == (3, *SPEC.shape)


@pytest.mark.parametrize(
    ("net", "size"), [("dcgan", (1, 7, 28)), ("dcgan", (3, 9, 5)), ("resnet", (1, 4, 4))], ids=str
)
def test_images_too_small_for_the_discriminator_are_refused_in_one_line(net, size):
    with pytest.raises(ConfigError, match=r"model\.discriminator\.channels: 3 halvings are too many") as error:
        of_nets("mlp", net, spec=DataSpec(*size))
    assert f"{size[1]}x{size[2]}" in str(error.value)
    assert "\n" not in str(error.value)
