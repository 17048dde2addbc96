"""Distributions of codes: densities that integrate to one, samples that follow them, divergences."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from genlab.errors import ConfigError
from genlab.models.vae import VAE, VAEConfig
from genlab.nets.gaussian import DiagonalGaussian, GaussianMixture
from genlab.nets.mlp import MLPConfig
from genlab.nets.pixels import BernoulliConfig
from genlab.nets.priors import FlowPriorConfig, MixtureConfig, StandardNormalConfig, VampPriorConfig
from genlab.objectives import ELBOConfig, LinearWarmup
from genlab.types import DataSpec

SPEC = DataSpec(1, 4, 4)
CONFIGS = {
    "standard normal": StandardNormalConfig(),
    "mixture": MixtureConfig(num_components=4),
    "vampprior": VampPriorConfig(num_components=4),
    "flow": FlowPriorConfig(
        num_flows=3, scale_bound=0.5, net=MLPConfig(hidden_dim=8, num_layers=1, activation="tanh")
    ),
}


def infer(x):
    """An encoder of two numbers: codes (2 top - 1, 2 bottom - 1), narrower the darker."""
    halves = x.flatten(1).unflatten(1, (2, -1)).mean(-1)
    return DiagonalGaussian(2 * halves - 1, halves - 2)


def prior_of_two(name):
    """A prior of two dimensions with parameters away from where they begin."""
    torch.manual_seed(0)
    prior = CONFIGS[name].build(2, SPEC)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return prior


@pytest.fixture(params=CONFIGS, ids=str)
def name(request):
    return request.param


# --------------------------------------------------------------------------------------- every prior


@torch.no_grad()
def test_the_density_integrates_to_one(name):
    latents = prior_of_two(name).double()(infer)
    side = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    density = latents.log_prob(grid).exp().view(601, 601)
    integral = torch.trapezoid(torch.trapezoid(density, side), side)
    assert integral.item() == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_samples_have_the_moments_of_the_density(name):
    prior = prior_of_two(name)
    z = prior(infer).sample(40_000, torch.Generator().manual_seed(0)).double()
    side = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    weights = prior.double()(infer).log_prob(grid).softmax(0)
    for moment in (lambda v: v, lambda v: v.square(), lambda v: v.prod(1, keepdim=True)):
        error = moment(z).std(0) / math.sqrt(len(z))
        assert ((moment(z).mean(0) - weights @ moment(grid)).abs() < 4 * error + 1e-3).all()


@torch.no_grad()
def test_the_kl_is_the_mean_log_ratio_of_densities(name):
    """Analytic where it is: then each dimension's is the mean of its own log-ratio."""
    latents, n = prior_of_two(name).double()(infer), 40_000
    q = DiagonalGaussian(torch.tensor([[0.7, -0.3]]).double(), torch.tensor([[-1.5, 0.4]]).double())
    z = q.rsample(n)[:, 0]
    ratios = q.log_prob(z) - latents.log_prob(z)
    kl = latents.kl(q, z)
    assert kl.shape == ((1, 2) if name == "standard normal" else (n, 1))
    assert abs(kl.sum(-1).mean() - ratios.mean()) < 4 * ratios.std() / math.sqrt(n)
    assert kl.mean() > 0
    if name == "standard normal":
        each = q.log_prob_per_dim(z) - Normal(0.0, 1.0).log_prob(z)
        assert ((kl[0] - each.mean(0)).abs() < 4 * each.std(0) / math.sqrt(n)).all()
    else:
        assert torch.equal(kl.squeeze(-1), ratios)


@torch.no_grad()
def test_codes_of_any_leading_dimensions_are_scored_alike(name):
    latents = prior_of_two(name)(infer)
    z = torch.randn(5, 3, 2)
    one_by_one = torch.stack([latents.log_prob(code[None])[0] for code in z.flatten(0, 1)])
    assert torch.allclose(latents.log_prob(z).flatten(), one_by_one, atol=1e-5)


@torch.no_grad()
def test_the_same_generator_draws_the_same_codes(name):
    latents = prior_of_two(name)(infer)
    a, b = (latents.sample(6, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (6, 2)


def test_every_parameter_of_a_prior_gets_a_gradient(name):
    prior = prior_of_two(name)
    parameters = list(prior.parameters())
    if parameters:
        loss = prior(infer).log_prob(torch.randn(8, 2)).sum()
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, parameters))


# --------------------------------------------------------------------------------------- Gaussians


def test_the_kl_to_the_standard_normal_vanishes_there_alone():
    mean, log_var = torch.tensor([0.0, 0.1, 0.0]).double(), torch.tensor([0.0, 0.0, 0.1]).double()
    kl = DiagonalGaussian(mean, log_var).kl_to_standard_normal()
    assert kl[0] == 0
    assert (kl[1:] > 0).all()
    assert kl[1].item() == pytest.approx(0.005)


def test_the_kl_to_the_standard_normal_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, 4, 5).double().unbind(0)
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    assert torch.allclose(DiagonalGaussian(mean, log_var).kl_to_standard_normal(), expected, atol=1e-12)


def test_log_prob_of_a_diagonal_gaussian_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_var, z = torch.randn(3, 4, 5).double().unbind(0)
    expected = Independent(Normal(mean, (0.5 * log_var).exp()), 1).log_prob(z)
    assert torch.allclose(DiagonalGaussian(mean, log_var).log_prob(z), expected, atol=1e-12)


# --------------------------------------------------------------------------------------- mixtures


def mixtures(scale, dim, dtype, components=50):
    """Ours and torch's, and codes near the components."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(components, dim, generator=generator).to(dtype)
    log_var = (2 * math.log(scale) + 0.3 * torch.randn(components, dim, generator=generator)).to(dtype)
    log_weights = torch.randn(components, generator=generator).to(dtype).log_softmax(0)
    z = mean + (0.5 * log_var).exp() * torch.randn(components, dim, generator=generator)
    ours = GaussianMixture(DiagonalGaussian(mean, log_var), log_weights)
    normals = Independent(Normal(mean.double(), (0.5 * log_var.double()).exp()), 1)
    theirs = MixtureSameFamily(Categorical(logits=log_weights.double()), normals)
    return ours, theirs, z.to(dtype)


@pytest.mark.parametrize("dim", [1, 2, 40])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_log_prob_of_a_mixture_is_that_of_torch(scale, dim):
    ours, theirs, z = mixtures(scale, dim, torch.float64)
    # Two matrix products cancel: relative to their size, which grows as 1 / scale^2, the error is 1e-16.
    assert torch.allclose(ours.log_prob(z), theirs.log_prob(z), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("scale", "error"), [(1.0, 1e-4), (0.1, 5e-3), (0.03, 5e-2)])
def test_narrow_components_are_scored_well_in_float32_too(scale, error):
    """The products are of the order dim / scale^2, 40 000 nats at the narrowest, of which 6e-8 is lost."""
    ours, theirs, z = mixtures(scale, 40, torch.float32)
    assert (ours.log_prob(z) - theirs.log_prob(z.double())).abs().max() < error


def test_autocast_takes_no_digits_from_a_mixture():
    ours, _, z = mixtures(0.1, 40, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.log_prob(z), ours.log_prob(z.clone()))
        inside = ours.log_prob(z)
    assert torch.equal(inside, ours.log_prob(z))


def test_components_are_drawn_by_their_weights():
    mean = torch.tensor([[-10.0], [0.0], [10.0]])
    weights = torch.tensor([0.2, 0.0, 0.8])
    mixture = GaussianMixture(DiagonalGaussian(mean, torch.zeros(3, 1)), weights.log())
    z = mixture.sample(10_000, torch.Generator().manual_seed(0))
    shares = torch.stack([(z < -5).float().mean(), (z.abs() < 5).float().mean(), (z > 5).float().mean()])
    assert shares[1] == 0
    assert torch.allclose(shares, weights, atol=4 * math.sqrt(0.2 * 0.8 / 10_000))


# --------------------------------------------------------------------------------------- VampPrior


def vae(prior, latent_dim=3):
    net = MLPConfig(hidden_dim=16, num_layers=1, activation="tanh")
    config = VAEConfig(
        latent_dim=latent_dim,
        encoder=net,
        decoder=net,
        likelihood=BernoulliConfig(binarization="threshold"),
        prior=prior,
        objective=ELBOConfig(),
        warmup=LinearWarmup(),
        eval_samples=5,
    )
    torch.manual_seed(0)
    return VAE(config, SPEC)


@torch.no_grad()
def test_a_vampprior_whose_posterior_is_standard_normal_is_a_standard_normal():
    vamp, normal = vae(VampPriorConfig(num_components=1)), vae(StandardNormalConfig())
    last = vamp.encoder[-1][-1]
    last.weight.zero_()
    last.bias.zero_()
    for net in ("encoder", "decoder"):
        getattr(normal, net).load_state_dict(getattr(vamp, net).state_dict())
    x = torch.randint(0, 256, (6, *SPEC.shape), dtype=torch.uint8)
    scores, bounds = [], []
    for model in (vamp, normal):
        torch.manual_seed(1)
        scores.append(model.log_prob(x))
        bounds.append(model(model.observe(x)).logs())
    assert torch.allclose(*scores, atol=1e-5)
    assert torch.allclose(bounds[0]["nelbo"], bounds[1]["nelbo"], atol=1e-5)
    assert torch.allclose(bounds[0]["kl"], torch.zeros(()), atol=1e-5)
    z = torch.randn(7, 3)
    assert torch.allclose(*(m.prior(m.infer).log_prob(z) for m in (vamp, normal)), atol=1e-5)


@torch.no_grad()
def test_a_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    model = vae(VampPriorConfig(num_components=5))
    posterior = model.infer(model.prior.pseudo_inputs)
    z = torch.randn(7, 3)
    each = DiagonalGaussian(posterior.mean[:, None], posterior.log_var[:, None]).log_prob(z)
    assert torch.allclose(model.prior(model.infer).log_prob(z), each.exp().mean(0).log(), atol=1e-5)


def test_pseudo_inputs_are_images_begun_from_the_first_batch_with_repetitions_told_apart():
    torch.manual_seed(0)
    prior = VampPriorConfig(num_components=5).build(2, SPEC)
    black, white = torch.zeros(1, *SPEC.shape), torch.ones(1, *SPEC.shape)
    prior.initialize(torch.cat([black, white]))
    images = prior.pseudo_inputs
    assert images.min() > 0
    assert images.max() < 1
    assert (images[0::2].mean((1, 2, 3)) < 0.3).all()
    assert (images[1::2].mean((1, 2, 3)) > 0.7).all()
    assert not torch.allclose(images[0], images[2])
    prior(infer).log_prob(torch.randn(4, 2)).sum().backward()
    assert prior.logits.grad.abs().min() > 0


# --------------------------------------------------------------------------------------- flow


@torch.no_grad()
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_a_flow_prior_begins_as_the_standard_normal(dim):
    latents, z = CONFIGS["flow"].build(dim, SPEC)(infer), torch.randn(9, dim)
    assert torch.allclose(latents.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1), atol=1e-5)


@torch.no_grad()
def test_samples_of_a_flow_go_back_to_the_normal_noise_they_came_from():
    prior = prior_of_two("flow")
    z = prior(infer).sample(50, torch.Generator().manual_seed(0))
    noise = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(prior.flow(z)[0], noise, atol=1e-4)
    assert not torch.allclose(z, noise, atol=0.1)


@torch.no_grad()
def test_a_flow_moves_every_dimension():
    torch.manual_seed(0)
    flow = FlowPriorConfig(num_flows=2).build(5, SPEC).flow
    for parameter in flow.parameters():
        parameter.normal_()
    z = torch.randn(4, 5)
    moved = flow.inverse(z)
    assert not torch.isclose(moved.flip(1), z, atol=1e-3).any()
    assert not torch.isclose(moved, z, atol=1e-3).any()


def test_a_flow_of_a_single_dimension_is_refused():
    with pytest.raises(ConfigError, match="latent_dim of at least 2"):
        FlowPriorConfig().build(1, SPEC)
