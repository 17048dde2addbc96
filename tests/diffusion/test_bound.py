"""The variational bound, term by term, on data whose probability and best denoiser are known."""

import itertools

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genlab.diffusion.bound import bound_terms, prior_term, step_term, strata
from genlab.diffusion.process import Denoised, Process
from genlab.diffusion.schedules import CosineSchedule, LinearSchedule
from genlab.likelihood import level_log_prob, signed

LINEAR = Process(LinearSchedule().betas())
SHORT = Process(LinearSchedule(num_steps=30).betas())
VARIANCES = ["small", "large", "learned"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n, *shape, seed=0):
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def says(process, x0=None, eps=None, fraction=0.3):
    """A denoiser that says the same image, or the same noise, of whatever it sees."""

    def denoise(x_t, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        image = (x_t - sigma * eps) / alpha if x0 is None else x0.expand_as(x_t)
        return Denoised(image, (x_t - alpha * image) / sigma, torch.full_like(x_t, fraction))

    return denoise


# --------------------------------------------------------------------------------------- single terms


def test_a_term_is_the_kl_between_two_gaussians():
    """Of the posterior from step t to t - 1 and the reverse step, by torch.distributions."""
    x, t, eps = images(29, 2, 3, 3), torch.arange(2, 31), normal(29, 2, 3, 3)
    foreseen = normal(29, 2, 3, 3, seed=1)
    x0, x_t = signed(x).double(), SHORT.diffuse(signed(x).double(), t, eps)
    posterior = Normal(SHORT.posterior_mean(x0, x_t, t - 1, t), SHORT.posterior_variance(t - 1, t).sqrt())
    for variance in VARIANCES:
        fraction = torch.full_like(x_t, 0.3)
        std = (0.5 * SHORT.reverse_log_variance(t - 1, t, variance, fraction)).exp()
        reverse = Normal(SHORT.posterior_mean(foreseen, x_t, t - 1, t), std)
        wanted = kl_divergence(posterior, reverse).flatten(1).sum(1)
        term = step_term(says(SHORT, foreseen), SHORT, variance, x, t, eps)
        assert torch.allclose(term, wanted, rtol=1e-9)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_terms_weigh_the_error_of_the_noise_as_in_ho_et_al(variance):
    """Eq. 12: beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) times the squared error, and a constant."""
    betas = LinearSchedule(num_steps=30).betas()
    alpha_bar, t = (1 - betas).cumprod(0), torch.arange(2, 31)
    beta, now, before = betas[1:], alpha_bar[1:], alpha_bar[:-1]
    posterior = (1 - before) / (1 - now) * beta
    reverse = posterior if variance == "small" else beta
    x, eps, said = images(29, 1, 2, 2), normal(29, 1, 2, 2), normal(29, 1, 2, 2, seed=1)
    weight = beta**2 / (2 * reverse * (1 - beta) * (1 - now))
    constant = 0.5 * 4 * (posterior / reverse - 1 - (posterior / reverse).log())
    wanted = weight * (eps - said).square().flatten(1).sum(1) + constant
    term = step_term(says(SHORT, eps=said), SHORT, variance, x, t, eps)
    assert torch.allclose(term, wanted, rtol=1e-9)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_first_step_names_levels(variance):
    """-log p(x_0 | x_1) is of the discretised Gaussian around the image foreseen."""
    x, foreseen = images(5, 1, 2, 2), normal(5, 1, 2, 2)
    one = torch.ones(5, dtype=torch.long)
    beta = LinearSchedule(num_steps=30).betas()[:2]
    small, large = (beta[1] * beta[0] / (1 - (1 - beta).prod())).log(), beta[0].log()
    log_variance = {"small": small, "large": large, "learned": 0.3 * large + 0.7 * small}[variance]
    wanted = -level_log_prob(x, foreseen, (0.5 * log_variance).exp().expand(5, 1, 2, 2))
    term = step_term(says(SHORT, foreseen), SHORT, variance, x, one, normal(5, 1, 2, 2))
    assert torch.allclose(term, wanted.flatten(1).sum(1), rtol=1e-9)


def test_who_knows_the_image_pays_nothing_after_the_first_step():
    x, t, eps = images(29, 1, 4, 4), torch.arange(2, 31), normal(29, 1, 4, 4)
    term = step_term(says(SHORT, signed(x).double()), SHORT, "small", x, t, eps)
    assert torch.equal(term, torch.zeros(29, dtype=torch.float64))


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=lambda schedule: schedule.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_prior_term_is_the_kl_from_standard_normal_noise(schedule, dtype):
    """Of a billionth of a nat in the cosine schedule, and right in float32: it isn't had from 1 - alpha_bar."""
    alpha_bar = torch.log1p(-schedule.betas()).sum().exp()
    x0 = signed(images(4, 2, 3, 3)).double()
    # KL = (alpha_bar x_0^2 - alpha_bar - log(1 - alpha_bar)) / 2, where the logarithm is -a - a^2/2 - a^3/3 ...
    series = alpha_bar**2 / 2 + alpha_bar**3 / 3
    wanted = 0.5 * (alpha_bar * x0.square() + series).flatten(1).sum(1)
    term = prior_term(Process(schedule.betas()).to(dtype), x0.to(dtype))
    assert term.dtype == dtype
    assert torch.allclose(term.double(), wanted, rtol=1e-5 if dtype == torch.float32 else 1e-7)


def test_gradients_are_finite_at_every_step_in_float32():
    """Each image is at the first step or beyond it, and what is not chosen is not to spoil the gradient."""
    process = Process(LinearSchedule().betas()).float()
    x, t = images(1000, 1, 2, 2), torch.arange(1, 1001)
    said = (3 * normal(1000, 1, 2, 2)).float().requires_grad_()
    fraction = torch.full((1000, 1, 2, 2), 0.5, requires_grad=True)
    denoise = lambda x_t, t: Denoised(said, x_t, fraction)  # noqa: E731
    step_term(denoise, process, "learned", x, t, normal(1000, 1, 2, 2).float()).sum().backward()
    for values in (said, fraction):
        assert values.grad.isfinite().all()
        assert (values.grad != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=lambda schedule: schedule.name)
def test_float32_terms_are_those_of_float64(schedule, variance):
    exact, single = Process(schedule.betas()), Process(schedule.betas()).float()
    x, t, eps = images(1000, 1, 2, 2), torch.arange(1, 1001), normal(1000, 1, 2, 2).float()
    foreseen = (signed(x) + 0.1 * normal(1000, 1, 2, 2, seed=1)).float()
    wanted = step_term(says(exact, foreseen.double()), exact, variance, x, t, eps.double())
    found = step_term(says(single, foreseen), single, variance, x, t, eps)
    assert torch.allclose(found.double(), wanted, rtol=1e-3)
    assert found.double().sum().item() == pytest.approx(wanted.sum().item(), rel=1e-5)


# --------------------------------------------------------------------------------------- strata


@pytest.mark.parametrize("count", [2, 3, 10, 31, 32, 100, 999, 1000, 5000, None])
@pytest.mark.parametrize("num_steps", [2, 3, 100, 1000])
def test_strata_hold_each_step_once_and_the_first_by_itself(num_steps, count):
    parts = strata(num_steps, count)
    assert len(parts) == min(count or num_steps, num_steps)
    assert parts[0] == (1, 1)
    assert [t for first, last in parts for t in range(first, last + 1)] == list(range(1, num_steps + 1))
    widths = [last - first for first, last in parts]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(widths))


class Recorder:
    """A denoiser that says grey, and keeps what it was asked about."""

    def __init__(self):
        self.asked, self.seen = [], []

    def __call__(self, x_t, t):
        self.asked.append(t)
        self.seen.append(x_t)
        return Denoised(torch.zeros_like(x_t), x_t)


def test_without_a_count_every_image_goes_through_each_step_once():
    torch.manual_seed(0)
    recorder = Recorder()
    terms = bound_terms(recorder, SHORT, "large", images(3, 1, 2, 2), None)
    assert terms.shape == (3, 31)
    assert torch.equal(torch.stack(recorder.asked), torch.arange(1, 31)[:, None].expand(30, 3))


def test_images_have_steps_and_noise_of_their_own():
    torch.manual_seed(0)
    recorder = Recorder()
    terms = bound_terms(recorder, SHORT, "large", images(1, 1, 2, 2).expand(50, 1, 2, 2), 4)
    assert len(recorder.asked) == 4
    for t, (first, last) in zip(recorder.asked, strata(30, 4), strict=True):
        assert set(t.tolist()) <= set(range(first, last + 1))
    assert len(set(recorder.asked[-1].tolist())) > 10  # of 17
    assert all(len(x_t.flatten().unique()) == x_t.numel() for x_t in recorder.seen)
    assert torch.equal(terms[:, -1], prior_term(SHORT, signed(images(1, 1, 2, 2))).expand(50))


def test_a_few_strata_are_unbiased_for_all_steps_in_every_summand():
    """Against the mean of each step; of the same image, so that all spread is of steps and noise."""
    torch.manual_seed(0)
    n, x = 20_000, images(1, 1, 1, 2)
    denoise = says(SHORT, torch.full((1, 1, 1, 2), 0.2, dtype=torch.float64))
    every = bound_terms(denoise, SHORT, "large", x.expand(n, 1, 1, 2), None)
    few = bound_terms(denoise, SHORT, "large", x.expand(n, 1, 1, 2), 5)
    for k, (first, last) in enumerate(strata(30, 5)):
        exact = every[:, first - 1 : last].sum(1)
        error = ((exact.var() + few[:, k].var()) / n).sqrt()
        assert abs(exact.mean() - few[:, k].mean()) < 4 * error + 1e-9  # of L_0 there is but rounding
    assert torch.equal(every[:, -1], few[:, -1])


# --------------------------------------------------------------------------------------- a Gaussian


AXIS = signed(torch.arange(256, dtype=torch.uint8)).double()
CELLS = torch.cartesian_prod(AXIS, AXIS)
"""All images of two pixels."""
GAUSSIAN = MultivariateNormal(
    torch.tensor([0.1, -0.2], dtype=torch.float64),
    torch.tensor([[0.06, 0.03], [0.03, 0.04]], dtype=torch.float64),
)
LOG_P = GAUSSIAN.log_prob(CELLS).log_softmax(0)
"""Their probabilities, a Gaussian's on the levels: exactly those that are drawn and scored."""
MEAN = LOG_P.exp() @ CELLS
COVARIANCE = (CELLS - MEAN).T @ (LOG_P.exp()[:, None] * (CELLS - MEAN))


def gaussian_images(n):
    """Their indices in ``CELLS`` as well."""
    index = torch.multinomial(LOG_P.exp(), n, replacement=True, generator=torch.Generator().manual_seed(0))
    return index, torch.stack([index // 256, index % 256], 1).to(torch.uint8).view(n, 1, 1, 2)


def gain(process, t):
    """Of the best linear denoiser at steps ``t`` ``(B,)``: ``(B, 2, 2)``."""
    alpha, sigma = process.alpha(t)[..., 0], process.sigma(t)[..., 0]
    return alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double())


def best(process):
    """``E[x_0 | x_t]``."""

    def denoise(x_t, t):
        alpha = process.alpha(t)
        surprise = x_t.flatten(1) - alpha.flatten(1) * MEAN
        x0 = (MEAN + torch.einsum("bij,bj->bi", gain(process, t), surprise)).view_as(x_t)
        return Denoised(x0, (x_t - alpha * x0) / process.sigma(t))

    return denoise


@pytest.mark.parametrize("variance", ["small", "large"])
def test_terms_of_a_gaussian_are_known(variance):
    """From the second moments of what a linear denoiser misses of the image: Tr(Cov(x_0 | x_t))."""
    _, x = gaussian_images(40_000)
    betas = LinearSchedule().betas()
    alpha_bar = (1 - betas).cumprod(0)
    for step in (2, 3, 20, 200, 600, 1000):
        beta, now, before = betas[step - 1], alpha_bar[step - 1], alpha_bar[step - 2]
        posterior = (1 - before) / (1 - now) * beta
        reverse = posterior if variance == "small" else beta
        missed = torch.trace(COVARIANCE - gain(LINEAR, torch.tensor([step]))[0] @ COVARIANCE * now.sqrt())
        ratio = posterior / reverse
        known = before * (beta / (1 - now)) ** 2 * missed / (2 * reverse) + ratio - 1 - ratio.log()
        t = torch.full((len(x),), step)
        term = step_term(best(LINEAR), LINEAR, variance, x, t, normal(len(x), 1, 1, 2, seed=step))
        assert abs(term.mean() - known) < 4 * term.std() / len(x) ** 0.5


def bound_less_nll(schedule, variance, n=20_000):
    """Mean and standard error of what the bound loses."""
    torch.manual_seed(0)
    process = Process(schedule.betas())
    index, x = gaussian_images(n)
    loss = bound_terms(best(process), process, variance, x, 60).sum(1) + LOG_P[index]
    return loss.mean().item(), loss.std().item() / n**0.5


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=lambda schedule: schedule.name)
def test_a_long_chain_with_the_best_denoiser_has_the_entropy_of_the_images(schedule):
    """Of 9.29 nats it loses what a thousand Gaussian steps can't say, and no more."""
    loss, error = bound_less_nll(schedule, "large")
    assert -4 * error < loss < 0.02 + 4 * error
    assert error < 0.02


@pytest.mark.parametrize(
    ("schedule", "variance"), [(LinearSchedule(num_steps=100), "large"), (LinearSchedule(), "small")]
)
def test_a_short_chain_or_the_wrong_variance_is_a_looser_bound(schedule, variance):
    loss, error = bound_less_nll(schedule, variance)
    assert loss > 4 * error
