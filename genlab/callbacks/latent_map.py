"""Where images lie in the space of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.callbacks.base import Snapshot
from genlab.callbacks.codes import codes, decoded
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, config
from genlab.data.device import DeviceDataset
from genlab.registry import CALLBACKS
from genlab.report.latent import code_map
from genlab.report.mosaic import mosaic, signed
from genlab.types import Decodes, Encodes, HasPosterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMPONENTS = 2


@config
class LatentMapConfig(FigureConfig):
    """The codes of ``num_images`` held-out images; of two dimensions, decoded images, ``grid`` a side."""

    num_images: Count = 2000
    grid: Count = 15


@CALLBACKS.register("latent_map")
class LatentMap(FigureCallback):
    """A plane of codes, coloured by label or, where they are known, by each factor of variation.

    Two dimensions are shown as they are, and decoded over the quantiles of the prior N(0, 1) (of the codes,
    where there is no posterior). Of more, the plane is that of the two first principal components.

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", figure 4.
    """

    Config = LatentMapConfig
    config: LatentMapConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``latent_map``, and of two dimensions ``latent_grid``."""
        if not isinstance(snapshot.model, Encodes):
            return {}
        z = codes(snapshot.model, snapshot.held_out, self.config.num_images)
        if min(z.shape) < _COMPONENTS:
            return {}
        points, axes = _plane(z)
        title = f"Codes of {len(z):,} held-out images after epoch {snapshot.epoch}"
        figures = {"latent_map": code_map(points.cpu(), axes, _colourings(snapshot.held_out, len(z)), title)}
        if z.shape[1] == _COMPONENTS and isinstance(snapshot.model, Decodes):
            figures["latent_grid"] = self._grid(snapshot.model, z, snapshot.epoch)
        return figures

    def _grid(self, model: Decodes, z: Tensor, epoch: int) -> Figure:
        """Decoded quantiles, the first dimension to the right and the second upwards, as on the map."""
        quantiles = (torch.arange(self.config.grid, device=z.device) + 0.5) / self.config.grid
        if isinstance(model, HasPosterior):
            right = up = torch.special.ndtri(quantiles)
            whose = "N(0, 1)"
        else:
            right, up = torch.quantile(z, quantiles, dim=0).unbind(1)
            whose = "the codes"
        up = up.flip(0)
        grid = torch.stack([right.expand(len(up), -1), up[:, None].expand(-1, len(right))], dim=-1)
        rows, columns = ([signed(v, 2) for v in side.tolist()] for side in (up, right))
        title = f"Decoded codes at even quantiles of {whose}, after epoch {epoch}: z0 to the right, z1 upwards"
        return mosaic(decoded(model, grid), rows, columns, title, gap=0)


def _plane(z: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Codes ``(N, 2)`` of codes ``(N, D)``, and what the two are."""
    if z.shape[1] == _COMPONENTS:
        return z, ("z0", "z1")
    centred = z - z.mean(0)
    _, _, directions = torch.pca_lowrank(centred, q=min(_COMPONENTS + 4, *z.shape), center=False)
    points = centred @ directions[:, :_COMPONENTS]
    shares = points.var(0, correction=0) / centred.var(0, correction=0).sum().clamp(min=1e-12)
    first, second = (f"principal component {i + 1}, {share:.0%} of variance" for i, share in enumerate(shares))
    return points, (first, second)


def _colourings(data: DeviceDataset, num_images: int) -> dict[str, Tensor]:
    """The values of each factor that varies; of a set without factors, the labels."""
    if data.factors is not None:
        columns = data.factors[:num_images].cpu().unbind(1)
        return {name: v for name, v in zip(data.factor_names, columns, strict=True) if v.min() < v.max()}
    return {} if data.labels is None else {"label": data.labels[:num_images].cpu()}
