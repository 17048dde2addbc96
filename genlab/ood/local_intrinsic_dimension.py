"""In how many directions a flow can vary an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genlab import likelihood
from genlab.config import Positive, config
from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.models.flow import Flow
from genlab.ood.base import Score, View
from genlab.registry import SCORES
from genlab.types import Batch

_ROWS = 256  # of a Jacobian at once: each costs a backward pass and its memory


@config
class LocalIntrinsicDimensionConfig:
    """``threshold``: how far a unit step in the base space must move the image, in pixels of [0, 1], for its
    direction to count.

    The default is five levels of 256: ten times what the noise of dequantisation does, which fills all other
    directions.
    """

    threshold: Positive = 0.02


@SCORES.register("local_intrinsic_dimension")
class LocalIntrinsicDimension(Score):
    """The number of singular values of the generator's Jacobian above a threshold, and the likelihood with it.

    A density may be high where the model has little volume, on images simpler than those it was trained on:
    an image is like the training images where likelihood and dimension are both high.
    ``likelihood_and_dimension`` is the smaller of their ranks among training images, which sweeps both
    thresholds of the paper's test at once.

    References:
        Kamkari et al. 2024, "A geometric explanation of the likelihood OOD detection paradox"; the threshold
        there is set by the dimension that local PCA finds in training images.
    """

    slow = True
    Config = LocalIntrinsicDimensionConfig
    options: LocalIntrinsicDimensionConfig

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A flow on pixels."""
        return None if issubclass(model, Flow) else f"needs a flow on pixels, and {model.__name__} is none"

    def fit(self, train: View) -> None:
        """Dimensions and log-likelihoods of the same images."""
        self.dimensions = self._dimensions(train)
        self.log_likelihoods = train.log_density()[: len(self.dimensions)]

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """Two: the dimension, and the smaller rank from 0 to 1."""
        dimensions = self._dimensions(view)
        both = torch.stack(
            [
                ranks(dimensions, self.dimensions),
                ranks(view.log_density()[: len(dimensions)], self.log_likelihoods),
            ]
        )
        return {"local_intrinsic_dimension": dimensions, "likelihood_and_dimension": both.amin(0)}

    def _dimensions(self, view: View) -> Tensor:
        model = view.model
        assert isinstance(model, Flow)

        def score(batch: Batch) -> Tensor:
            with torch.autocast(batch.x.device.type, enabled=False):
                found = [self._dimension(model, image) for image in batch.x.split(1)]
            return torch.stack(found)

        return view.measure("local intrinsic dimension", score, slow=True)

    def _dimension(self, model: Flow, image: Tensor) -> Tensor:
        def encode(x: Tensor) -> Tensor:
            y, _ = likelihood.logit(x, model.alpha)
            z: Tensor = model.bijection(y)[0]
            return z

        return rank(jacobian(encode, likelihood.centre(image)), self.options.threshold)


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``dy/dx`` ``(D', D)`` at one image ``(1, ...)``.

    By backward passes from ``y`` alone, many at once: what else the function computes, a log-determinant
    say, costs nothing.

    >>> jacobian(lambda x: x.square(), torch.tensor([[1.0, 3.0]]))
    tensor([[2., 0.],
            [0., 6.]])
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = function(x).flatten()
    rows = [
        torch.autograd.grad(y, x, basis, retain_graph=True, is_grads_batched=True)[0]
        for basis in torch.eye(len(y), dtype=y.dtype, device=y.device).split(_ROWS)
    ]
    return torch.cat(rows).flatten(1)


def rank(encoder: Tensor, threshold: float) -> Tensor:
    """How many singular values of the inverse of ``encoder`` ``(D, D)`` are above ``threshold``.

    The generator is the encoder's inverse, and its singular values are the reciprocals. So no inverse of the
    flow is needed, which some only have by iteration. In float64: they span many orders of magnitude.

    >>> rank(torch.diag(torch.tensor([100.0, 10.0, 1.0])), threshold=0.05)
    tensor(2)
    """
    singular_values: Tensor = torch.linalg.svdvals(encoder.double().cpu())
    return (singular_values < 1 / threshold).sum()


def ranks(values: Tensor, among: Tensor) -> Tensor:
    """The share of ``among`` ``(M,)`` below each of ``values``, float64 ``(N,)``; equal ones count half.

    >>> ranks(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([0.0000, 0.3750, 1.0000], dtype=torch.float64)
    """
    ordered = among.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(among))
