"""What a generator and a discriminator minimise, one class for each idea.

All read the discriminator's last linear layer, before any sigmoid: a logit where it is a classifier, ``D(x) =
sigmoid(logit)``, or the value that a critic gives. Each is written in logits, so that nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from genlab.config import NonNegative, Positive, config
from genlab.registry import Choice


@config
class Loss:
    """What every loss takes: constraints of the discriminator.

    ``gradient_penalty`` weighs :func:`gradient_penalty`, ``r1`` half of :func:`squared_gradient`;
    ``weight_clip`` bounds each of its weights, scales of batch norm included (Arjovsky et al. 2017,
    "Wasserstein GAN", algorithm 1).
    """

    name: str
    gradient_penalty: NonNegative = 0.0
    r1: NonNegative = 0.0
    weight_clip: Positive | None = None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The loss of the discriminator, of its values ``(B,)`` for real and generated images."""
        raise NotImplementedError

    def generator(self, fake: Tensor) -> Tensor:
        """The loss of the generator, of the discriminator's values for its images."""
        raise NotImplementedError

    def opinion(self, values: Tensor) -> Tensor:
        """What is shown as D(x): here the value itself."""
        return values


# --------------------------------------------------------------------------------------- a classifier


@config
class _Classifier(Loss):
    """The discriminator's cross-entropy; real images have the label ``1 - label_smoothing``.

    References:
        Goodfellow et al. 2014, "Generative adversarial nets", eq. 1; Salimans et al. 2016, "Improved techniques
        for training GANs", section 3.4 (one-sided label smoothing).

    >>> NonSaturating().discriminator(torch.zeros(2), torch.zeros(2)).item()  # D = 1/2: log 4
    1.38629...
    """

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """``-E[log D(x)] - E[log(1 - D(G(z)))]`` where nothing is smoothed."""
        smoothed = self.label_smoothing
        on_real = (1 - smoothed) * F.softplus(-real) + smoothed * F.softplus(real)
        return on_real.mean() + F.softplus(fake).mean()

    def opinion(self, values: Tensor) -> Tensor:
        """The probability that an image is real."""
        return values.sigmoid()


@config
class Minimax(_Classifier):
    """``E[log(1 - D(G(z)))]``, whose gradient vanishes where the discriminator is sure.

    With the best discriminator it is ``2 JSD(p_data || p_g) - log 4``, but for what the generator can't move.

    >>> Minimax().generator(torch.zeros(1))  # log(1 - 1/2)
    tensor(-0.6931)
    """

    name: Literal["minimax"] = "minimax"

    def generator(self, fake: Tensor) -> Tensor:
        """Goodfellow et al. 2014, eq. 1."""
        return -F.softplus(fake).mean()


@config
class NonSaturating(_Classifier):
    """``-E[log D(G(z))]``: the same fixed point, and a gradient where minimax has none.

    >>> NonSaturating().generator(torch.zeros(1))  # -log 1/2
    tensor(0.6931)
    """

    name: Literal["non_saturating"] = "non_saturating"

    def generator(self, fake: Tensor) -> Tensor:
        """Goodfellow et al. 2014, section 3."""
        return F.softplus(-fake).mean()


@config
class KL(_Classifier):
    """``E[log(1 - D(G(z)))] - E[log D(G(z))]``: minus the mean logit.

    With the best discriminator the logit is ``log p_data - log p_g``, and this is ``KL(p_g || p_data)``.

    References:
        Sønderby et al. 2017, "Amortised MAP inference for image super-resolution", section 3.2.

    >>> KL().generator(torch.tensor([1.0, 3.0]))
    tensor(-2.)
    """

    name: Literal["kl"] = "kl"

    def generator(self, fake: Tensor) -> Tensor:
        """Minus the mean logit."""
        return -fake.mean()


# --------------------------------------------------------------------------------------- other discriminators


@config
class LeastSquares(Loss):
    """Half the squared distance of values to 1 (real) and 0 (generated).

    References:
        Mao et al. 2017, "Least squares generative adversarial networks", eq. 9.

    >>> LeastSquares().discriminator(real=torch.ones(2), fake=torch.zeros(2))
    tensor(0.)
    >>> LeastSquares().generator(torch.zeros(2))
    tensor(0.5000)
    """

    name: Literal["least_squares"] = "least_squares"

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Real images to 1, generated ones to 0."""
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())

    def generator(self, fake: Tensor) -> Tensor:
        """Generated images to 1."""
        return 0.5 * (fake - 1).square().mean()


@config
class Hinge(Loss):
    """Values above 1 (real) and below -1 (generated) cost the discriminator nothing.

    References:
        Lim & Ye 2017, "Geometric GAN"; Miyato et al. 2018, "Spectral normalization for GANs", eq. 16-17.

    >>> Hinge().discriminator(real=torch.tensor([1.0, 5.0]), fake=torch.tensor([-1.0, 0.0]))
    tensor(0.5000)
    """

    name: Literal["hinge"] = "hinge"

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What falls short of the margins."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Minus the mean value."""
        return -fake.mean()


@config
class Wasserstein(Loss):
    """The difference of a critic's means; of a critic of Lipschitz constant 1, the Wasserstein distance.

    The critic has to be constrained: by ``weight_clip``, ``gradient_penalty`` or spectral normalisation.

    References:
        Arjovsky et al. 2017, "Wasserstein GAN", eq. 3.

    >>> Wasserstein().discriminator(real=torch.tensor([3.0]), fake=torch.tensor([1.0]))
    tensor(-2.)
    """

    name: Literal["wasserstein"] = "wasserstein"

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the estimated distance."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Minus the mean value."""
        return -fake.mean()


LOSSES = Choice("loss", "name", Minimax, NonSaturating, KL, LeastSquares, Hinge, Wasserstein)
LossConfig = Annotated[Loss, LOSSES]


# --------------------------------------------------------------------------------------- gradients


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """``E[(||grad f(x)|| - 1)^2]`` between real and generated images, a scalar.

    ``x`` is drawn evenly from the line between an image ``(B, ...)`` and the generated one of the same index.

    References:
        Gulrajani et al. 2017, "Improved training of Wasserstein GANs", eq. 3.

    >>> steep = lambda x: 3 * x[:, 0]  # a gradient of norm 3 everywhere: (3 - 1)^2
    >>> gradient_penalty(steep, torch.zeros(4, 2), torch.ones(4, 2))
    tensor(4.)
    """
    weight = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    norm = squared_gradient(critic, torch.lerp(real, fake, weight)).clamp(min=1e-24).sqrt()
    return (norm - 1).square().mean()


def squared_gradient(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``||grad f(x)||^2`` of each image ``(B,)``, itself to be differentiated; half its mean is R1.

    In float32, whatever the precision of the rest. The critic must judge each image by itself.

    References:
        Mescheder et al. 2018, "Which training methods for GANs do actually converge?", eq. 9.

    >>> squared_gradient(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]])).detach()  # |2 x|^2
    tensor([20.])
    """
    wanted = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=wanted)
    return gradient.flatten(1).square().sum(1)
