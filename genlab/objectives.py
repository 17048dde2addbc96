"""What variational autoencoders minimise, one class for each idea.

All are of the form ``reconstruction + penalty``, in nats per image: ``reconstruction = -log p(x|z)`` of a code
``z ~ q(z|x)``, and a penalty built from ``KL(q(z|x) || p(z))``. ``beta`` weighs the penalty, and a warm-up lets
it in by degrees. An objective reads images that the model has *observed* (binarised or dequantised).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import torch
from annotated_types import Gt, Le
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, Index, NonNegative, config
from genlab.nets.gaussian import DiagonalGaussian
from genlab.nets.mlp import MLP, MLPConfig
from genlab.registry import Choice
from genlab.types import Update

if TYPE_CHECKING:
    from genlab.models.vae import VAE, ELBOTerms


# --------------------------------------------------------------------------------------- warm-up


@config
class LinearWarmup:
    """The penalty's weight rises from 0 to 1 over the first ``steps`` (0: it is 1 from the start).

    References:
        Sønderby et al. 2016, "Ladder variational autoencoders", section 3.

    >>> [LinearWarmup(steps=3).weight(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    name: Literal["linear"] = "linear"
    steps: Index = 0

    def weight(self, step: int) -> float:
        """The weight at ``step``, counted from 0."""
        return min(1.0, (step + 1) / (self.steps + 1))


@config
class CyclicalWarmup:
    """The weight rises from 0 to 1 over the first ``ramp`` of every ``period`` steps, and stays there.

    References:
        Fu et al. 2019, "Cyclical annealing schedule: a simple approach to mitigating KL vanishing".

    >>> [CyclicalWarmup(period=4, ramp=0.5).weight(step) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 1.0]
    """

    name: Literal["cyclical"] = "cyclical"
    period: Count = 2000
    ramp: Annotated[float, Gt(0), Le(1)] = 0.5

    def weight(self, step: int) -> float:
        """The weight at ``step``, counted from 0."""
        return min(1.0, (step % self.period + 1) / (self.ramp * self.period))


Warmup = Annotated[LinearWarmup | CyclicalWarmup, Field(discriminator="name")]


# --------------------------------------------------------------------------------------- ELBO


@config
class ELBOConfig:
    """``free_bits``: nats of KL that each latent dimension has for nothing, on average over the batch.

    Where the prior is no product over dimensions, the KL as a whole has ``latent_dim`` times as many.
    """

    name: Literal["elbo"] = "elbo"
    free_bits: NonNegative = 0.0

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        return ELBO(self, latent_dim)


class Objective(nn.Module):
    """Yields the updates of one iteration."""

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """The updates for observed images ``x``; ``step`` from 0, ``warmup`` in [0, 1]."""
        raise NotImplementedError

    def graph_key(self, step: int) -> Hashable:
        """What depends on ``step`` in :meth:`updates`, besides the warm-up."""
        return ()


class ELBO(Objective):
    """``reconstruction + beta KL``: the negative ELBO at beta 1, beta-VAE above.

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes"; Higgins et al. 2017, "beta-VAE"; Kingma et
        al. 2016, "Improved variational inference with inverse autoregressive flow", eq. 15 (free bits).
    """

    def __init__(self, config: ELBOConfig, latent_dim: int) -> None:
        super().__init__()
        self.free_bits, self.latent_dim = config.free_bits, latent_dim

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """One."""
        terms: ELBOTerms = model(x)
        kl = terms.kl.mean(0)
        if self.free_bits:  # without them, an estimate of the KL may well be negative
            kl = kl.clamp(min=self.free_bits * self.latent_dim / len(kl))
        weight = model.beta * warmup
        loss = terms.reconstruction.mean() + weight * kl.sum()
        yield Update("model", loss, terms.logs() | {"kl_weight": loss.new_full((), weight)})


# --------------------------------------------------------------------------------------- capacity


@config
class CapacityConfig:
    """The KL is held at a capacity that rises to ``max_capacity`` nats over ``steps``; beta is the force."""

    name: Literal["capacity"] = "capacity"
    max_capacity: NonNegative = 25.0
    steps: Count = 100_000

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        return Capacity(self)


class Capacity(Objective):
    """``reconstruction + beta |KL - C|`` with a rising capacity ``C``.

    References:
        Burgess et al. 2018, "Understanding disentangling in beta-VAE", eq. 8 (beta is their gamma).
    """

    def __init__(self, config: CapacityConfig) -> None:
        super().__init__()
        self.config = config

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """One; held-out images are scored at the capacity of the end."""
        capacity = (self.graph_key(step) if self.training else 1.0) * self.config.max_capacity
        terms: ELBOTerms = model(x)
        deviation = (terms.kl.sum(-1).mean() - capacity).abs()
        loss = terms.reconstruction.mean() + model.beta * warmup * deviation
        yield Update("model", loss, terms.logs() | {"capacity": loss.new_full((), capacity)})

    def graph_key(self, step: int) -> float:
        """How far the capacity has risen."""
        return min(1.0, step / self.config.steps)


# --------------------------------------------------------------------------------------- total correlation


@config
class BetaTCVAEConfig:
    """Weights: ``alpha`` of mutual information, ``gamma`` of each dimension's KL; beta of total correlation."""

    name: Literal["beta_tcvae"] = "beta_tcvae"
    alpha: NonNegative = 1.0
    gamma: NonNegative = 1.0

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        return BetaTCVAE(self)


class BetaTCVAE(Objective):
    """The KL taken apart: mutual information, total correlation, KL of each dimension's marginal.

    The aggregate posterior is estimated within the batch. That leaves out the size of the training set, which
    shifts the three terms by constants (Chen et al.'s minibatch-weighted sampling) and moves no gradient.

    References:
        Chen et al. 2018, "Isolating sources of disentanglement in VAEs", eq. 2 and appendix C.1.
    """

    def __init__(self, config: BetaTCVAEConfig) -> None:
        super().__init__()
        self.config = config

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """One."""
        terms: ELBOTerms = model(x)
        z, q = terms.z, terms.q
        log_q = q.log_prob(z).mean()
        log_aggregate, log_marginals = log_aggregate_posterior(q.mean, q.log_var, z)
        log_prior = terms.prior.log_prob(z).mean()
        information = log_q - log_aggregate.mean()
        correlation = (log_aggregate - log_marginals.sum(-1)).mean()
        marginal_kl = log_marginals.sum(-1).mean() - log_prior
        c = self.config
        penalty = c.alpha * information + model.beta * correlation + c.gamma * marginal_kl
        logs = {
            "mutual_information": information,
            "total_correlation": correlation,
            "marginal_kl": marginal_kl,
        }
        yield Update("model", terms.reconstruction.mean() + warmup * penalty, terms.logs() | logs)


def log_aggregate_posterior(mean: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """``log q(z)`` ``(N,)`` and ``log q(z_d)`` ``(N, D)`` in nats, of ``q(z) = 1/M sum_j q(z|x_j)``.

    ``mean`` and ``log_var`` are ``(M, D)``, ``z`` is ``(N, D)``; ``(N, M, D)`` numbers are held.

    >>> mean, z = torch.zeros(3, 2), torch.zeros(1, 2)  # three equal posteriors are one standard normal
    >>> log_q, log_q_per_dim = log_aggregate_posterior(mean, torch.zeros(3, 2), z)
    >>> torch.allclose(log_q.exp() * 2 * torch.pi, torch.ones(1)), torch.allclose(log_q, log_q_per_dim.sum(1))
    (True, True)
    """
    each = DiagonalGaussian(mean, log_var).log_prob_per_dim(z[:, None])
    log_count = math.log(len(mean))
    return each.sum(-1).logsumexp(1) - log_count, each.logsumexp(1) - log_count


@config
class FactorVAEConfig:
    """``gamma`` weighs the total correlation that the discriminator sees; beta the KL."""

    name: Literal["factor_vae"] = "factor_vae"
    gamma: NonNegative = 10.0
    discriminator: MLPConfig = Field(
        default_factory=lambda: MLPConfig(hidden_dim=256, num_layers=4, activation="leaky_relu")
    )

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        return FactorVAE(self, latent_dim)


class FactorVAE(Objective):
    """A total correlation read off a discriminator that tells codes from codes shuffled by dimension.

    The discriminator's own update follows the model's, on the same codes; theirs are shuffled within the batch.

    References:
        Kim & Mnih 2018, "Disentangling by factorising", eq. 2-3 and algorithm 2.
    """

    def __init__(self, config: FactorVAEConfig, latent_dim: int) -> None:
        super().__init__()
        self.gamma = config.gamma
        self.discriminator = MLP(config.discriminator, latent_dim, 2)

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """``model``, then ``discriminator``."""
        terms: ELBOTerms = model(x)
        real, shuffled = self.discriminator(terms.z).float().unbind(1)
        correlation = (real - shuffled).mean()
        penalty = model.beta * terms.kl.sum(-1).mean() + self.gamma * correlation
        loss = terms.reconstruction.mean() + warmup * penalty
        yield Update("model", loss, terms.logs() | {"total_correlation": correlation})

        z = terms.z.detach()
        order = torch.rand(z.shape, device=z.device).argsort(0)
        logits = self.discriminator(torch.cat([z, z.gather(0, order)])).float()
        target = torch.arange(2, device=z.device).repeat_interleave(len(z))
        accuracy = (logits.argmax(1) == target).float().mean()
        yield Update("discriminator", F.cross_entropy(logits, target), {"discriminator_accuracy": accuracy})


# --------------------------------------------------------------------------------------- IWAE


@config
class IWAEConfig:
    """``num_samples`` importance samples; ``gradient`` of the encoder: plain, or doubly reparameterised."""

    name: Literal["iwae"] = "iwae"
    num_samples: Count = 50
    gradient: Literal["plain", "doubly_reparameterized"] = "plain"

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        return IWAE(self)


class IWAE(Objective):
    """``-log 1/m sum_i w_i`` with importance weights ``w_i = p(x|z_i) (p(z_i) / q(z_i|x))^beta``.

    The doubly reparameterised gradient is unbiased too, and its signal-to-noise ratio does not fall with
    ``m``: ``z`` alone carries the encoder's gradient, scaled by ``1 - beta + beta w_i / sum_j w_j``.

    References:
        Burda et al. 2016, "Importance weighted autoencoders", eq. 8; Tucker et al. 2019, "Doubly
        reparameterized gradient estimators for Monte Carlo objectives", eq. 8.
    """

    def __init__(self, config: IWAEConfig) -> None:
        super().__init__()
        self.config = config

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """One."""
        m, beta = self.config.num_samples, model.beta * warmup
        q = model.infer(x)
        z = q.rsample(m)
        doubly = self.config.gradient == "doubly_reparameterized"
        reconstruction = -model.log_prob_given(z, x)
        kl = (q.detach() if doubly else q).log_prob(z) - model.prior(model.infer).log_prob(z)
        log_weights = -reconstruction - beta * kl
        bound = (torch.logsumexp(log_weights, 0) - math.log(m)).mean()
        loss = -bound
        if doubly:
            weights = log_weights.detach().softmax(0)
            loss = -(weights * log_weights).sum(0).mean()
            if z.requires_grad:
                z.register_hook(lambda gradient: gradient * (1 - beta + beta * weights[..., None]))
        logs = {
            "iwae": bound,
            "nelbo": (reconstruction + kl).mean(),
            "reconstruction": reconstruction.mean(),
            "kl": kl.mean(),
        }
        yield Update("model", loss, logs)


class BuildsObjective(Protocol):
    """The configuration of an objective; ``name`` is a literal of its own."""

    def build(self, latent_dim: int) -> Objective:
        """The objective for codes of that many dimensions."""
        ...


OBJECTIVES = Choice(
    "objective", "name", ELBOConfig, CapacityConfig, BetaTCVAEConfig, FactorVAEConfig, IWAEConfig
)
ObjectiveConfig = Annotated[BuildsObjective, OBJECTIVES]
