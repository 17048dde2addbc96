"""Ways from one image to another through the space of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from genlab.callbacks.base import Snapshot
from genlab.callbacks.codes import Autoencodes, decoded
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.mosaic import mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class InterpolationConfig(FigureConfig):
    """``num_pairs`` of the first held-out images, with ``steps`` codes from one to the other."""

    num_pairs: Count = 6
    steps: Count = 9


@CALLBACKS.register("interpolation")
class Interpolation(FigureCallback):
    """One row for each pair of images: decoded codes on the straight line between theirs.

    A flow's codes are far from the origin, and the middle of a straight line between two of them is nearer by a
    factor of about 1.4: its images there are those of a lower temperature.
    """

    Config = InterpolationConfig
    config: InterpolationConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``interpolation``."""
        model, pairs = snapshot.model, min(self.config.num_pairs, len(snapshot.held_out) // 2)
        if not isinstance(model, Autoencodes) or not pairs:
            return {}
        x = snapshot.held_out.batch(slice(0, 2 * pairs)).x
        start, end = model.encode(x).unflatten(0, (-1, 2)).unbind(1)
        weights = torch.linspace(0, 1, self.config.steps, device=start.device)[:, None]
        between = decoded(model, torch.lerp(start[:, None], end[:, None], weights))
        images = torch.cat([x[0::2, None], between, x[1::2, None]], dim=1)
        heads = ["image A", *(f"{weight:.3g}" for weight in weights.flatten().tolist()), "image B"]
        title = f"Decoded codes from held-out image A (0) to B (1) after epoch {snapshot.epoch}"
        return {"interpolation": mosaic(images, [""] * pairs, heads, title)}
