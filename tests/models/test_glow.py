"""Glow: the 1x1 convolution and its decomposition, initialisation, splits, what sizes it takes."""

import pytest
import torch
from flows import images, perturbed, slogdet

from genlab.errors import ConfigError
from genlab.models.glow import Glow, GlowConfig
from genlab.nets.bijections import ActNorm, AffineCoupling
from genlab.nets.invertible_conv import InvertibleConv1x1
from genlab.nets.multiscale import FactorOut
from genlab.types import Batch, DataSpec


def _small(spec: DataSpec, **settings: object) -> Glow:
    torch.manual_seed(0)
    settings = {"num_scales": 2, "num_flows": 2, "hidden_channels": 4, **settings}
    return Glow(GlowConfig(**settings), spec)


# ------------------------------------------------------------------------------------ 1x1 convolution


def test_the_factors_multiply_to_the_rotation_that_they_came_from():
    for seed in range(5):
        torch.manual_seed(seed)
        conv = InvertibleConv1x1(6)
        torch.manual_seed(seed)
        rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
        assert torch.allclose(conv.weight().double(), rotation, atol=1e-6)


def test_a_rotation_preserves_volume_and_length():
    torch.manual_seed(0)
    x = torch.randn(3, 8, 2, 2)
    y, log_det = InvertibleConv1x1(8)(x)
    assert torch.allclose(log_det, torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.norm(dim=1), x.norm(dim=1), rtol=1e-5)


def test_the_convolution_has_the_log_determinant_of_its_jacobian_and_an_inverse():
    torch.manual_seed(0)
    conv = perturbed(InvertibleConv1x1(5), 0.3).double()
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    y, log_det = conv(x)
    assert torch.allclose(log_det, slogdet(conv, x), rtol=0, atol=1e-10)
    assert torch.allclose(conv.inverse(y), x, atol=1e-10)
    assert torch.allclose(y[0, :, 1, 2], conv.weight() @ x[0, :, 1, 2])


def test_permutation_and_signs_are_saved_but_not_learned():
    torch.manual_seed(0)
    conv, other = InvertibleConv1x1(6), InvertibleConv1x1(6)
    assert {name for name, _ in conv.named_parameters()} == {"lower", "upper", "log_scale"}
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other.weight(), conv.weight())


def test_weights_outside_of_the_triangles_change_nothing():
    torch.manual_seed(0)
    conv = InvertibleConv1x1(4)
    before = conv.weight()
    with torch.no_grad():
        conv.lower.add_(torch.ones(4, 4).triu())
        conv.upper.add_(torch.ones(4, 4).tril())
    assert torch.equal(conv.weight(), before)


def test_autocast_rounds_no_image():
    torch.manual_seed(0)
    conv, x = InvertibleConv1x1(4), torch.randn(2, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = conv(x)
        back = conv.inverse(y)
    assert torch.equal(y, conv(x)[0])
    assert torch.allclose(back, x, atol=1e-5)


# ---------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_comes_back_or_is_refused_in_words(channels):
    for height, width in {(h, w) for h in range(1, 13) for w in (1, 6, h)}:
        spec = DataSpec(channels, height, width)
        for num_scales in (1, 2, 3):
            if height % 2**num_scales == width % 2**num_scales == 0:
                flow = _small(spec, num_scales=num_scales, num_flows=1, hidden_channels=1)
                assert flow.latent_shape == (spec.dim,)
                assert torch.equal(flow.reconstruct(images(spec, 2)), images(spec, 2))
                continue
            with pytest.raises(ConfigError, match=r"model.num_scales=.* another dataset.image_size"):
                _small(spec, num_scales=num_scales)


def test_what_leaves_is_gaussian_given_what_goes_on():
    """Mean and scale of the half that leaves are read in the other, which decides nothing else."""
    flow = perturbed(_small(DataSpec(1, 4, 4), num_flows=1), 0.3)
    conditional, factor_out = flow.bijection.parts[-2:]
    assert isinstance(conditional, AffineCoupling)
    assert isinstance(factor_out, FactorOut)
    x = torch.randn(1, 4, 2, 2).expand(3, 4, 2, 2).clone()
    x[:, 2:] = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)  # same condition, three values of what leaves
    z = conditional(x)[0]
    assert torch.equal(z[:, :2], x[:, :2])
    left = z[:, 2:]
    assert torch.allclose((left[2] - left[0]) / (left[1] - left[0]), torch.full_like(left[0], 3.0), rtol=1e-3)
    assert not torch.allclose(left[1] - left[0], torch.ones_like(left[0]))


def test_a_new_glow_is_rotations_alone():
    flow, x = _small(DataSpec(1, 8, 8)), torch.randn(3, 1, 8, 8)
    z, log_det = flow.bijection(x)
    assert torch.allclose(log_det, torch.zeros(3), atol=1e-4)
    assert torch.allclose(z.norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-4)


def test_initialisation_normalises_every_actnorm_where_it_stands():
    flow = _small(DataSpec(1, 8, 8))
    flow.initialize(Batch(images(flow.spec, 256)))
    found = []
    for part in flow.modules():
        if isinstance(part, ActNorm):
            part.register_forward_hook(lambda _, x, out: found.append(out[0]))
    with torch.no_grad():
        flow.log_prob(images(flow.spec, 256))  # the same images with other noise
    assert len(found) == 4
    for y in found:
        assert y.mean((0, 2, 3)).abs().max() < 0.05
        assert (y.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_settings_reach_every_step():
    flow = _small(DataSpec(1, 8, 8), num_flows=3, scale_bound=1.5)
    bounds = [part.bound for part in flow.modules() if isinstance(part, AffineCoupling)]
    assert bounds == [1.5] * 7  # three steps at each of two scales, and the split between them
    assert sum(isinstance(part, InvertibleConv1x1) for part in flow.modules()) == 6


def test_samples_are_images_and_follow_the_seed():
    flow = perturbed(_small(DataSpec(3, 8, 8)), 0.05)
    first, same, other = (flow.sample(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == ((4, 3, 8, 8), torch.uint8)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
