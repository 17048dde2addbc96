"""Matrix products in place of convolutions over the whole image: the same values and gradients."""

import pytest
import torch
from torch import nn

from genlab.nets.whole_image import ImageToPixel, PixelToImage

SIZE = (3, 2)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def _image_to_pixel():
    return ImageToPixel(5, 7, SIZE), nn.Conv2d.forward, torch.randn(4, 5, *SIZE, dtype=torch.float64)


def _pixel_to_image():
    return PixelToImage(5, 7, SIZE), nn.ConvTranspose2d.forward, torch.randn(4, 5, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("build", [_image_to_pixel, _pixel_to_image])
@pytest.mark.parametrize("of_weight", LAYOUTS, ids=str)
@pytest.mark.parametrize("of_image", LAYOUTS, ids=str)
def test_values_and_gradients_are_the_convolution_s(build, of_weight, of_image):
    torch.manual_seed(0)
    layer, convolution, x = build()
    layer.to(torch.float64).to(memory_format=of_weight)
    x = x.to(memory_format=of_image).requires_grad_()
    expected, found = convolution(layer, x), layer(x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    wanted, direction = [x, *layer.parameters()], torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, wanted, direction),
        torch.autograd.grad(expected, wanted, direction),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("build", [_image_to_pixel, _pixel_to_image])
def test_a_second_gradient_is_had(build):
    torch.manual_seed(0)
    layer, _, x = build()
    layer.to(torch.float64)
    assert torch.autograd.gradgradcheck(layer, x.requires_grad_())


@pytest.mark.parametrize("build", [_image_to_pixel, _pixel_to_image])
def test_its_gradient_lies_as_its_weight(build):
    layer, _, x = build()
    layer.to(torch.float64).to(memory_format=torch.channels_last)
    layer(x).square().sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_another_size_is_refused():
    with pytest.raises(RuntimeError):
        ImageToPixel(5, 7, SIZE)(torch.zeros(1, 5, 4, 4))
