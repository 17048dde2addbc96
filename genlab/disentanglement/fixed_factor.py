"""Which factor was held fixed? The scores of beta-VAE and FactorVAE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genlab.disentanglement.score import MIN_STD, Score, active, value_ranks

_POINTS = 1000  # gathered at once


@dataclass(frozen=True)
class Points:
    """``num_train`` to learn from and ``num_eval`` to judge by, each of ``group_size`` images or pairs of them.

    The numbers are those of Locatello et al. 2019.
    """

    num_train: int = 10_000
    num_eval: int = 5000
    group_size: int = 64


def factor_vae_score(
    codes: Tensor, factors: Tensor, generator: Generator, points: Points, min_std: float = MIN_STD
) -> Score:
    """Accuracy of telling the fixed factor by the dimension that varies least.

    A point is a group of images that share their value of one factor; its vote is the dimension with the
    least variance among them, relative to that among all images. A dimension stands for the factor that most
    of its ``points.num_train`` votes came from; the score is the share of ``points.num_eval`` further votes for
    which that holds. Collapsed dimensions don't vote; where all have collapsed the score is 0. Chance is
    ``1 / F``.

    Groups are drawn with replacement from the images given, which needs no full grid of factors.

    References:
        Kim & Mnih 2018, "Disentangling by factorising", appendix B; pruning as by Locatello et al. 2019.

    >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(4, 1)
    >>> factor_vae_score(factors.float(), factors, torch.Generator(), Points(100, 100)).value
    1.0
    """
    codes = codes[:, active(codes, min_std)]
    num_dims, num_factors = codes.shape[1], factors.shape[1]
    if not num_dims:
        return Score(0.0)
    scale = codes.var(dim=0)

    def votes(num_points: int) -> Tensor:
        table = torch.zeros(num_dims, num_factors, dtype=torch.int64)
        for k, _, group in _draw(factors, num_points, 1, points.group_size, generator):
            votes = (codes[group].var(dim=1) / scale).argmin(dim=1)
            table[:, k] += torch.bincount(votes, minlength=num_dims)
        return table

    meaning = votes(points.num_train).argmax(dim=1, keepdim=True)
    right = votes(points.num_eval).gather(1, meaning).sum()
    return Score(right.item() / points.num_eval)


def beta_vae_score(codes: Tensor, factors: Tensor, generator: Generator, points: Points) -> Score:
    """Accuracy of telling the fixed factor by a linear classifier of mean absolute differences.

    A point is the mean, over its pairs of images, of ``|z_1 - z_2|``; the two of a pair share their value of
    one factor, which differs from pair to pair. Dimensions are neither scaled nor pruned: what has collapsed
    hardly differs. Chance is ``1 / F``.

    References:
        Higgins et al. 2017, "beta-VAE: Learning basic visual concepts with a constrained variational
        framework", section 3; logistic regression as by Locatello et al. 2019.
    """
    from sklearn.linear_model import LogisticRegression  # half a second that no other verb has to wait for

    def drawn(num_points: int) -> tuple[Tensor, Tensor]:
        labels, features, size = [], [], points.group_size
        for k, first, second in _draw(factors, num_points, size, size, generator):
            labels.append(torch.full((len(first),), k))
            features.append((codes[first] - codes[second]).abs().mean(dim=1))
        return torch.cat(labels), torch.cat(features)

    labels, features = drawn(points.num_train)
    classifier = LogisticRegression(max_iter=1000).fit(features.numpy(), labels.numpy())
    labels, features = drawn(points.num_eval)
    return Score(float(classifier.score(features.numpy(), labels.numpy())))


def _draw(
    factors: Tensor, num_points: int, num_anchors: int, group_size: int, generator: Generator
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Points by the factor held fixed, drawn uniformly; some at a time.

    Yields the factor ``k`` and indices of images, anchors and partners, both ``(M, group_size)``: partners
    have the value of their anchor. ``num_anchors`` different ones in a row are 1, all of the row sharing one
    value, or ``group_size``.
    """
    fixed = torch.randint(factors.shape[1], (num_points,), generator=generator)
    for k, count in enumerate(torch.bincount(fixed, minlength=factors.shape[1]).tolist()):
        images = _ByValue(factors[:, k])
        for start in range(0, count, _POINTS):
            size = (min(_POINTS, count - start), num_anchors)
            anchors = images.draw(size, generator).expand(-1, group_size)
            yield k, anchors, images.partners(anchors, generator)


class _ByValue:
    """Images sorted by their value of one factor ``(N,)``.

    Raises:
        ValueError: no two share one.
    """

    def __init__(self, column: Tensor) -> None:
        self._rank, self._counts = value_ranks(column)
        self._order = self._rank.argsort()
        self._starts = self._counts.cumsum(0) - self._counts
        # An image alone with its value has no partner, and a group of copies of it no variance.
        self._shared = (self._counts[self._rank] > 1).nonzero().squeeze(1)
        if not len(self._shared):
            raise ValueError("no two images share a value of a factor: it can't be held fixed")

    def draw(self, size: tuple[int, int], generator: Generator) -> Tensor:
        """Images uniformly, with replacement, so that values come up as often as in the set."""
        return self._shared[torch.randint(len(self._shared), size, generator=generator)]

    def partners(self, images: Tensor, generator: Generator) -> Tensor:
        """For each image one of those with its value, maybe itself."""
        value = self._rank[images]
        # float64: the product must count every image of a large set
        place = torch.rand(images.shape, generator=generator, dtype=torch.float64) * self._counts[value]
        return self._order[self._starts[value] + place.long()]
