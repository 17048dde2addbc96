"""Likelihoods of pixels: each is a distribution, and says the same in log_prob, mean and sample."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from genlab.likelihood import bits_per_dim, to_levels
from genlab.nets.pixels import BernoulliConfig, CategoricalConfig, GaussianConfig, LogisticMixtureConfig
from genlab.types import DataSpec

PIXEL = DataSpec(1, 1, 1)
CONFIGS = {
    "bernoulli": BernoulliConfig(),
    "gaussian fixed": GaussianConfig(variance="fixed"),
    "gaussian shared": GaussianConfig(variance="shared"),
    "gaussian per pixel": GaussianConfig(variance="per_pixel"),
    "logistic mixture": LogisticMixtureConfig(num_components=3),
    "categorical": CategoricalConfig(),
}


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return CONFIGS[request.param]


def every_level():
    return torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)


def logistics(*components):
    """Planes of one grey pixel: weight's logit, mean on [-1, 1], raw log-scale (0 is a scale of e^-2)."""
    return torch.tensor(components).view(-1, 1, 1)


def images(spec, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)


# --------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("logit", [-30.0, -1.0, 0.0, 2.0, 200.0])
def test_bernoulli_probabilities_sum_to_one(logit):
    pixels = BernoulliConfig().build(PIXEL)
    x = torch.tensor([0.0, 1.0]).view(-1, 1, 1, 1)
    log_prob = pixels.log_prob(torch.full((1, 1, 1), logit), x)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert (log_prob[1] - log_prob[0]).item() == pytest.approx(logit, rel=1e-6)


def test_categorical_probabilities_are_the_softmax_of_the_levels():
    torch.manual_seed(0)
    pixels, logits = CategoricalConfig().build(PIXEL), 5 * torch.randn(256, 1, 1)
    log_prob = pixels.log_prob(logits, pixels.observe(every_level()))
    assert torch.allclose(log_prob, logits.flatten().log_softmax(0), atol=1e-5)


def test_a_decoder_that_says_nothing_has_exactly_eight_bits_per_dim():
    spec = DataSpec(3, 4, 5)
    pixels = CategoricalConfig().build(spec)
    planes = torch.zeros(256 * 3, 4, 5, dtype=torch.float64)
    bits = bits_per_dim(pixels.log_prob(planes, pixels.observe(images(spec))), spec.dim)
    assert torch.allclose(bits, torch.full((4,), 8.0, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("mean", [-1e6, -50.0, -1.0, -0.9999, 0.0, 0.3, 1.0, 50.0, 1e6])
@pytest.mark.parametrize("log_scale", [-100.0, -5.0, 0.0, 2.0, 10.0, 30.0])
def test_logistic_masses_sum_to_one_and_have_finite_gradients_however_extreme(mean, log_scale):
    pixels = LogisticMixtureConfig(num_components=2).build(PIXEL)
    planes = logistics([1.0, mean, log_scale], [-1.0, -mean / 2, 0.5 * log_scale]).requires_grad_()
    log_prob = pixels.log_prob(planes, pixels.observe(every_level()))
    assert log_prob.isfinite().all()
    # Boundaries of levels at 1097 scales are rounded to 1e-4 of a scale: the masses telescope up to that.
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-4)
    (gradient,) = torch.autograd.grad(log_prob.sum(), planes)
    assert gradient.isfinite().all()


def logistic_reference(planes, x, channels):
    """Salimans et al., equations 2 and 3, with a loop over channels and plain differences of sigmoids."""
    edges = torch.linspace(-1, 1, 256, dtype=torch.float64)
    total = torch.zeros(len(x), dtype=torch.float64)
    parts = planes.double().view(-1, 1 + 2 * channels + channels * (channels - 1) // 2)
    for weight, component in zip(parts[:, 0].softmax(0), parts, strict=True):
        means, log_scales = component[1 : 1 + channels], component[1 + channels : 1 + 2 * channels]
        couplings = iter(component[1 + 2 * channels :].tanh())
        probability = weight.expand(len(x))
        for c in range(channels):
            mean = means[c] + sum(next(couplings) * edges[x[:, b]] for b in range(c))
            scale = (log_scales[c] - 2).clamp(min=-7).exp()
            value = edges[x[:, c]]
            upper = torch.where(x[:, c] == 255, 1.0, ((value + 1 / 255 - mean) / scale).sigmoid())
            lower = torch.where(x[:, c] == 0, 0.0, ((value - 1 / 255 - mean) / scale).sigmoid())
            probability = probability * (upper - lower)
        total = total + probability
    return total


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_logistic_mixture_is_the_one_of_the_paper(channels):
    torch.manual_seed(0)
    spec = DataSpec(channels, 1, 1)
    pixels = LogisticMixtureConfig(num_components=4).build(spec)
    planes = torch.randn(pixels.shape)
    x = torch.cat([images(spec, 200), torch.zeros(1, *spec.shape), torch.full((1, *spec.shape), 255)])
    log_prob = pixels.log_prob(planes.double(), x.double() / 255)
    reference = logistic_reference(planes, x.long().flatten(1), channels)
    assert torch.allclose(log_prob.exp(), reference, rtol=1e-8, atol=1e-13)


def every_pair():
    pairs = torch.tensor(list(itertools.product(range(256), repeat=2)), dtype=torch.uint8)
    return pairs.view(-1, 2, 1, 1)


def test_logistic_masses_of_coupled_channels_sum_to_one():
    torch.manual_seed(0)
    pixels = LogisticMixtureConfig(num_components=2).build(DataSpec(2, 1, 1))
    log_prob = pixels.log_prob(2 * torch.randn(pixels.shape), pixels.observe(every_pair()))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_summed_over_blue_a_logistic_mixture_leaves_that_of_red_and_green():
    torch.manual_seed(0)
    rgb, rg = (LogisticMixtureConfig(num_components=3).build(DataSpec(c, 1, 1)) for c in (3, 2))
    planes = torch.randn(3, 10, 1, 1)
    # weight; means r g b; scales r g b; r->g, r->b, g->b
    without_blue = planes[:, [0, 1, 2, 4, 5, 7]]
    colours = torch.cat([torch.full((256, 2, 1, 1), 90), torch.arange(256).view(-1, 1, 1, 1)], 1)
    total = rgb.log_prob(planes.flatten(0, 1), rgb.observe(colours)).logsumexp(0)
    marginal = rg.log_prob(without_blue.flatten(0, 1), rg.observe(colours[0, :2]))
    assert total.item() == pytest.approx(marginal.item(), abs=1e-4)


@pytest.mark.parametrize("variance", ["fixed", "shared", "per_pixel"])
@pytest.mark.parametrize("scale", [0.002, 0.1, 3.0])
def test_a_gaussian_pixel_is_a_density_in_units_of_one_level(variance, scale):
    pixels = GaussianConfig(scale=scale, variance=variance).build(PIXEL).double()
    planes = torch.zeros(pixels.shape, dtype=torch.float64)  # a mean of 1/2
    x = torch.linspace(0.5 - 10 * scale, 0.5 + 10 * scale, 10_001, dtype=torch.float64)
    density = pixels.log_prob(planes, x.view(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density, 256 * x).item() == pytest.approx(1, abs=1e-6)
    variance = torch.trapezoid(density * (x - 0.5).square(), 256 * x)
    assert variance.sqrt().item() == pytest.approx(scale, rel=1e-3)


def test_a_gaussian_image_is_a_product_of_its_pixels_on_the_scale_of_levels():
    spec = DataSpec(3, 2, 2)
    pixels = GaussianConfig(variance="per_pixel").build(spec)
    torch.manual_seed(0)
    planes, x = torch.randn(pixels.shape), pixels.observe(images(spec))
    mean, scale = planes[:3].sigmoid(), 1e-3 + F.softplus(planes[3:] + pixels.offset)
    density = torch.distributions.Normal(mean, scale).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(pixels.log_prob(planes, x), to_levels(density, 12), rtol=1e-5)


# --------------------------------------------------------------------------------------- sampling


def draws(pixels, planes, n=20_000):
    return pixels.sample(planes.expand(n, *planes.shape), torch.Generator().manual_seed(0))


def assert_frequencies(counts, probabilities, n):
    error = (probabilities * (1 - probabilities) / n).sqrt()
    # 5 standard errors: of 256 levels none is further away. A level that is expected less than once may come.
    assert ((counts / n - probabilities).abs() <= 5 * error + 2 / n).all()


def test_bernoulli_samples_are_white_as_often_as_they_say():
    pixels, planes = BernoulliConfig().build(PIXEL), torch.full((1, 1, 1), -1.0)
    x = draws(pixels, planes)
    assert set(x.unique().tolist()) == {0, 255}
    probability = pixels.log_prob(planes, torch.ones(1, 1, 1, 1)).exp()
    assert_frequencies((x == 255).sum(), probability, len(x))


@pytest.mark.parametrize(
    ("config", "planes"),
    [
        (CategoricalConfig(), 3 * torch.randn(256, 1, 1, generator=torch.Generator().manual_seed(1))),
        (LogisticMixtureConfig(num_components=2), logistics([0.5, -0.95, -1.0], [0.0, 0.4, -3.0])),
        (LogisticMixtureConfig(num_components=1), logistics([0.0, 0.123, -5.0])),
        (LogisticMixtureConfig(num_components=1), logistics([0.0, 1.5, 0.0])),
    ],
    ids=["categorical", "logistic mixture", "narrow logistic", "logistic beyond white"],
)
def test_levels_are_drawn_as_often_as_log_prob_says(config, planes):
    pixels = config.build(PIXEL)
    x = draws(pixels, planes)
    probabilities = pixels.log_prob(planes, pixels.observe(every_level())).exp()
    assert_frequencies(x.flatten().long().bincount(minlength=256), probabilities, len(x))


@pytest.mark.parametrize("log_scale", [-5.0, -3.0, 0.0])
def test_coupled_channels_are_drawn_as_often_as_log_prob_says(log_scale):
    """Also where scales are narrower than a level: a channel is conditioned on the *level* of those before."""
    pixels = LogisticMixtureConfig(num_components=1).build(DataSpec(2, 1, 1))
    # The mean of the first channel lies a third of a level beside one.
    planes = logistics([0.0, 0.3346, 0.1, log_scale, log_scale, 1.5])
    x = draws(pixels, planes).long()
    probabilities = pixels.log_prob(planes, pixels.observe(every_pair())).exp()
    joint = (256 * x[:, 0] + x[:, 1]).flatten().bincount(minlength=256**2)
    assert_frequencies(joint, probabilities, len(x))


@pytest.mark.parametrize("variance", ["fixed", "shared", "per_pixel"])
def test_gaussian_samples_have_the_mass_of_each_level(variance):
    pixels = GaussianConfig(scale=0.2, variance=variance).build(PIXEL)
    planes = torch.full(pixels.shape, 0.0)
    x = draws(pixels, planes).flatten().long()
    edges = torch.arange(257) / 256
    cdf = torch.distributions.Normal(0.5, 0.2).cdf(edges)
    cdf[0], cdf[-1] = 0, 1  # the ends take the tails
    assert_frequencies(x.bincount(minlength=256), cdf.diff(), len(x))


def test_the_same_generator_draws_the_same_image(config):
    pixels = config.build(DataSpec(3, 4, 4))
    planes = torch.randn(2, *pixels.shape, generator=torch.Generator().manual_seed(0))
    a, b = (pixels.sample(planes, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert (a.shape, a.dtype) == ((2, 3, 4, 4), torch.uint8)


# --------------------------------------------------------------------------------------- mean


def test_the_mean_of_binary_and_categorical_pixels_is_the_expected_level():
    torch.manual_seed(0)
    pixels, logits = CategoricalConfig().build(PIXEL), 2 * torch.randn(256, 1, 1)
    expected = (logits.flatten().softmax(0) * torch.arange(256)).sum()
    assert pixels.mean(logits).item() == round(expected.item())
    logit = torch.full((1, 1, 1), 0.7)
    assert BernoulliConfig().build(PIXEL).mean(logit).item() == round(255 * logit.sigmoid().item())


def test_the_mean_of_a_logistic_mixture_is_the_expected_level():
    """Up to one level, where the components have no mass beyond black and white."""
    pixels = LogisticMixtureConfig(num_components=2).build(DataSpec(2, 1, 1))
    planes = logistics([0.3, -0.4, 0.1, -2.0, -2.0, 0.4], [-0.2, 0.3, -0.2, -1.5, -2.0, -0.8])
    x = every_pair()
    weights = pixels.log_prob(planes, pixels.observe(x)).exp()
    expected = (weights[:, None] * x.flatten(1)).sum(0)
    assert (pixels.mean(planes).flatten() - expected).abs().max() < 1


def test_the_mean_of_a_gaussian_is_the_level_that_holds_it():
    pixels = GaussianConfig().build(PIXEL)
    mean = torch.tensor([0.001, 0.3, 0.999]).view(-1, 1, 1, 1)
    assert pixels.mean(mean.logit()).flatten().tolist() == [0, int(0.3 * 256), 255]


# --------------------------------------------------------------------------------------- observing


def test_dynamic_binarisation_is_white_with_the_probability_of_the_level():
    torch.manual_seed(0)
    pixels, n = BernoulliConfig().build(PIXEL), 4000
    x = pixels.observe(every_level().expand(256, 1, 1, n))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x[0] == 0).all()
    assert (x[255] == 1).all()
    assert_frequencies(x.flatten(1).sum(1), torch.arange(256) / 255, n)
    assert torch.equal(pixels.expected(every_level()).flatten(), torch.arange(256) / 255)


@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_a_binary_image_is_seen_as_it_is(binarization):
    pixels = BernoulliConfig(binarization=binarization).build(DataSpec(1, 8, 8))
    x = (images(DataSpec(1, 8, 8)) > 127).to(torch.uint8) * 255
    for seen in (pixels.observe(x), pixels.expected(x)):
        assert torch.equal(seen, (x == 255).float())


def test_a_threshold_lies_between_the_two_middle_levels_and_leaves_nothing_to_chance():
    pixels = BernoulliConfig(binarization="threshold").build(PIXEL)
    seen = pixels.observe(every_level()).flatten()
    assert torch.equal(seen, (torch.arange(256) >= 128).float())
    assert torch.equal(pixels.expected(every_level()).flatten(), seen)


def test_what_is_expected_is_the_mean_of_what_is_observed(config):
    torch.manual_seed(0)
    pixels, x = config.build(PIXEL), every_level()
    seen = pixels.observe(x.expand(256, 1, 1, 2000)).mean(-1).flatten()
    # The noise of binarisation is at most 1/2 a pixel.
    assert torch.allclose(seen, pixels.expected(x).flatten(), atol=5 * 0.5 / math.sqrt(2000))
    assert pixels.observe(x).min() >= 0
    assert pixels.observe(x).max() <= 1


# --------------------------------------------------------------------------------------- robustness


@pytest.mark.parametrize("size", [0.0, 30.0, 1e4, 1e6])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_finite_however_sure_the_decoder(config, size, channels):
    pixels = config.build(DataSpec(channels, 4, 4))
    generator = torch.Generator().manual_seed(0)
    planes = size * torch.randn(4, *pixels.shape, generator=generator).sign()
    if "log" in config.name:  # log-scales grow by thousands in no training
        split = planes.unflatten(1, (pixels.num_components, -1))
        split[:, :, 1 + channels : 1 + 2 * channels].clamp_(-1e6, 30)
    planes.requires_grad_()
    x = images(pixels.spec)
    x[0], x[1] = 0, 255
    log_prob = pixels.log_prob(planes, pixels.observe(x))
    assert log_prob.isfinite().all()
    for parameter in [planes, *pixels.parameters()]:
        (gradient,) = torch.autograd.grad(log_prob.sum(), parameter, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_leading_dimensions_broadcast(config, channels):
    """Planes ``(m, B)`` of several codes for one batch of images, and planes of one code for a batch."""
    pixels = config.build(DataSpec(channels, 3, 2))
    planes = torch.randn(5, 4, *pixels.shape, generator=torch.Generator().manual_seed(0))
    x = pixels.observe(images(pixels.spec))
    one_by_one = [[pixels.log_prob(planes[i, j], x[j]) for j in range(4)] for i in range(5)]
    expected = torch.stack([torch.stack(row) for row in one_by_one])
    assert torch.allclose(pixels.log_prob(planes, x), expected, atol=1e-4)
    of_one_code = torch.stack([pixels.log_prob(planes[0, 0], image) for image in x])
    assert torch.allclose(pixels.log_prob(planes[0, 0], x), of_one_code, atol=1e-4)
    for method in (pixels.mean, pixels.sample):
        assert method(planes).shape == (5, 4, *pixels.spec.shape)


def test_levels_is_what_bits_per_dim_may_be_asked_of(config):
    assert config.build(PIXEL).levels == (2 if config.name == "bernoulli" else 256)
