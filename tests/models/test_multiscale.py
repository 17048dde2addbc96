"""Masks, couplings, batch norm, factoring out, and the multi-scale RealNVP that is made of them."""

import itertools

import pytest
import torch
from flows import images, perturbed, slogdet
from torch import nn

from genlab.errors import ConfigError
from genlab.models.realnvp_multiscale import RealNVPMultiscale, RealNVPMultiscaleConfig
from genlab.nets.batch_norm import InvertibleBatchNorm
from genlab.nets.bijections import ActNorm, Compose, Flatten, Squeeze
from genlab.nets.couplings import ChannelCoupling, MaskedCoupling, ScaleAndShift
from genlab.nets.masks import checkerboard, upper_rows
from genlab.nets.multiscale import FactorOut, SqueezeByPosition, sizes
from genlab.nets.resnet import NormalizedResNet
from genlab.types import DataSpec


def net(in_channels: int, channels: int, batch_norm: bool = True, weight_norm: bool = True) -> ScaleAndShift:
    return ScaleAndShift(NormalizedResNet(in_channels, 2 * channels, 4, 1, batch_norm, weight_norm), channels)


def small(spec: DataSpec, **settings: object) -> RealNVPMultiscale:
    torch.manual_seed(0)
    settings = {"num_scales": 2, "hidden_channels": 4, "num_blocks": 1, **settings}
    return RealNVPMultiscale(RealNVPMultiscaleConfig(**settings), spec)


CASES = {
    "masked coupling": (lambda: MaskedCoupling(net(3, 2), checkerboard(3, 4)), (2, 3, 4)),
    "masked coupling, other colour": (lambda: MaskedCoupling(net(3, 2), 1 - checkerboard(4, 3)), (2, 4, 3)),
    "coupling of rows": (lambda: MaskedCoupling(net(2, 1, batch_norm=False), upper_rows(5, 2)), (1, 5, 2)),
    "channel coupling": (lambda: ChannelCoupling(net(2, 2), shows_first=True), (4, 2, 3)),
    "channel coupling, swapped": (lambda: ChannelCoupling(net(2, 2), shows_first=False), (4, 3, 2)),
    "without weight norm": (
        lambda: ChannelCoupling(net(1, 1, weight_norm=False), shows_first=True),
        (2, 3, 3),
    ),
    "batch norm": (lambda: InvertibleBatchNorm(3), (3, 2, 2)),
    "squeeze by position": (lambda: SqueezeByPosition(), (2, 4, 2)),
    "factor out": (
        lambda: FactorOut(
            Compose([ChannelCoupling(net(1, 1), shows_first=True), Flatten((2, 2, 2))]), (4, 2, 2)
        ),
        (4, 2, 2),
    ),
    "multi-scale": (lambda: small(DataSpec(1, 4, 4)).bijection, (1, 4, 4)),
    "multi-scale of halves": (lambda: small(DataSpec(1, 4, 4), masks="halves").bijection, (1, 4, 4)),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    torch.manual_seed(0)
    build, shape = CASES[request.param]
    return perturbed(build()).double().eval(), torch.randn(3, *shape, dtype=torch.float64)


def test_the_inverse_undoes_the_map(case):
    bijection, x = case
    y, _ = bijection(x)
    assert not torch.allclose(y.flatten(1), x.flatten(1))
    assert torch.allclose(bijection.inverse(y), x, atol=1e-10)


def test_the_log_determinant_is_that_of_the_jacobian(case):
    bijection, x = case
    _, log_det = bijection(x)
    assert torch.allclose(log_det, slogdet(bijection, x), atol=1e-9)


def test_initialisation_gives_the_image_of_the_batch(case):
    bijection, x = case
    y = bijection.initialize(x)
    assert torch.allclose(y, bijection(x)[0])


# ------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("mask", [checkerboard, upper_rows])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (5, 4), (7, 7), (28, 28)])
def test_a_mask_shows_half_of_the_pixels(mask, height, width):
    pattern = mask(height, width)
    assert pattern.shape == (1, height, width)
    assert set(pattern.unique().tolist()) == {0.0, 1.0}
    assert abs(pattern.sum().item() - height * width / 2) <= max(0.5, width / 2 * (height % 2))


def test_neighbours_on_the_checkerboard_differ():
    board = checkerboard(5, 6)[0]
    assert (board[1:] + board[:-1] == 1).all()
    assert (board[:, 1:] + board[:, :-1] == 1).all()


@pytest.mark.parametrize("masks", ["checkerboard", "halves"])
def test_masks_alternate_from_coupling_to_coupling(masks):
    flow = small(DataSpec(1, 8, 8), masks=masks)
    for scale in (flow.bijection.parts, flow.bijection.parts[-1].rest.parts):
        shown = [part.mask for part in scale if isinstance(part, MaskedCoupling)]
        shown = [mask for mask in shown if mask.shape == shown[0].shape]
        assert len(shown) >= 3
        assert all(torch.equal(a + b, torch.ones_like(a)) for a, b in itertools.pairwise(shown))
    halves = [part.shows_first for part in flow.bijection.parts if isinstance(part, ChannelCoupling)]
    assert halves == ([True, False, True] if masks == "checkerboard" else [])


@pytest.mark.parametrize("mask", [checkerboard(4, 4), 1 - checkerboard(4, 4), upper_rows(4, 4)])
def test_what_the_mask_shows_stays_and_the_rest_never_reads_itself(mask):
    coupling = perturbed(MaskedCoupling(net(2, 1), mask)).eval()
    x = torch.randn(2, 1, 4, 4)
    y, _ = coupling(x)
    assert torch.equal(mask * y, mask * x)
    assert ((y != x) == (mask == 0)).all()
    other = x + 0.1 * (1 - mask) * torch.randn_like(x)
    assert torch.allclose(coupling(other)[1], coupling(x)[1])


@pytest.mark.parametrize("shows_first", [True, False])
def test_a_channel_coupling_leaves_the_half_that_it_shows(shows_first):
    coupling = perturbed(ChannelCoupling(net(2, 2), shows_first)).eval()
    x = torch.randn(2, 4, 3, 3)
    same = (coupling(x)[0] == x).flatten(2).all(2).all(0)
    assert same.tolist() == [shows_first] * 2 + [not shows_first] * 2


def test_log_scales_are_bounded_by_the_learned_scale():
    reader = perturbed(net(1, 2), size=5.0).eval()
    log_scale, _ = reader(100 * torch.randn(4, 1, 3, 3))
    assert (log_scale.abs() <= reader.scale.abs() + 1e-6).all()
    assert torch.allclose(log_scale.abs().amax((0, 2, 3)), reader.scale.abs().flatten(), rtol=0.01)


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_couplings_start_as_the_identity(batch_norm, weight_norm):
    reader = net(2, 1, batch_norm=batch_norm, weight_norm=weight_norm)
    x = torch.randn(2, 1, 4, 4)
    y, log_det = MaskedCoupling(reader, checkerboard(4, 4))(x)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(2))
    norms = [part for part in reader.modules() if isinstance(part, nn.BatchNorm2d)]
    assert bool(norms) == batch_norm
    assert any("parametrizations" in name for name in reader.state_dict()) == weight_norm


# ------------------------------------------------------------------------------- batch normalisation


def test_batch_norm_normalises_by_the_batch_in_training():
    y, _ = InvertibleBatchNorm(2)(5 + 3 * torch.randn(50, 2, 4, 4))
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(y.var((0, 2, 3), correction=0), torch.ones(2), atol=1e-4)


def test_in_training_the_log_determinant_is_that_of_the_rescaling_by_fixed_statistics():
    """The paper's convention: a product of 1 / sqrt(var + eps), as if the batch's statistics were given."""
    x = torch.randn(6, 3, 2, 2, dtype=torch.float64) * torch.tensor([0.5, 2, 5]).view(3, 1, 1)
    norm = InvertibleBatchNorm(3).double()
    _, log_det = norm(x)
    fixed = InvertibleBatchNorm(3).double().eval()
    fixed.mean.copy_(x.mean((0, 2, 3))[:, None, None])
    fixed.variance.copy_(x.var((0, 2, 3), correction=0)[:, None, None])
    assert torch.allclose(log_det, slogdet(fixed, x))
    # The Jacobian of the whole batch, in which the statistics move too, is another and is not meant.
    whole = torch.autograd.functional.jacobian(lambda v: norm(v)[0].flatten(), x).reshape(x.numel(), -1)
    assert torch.linalg.slogdet(whole)[1] < log_det.sum() - 1


def test_gradients_flow_through_the_statistics_of_the_batch():
    """Whatever the scale of what comes in, the outcome is the same: its gradient is zero."""
    scale = torch.tensor(3.0, requires_grad=True)
    x = torch.randn(20, 1, 2, 2)
    y, log_det = InvertibleBatchNorm(1)(scale * x)
    (of_outcome,) = torch.autograd.grad(y.pow(4).sum(), scale, retain_graph=True)
    (of_log_det,) = torch.autograd.grad(log_det.mean(), scale)
    assert of_outcome.abs() < 1e-2  # eps is 1e-5 of a variance of 9
    assert of_log_det.item() == pytest.approx(-4 / 3, rel=1e-4)  # d/da of -4 log(a std(x))


def test_running_statistics_converge_to_those_of_the_data():
    torch.manual_seed(0)
    norm = InvertibleBatchNorm(1)
    for _ in range(200):
        norm(4 + 3 * torch.randn(200, 1, 4, 4))
    # Batches of 3,200 numbers, averaged over about twenty: a relative standard error below 1 percent.
    assert norm.mean.item() == pytest.approx(4, abs=0.05)
    assert norm.variance.item() == pytest.approx(9, rel=0.03)


def test_running_statistics_start_at_the_first_batch_and_rest_in_eval():
    norm, x = InvertibleBatchNorm(2), 7 + 2 * torch.randn(30, 2, 4, 4)
    norm.initialize(x)
    norm.eval()
    assert torch.allclose(norm(x)[0].mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    before = norm.mean.clone()
    norm(100 + x)
    assert torch.equal(norm.mean, before)


# ------------------------------------------------------------------------------ squeeze, factoring out


def test_squeezing_puts_even_rows_in_the_first_half_of_the_channels():
    image = (torch.arange(4)[:, None] % 2).expand(1, 3, 4, 4).float()
    y, _ = SqueezeByPosition()(image)
    first, second = y.chunk(2, dim=1)
    assert (first == 0).all()
    assert (second == 1).all()


def test_squeezing_a_grey_image_is_the_plain_squeeze():
    x = torch.randn(2, 1, 4, 6)
    assert torch.equal(SqueezeByPosition()(x)[0], Squeeze()(x)[0])


def test_factoring_out_keeps_every_number_once():
    inner = Compose([SqueezeByPosition(), FactorOut(Flatten((4, 1, 2)), (8, 1, 2))])
    outer = FactorOut(inner, (4, 2, 4))
    x = torch.randperm(32).float().view(1, 4, 2, 4)
    z, log_det = outer(x)
    assert z.shape == (1, 32)
    assert torch.equal(z.flatten().sort().values, torch.arange(32.0))
    assert torch.equal(log_det, torch.zeros(1))
    assert torch.equal(z[0, :16], x[0, 2:].flatten())


def test_initialisation_reaches_what_goes_on():
    parts = FactorOut(Compose([ActNorm(2), Flatten((2, 2, 2))]), (4, 2, 2))
    z = parts.initialize(5 + 3 * torch.randn(200, 4, 2, 2))
    left, went_on = z.chunk(2, dim=1)
    assert went_on.mean().abs() < 1e-4
    assert left.mean() > 4


def test_there_are_as_many_scales_as_an_image_can_be_halved():
    assert sizes(DataSpec(1, 28, 28)) == [(28, 28), (14, 14), (7, 7)]
    assert sizes(DataSpec(1, 8, 12)) == [(8, 12), (4, 6), (2, 3)]
    assert sizes(DataSpec(3, 5, 8)) == [(5, 8)]


# ------------------------------------------------------------------------------------- the model


def test_three_scales_of_28_pixels_have_twelve_and_four_couplings():
    flow = small(DataSpec(1, 28, 28), num_scales=3)
    couplings = [p for p in flow.modules() if isinstance(p, MaskedCoupling | ChannelCoupling)]
    shapes = [tuple(p.mask.shape[1:]) for p in couplings if isinstance(p, MaskedCoupling)]
    assert len(couplings) == 16
    assert shapes == [(28, 28)] * 3 + [(14, 14)] * 3 + [(7, 7)] * 4
    assert flow.latent_shape == (784,)


def test_settings_reach_networks_and_scales():
    def size(**settings: object) -> int:
        return sum(p.numel() for p in small(DataSpec(1, 4, 4), **settings).parameters())

    for setting in ("num_blocks", "hidden_channels", "couplings_before_squeeze", "couplings_after_squeeze"):
        assert size(**{setting: 6}) > size(**{setting: 2})
    assert size(couplings_at_last_scale=6) > size(couplings_at_last_scale=2)
    without = small(DataSpec(1, 4, 4), batch_norm=False, weight_norm=False)
    assert not any(isinstance(p, InvertibleBatchNorm | nn.BatchNorm2d) for p in without.modules())
    assert not any("parametrizations" in name for name in without.state_dict())


@pytest.mark.parametrize("masks", ["checkerboard", "halves"])
@pytest.mark.parametrize("spec", [DataSpec(1, 28, 28), DataSpec(3, 32, 32)], ids=str)
def test_the_inverse_error_is_small_in_float32(masks, spec):
    flow = perturbed(small(spec, num_scales=3, masks=masks, hidden_channels=8), 0.05).eval()
    x = torch.rand(4, *spec.shape).logit(eps=1e-6)
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        error = (flow.bijection.inverse(z) - x).abs().max()
    assert log_det.abs().min() > 1
    assert error < 1e-4


def _has_room(masks: str, height: int, width: int) -> bool:
    """Whether couplings have two halves at the last scale."""
    return height > 1 or (width > 1 and masks == "checkerboard")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masks", ["checkerboard", "halves"])
def test_every_size_comes_back_or_is_refused_in_words(channels, masks):
    fewest = {f"couplings_{where}": 2 for where in ("before_squeeze", "after_squeeze", "at_last_scale")}
    for height, width in {(h, w) for h in range(1, 13) for w in (1, 6, h)}:
        spec = DataSpec(channels, height, width)
        for num_scales, unit in ((1, 1), (2, 2), (3, 4)):
            halved = height % unit == width % unit == 0
            if halved and _has_room(masks, height // unit, width // unit):
                flow = small(spec, num_scales=num_scales, masks=masks, hidden_channels=1, **fewest).eval()
                assert torch.equal(flow.reconstruct(images(spec, 2)), images(spec, 2))
                continue
            with pytest.raises(ConfigError, match=r"model.num_scales=.* another dataset.image_size"):
                small(spec, num_scales=num_scales, masks=masks)


def test_the_suggested_image_size_works():
    assert small(DataSpec(1, 32, 32), num_scales=4, masks="halves").latent_shape == (32 * 32,)
    assert small(DataSpec(1, 2, 2), num_scales=1, masks="halves").latent_shape == (4,)


def test_building_a_model_moves_no_statistics():
    flow = small(DataSpec(1, 4, 4))
    norms = [part for part in flow.modules() if isinstance(part, InvertibleBatchNorm)]
    assert all(part.training for part in flow.modules())
    assert norms
    assert all((norm.mean == 0).all() and (norm.variance == 1).all() for norm in norms)


def test_samples_are_the_same_in_training_and_leave_statistics_alone():
    flow = perturbed(small(DataSpec(1, 8, 8)))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    in_training = flow.sample(3, generator=torch.Generator().manual_seed(0))
    assert flow.training
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    in_eval = flow.eval().sample(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_training, in_eval)
    assert not flow.training


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 2, 2)], ids=["masked", "of channels"])
def test_a_coupling_read_in_bfloat16_keeps_images_and_log_determinants_in_float32(shape):
    masked = MaskedCoupling(net(2, 1), checkerboard(4, 4))
    coupling = perturbed(masked if shape[0] == 1 else ChannelCoupling(net(2, 2), shows_first=True)).eval()
    x = torch.randn(3, *shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, log_det = coupling(x)
        back = coupling.inverse(y)
    assert y.dtype == log_det.dtype == torch.float32
    assert torch.allclose(back, x, atol=1e-5)
    assert torch.allclose(log_det, coupling(x)[1], atol=0.05)  # read to about 2^-8 of the outputs
