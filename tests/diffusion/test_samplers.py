"""Samplers on Gaussian data, whose denoiser, probability flow and reverse chain are known in closed form."""

import itertools
import math

import pytest
import torch

from genlab.diffusion.process import Denoised, Process
from genlab.diffusion.samplers import (
    DDIM,
    Ancestral,
    AncestralConfig,
    DDIMConfig,
    DPMSolver,
    DPMSolverConfig,
    SamplersConfig,
    crowded,
)
from genlab.diffusion.schedules import CosineSchedule, LinearSchedule

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.2, 0.1], [0.1, 0.15]], dtype=torch.float64)
"""Of images of two pixels, ``(1, 1, 2)``."""
EYE = torch.eye(2, dtype=torch.float64)
CHAIN = Process(LinearSchedule(num_steps=100).betas())
LONG_CHAIN = Process(LinearSchedule(num_steps=6400).betas())
FRACTION = 0.3
"""Where the learned log-variance lies between its bounds."""
ALL = [
    Ancestral(None, "small"),
    Ancestral(None, "large"),
    Ancestral(None, "learned"),
    DDIM(None, 0.0),
    DDIM(None, 0.5),
    DDIM(None, 1.0),
    DPMSolver(100),
]


def denoiser(process):
    """``E[x_0 | x_t]`` of the Gaussian, and the noise that goes with it."""
    mean, covariance = MEAN.to(process.log_alpha_bar), COVARIANCE.to(process.log_alpha_bar)

    def denoise(x_t, t):
        alpha, sigma = process.alpha(t)[0].item(), process.sigma(t)[0].item()
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2).to(mean))
        x0 = mean + (x_t - alpha * mean) @ gain.T
        return Denoised(x0, (x_t - alpha * x0) / sigma, torch.full_like(x0, FRACTION))

    return denoise


def noise(n, seed=0, dtype=torch.float64):
    return torch.randn(n, 1, 1, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def way(sampler, process, start, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return list(sampler.steps(denoiser(process), process, start, generator))


def images(sampler, process, start, seed=1):
    return way(sampler, process, start, seed)[-1].x.flatten(1)


def alphas_and_sigmas(process):
    """From the betas alone, by the products that the papers write."""
    betas = -torch.expm1(process.log_alpha_bar.diff())
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)]).tolist()
    return [math.sqrt(a) for a in alpha_bar], [math.sqrt(1 - a) for a in alpha_bar]


def reverse_variances(alpha, sigma, s, t):
    """The posterior's variance, by adding precisions, and that of ``q(x_t | x_s)``."""
    large = 1 - (alpha[t] / alpha[s]) ** 2
    small = 1 / ((alpha[t] / alpha[s]) ** 2 / large + 1 / sigma[s] ** 2)
    return small, large


def reverse_moments(sampler, process):
    """Mean and covariance of what the sampler's steps make of standard normal noise."""
    alpha, sigma = alphas_and_sigmas(process)
    mean, covariance = torch.zeros(2, dtype=torch.float64), EYE
    for t, s in itertools.pairwise(process.subsequence(sampler.num_steps)):
        gain = alpha[t] * COVARIANCE @ torch.linalg.inv(alpha[t] ** 2 * COVARIANCE + sigma[t] ** 2 * EYE)
        of_x0, of_x_t, variance = step_weights(sampler, alpha, sigma, s, t)
        factor = of_x0 * gain + of_x_t * EYE
        mean = factor @ mean + of_x0 * (MEAN - alpha[t] * gain @ MEAN)
        covariance = factor @ covariance @ factor.T + variance * EYE
    return mean, covariance


def step_weights(sampler, alpha, sigma, s, t):
    """What a step takes of the image foreseen, of ``x_t``, and the variance of its noise."""
    if s == 0:
        return 1.0, 0.0, 0.0
    small, large = reverse_variances(alpha, sigma, s, t)
    if isinstance(sampler, DDIM):
        variance = sampler.eta**2 * small
        of_eps = math.sqrt(sigma[s] ** 2 - variance) / sigma[t]
        return alpha[s] - of_eps * alpha[t], of_eps, variance
    variance = {"small": small, "large": large, "learned": large**FRACTION * small ** (1 - FRACTION)}
    return small * alpha[s] / sigma[s] ** 2, small * alpha[t] / alpha[s] / large, variance[sampler.variance]


def exact_flow(process, start):
    """Where the probability-flow ODE takes noise: ``m + S^(1/2) S_T^(-1/2) (x_T - alpha_T m)``."""
    alpha, sigma = (values[-1] for values in alphas_and_sigmas(process))
    eigenvalues, vectors = torch.linalg.eigh(COVARIANCE)
    scale = (eigenvalues / (alpha**2 * eigenvalues + sigma**2)).sqrt()
    return MEAN + (start.flatten(1) - alpha * MEAN) @ (vectors * scale) @ vectors.T


# ------------------------------------------------------------------ the distribution


@pytest.mark.parametrize("num_steps", [None, 10])
@pytest.mark.parametrize(
    "sampler",
    [
        lambda n: Ancestral(n, "small"),
        lambda n: Ancestral(n, "large"),
        lambda n: Ancestral(n, "learned"),
        lambda n: DDIM(n, 0.0),
        lambda n: DDIM(n, 0.5),
        lambda n: DDIM(n, 1.0),
    ],
    ids=["small", "large", "learned", "eta=0", "eta=0.5", "eta=1"],
)
def test_images_have_the_moments_that_the_steps_give(sampler, num_steps):
    n, sampler = 40_000, sampler(num_steps)
    mean, covariance = reverse_moments(sampler, CHAIN)
    drawn = images(sampler, CHAIN, noise(n))
    variances = covariance.diagonal()
    error = ((variances[:, None] * variances + covariance**2) / n).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 4 * (variances / n).sqrt()).all()
    assert ((drawn.T.cov() - covariance).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("sampler", "error"),  # what 100 steps leave of mean and covariance; it falls as their number grows
    [
        (Ancestral(None, "small"), 0.027),
        (Ancestral(None, "large"), 0.008),
        (Ancestral(None, "learned"), 0.018),
        (DDIM(None, 0.0), 0.013),
        (DDIM(None, 0.5), 0.016),
        (DDIM(None, 1.0), 0.027),
    ],
    ids=repr,
)
def test_the_whole_chain_ends_in_the_data_but_for_its_steps(sampler, error):
    for process, allowed in ((CHAIN, error), (LONG_CHAIN, error / 10)):
        mean, covariance = reverse_moments(sampler, process)
        assert (mean - MEAN).abs().max() < max(allowed, 0.002)  # no chain ends in noise alone
        assert (covariance - COVARIANCE).abs().max() < allowed


@pytest.mark.parametrize(("num_steps", "error"), [(100, 0.001), (20, 0.01)])
def test_dpm_solver_ends_in_the_data(num_steps, error):
    """Its steps are affine, and three starts tell all of them."""
    starts = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double().view(3, 1, 1, 2)
    offset, *rows = images(DPMSolver(num_steps), LONG_CHAIN, starts)
    factor = torch.stack(rows) - offset
    assert (offset - MEAN).abs().max() < max(error, 0.002)
    assert (factor.T @ factor - COVARIANCE).abs().max() < error


# ------------------------------------------------------------------ one sampler and another


@pytest.mark.parametrize("num_steps", [None, 7])
def test_ddim_of_eta_1_is_the_ancestral_sampler_of_small_variance(num_steps):
    chain = way(Ancestral(num_steps, "small"), CHAIN, noise(5))
    for a, b in zip(chain, way(DDIM(num_steps, 1.0), CHAIN, noise(5)), strict=True):
        assert a.time == b.time
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(a.x0, b.x0, rtol=1e-9, atol=1e-11)


def test_ddim_of_eta_0_is_dpm_solver_of_first_order():
    alpha, sigma = alphas_and_sigmas(CHAIN)
    steps = way(DDIM(9, 0.0), CHAIN, noise(5))
    for (now, following), (t, s) in zip(
        itertools.pairwise(steps), itertools.pairwise(CHAIN.subsequence(9)), strict=True
    ):
        h = math.log(alpha[s] / sigma[s] * sigma[t] / alpha[t]) if s else math.inf
        x = sigma[s] / sigma[t] * now.x - alpha[s] * math.expm1(-h) * now.x0
        torch.testing.assert_close(following.x, x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_step_is_the_image_foreseen_in_noise(dtype):
    process, start = Process(LinearSchedule(num_steps=100).betas().to(dtype)), noise(5, dtype=dtype)
    foreseen = denoiser(process)(start, torch.full((5,), 100)).x0
    for sampler in (Ancestral(1, "large"), DDIM(1, 0.0), DDIM(1, 1.0), DPMSolver(1)):
        first, last = way(sampler, process, start)
        torch.testing.assert_close(first.x0, foreseen)
        torch.testing.assert_close(last.x, foreseen)


# ------------------------------------------------------------------ the probability flow


def test_dpm_solver_is_of_second_order_and_ddim_of_first():
    start = noise(200)
    exact = exact_flow(LONG_CHAIN, start)

    def errors(sampler):
        found = [(images(sampler(n), LONG_CHAIN, start) - exact).abs().mean().item() for n in (20, 40, 80)]
        return found, [a / b for a, b in itertools.pairwise(found)]

    second, halvings_of_second = errors(DPMSolver)
    first, halvings_of_first = errors(lambda n: DDIM(n, 0.0))
    assert all(3.7 < factor < 4.5 for factor in halvings_of_second)
    assert all(1.8 < factor < 2.2 for factor in halvings_of_first)
    assert all(5 * a < b for a, b in zip(second, first, strict=True))


def test_twenty_steps_of_dpm_solver_keep_what_is_small(monkeypatch):
    """A standard deviation of 0.05 in one direction: even steps would lose a third of it in the last."""
    small = torch.diag(torch.tensor([0.2, 0.0025], dtype=torch.float64))
    monkeypatch.setattr(f"{__name__}.COVARIANCE", small)
    drawn = images(DPMSolver(20), LONG_CHAIN, noise(2000))
    exact = exact_flow(LONG_CHAIN, noise(2000))
    assert drawn[:, 1].std() == pytest.approx(exact[:, 1].std().item(), rel=0.1)


# ------------------------------------------------------------------ the way


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_the_way_leads_from_the_noise_to_the_image(sampler):
    steps = way(sampler, CHAIN, noise(3))
    times = [step.time for step in steps]
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, 101)
    assert all(before > after for before, after in itertools.pairwise(times))
    assert torch.equal(steps[0].x, noise(3))
    assert torch.equal(steps[-1].x, steps[-1].x0)
    seen = denoiser(CHAIN)(steps[40].x, torch.full((3,), round(100 * times[40])))
    assert torch.equal(steps[40].x0, seen.x0)


@pytest.mark.parametrize("sampler", [Ancestral(7, "large"), DDIM(7, 0.5), DPMSolver(7)], ids=repr)
def test_as_many_steps_as_were_asked_for_and_never_more_than_the_chain_has(sampler):
    def with_steps(n):
        return type(sampler)(**{**vars(sampler), "num_steps": n})

    assert len(way(sampler, CHAIN, noise(1))) == 8
    assert len(way(with_steps(1000), CHAIN, noise(1))) == 101
    assert torch.equal(images(with_steps(1000), CHAIN, noise(1)), images(with_steps(100), CHAIN, noise(1)))


@pytest.mark.parametrize("total", [2, 3, 10, 97, 1000])
def test_crowded_steps_are_never_taken_twice(total):
    for n in range(1, total + 1):
        steps = crowded(total, n)
        assert (steps[0], steps[-1], len(steps)) == (total, 0, n + 1)
        assert all(before > after for before, after in itertools.pairwise(steps))
        gaps = [before - after for before, after in itertools.pairwise(steps)]
        assert all(before >= after - 1 for before, after in itertools.pairwise(gaps))  # but for rounding


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_chance_comes_from_the_generator_alone(sampler):
    once, again, other = (images(sampler, CHAIN, noise(4), seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    without = isinstance(sampler, DPMSolver) or (isinstance(sampler, DDIM) and not sampler.eta)
    assert torch.equal(once, other) == without


def test_no_square_root_of_what_rounding_made_negative():
    """Steps 14 and 988 of a thousand, whose posterior's variance comes out above that of the marginal."""
    log_alpha_bar = Process(LinearSchedule(beta_end=0.026).betas()).log_alpha_bar[[0, 14, 988]]
    process = Process(-torch.expm1(log_alpha_bar.diff()).float())
    process.log_alpha_bar.copy_(log_alpha_bar)
    one, two = torch.tensor([1]), torch.tensor([2])
    assert process.posterior_variance(one, two) > process.sigma(one).square()
    assert images(DDIM(None, 1.0), process, noise(3, dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("sampler", [DDIM(50, 0.0), DPMSolver(50)], ids=repr)
def test_single_precision_is_enough(sampler, schedule):
    single, double = Process(schedule.betas().float()), Process(schedule.betas())
    for a, b in zip(*(way(sampler, p, noise(4).to(p.log_alpha_bar)) for p in (single, double)), strict=True):
        torch.testing.assert_close(a.x.double(), b.x, rtol=0, atol=1e-3)


# ------------------------------------------------------------------ settings


def test_settings_make_the_sampler_that_is_named():
    settings = SamplersConfig(
        ancestral=AncestralConfig(num_steps=3),
        ddim=DDIMConfig(num_steps=4, eta=0.5),
        dpm_solver=DPMSolverConfig(num_steps=5),
    )
    assert settings.build("ancestral", "learned") == Ancestral(3, "learned")
    assert settings.build("ddim", "learned") == DDIM(4, 0.5)
    assert settings.build("dpm_solver", "learned") == DPMSolver(5)
