"""Marginals and posteriors of the chain, by the chain itself and by Bayes; what outputs say of images."""

import itertools

import pytest
import torch

from genlab.diffusion.process import Process, read
from genlab.diffusion.schedules import CosineSchedule, LinearSchedule

BETAS = torch.tensor([0.05, 0.1, 0.3, 0.2, 0.4, 0.6], dtype=torch.float64)  # neither rising nor small
PROCESS = Process(BETAS)
PAIRS = list(itertools.combinations(range(len(BETAS) + 1), 2))
"""All s < t, 0 among them."""


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def planes(values):
    return values.view(-1, 1, 1, 1)


def steps(t, n=1):
    return torch.full((n,), t)


def walk(x0, generator):
    """``x_0`` to ``x_T`` by single steps of the chain."""
    way = [x0]
    for beta in BETAS:
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        way.append((1 - beta).sqrt() * way[-1] + beta.sqrt() * noise)
    return way


def assert_mean(samples, wanted):
    """Within 4 standard errors, and rounding."""
    error = samples.std() / len(samples) ** 0.5
    assert abs(samples.mean() - wanted) < 4 * error + 1e-12


def test_marginals_are_those_of_the_chain():
    x0 = double(0.7).expand(200_000)
    for t, x_t in enumerate(walk(x0, torch.Generator().manual_seed(0))):
        mean = (PROCESS.alpha(steps(t)) * 0.7).item()
        assert_mean(x_t, mean)
        assert_mean((x_t - mean).square(), PROCESS.sigma(steps(t)).square().item())


def test_diffuse_is_the_marginal_of_the_noise_it_is_given():
    x0, eps = torch.randn(2, 7, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = torch.cat([double(1.0), (1 - BETAS).cumprod(0)])  # each image is at a step of its own
    wanted = planes(kept.sqrt()) * x0 + planes((1 - kept).sqrt()) * eps
    assert torch.allclose(PROCESS.diffuse(x0, torch.arange(7), eps), wanted, rtol=1e-12)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_posteriors_agree_with_bayes(s, t):
    """By precisions: q(x_s | x_t, x_0) is q(x_s | x_0) times q(x_t | x_s) as a function of x_s."""
    x0, x_t = torch.randn(2, 5, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept_s, step = (1 - BETAS[:s]).prod(), (1 - BETAS[s:t]).prod()
    mean = PROCESS.posterior_mean(x0, x_t, steps(s, 5), steps(t, 5))
    variance = PROCESS.posterior_variance(steps(s), steps(t))
    if s == 0:
        assert variance.item() == 0
        assert torch.allclose(mean, x0, rtol=1e-12)
        return
    precision = 1 / (1 - kept_s) + step / (1 - step)
    wanted = (kept_s.sqrt() * x0 / (1 - kept_s) + step.sqrt() * x_t / (1 - step)) / precision
    assert variance.item() == pytest.approx(1 / precision.item(), rel=1e-12)
    assert torch.allclose(mean, wanted, rtol=1e-12)


@pytest.mark.parametrize(("s", "t"), [(1, 2), (4, 5), (2, 6), (1, 6)])
def test_posteriors_agree_with_the_chain(s, t):
    """x_s - E[x_s | x_t, x_0] is of mean 0 and of that variance, and knows nothing of x_t and x_0."""
    generator = torch.Generator().manual_seed(s + 10 * t)
    x0 = 2 * torch.rand(200_000, 1, 1, 1, generator=generator, dtype=torch.float64) - 1
    way = walk(x0, generator)
    mean = PROCESS.posterior_mean(x0, way[t], steps(s, len(x0)), steps(t, len(x0)))
    rest = (way[s] - mean).flatten()
    assert_mean(rest, 0)
    assert_mean(rest * way[t].flatten(), 0)
    assert_mean(rest * x0.flatten(), 0)
    assert_mean(rest.square(), PROCESS.posterior_variance(steps(s), steps(t)).item())


def test_single_steps_are_those_of_ho_et_al():
    """Eq. 7, in the paper's symbols."""
    alphas = 1 - BETAS
    alpha_bar = alphas.cumprod(0)
    x0, x_t = torch.randn(2, 5, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.arange(2, 7)
    beta, alpha, now, before = BETAS[t - 1], alphas[t - 1], alpha_bar[t - 1], alpha_bar[t - 2]
    of_x0, of_x_t = before.sqrt() * beta / (1 - now), alpha.sqrt() * (1 - before) / (1 - now)
    wanted = planes(of_x0) * x0 + planes(of_x_t) * x_t
    assert torch.allclose(PROCESS.posterior_mean(x0, x_t, t - 1, t), wanted, rtol=1e-12)
    variance = planes((1 - before) / (1 - now) * beta)
    assert torch.allclose(PROCESS.posterior_variance(t - 1, t), variance, rtol=1e-12)


# --------------------------------------------------------------------------------------- reverse variances


@pytest.mark.parametrize(("s", "t"), [pair for pair in PAIRS if pair[0]])
def test_small_is_the_posteriors_variance_and_large_the_steps(s, t):
    small = PROCESS.reverse_log_variance(steps(s), steps(t), "small").exp().item()
    large = PROCESS.reverse_log_variance(steps(s), steps(t), "large").exp().item()
    assert small == pytest.approx(PROCESS.posterior_variance(steps(s), steps(t)).item(), rel=1e-12)
    assert large == pytest.approx(1 - (1 - BETAS[s:t]).prod().item(), rel=1e-12)
    assert small < large


def test_the_best_variance_lies_between_them():
    """For data that is a point it is the small one, and for data that is standard normal the large one."""
    t = torch.arange(2, 7)
    small = PROCESS.reverse_log_variance(t - 1, t, "small").exp()
    large = PROCESS.reverse_log_variance(t - 1, t, "large").exp()
    sigma, coefficient = (
        PROCESS.sigma(t).square(),
        PROCESS.posterior_mean(planes(double(*[1] * 5)), 0, t - 1, t),
    )
    for data_variance in (
        0.0,
        0.3,
        1.0,
    ):  # Var(x_s | x_t) = E[Var(x_s | x_t, x_0)] + Var(E[x_s | x_t, x_0] | x_t)
        of_x0 = data_variance * sigma / (PROCESS.alpha(t).square() * data_variance + sigma)
        best = PROCESS.posterior_variance(t - 1, t) + coefficient.square() * of_x0
        share = (best.log() - small.log()) / (large.log() - small.log())
        assert ((share > -1e-9) & (share < 1 + 1e-9)).all()
        if data_variance in (0, 1):
            assert torch.allclose(share, torch.full_like(share, data_variance), atol=1e-9)


def test_the_first_step_has_the_small_variance_of_the_second():
    """Its own posterior has none; the small one stays below the large one, so that there is room to learn."""
    first = PROCESS.reverse_log_variance(steps(0), steps(1), "small")
    assert torch.equal(first, PROCESS.posterior_variance(steps(1), steps(2)).log())
    assert first < PROCESS.reverse_log_variance(steps(0), steps(1), "large")
    assert torch.equal(first, PROCESS.reverse_log_variance(steps(0), steps(6), "small"))


def test_a_learned_variance_lies_where_the_fraction_says():
    fraction = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64).view(1, 1, 1, 3).expand(7, 2, 1, 3)
    t = torch.tensor([1, 2, 3, 4, 5, 6, 6])
    s = torch.tensor([0, 1, 2, 3, 4, 5, 2])
    small, large = (PROCESS.reverse_log_variance(s, t, kind) for kind in ("small", "large"))
    learned = PROCESS.reverse_log_variance(s, t, "learned", fraction)
    assert learned.shape == fraction.shape
    wanted = torch.stack([small, 0.75 * small + 0.25 * large, large], dim=-1).squeeze(-2)
    assert torch.allclose(learned, wanted.expand(7, 2, 1, 3), rtol=1e-12)


# --------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_what_is_predicted_without_error_is_read_without_error(kind):
    generator = torch.Generator().manual_seed(0)
    x0 = 2 * torch.rand(6, 3, 2, 2, generator=generator, dtype=torch.float64) - 1
    eps, t = torch.randn(x0.shape, generator=generator, dtype=torch.float64), torch.arange(1, 7)
    target = PROCESS.target(kind, x0, t, eps)
    x_t, alpha, sigma = PROCESS.diffuse(x0, t, eps), PROCESS.alpha(t), PROCESS.sigma(t)
    for clip in (False, True):
        seen = read(kind, target, x_t, alpha, sigma, clip)
        assert torch.allclose(seen.x0, x0, atol=1e-12)
        assert torch.allclose(seen.eps, eps, atol=1e-12)
        assert seen.fraction is None


def test_targets_are_the_noise_the_image_and_their_rotation():
    x0, eps = torch.randn(2, 6, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1, 7)
    kept = planes((1 - BETAS).cumprod(0))
    assert PROCESS.target("eps", x0, t, eps) is eps
    assert PROCESS.target("x0", x0, t, eps) is x0
    assert torch.allclose(
        PROCESS.target("v", x0, t, eps), kept.sqrt() * eps - (1 - kept).sqrt() * x0, rtol=1e-12
    )


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("clip", [False, True])
def test_image_and_noise_always_make_up_what_was_seen(kind, clip):
    generator = torch.Generator().manual_seed(0)
    x_t, output = 3 * torch.randn(2, 6, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.arange(1, 7)
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    seen = read(kind, output, x_t, alpha, sigma, clip)
    assert torch.allclose(alpha * seen.x0 + sigma * seen.eps, x_t, rtol=1e-12)
    free = read(kind, output, x_t, alpha, sigma, clip=False).x0
    assert (free.abs() > 1).any()
    assert torch.equal(seen.x0, free.clamp(-1, 1) if clip else free)


# --------------------------------------------------------------------------------------- precision, times


@pytest.mark.parametrize(
    "schedule",
    [LinearSchedule(), LinearSchedule(num_steps=4000), CosineSchedule(), CosineSchedule(num_steps=50)],
    ids=lambda schedule: f"{schedule.name}-{schedule.num_steps}",
)
def test_float32_is_as_good_as_float64(schedule):
    """But for beta_{t|s} of single steps: a difference of logarithms of up to 20, whose digits end at 1e-6."""
    exact = Process(schedule.betas())
    single = Process(schedule.betas()).float()
    t = torch.arange(1, schedule.num_steps + 1)

    def error(function, t=t):
        return (function(single, t).double() / function(exact, t) - 1).abs().max().item()

    assert error(lambda p, t: p.alpha(t)) < 2e-6
    assert error(lambda p, t: p.sigma(t)) < 2e-7
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    assert error(lambda p, t: p.posterior_mean(one, zero, t - 1, t)) < 3e-4
    assert error(lambda p, t: p.posterior_mean(zero, one, t - 1, t), t[1:]) < 3e-4
    assert error(lambda p, t: p.reverse_log_variance(t - 1, t, "small").exp()) < 3e-4
    assert error(lambda p, t: p.reverse_log_variance(t - 1, t, "large").exp()) < 3e-4
    halves = t[1:] // 2
    assert error(lambda p, t: p.posterior_variance(halves, t), t[1:]) < 3e-6


def test_steps_and_their_noise_are_inverse_to_each_other():
    process = Process(LinearSchedule(num_steps=100).betas())
    low, high = process.noise_range
    ratio = (process.sigma(torch.arange(1, 101)) / process.alpha(torch.arange(1, 101))).log().flatten()
    assert (low, high) == pytest.approx((ratio[0].item(), ratio[-1].item()), rel=1e-12)
    for t in (1, 2, 50, 99, 100):
        assert process.time_of(ratio[t - 1].item()) == pytest.approx(t / 100, rel=1e-12)
    between = (0.25 * ratio[41] + 0.75 * ratio[42]).item()
    assert process.time_of(between) == pytest.approx(0.4275, rel=1e-9)
    assert process.time_of(low - 1) == pytest.approx(0.01)
    assert process.time_of(high + 1) == pytest.approx(1)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 25, 99, 100, 1000, None])
def test_subsequences_fall_from_the_end_to_the_image(num_steps):
    way = Process(torch.full((100,), 0.1, dtype=torch.float64)).subsequence(num_steps)
    assert (way[0], way[-1]) == (100, 0)
    count = min(num_steps or 100, 100)
    assert len(way) == count + 1
    gaps = [t - s for t, s in itertools.pairwise(way)]
    assert all(abs(gap - 100 / count) < 1 for gap in gaps)
