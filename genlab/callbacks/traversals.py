"""What each latent dimension does to an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.callbacks.base import Snapshot
from genlab.callbacks.codes import Autoencodes, codes, decoded, dimensions
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, Index, Positive, config
from genlab.registry import CALLBACKS
from genlab.report.mosaic import mosaic, signed
from genlab.types import HasPosterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class TraversalsConfig(FigureConfig):
    """``steps`` values of up to ``max_dims`` dimensions, around the code of held-out image number ``image``.

    Of a model with a posterior they reach from -``reach`` to ``reach``; dimensions are ranked over
    ``num_images`` images.
    """

    max_dims: Count = 10
    steps: Count = 11
    reach: Positive = 3.0
    image: Index = 0
    num_images: Count = 1000


@CALLBACKS.register("traversals")
class Traversals(FigureCallback):
    """One row for each dimension, moved while the others stay; those that carry most come first.

    With a posterior that is by KL, and values are those of a standard normal; without one it is by variance,
    from the 1 % to the 99 % quantile of each dimension. Of a code as large as the image, a flow's, a single
    dimension shows nothing, and nothing is drawn.
    """

    Config = TraversalsConfig
    config: TraversalsConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``traversals``."""
        model, data = snapshot.model, snapshot.held_out
        if not isinstance(model, Autoencodes) or not len(data):
            return {}
        index = min(self.config.image, len(data) - 1)
        (code,) = model.encode(data.batch(slice(index, index + 1)).x).float()
        if len(code) >= model.spec.dim:
            return {}
        z = codes(model, data, self.config.num_images)
        ranked = dimensions(model, data, z)
        order, labels = ranked.order[: self.config.max_dims], ranked.labels[: self.config.max_dims]
        values, heads, moves = self._values(z, order, isinstance(model, HasPosterior))
        images = decoded(model, moved(code, order, values))
        nearest = (values - code[order][:, None]).abs().argmin(1).tolist()
        shown = "Latent dimensions" if len(order) == len(code) else f"{len(order)} of {len(code)} dimensions"
        title = (
            f"{shown}, one a row, moved {moves}. Framed: nearest to the code of held-out image {index}, "
            f"which the other dimensions keep (epoch {snapshot.epoch})"
        )
        return {"traversals": mosaic(images, labels, heads, title, marked=nearest)}

    def _values(self, z: Tensor, order: Sequence[int], posterior: bool) -> tuple[Tensor, list[str], str]:
        """Values ``(R, steps)`` of each row's dimension, heads of the columns, and what they are in words."""
        steps, reach = self.config.steps, self.config.reach
        if posterior:
            values = torch.linspace(-reach, reach, steps, device=z.device)
            heads = [signed(value, 1) for value in values.tolist()]
            words = f"from −{reach:g} to {reach:g}; KL to N(0, 1) in nats"
            return values.expand(len(order), steps), heads, words
        low, high = torch.quantile(z[:, order], torch.tensor([0.01, 0.99], device=z.device), dim=0)
        values = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, steps, device=z.device)
        heads = ["1%", *[""] * (steps - 2), "99%"][:steps]
        return values, heads, "over its values, from quantile 1% to 99%"


def moved(code: Tensor, order: Sequence[int], values: Tensor) -> Tensor:
    """``code`` ``(D,)`` with one coordinate replaced: by row that of ``order``, by column its ``values``."""
    z = code.expand(*values.shape, -1).clone()
    for row, d in enumerate(order):
        z[row, :, d] = values[row]
    return z
