"""Rational-quadratic splines, their coupling, and the flow of them."""

import itertools

import pytest
import torch
from flows import CONV, NET, VARIANTS, images, log_det_of_images, mass, perturbed, slogdet
from staged import train_stage

from genlab.config import parse
from genlab.errors import ConfigError
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.models.spline_flow import SplineFlow, SplineFlowConfig
from genlab.nets.mlp import MLP
from genlab.nets.resnet import ResNet
from genlab.nets.splines import Spline, SplineConfig, SplineCoupling
from genlab.types import Batch, DataSpec

SPLINE = SplineConfig(num_bins=5, bound=3.0)


def _spline(config=SPLINE, scale=2.0, dtype=torch.float64, n=200):
    """One spline for each of ``n`` numbers, with knots anywhere."""
    generator = torch.Generator().manual_seed(0)
    raw = scale * torch.randn(n, config.num_parameters, generator=generator, dtype=torch.float64)
    return Spline.of(raw.to(dtype), config)


def _places(spline):
    """Inside, at every knot and both bounds, and beyond them: ``(P, n)``."""
    inside = torch.linspace(-spline.bound, spline.bound, 41, dtype=spline.x.dtype)
    beyond = spline.bound * torch.tensor([-1.001, -4.0, 1.001, 4.0], dtype=spline.x.dtype)
    everywhere = torch.cat([inside, beyond]).unsqueeze(1).expand(-1, len(spline.x))
    return torch.cat([everywhere, spline.x.T])


def _at(spline, places):
    """Every spline at each row of places."""
    return [torch.stack(rows) for rows in zip(*map(spline.forward, places), strict=True)]


def test_knots_are_met_and_ends_are_the_bounds():
    spline = _spline()
    y, log_slope = _at(spline, spline.x.T)
    torch.testing.assert_close(y, spline.y.T)
    torch.testing.assert_close(log_slope.exp(), spline.slope.T)
    for knots in (spline.x, spline.y):
        assert knots.shape == (200, 6)
        assert knots[:, 0].eq(-3).all()
        assert knots[:, -1].eq(3).all()


def test_the_slope_is_that_of_autograd_inside_at_and_beyond_the_bounds():
    spline = _spline()
    x = _places(spline).requires_grad_()
    y, log_slope = _at(spline, x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope.exp(), slope, rtol=1e-9, atol=1e-12)


def test_the_inverse_undoes_the_spline_inside_at_and_beyond_the_bounds():
    spline = _spline()
    x = _places(spline)
    back = torch.stack([spline.inverse(row) for row in _at(spline, x)[0]])
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


def test_the_inverse_error_is_small_in_float32():
    spline = _spline(SplineConfig(), scale=0.5, dtype=torch.float32)
    x = _places(spline)
    back = torch.stack([spline.inverse(row) for row in _at(spline, x)[0]])
    assert (back - x).abs().max() < 1e-4


def test_it_rises_everywhere_and_is_continuous_with_its_slope():
    spline = _spline(scale=1.0, n=20)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64).unsqueeze(1).expand(-1, 20)
    y, _ = _at(spline, x)
    assert y.diff(dim=0).min() > 0
    step = 1e-9  # the kink is in the second derivative alone
    knots = spline.x.T
    left, right = _at(spline, knots - step), _at(spline, knots + step)
    torch.testing.assert_close(left[0], right[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(left[1], right[1], rtol=0, atol=1e-6)


def test_beyond_the_bounds_it_is_the_identity():
    spline = _spline(n=4)
    x = torch.tensor([-3.5, 3.5, -14.0, 14.0], dtype=torch.float64)
    y, log_slope = spline.forward(x)
    assert torch.equal(x, y)
    assert log_slope.eq(0).all()
    assert torch.equal(spline.inverse(y), x)


@pytest.mark.parametrize("bins", [1, 8])
def test_zeros_give_the_identity(bins):
    config = SplineConfig(num_bins=bins)
    spline = Spline.of(torch.zeros(100, config.num_parameters, dtype=torch.float64), config)
    x = torch.linspace(-7, 7, 100, dtype=torch.float64)
    y, log_slope = spline.forward(x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_no_bin_and_no_slope_is_smaller_than_it_may_be():
    config = SplineConfig(num_bins=4, bound=2.0, min_bin_width=0.1, min_bin_height=0.05, min_derivative=0.2)
    raw = 1e3 * torch.randn(50, config.num_parameters, generator=torch.Generator().manual_seed(0)).double()
    spline = Spline.of(raw, config)
    assert spline.x.diff().min().item() == pytest.approx(4 * 0.1)
    assert spline.y.diff().min().item() == pytest.approx(4 * 0.05)
    assert spline.slope.min().item() == pytest.approx(0.2)


def test_gradients_are_finite_at_knots_and_far_beyond_the_bounds():
    raw = torch.randn(4, SPLINE.num_parameters, requires_grad=True)
    x = torch.tensor([-3.0, 3.0, -1e4, 1e4], requires_grad=True)
    y, log_slope = Spline.of(raw, SPLINE).forward(x)
    (y + log_slope).sum().backward()
    assert x.grad.isfinite().all()
    assert raw.grad.isfinite().all()
    assert raw.grad[2:].eq(0).all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_bins": 0}, "model.num_bins=0: input should be greater than or equal to 1"),
        ({"bound": 0}, "model.bound=0: input should be greater than 0"),
        ({"min_derivative": 1.0}, "model.min_derivative=1.0: input should be less than 1"),
        ({"num_bins": 10, "min_bin_width": 0.1}, "model: min_bin_width: 10 bins of such a size don't fit"),
        ({"num_bins": 10, "min_bin_height": 0.1}, "model: min_bin_height: 10 bins of such a size don't fit"),
    ],
)
def test_what_no_spline_can_be_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        parse(SplineConfig, settings, "model")


# ------------------------------------------------------------------ the coupling


COUPLINGS = {
    "vectors": ((7,), lambda out: MLP(NET, 3, out)),
    "images": ((7, 2, 2), lambda out: ResNet(CONV, 3, out)),
}


@pytest.fixture(params=COUPLINGS)
def coupling(request):
    """A coupling away from the identity, and inputs on both sides of its bounds."""
    shape, net = COUPLINGS[request.param]
    torch.manual_seed(0)
    made = SplineCoupling(net(4 * SPLINE.num_parameters), 3, SPLINE)
    for parameter in made.net[-1].parameters():
        torch.nn.init.normal_(parameter)
    return made.double(), 2.5 * torch.randn(3, *shape, dtype=torch.float64)


def test_the_inverse_undoes_the_coupling(coupling):
    coupling, x = coupling
    y, _ = coupling(x)
    assert (x[:, 3:].abs() > SPLINE.bound).any()
    assert (x[:, 3:].abs() < SPLINE.bound).any()
    assert torch.equal(y[:, :3], x[:, :3])
    assert not torch.allclose(y, x)
    torch.testing.assert_close(coupling.inverse(y), x, rtol=0, atol=1e-9)


def test_the_log_determinant_is_that_of_the_jacobian(coupling):
    coupling, x = coupling
    _, log_det = coupling(x)
    assert torch.allclose(log_det, slogdet(coupling, x), rtol=0, atol=1e-9)


def test_a_coupling_starts_as_the_identity():
    coupling = SplineCoupling(MLP(NET, 3, 3 * SPLINE.num_parameters), 3, SPLINE)
    x = 2 * torch.randn(50, 6)
    y, log_det = coupling(x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det, torch.zeros(50), rtol=0, atol=1e-5)


def test_under_autocast_the_spline_is_as_exact_as_without():
    coupling = SplineCoupling(MLP(NET, 3, 3 * SPLINE.num_parameters), 3, SPLINE)
    torch.nn.init.normal_(coupling.net[-1].weight)
    x = torch.randn(50, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = coupling(x)
        back = coupling.inverse(y)
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ the flow


@pytest.fixture(
    params=[*VARIANTS, (NET, "random", DataSpec(1, 1, 2))], ids=lambda v: f"{v[0].name}-{v[1]}-{v[2]}"
)
def flow(request):
    net, permutation, spec = request.param
    torch.manual_seed(0)
    config = SplineFlowConfig(net=net, permutation=permutation, num_flows=4, spline=SplineConfig())
    model = SplineFlow(config, spec)
    return perturbed(model, 0.1).eval()


def test_the_log_determinant_of_the_flow_is_that_of_its_jacobian(flow):
    flow, x = flow.double(), torch.rand(2, *flow.spec.shape, dtype=torch.float64) * 0.98 + 0.01
    _, terms = flow(x)
    assert torch.allclose(terms["log_det"], log_det_of_images(flow, x), rtol=0, atol=1e-6)


def test_images_come_back_from_their_codes(flow):
    flow.initialize(Batch(images(flow.spec, 256)))
    x = images(flow.spec)
    assert torch.equal(flow.reconstruct(x), x)
    y = torch.rand(64, *flow.spec.shape).logit(eps=1e-6)
    assert (flow.bijection.inverse(flow.bijection(y)[0]) - y).abs().max() < 1e-4


def test_the_density_integrates_to_one():
    torch.manual_seed(0)
    config = SplineFlowConfig(
        net=NET, permutation="reverse", num_flows=4, actnorm=False, spline=SplineConfig(bound=4.0)
    )
    flow = perturbed(SplineFlow(config, DataSpec(1, 1, 2)), 0.3).double()
    # Kinks of the second derivative leave the trapezoidal rule an error of the order of step^2.
    assert mass(flow, reach=8, points=401) == pytest.approx(1, abs=1e-3)


def test_initialisation_brings_pixels_into_the_bound():
    spec = DataSpec(1, 4, 4)
    torch.manual_seed(0)
    flow = SplineFlow(SplineFlowConfig(net=NET, num_flows=4, spline=SplineConfig()), spec)
    seen = []
    for part in flow.bijection.parts:
        if isinstance(part, SplineCoupling):
            part.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs[0])))
    flow.initialize(Batch(images(spec, 512)))
    assert len({module for module, _ in seen}) == 4
    shares = [(x.abs() <= module.config.bound).float().mean().item() for module, x in seen]
    assert min(shares) > 0.99


def test_a_flow_learns_two_modes_that_affine_couplings_smear():
    """One pixel of two levels in each image, the other noise: a spline finds both sides of the gap."""
    x = torch.randint(0, 256, (256, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    x[..., 1] = torch.where(x[..., 1] > 127, 225, 30) + x[..., 0] % 8
    batch = Batch(x.to(torch.uint8))
    settings = {"net": NET, "permutation": "reverse", "num_flows": 4}
    losses = []
    for build in (
        lambda spec: SplineFlow(SplineFlowConfig(**settings, spline=SplineConfig()), spec),
        lambda spec: RealNVP(RealNVPConfig(**settings), spec),
    ):
        torch.manual_seed(0)
        flow = build(DataSpec(1, 1, 2))
        flow.initialize(batch)
        losses.append(train_stage(flow, batch, "train", 60, lr=1e-2).loss.item())
    spline, affine = losses
    # The truth is log(256) + log(16) = 8.3 nats.
    assert 8.0 < spline < affine - 0.2


@pytest.mark.parametrize("shape", list(itertools.product([1, 3], [(1, 1), (1, 2), (5, 3)])))
def test_every_size_of_image_works_or_is_refused_in_one_line(shape):
    channels, (height, width) = shape
    spec = DataSpec(channels, height, width)
    config = SplineFlowConfig(net=NET, num_flows=4, spline=SPLINE)
    if spec.dim == 1:
        with pytest.raises(ConfigError, match="needs two halves, and the images are 1x1 grey"):
            SplineFlow(config, spec)
        return
    flow = SplineFlow(config, spec)
    assert flow.log_prob(images(spec)).isfinite().all()
    assert flow.sample(2).shape == (2, *spec.shape)
