"""Flow matching on Gaussian images, whose velocity, loss and flow are known in closed form."""

import math

import pytest
import torch

from genlab.config import parse
from genlab.diffusion.ode import ODEConfig
from genlab.errors import ConfigError
from genlab.likelihood import signed
from genlab.models.flow_matching import FlowMatching, FlowMatchingConfig
from genlab.nets.unet import UNetConfig
from genlab.types import Batch, DataSpec

SPEC = DataSpec(1, 1, 2)
MEAN = torch.tensor([0.1, -0.2])
ROOT = torch.tensor([[0.2, 0.08], [0.08, 0.15]])
"""The symmetric square root of the images' covariance."""
SOLVERS = {"euler": (400, 0.01), "midpoint": (40, 3e-4), "rk4": (20, 3e-4)}
"""Steps, and how far from the flow they may end."""


def build(spec=SPEC, **settings):
    """Small enough to train in a moment."""
    net = UNetConfig(channels=16, multipliers=(1,), num_blocks=1, attention=(), num_groups=4, dropout=0.0)
    torch.manual_seed(0)
    return FlowMatching(FlowMatchingConfig(**{"net": net, "ode": ODEConfig()} | settings), spec)


def velocity(x, time, y=None):
    """``E[eps - x | x_t]`` of images ``N(MEAN, ROOT^2)``: affine in x_t, in the basis of the covariance."""
    t = time.double()[:, None, None]
    variances, basis = torch.linalg.eigh(ROOT.double() @ ROOT.double())
    gain = torch.diag_embed((t - (1 - t) * variances) / (t**2 + (1 - t) ** 2 * variances)).squeeze(1)
    centred = x.double().flatten(1) - (1 - t[:, 0]) * MEAN
    turned = torch.einsum("ij,bjk,lk,bl->bi", basis, gain, basis, centred)
    return (turned - MEAN).view_as(x).to(x.dtype)


def gaussian(n):
    """Uint8 images."""
    x = MEAN + torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) @ ROOT
    return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8).view(n, *SPEC.shape)


def loss(model, batch):
    torch.manual_seed(1)
    (update,) = model.updates(batch, "train", 0)
    assert update.group == "model"
    assert update.logs["mse"].item() == pytest.approx(update.loss.item() / model.spec.dim, rel=1e-5)
    return update.loss.item()


# ---------------------------------------------------------------------- training


def test_the_loss_of_the_exact_velocity_is_the_variance_that_it_leaves(monkeypatch):
    """A direction of deviation s leaves ``s^2 / ((1 - t)^2 s^2 + t^2)``: over all times, pi s / 2."""
    model, batch = build(), Batch(gaussian(40_000))
    monkeypatch.setattr(model, "network", velocity)
    expected = math.pi / 2 * ROOT.trace().item()  # the s are the eigenvalues of the root
    # The squared error of an image has a deviation of twice its mean.
    assert loss(model, batch) == pytest.approx(expected, rel=4 * 2 / math.sqrt(40_000))


@pytest.mark.parametrize(
    "perturbed",
    [
        lambda x, time, y: velocity(x, time) + 0.1,
        lambda x, time, y: velocity(x, time) - 0.1,
        lambda x, time, y: 0.9 * velocity(x, time),
        lambda x, time, y: 1.1 * velocity(x, time),
        lambda x, time, y: velocity(x, (time + 0.05).clamp(max=1)),
        lambda x, time, y: velocity(x, (time - 0.05).clamp(min=0)),
        lambda x, time, y: velocity(x, 1 - time),
        lambda x, time, y: -velocity(x, time),
    ],
)
def test_the_exact_velocity_has_the_least_loss(monkeypatch, perturbed):
    model, batch = build(), Batch(gaussian(4000))
    monkeypatch.setattr(model, "network", velocity)
    least = loss(model, batch)
    monkeypatch.setattr(model, "network", perturbed)
    assert loss(model, batch) > least


def test_every_image_has_a_time_of_its_own_from_all_of_the_unit_interval(monkeypatch):
    model, times = build(), []
    monkeypatch.setattr(model, "network", lambda x, time, y: times.append(time) or velocity(x, time))
    loss(model, Batch(gaussian(4000)))
    (time,) = times
    assert time.shape == (4000,)
    assert time.mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 4000))
    assert time.var() == pytest.approx(1 / 12, rel=0.1)


def test_one_image_is_learned_in_a_moment():
    spec = DataSpec(1, 4, 4)
    model = build(spec, num_steps=20)
    image = torch.randint(0, 256, (1, *spec.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = Batch(image.expand(32, -1, -1, -1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = loss(model, batch)
    for step in range(80):
        (update,) = model.updates(batch, "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    assert loss(model, batch) < 0.25 * first
    model.eval()
    far = (model.sample(16).float() - image.float()).abs().mean()
    assert far < 25  # noise lies 90 levels away


# ---------------------------------------------------------------------- samples


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_of_the_exact_velocity_are_gaussian_images(monkeypatch, solver):
    """The flow takes noise z to ``MEAN + ROOT z``, each by itself."""
    num_steps, far = SOLVERS[solver]
    model = build(solver=solver, num_steps=num_steps).eval()
    monkeypatch.setattr(model, "network", velocity)
    noise = torch.randn(500, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    *_, last = model.steps(noise, None, None)
    expected = MEAN + noise.flatten(1) @ ROOT
    assert torch.allclose(last.x.flatten(1), expected, atol=far)


def test_samples_have_the_mean_and_the_covariance_of_the_images(monkeypatch):
    model, n = build(num_steps=40).eval(), 4000
    monkeypatch.setattr(model, "network", velocity)
    x = signed(model.sample(n, generator=torch.Generator().manual_seed(0))).flatten(1)
    covariance = ROOT @ ROOT
    assert ((x.mean(0) - MEAN).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    variances = covariance.diagonal()
    error = ((variances[:, None] * variances + covariance**2) / n).sqrt()  # Wishart's
    assert ((x.T.cov() - covariance).abs() < 4 * error).all()


def test_steps_go_from_noise_at_time_1_to_images_at_time_0(monkeypatch):
    model = build(num_steps=4).eval()
    monkeypatch.setattr(model, "network", velocity)
    noise = torch.randn(5, *SPEC.shape)
    steps = list(model.steps(noise, None, None))
    assert [step.time for step in steps] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.equal(steps[0].x, noise)
    assert torch.equal(steps[-1].x, steps[-1].x0)
    for step in steps[:-1]:
        time = torch.full((5,), step.time)
        assert torch.allclose(step.x0, step.x - step.time * velocity(step.x, time))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_foresees_its_images_from_the_start(monkeypatch, solver):
    """Each noise with an image of its own, and the line between them: any solver is exact, in any steps."""
    noise, image = torch.randn(2, 5, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    model = build(solver=solver, num_steps=3).eval()
    monkeypatch.setattr(model, "network", lambda x, time, y: noise - image)
    for step in model.steps(noise, None, None):
        assert torch.allclose(step.x0, image, atol=1e-6)
        assert torch.allclose(step.x, torch.lerp(image, noise, step.time), atol=1e-6)


def test_samples_are_the_last_of_their_steps_and_the_generator_s_own():
    model = build(num_steps=3).eval()
    *_, last = model.sample_steps(4, generator=torch.Generator().manual_seed(0))
    samples = model.sample(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, last.x)
    assert samples.dtype == last.x0.dtype == torch.uint8
    assert not torch.equal(samples, model.sample(4, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("time", [0.1, 0.5, 1.0])
def test_what_is_denoised_lies_where_the_line_from_the_noisy_image_ends(monkeypatch, time):
    model, x = build().eval(), gaussian(4000)
    asked = []

    def network(x_t, times, y):
        asked.append((x_t, times))
        return velocity(x_t, times)

    monkeypatch.setattr(model, "network", network)
    noisy, seen = model.denoised(x, time, generator=torch.Generator().manual_seed(1))
    ((x_t, times),) = asked
    assert (times == time).all()
    assert noisy.dtype == seen.dtype == torch.uint8
    variance = time**2 + (1 - time) ** 2 * (ROOT @ ROOT).diagonal()
    assert torch.allclose(x_t.flatten(1).var(0), variance, rtol=0.1)
    # Of the image E[x | x_t]: of all that can be made of the noisy image nothing is nearer.
    error = (signed(seen) - signed(x)).square().mean()
    assert error < (signed(noisy) - signed(x)).square().mean()
    assert error < 1.05 * (ROOT @ ROOT).diagonal().mean()


def test_the_network_is_asked_at_the_times_of_the_flow_for_a_likelihood(monkeypatch):
    """From 0 to 1, more often near 0, where it turns fastest."""
    model, times = build(ode=ODEConfig(num_steps=4)).eval(), []
    monkeypatch.setattr(model, "network", lambda x, time, y: times.append(time[0].item()) or velocity(x, time))
    model.log_prob(gaussian(3))
    assert times[0] == 0
    assert times[-1] == 1
    assert len(times) == 16
    assert sorted(times) == times
    assert times[::4] == pytest.approx([0, 1 / 64, 8 / 64, 27 / 64])


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_steps", 0), ("solver", "heun"), ("ode", {"num_steps": 0}), ("steps", 25)],
)
def test_a_bad_setting_is_refused_by_name(key, value):
    values = {"net": {}, "ode": {}, key: value}
    with pytest.raises(ConfigError, match=key):
        parse(FlowMatchingConfig, values, "model")


def test_the_protocol_says_how_the_likelihood_is_found():
    assert build(ode=ODEConfig(num_steps=7)).protocol == (
        "uniform dequantisation, ODE of the flow in the cube root of time, 7 Runge-Kutta steps, "
        "Hutchinson's estimate with 1 probe"
    )
