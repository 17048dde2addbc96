"""Which classes samples are of, as a classifier of the real images sees them."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SHARE = 1e-4
"""What a class counts for that no real image has: one image among 10,000."""


def class_histogram(logits: Tensor) -> Tensor:
    """The share of each class among the most likely ones of ``logits`` ``(N, K)``: float64 ``(K,)``, CPU.

    >>> class_histogram(torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    tensor([0.5000, 0.5000, 0.0000], dtype=torch.float64)
    """
    counts = logits.argmax(1).cpu().bincount(minlength=logits.shape[1])
    return counts.double() / len(logits)


def class_kl(fake: Tensor, real: Tensor) -> float:
    """KL(fake || real) of two histograms ``(K,)``, in nats: 0 where samples have the classes' real shares.

    A class that no real image has counts as one of share :data:`MIN_SHARE`, so that a stray sample of it
    doesn't make the divergence infinite.

    References:
        Metz et al. 2017, "Unrolled generative adversarial networks", section 3.3.1.

    >>> class_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))  # one of two classes left out: log 2
    0.6931...
    """
    return (torch.xlogy(fake, fake) - torch.xlogy(fake, real.clamp(min=MIN_SHARE))).sum().item()


def modes(histogram: Tensor) -> int:
    """Classes that have a sample at all, of a histogram ``(K,)``.

    References:
        Metz et al. 2017, section 3.3.1; Srivastava et al. 2017, "VEEGAN: reducing mode collapse in GANs using
        implicit variational learning", section 5.

    >>> modes(torch.tensor([0.7, 0.0, 0.3]))
    2
    """
    return int((histogram > 0).sum())


def class_accuracy(logits: Tensor, y: Tensor) -> float:
    """The share of images ``(N, K)`` that are recognised as the class ``y`` ``(N,)`` that they should be of.

    >>> class_accuracy(torch.tensor([[2.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 1]))
    0.5
    """
    return (logits.argmax(1) == y.to(logits.device)).float().mean().item()
