"""RealNVP: exact likelihood, accurate inverse, orders of the halves, what it refuses."""

import math

import pytest
import torch
from flows import CONV, NET, VARIANTS, images, log_det_of_images, mass, perturbed

from genlab.errors import ConfigError
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.nets.mlp import MLPConfig
from genlab.types import Batch, DataSpec

MORE = [
    (MLPConfig(hidden_dim=8, tanh_features=True), "random", DataSpec(1, 4, 4)),
    (NET, "channel", DataSpec(1, 4, 4)),
    (CONV, "checkerboard", DataSpec(1, 4, 4)),
]


@pytest.fixture(params=VARIANTS + MORE, ids=lambda v: f"{v[0].name}-{v[1]}-{v[2]}")
def flow(request):
    net, permutation, spec = request.param
    torch.manual_seed(0)
    model = RealNVP(RealNVPConfig(net=net, permutation=permutation, num_flows=4, actnorm=True), spec)
    return perturbed(model).eval()


def test_the_log_determinant_is_that_of_the_jacobian(flow):
    flow, x = flow.double(), torch.rand(2, *flow.spec.shape, dtype=torch.float64) * 0.98 + 0.01
    _, terms = flow(x)
    assert torch.allclose(terms["log_det"], log_det_of_images(flow, x), rtol=0, atol=1e-6)


def test_images_come_back_from_their_codes(flow):
    x = images(flow.spec)
    assert torch.equal(flow.reconstruct(x), x)
    assert flow.encode(x).shape == (len(x), flow.spec.dim)


def test_the_inverse_error_is_small_in_float32(flow):
    x, _ = torch.rand(64, *flow.spec.shape).logit(eps=1e-6), None
    z, _ = flow.bijection(x)
    assert (flow.bijection.inverse(z) - x).abs().max() < 1e-4


def test_the_density_integrates_to_one():
    """On two pixels the density of the flow sums to one over a fine grid of [0, 1)^2."""
    torch.manual_seed(0)
    config = RealNVPConfig(net=NET, permutation="reverse", num_flows=4, actnorm=False)
    flow = perturbed(RealNVP(config, DataSpec(1, 1, 2)), 0.3).double()
    # With alpha > 0 the flow is a density on the real plane, of which [0, 1]^2 sees the middle part.
    assert mass(flow, reach=12, points=801) == pytest.approx(1, abs=1e-4)


def test_the_loss_is_the_negative_log_likelihood_by_its_terms(flow):
    batch = Batch(images(flow.spec))
    torch.manual_seed(3)
    (update,) = flow.updates(batch, "train", 0)
    torch.manual_seed(3)
    log_prob = flow.log_prob(batch.x)
    assert update.loss.item() == pytest.approx(-log_prob.mean().item(), rel=1e-6)
    assert update.loss.item() == pytest.approx(
        -(update.logs["log_prior"] + update.logs["log_det"]).item(), rel=1e-6
    )
    bits = update.loss.item() / flow.spec.dim / math.log(2)
    assert update.logs["bits_per_dim"].item() == pytest.approx(bits, rel=1e-6)


def test_samples_are_images_and_follow_the_seed(flow):
    draw = lambda seed, **options: flow.sample(  # noqa: E731
        5, generator=torch.Generator().manual_seed(seed), **options
    )
    assert draw(0).shape == (5, *flow.spec.shape)
    assert draw(0).dtype == torch.uint8
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    mode = draw(0, temperature=1e-12)
    assert (mode == mode[:1]).all()


def test_initialisation_normalises_every_actnorm(flow):
    flow.initialize(Batch(images(flow.spec, 512)))
    for part in flow.bijection.parts:
        if type(part).__name__ == "ActNorm":
            assert torch.isfinite(part.log_scale).all()
    z = flow.encode(images(flow.spec, 512))
    assert z.std().item() == pytest.approx(1, abs=0.7)


@pytest.mark.parametrize("net", [NET, CONV], ids=["mlp", "resnet"])
def test_checkerboard_halves_are_the_colours_of_the_board(net):
    """With every coupling the identity, the first half of the code is one colour, and then the other."""
    spec = DataSpec(1, 4, 4)
    flow = RealNVP(RealNVPConfig(net=net, permutation="checkerboard", num_flows=4), spec)
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    z, _ = flow.bijection(board.float().view(1, 1, 4, 4))
    halves = z.flatten(1).chunk(2, dim=1)
    assert halves[0].unique().numel() == halves[1].unique().numel() == 1
    assert not torch.equal(halves[0], halves[1])


@pytest.mark.parametrize(("net", "permutation"), [(CONV, "random"), (NET, "checkerboard")])
def test_odd_images_are_refused_where_squares_are_needed(net, permutation):
    with pytest.raises(ConfigError, match="even height and width, and the images are 5x4 grey"):
        RealNVP(RealNVPConfig(net=net, permutation=permutation), DataSpec(1, 5, 4))


def test_labels_are_refused(flow):
    with pytest.raises(ConfigError, match="unconditional"):
        flow.sample(2, y=torch.zeros(2, dtype=torch.long))


def test_a_flow_learns_a_distribution_it_can_represent():
    """Two pixels, one a function of the other: the loss falls well below that of independent pixels."""
    torch.manual_seed(0)
    flow = RealNVP(RealNVPConfig(net=NET, permutation="reverse", num_flows=4), DataSpec(1, 1, 2))
    first = torch.randint(100, 150, (512, 1, 1, 1))
    x = torch.cat([first, first + 5], dim=3).to(torch.uint8)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for step in range(600):
        (update,) = flow.updates(Batch(x), "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    # 50 equally likely pairs: log 50 = 3.9 nats; independent pixels would cost twice as much.
    assert update.loss.item() < 6.0
