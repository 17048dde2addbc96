"""Total correlation, estimated from a batch and by a discriminator, against Gaussians that have a known one."""

import math

import pytest
import torch
from linear_gaussian import LinearGaussian, images, one_update, standard_error
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from genlab.nets.mlp import MLPConfig
from genlab.nets.priors import MixtureConfig, StandardNormalConfig
from genlab.objectives import (
    BetaTCVAEConfig,
    FactorVAEConfig,
    log_aggregate_posterior,
)
from genlab.types import Batch


@pytest.mark.parametrize(
    "prior", [StandardNormalConfig(), MixtureConfig(num_components=3)], ids=["normal", "mixture"]
)
def test_the_three_parts_of_beta_tcvae_sum_to_the_kl_of_the_sampled_codes(prior):
    model, x = LinearGaussian(BetaTCVAEConfig(), prior=prior), images(30)
    torch.manual_seed(0)
    update = one_update(model, x)
    torch.manual_seed(0)
    terms = model(x)
    kl = (terms.q.log_prob(terms.z) - terms.prior.log_prob(terms.z)).mean()
    parts = [update.logs[name] for name in ("mutual_information", "total_correlation", "marginal_kl")]
    assert torch.allclose(sum(parts), kl, atol=1e-12)
    # With all weights 1 it is the negative ELBO.
    assert torch.allclose(update.loss, terms.reconstruction.mean() + kl, atol=1e-12)


def test_each_part_of_beta_tcvae_has_its_weight_and_the_warmup_scales_all():
    model = LinearGaussian(BetaTCVAEConfig(alpha=2.0, gamma=5.0), beta=3.0)
    update = one_update(model, images(30), warmup=0.1)
    log = update.logs
    penalty = 2 * log["mutual_information"] + 3 * log["total_correlation"] + 5 * log["marginal_kl"]
    assert torch.allclose(update.loss, log["reconstruction"] + 0.1 * penalty)


def test_the_aggregate_posterior_is_the_mixture_that_it_says():
    torch.manual_seed(0)
    mean, log_var, z = torch.randn(3, 5, 2).double().unbind(0)
    aggregate, marginals = log_aggregate_posterior(mean, log_var, z[:4])
    each = Normal(mean, (0.5 * log_var).exp()).log_prob(z[:4, None]).exp()  # (4, 5, 2)
    assert torch.allclose(aggregate, each.prod(-1).mean(1).log())
    assert torch.allclose(marginals, each.mean(1).log())


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_total_correlation_of_many_narrow_posteriors_is_that_of_the_gaussian_they_make_up(correlation):
    generator = torch.Generator().manual_seed(0)
    width, count = 0.3, 2000
    means = torch.randn(count, 2, generator=generator).double()
    means[:, 1] = correlation * means[:, 0] + math.sqrt(1 - correlation**2) * means[:, 1]
    z = means[:1000] + width * torch.randn(1000, 2, generator=generator).double()
    log_var = torch.full_like(means, 2 * math.log(width))
    aggregate, marginals = log_aggregate_posterior(means, log_var, z)
    smoothed = correlation / (1 + width**2)
    exact = -0.5 * math.log(1 - smoothed**2)  # 0 and 0.57
    # 1000 log-ratios of standard deviation about 1, and what 2000 kernels know of a density: a few hundredths.
    assert (aggregate - marginals.sum(1)).mean().item() == pytest.approx(exact, abs=0.1)


class OptimalDiscriminator(nn.Module):
    """The exact log-density of correlated codes and of their marginals; it remembers what it saw."""

    def __init__(self, covariance):
        super().__init__()
        self.joint = MultivariateNormal(torch.zeros(2).double(), covariance)
        self.marginals = Normal(0.0, covariance.diagonal().sqrt())
        self.seen = []

    def forward(self, z):
        self.seen.append(z.detach())
        return torch.stack([self.joint.log_prob(z), self.marginals.log_prob(z).sum(-1)], 1)


@pytest.fixture
def planted():
    """A FactorVAE whose aggregate posterior is a Gaussian of known correlation, and 20 000 of its images."""
    model = LinearGaussian(FactorVAEConfig(gamma=7.0), codes=2, pixels=2, beta=2.0)
    with torch.no_grad():
        model.encoder.weight.copy_(torch.eye(2))
        model.encoder.bias.zero_()
        model.q_log_var.fill_(math.log(0.2))
    covariance = torch.tensor([[1.2, 0.8], [0.8, 1.2]]).double()  # that of x, and 0.2 I
    model.objective.discriminator = OptimalDiscriminator(covariance)
    torch.manual_seed(0)
    spread = covariance - 0.2 * torch.eye(2).double()
    x = MultivariateNormal(torch.zeros(2).double(), spread).sample((20_000,))[:, None, None]
    return model, x


@torch.no_grad()
def test_the_optimal_discriminator_reads_the_total_correlation(planted):
    model, x = planted
    update, _ = model.objective.updates(model, x, 0, 1.0)
    z = model.objective.discriminator.seen[0]
    ratios = model.objective.discriminator(z).diff(dim=1)
    exact = -0.5 * math.log(1 - (0.8 / 1.2) ** 2)
    log = update.logs
    assert abs(log["total_correlation"] - exact) < 4 * standard_error(ratios).item()
    assert torch.allclose(update.loss, log["reconstruction"] + 2 * log["kl"] + 7 * log["total_correlation"])


@torch.no_grad()
def test_the_discriminator_tells_codes_from_codes_shuffled_by_dimension(planted):
    model, x = planted
    _, update = model.objective.updates(model, x, 0, 1.0)
    z, both = model.objective.discriminator.seen
    assert torch.equal(both[: len(z)], z)
    shuffled = both[len(z) :]
    assert torch.equal(shuffled.sort(0).values, z.sort(0).values)  # the same marginals, to the last code
    # Independent by now: a correlation has a standard error of 1 / sqrt(n).
    assert abs(torch.corrcoef(shuffled.T)[0, 1]) < 4 / math.sqrt(len(z))
    assert abs(torch.corrcoef(z.T)[0, 1]) > 0.6
    # The first logit is of real codes: the optimal discriminator is better than chance, its mirror is worse.
    assert update.loss < math.log(2)
    assert update.logs["discriminator_accuracy"] > 0.5


def test_factor_vae_steps_two_groups_that_share_nothing():
    model = LinearGaussian(FactorVAEConfig(discriminator=MLPConfig(hidden_dim=8, num_layers=1)))
    (stage,) = model.stages()
    own, other = (set(stage.groups[name]) for name in ("model", "discriminator"))
    assert not own & other
    assert own | other == set(model.parameters())
    first, second = model.updates(Batch(images()), "train", 0)
    assert (first.group, second.group) == ("model", "discriminator")
    first.loss.backward(inputs=stage.groups["model"])
    assert all(p.grad is not None for p in own)
    assert all(p.grad is None for p in other)
    second.loss.backward()  # of everything it depends on: codes are detached
    assert all(p.grad is not None for p in other)
