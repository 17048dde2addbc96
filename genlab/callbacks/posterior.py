"""Whether the posterior collapses: which latent dimensions carry anything, and how much in all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genlab.callbacks.base import EpochsConfig, Snapshot
from genlab.callbacks.codes import posteriors
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, Positive, config
from genlab.metrics.posterior import ACTIVE, active_units, kl_per_dim, mutual_information
from genlab.registry import CALLBACKS
from genlab.report.latent import kl_bars
from genlab.types import HasPosterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class PosteriorConfig(FigureConfig):
    """On ``num_images`` held-out images; ``threshold`` is the variance above which a dimension is active."""

    num_images: Count = 1000
    threshold: Positive = ACTIVE


@CALLBACKS.register("posterior")
class Posterior(FigureCallback):
    """Numbers after every epoch, and the KL of each dimension as a histogram and as bars.

    ``active_units`` is a count; ``mutual_information`` of image and code (at most the logarithm of
    ``num_images``), and the largest and smallest KL of a dimension to N(0, 1), are in nats.
    """

    Config = PosteriorConfig
    config: PosteriorConfig

    def on_epoch_end(self, snapshot: Snapshot) -> Mapping[str, float] | None:
        """The numbers, and what is drawn."""
        super().on_epoch_end(snapshot)
        if not isinstance(snapshot.model, HasPosterior):
            return None
        q = posteriors(snapshot.model, snapshot.held_out, self.config.num_images)
        kl = kl_per_dim(q)
        if EpochsConfig(most=self.config.most).due(snapshot.epoch, snapshot.num_epochs):
            snapshot.logger.histogram("posterior/kl_per_dim", kl, snapshot.step)
        return {
            "active_units": float(active_units(q, self.config.threshold).sum()),
            "mutual_information": mutual_information(q),
            "kl_max": kl.max().item(),
            "kl_min": kl.min().item(),
        }

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``kl_per_dim``."""
        if not isinstance(snapshot.model, HasPosterior):
            return {}
        q = posteriors(snapshot.model, snapshot.held_out, self.config.num_images)
        kl, information = kl_per_dim(q), mutual_information(q)
        count = len(q.mean)
        title = (
            f"After epoch {snapshot.epoch}: KL {kl.sum():.1f} nats in all; mutual information "
            f"{information:.1f}\nof at most log {count:,} = {math.log(count):.1f} nats, on held-out images"
        )
        active = active_units(q, self.config.threshold).cpu()
        return {"kl_per_dim": kl_bars(kl.cpu(), active, self.config.threshold, title)}
