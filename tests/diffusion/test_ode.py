"""Solvers against known solutions; densities of flows against those of Gaussian and of uniform images."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from genlab.config import parse
from genlab.diffusion.ode import ODEConfig, evenly_spaced, solve, transport
from genlab.diffusion.process import Process
from genlab.diffusion.samplers import AncestralConfig, DDIMConfig, DPMSolverConfig, SamplersConfig
from genlab.diffusion.schedules import CosineSchedule, LinearSchedule
from genlab.errors import ConfigError
from genlab.likelihood import bits_per_dim, signed
from genlab.models.ddpm import DDPM, DDPMConfig
from genlab.models.flow_matching import FlowMatching, FlowMatchingConfig
from genlab.nets.gaussian import standard_normal_log_prob
from genlab.nets.unet import UNetConfig
from genlab.types import DataSpec

MATRIX = torch.tensor(
    [[-0.5, 2.0, 0.3, 0.0], [-1.0, 0.2, 0.0, 0.7], [0.4, -0.6, 0.9, -0.2], [0.1, 0.0, 1.1, -0.8]],
    dtype=torch.float64,
)
SPEC = DataSpec(2, 2, 1)
MEAN = torch.tensor([-0.6, 0.1, 0.3, 1.4]).view(SPEC.shape)
"""Of Gaussian images, one pixel brighter than white: what is foreseen of it is not to be clipped."""
STD = torch.tensor([0.05, 0.2, 0.5, 0.9]).view(SPEC.shape)
LEVEL = SPEC.dim * math.log(2 / 256)
"""From the density on [-1, 1] to that of 256 levels, nats per image."""
SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule()}


def linear(x, time):
    """A linear field that turns and grows, twice as fast at time 1 as at 0."""
    return (1 + time) * (x.flatten(1) @ MATRIX.to(x).T).view_as(x)


def images(n, seed=0):
    return torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- solvers


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_error_of_a_solver_falls_by_its_order(solver, order, start, end):
    x = images(3)
    way = (end + end**2 / 2) - (start + start**2 / 2)
    exact = (x.flatten(1) @ torch.linalg.matrix_exp(way * MATRIX).T).view_as(x)
    errors = []
    for num_steps in (40, 80):
        *_, found = solve(linear, x, evenly_spaced(start, end, num_steps), solver)
        errors.append((found - exact).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("solver", "asked"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_a_solver_asks_as_often_as_it_says_and_starts_at_the_step_s_own_point(solver, asked):
    points = []

    def velocity(x, time):
        points.append((x, time))
        return linear(x, time)

    x = images(2)
    first, second = solve(velocity, x, [1.0, 0.7, 0.0], solver)
    assert len(points) == 2 * asked
    assert points[0][0] is x
    assert points[asked][0] is first
    assert [time for _, time in points[::asked]] == [1.0, 0.7]
    assert min(time for _, time in points) >= 0
    assert second.shape == x.shape


def test_times_are_evenly_spaced_and_end_where_they_should():
    assert evenly_spaced(1.0, 0.0, 4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert evenly_spaced(-4.6, 5.1, 7)[-1] == 5.1


# ---------------------------------------------------------------------- transport


def test_transport_of_a_linear_field_is_the_matrix_exponential():
    x = images(5)
    end, _ = transport(linear, x, 0.0, 1.0, ODEConfig(num_steps=40))
    exact = (x.flatten(1) @ torch.linalg.matrix_exp(1.5 * MATRIX).T).view_as(x)
    assert torch.allclose(end, exact, atol=1e-5)


@pytest.mark.parametrize("num_probes", [1, 3])
def test_the_log_determinant_is_unbiased_and_its_variance_that_of_hutchinson(num_probes):
    """Rademacher probes: the trace, with the variance 2 sum of the squared symmetric part off the diagonal."""
    torch.manual_seed(0)
    n = 4000
    config = ODEConfig(num_steps=2, num_probes=num_probes)
    _, log_det = transport(linear, images(n), 0.0, 1.0, config)
    symmetric = 1.5 * (MATRIX + MATRIX.T) / 2
    off_diagonal = symmetric - torch.diag(symmetric.diagonal())
    variance = 2 * off_diagonal.square().sum() / num_probes
    assert abs(log_det.mean() - 1.5 * MATRIX.trace()) < 4 * (variance / n).sqrt()
    # Of four standard errors of a variance, with a kurtosis below 3.
    assert log_det.var() == pytest.approx(variance.item(), rel=4 * math.sqrt(2 / n))


def test_the_log_determinant_of_a_field_that_mixes_no_pixels_is_exact():
    """``x' = x (1 - x)``: ``x(t) = x e^t / (1 + x (e^t - 1))``, of slope ``e^t / (1 + x (e^t - 1))^2``."""
    x = torch.rand(6, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end, log_det = transport(lambda x, time: x * (1 - x), x, 0.5, 2.5, ODEConfig(num_steps=60))
    growth = math.exp(2)
    below = 1 + x * (growth - 1)
    assert torch.allclose(end, x * growth / below, atol=1e-6)
    assert torch.allclose(log_det, (2 - 2 * below.log()).flatten(1).sum(1), atol=1e-6)


def test_transport_there_and_back_is_the_identity_with_the_opposite_log_determinant():
    def field(x, time):
        return torch.sin(3 * x + time)

    x = images(4)
    there, gained = transport(field, x, 0.0, 1.0, ODEConfig(num_steps=80))
    back, lost = transport(field, there, 1.0, 0.0, ODEConfig(num_steps=80))
    assert torch.allclose(back, x, atol=1e-5)
    assert torch.allclose(gained, -lost, atol=1e-4)
    assert gained.abs().min() > 0.1


def test_transport_is_in_float32_whatever_the_autocast():
    layer, dtypes = nn.Linear(4, 4), set()

    def velocity(x, time):
        out = layer(x.flatten(1)).view_as(x)
        dtypes.add(out.dtype)
        return out

    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(transport(velocity, images(3).float(), 0.0, 1.0, ODEConfig(num_steps=3)))
    assert dtypes == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_transport_needs_no_gradients_and_leaves_none(grad, frozen):
    layer = nn.Linear(4, 4).double().requires_grad_(not frozen)
    x = images(3).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        end, log_det = transport(
            lambda x, time: layer(x.flatten(1)).view_as(x), x, 0.0, 1.0, ODEConfig(num_steps=3)
        )
    assert not end.requires_grad
    assert not log_det.requires_grad
    assert layer.weight.grad is None
    assert x.grad is None
    assert log_det.abs().min() > 0


def test_the_protocol_names_steps_and_probes():
    assert ODEConfig(num_steps=7, num_probes=1).protocol == (
        "7 Runge-Kutta steps, Hutchinson's estimate with 1 probe"
    )
    assert ODEConfig(num_steps=7, num_probes=2).protocol.endswith("2 probes")


@pytest.mark.parametrize("key", ["num_steps", "num_probes"])
def test_a_count_of_zero_is_refused_by_name(key):
    with pytest.raises(ConfigError, match=key):
        parse(ODEConfig, {key: 0}, "model.ode")


def test_standard_normal_log_prob_is_that_of_torch():
    x = images(5)
    assert torch.allclose(standard_normal_log_prob(x), Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1))


# ---------------------------------------------------------------------- the noise of a chain


@pytest.fixture(params=[(name, steps) for name in SCHEDULES for steps in (2, 10, 1000)], ids=str)
def process(request):
    name, num_steps = request.param
    if num_steps == 1000:
        return Process(SCHEDULES[name].betas()).float()
    betas = torch.linspace(0.1, 0.99, num_steps, dtype=torch.float64)
    return Process(betas).float()


def test_the_noise_of_a_chain_rises_and_times_undo_it(process):
    low, high = process.noise_range
    t = torch.arange(1, process.num_steps + 1)
    ratio = (process.sigma(t) / process.alpha(t)).flatten().double().log()
    assert low == pytest.approx(ratio[0].item(), abs=1e-4)
    assert high == pytest.approx(ratio[-1].item(), abs=1e-4)
    assert (ratio.diff() > 0).all()
    step = max(1, process.num_steps // 50)
    for at in (*t[::step].tolist(), process.num_steps):
        assert process.time_of(ratio[at - 1].item()) * process.num_steps == pytest.approx(at, abs=0.01)


def test_times_of_a_chain_begin_at_its_first_step_end_at_its_last_and_rise(process):
    low, high = process.noise_range
    assert process.time_of(low) == pytest.approx(1 / process.num_steps, rel=1e-5)
    assert process.time_of(high) == 1
    times = [process.time_of(ratio) for ratio in evenly_spaced(low, high, 200)]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert process.time_of(low - 1) == process.time_of(low)
    assert process.time_of(high + 1) == 1


# ---------------------------------------------------------------------- densities

NET = UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention=(), num_groups=2)


def flow_matching(expected=None, **ode):
    """With the velocity of the ``expected`` image ``E[x | x_t = a x + b eps]``, a function of x_t, a and b."""
    torch.manual_seed(0)
    model = FlowMatching(FlowMatchingConfig(net=NET, ode=ODEConfig(**ode)), SPEC).eval()
    if expected is None:
        return model

    def network(x, time, y):
        assert y is None
        t = time[:, None, None, None].double().clamp(min=1e-9)
        x0 = expected(x.double(), 1 - t, t)
        return ((x - x0) / t).to(x.dtype)  # (x_t - (1 - t) x0) / t - x0

    model.network = network
    return model


def ddpm(expected, schedule="linear", target="eps", variance="large", **ode):
    config = DDPMConfig(
        net=NET,
        schedule=SCHEDULES[schedule],
        target=target,
        variance=variance,
        loss="hybrid" if variance == "learned" else "simple",
        samplers=SamplersConfig(ancestral=AncestralConfig(), ddim=DDIMConfig(), dpm_solver=DPMSolverConfig()),
        likelihood="ode",
        ode=ODEConfig(**ode),
    )
    model = DDPM(config, SPEC).eval()
    betas = config.schedule.betas()
    alpha_bar = (1 - betas).cumprod(0)
    log_ratio = 0.5 * (torch.log1p(-alpha_bar) - alpha_bar.log())

    def network(x, time, y):
        assert y is None
        steps = time[:, None, None, None].double() * len(betas)
        low = steps.floor().long().clamp(1, len(betas) - 1)
        ratio = torch.lerp(log_ratio[low - 1], log_ratio[low], steps - low).exp()
        alpha = (1 + ratio**2).rsqrt()
        sigma = alpha * ratio
        x0 = expected(x.double(), alpha, sigma)
        eps = (x - alpha * x0) / sigma
        said = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[target].to(x.dtype)
        return torch.cat([said, torch.randn_like(said)], dim=1) if variance == "learned" else said

    model.network = network
    return model


def gaussian(x, alpha, sigma):
    """``E[x | x_t]`` of images ``N(MEAN, STD^2)``."""
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def uniform(x, alpha, sigma):
    """``E[x | x_t]`` of images that are uniform on [-1, 1]: the mean of a truncated normal."""
    alpha = alpha.clamp(min=1e-3)  # at 0 it says nothing of the image
    centre, width = x / alpha, sigma / alpha
    low, high = (-1 - centre) / width, (1 - centre) / width
    normal = Normal(0.0, 1.0)
    mass = normal.cdf(high) - normal.cdf(low)
    return centre + width * (normal.log_prob(low).exp() - normal.log_prob(high).exp()) / mass


def scored(model, x):
    """What the model says of images ``x``, and what it has seen of them, on [-1, 1]."""
    torch.manual_seed(1)
    found = model.log_prob(x)
    torch.manual_seed(1)
    return found, signed(x, noisy=True)


def drawn(n=32):
    """Uint8 images ``N(MEAN, STD^2)``."""
    x = MEAN + STD * torch.randn(n, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8)


def summed(log_density):
    return log_density.flatten(1).sum(1) + LEVEL


def test_zero_velocity_has_the_density_of_the_standard_normal():
    x = drawn()
    found, seen = scored(flow_matching(), x)
    assert torch.allclose(found, summed(Normal(0.0, 1.0).log_prob(seen)), atol=1e-5)


def test_flow_matching_has_the_density_of_gaussian_images():
    found, seen = scored(flow_matching(gaussian, num_steps=40), drawn())
    assert torch.allclose(found, summed(Normal(MEAN, STD).log_prob(seen)), atol=1e-3)


def test_flow_matching_sees_a_background_that_is_always_the_same_level():
    """The narrowest that a dequantised pixel can be: 2/256 wide, s = 0.0023."""
    black = torch.zeros(8, *SPEC.shape, dtype=torch.uint8)

    def expected(x, alpha, sigma):
        centre, s = -1 + 1 / 256, 2 / 256 / math.sqrt(12)
        return centre + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * centre)

    found, seen = scored(flow_matching(expected, num_steps=40), black)
    exact = summed(Normal(-1 + 1 / 256, 2 / 256 / math.sqrt(12)).log_prob(seen))
    assert (found - exact).abs().max() < 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_ddpm_has_the_density_of_gaussian_images_with_the_noise_of_the_first_step(target, schedule):
    """The flow is affine, and what it makes of the base is known; of a true diffusion, noise is N(0, 1)."""
    model = ddpm(gaussian, schedule, target, num_steps=80)
    found, seen = scored(model, drawn())
    first, last = (math.exp(value) for value in model.process.noise_range)
    alpha = 1 / math.hypot(1, last)
    slope = alpha * ((STD**2 + last**2) / (STD**2 + first**2)).sqrt()
    noise = alpha * MEAN + slope * (seen - MEAN)
    exact = summed(Normal(0.0, 1.0).log_prob(noise) + slope.log())
    assert torch.allclose(found, exact, atol=2e-3)
    data = summed(Normal(MEAN, (STD**2 + first**2).sqrt()).log_prob(seen))
    assert torch.allclose(found, data, atol=0.03)  # alpha_T, 0.006 at most, by the mean and the noise


def test_of_a_learned_variance_the_ode_sees_nothing():
    found, _ = scored(ddpm(gaussian, variance="learned", num_steps=20), drawn(4))
    expected, _ = scored(ddpm(gaussian, num_steps=20), drawn(4))
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("build", [flow_matching, ddpm])
def test_uniform_images_have_eight_bits_per_dimension(build):
    x = torch.randint(20, 236, (16, *SPEC.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, _ = scored(build(uniform, num_steps=80), x)
    assert torch.allclose(bits_per_dim(found, SPEC.dim), torch.tensor(8.0), atol=1e-4)


@pytest.mark.parametrize("build", [flow_matching, ddpm])
def test_the_error_of_a_density_falls_with_the_steps(build):
    best, _ = scored(build(gaussian, num_steps=160), drawn(8))
    errors = [
        (scored(build(gaussian, num_steps=n), drawn(8))[0] - best).abs().mean().item() for n in (5, 10, 20)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
