"""Spline flow: couplings that bend each number by a monotone rational-quadratic spline."""

from __future__ import annotations

from typing import Literal

from genlab.config import config
from genlab.models.coupling_flow import CouplingFlow, CouplingFlowConfig
from genlab.nets.coupling_chain import half_net
from genlab.nets.splines import SplineConfig, SplineCoupling
from genlab.registry import MODELS
from genlab.types import DataSpec


@config
class SplineFlowConfig(CouplingFlowConfig):
    """Settings of :class:`SplineFlow`."""

    name: Literal["spline_flow"] = "spline_flow"
    spline: SplineConfig


@MODELS.register("spline_flow")
class SplineFlow(CouplingFlow):
    """Spline couplings, see :class:`~genlab.models.coupling_flow.CouplingFlow` for the rest.

    A spline acts on ``[-bound, bound]`` alone. The ActNorm before it brings each pixel to zero mean and unit
    variance on the first batch, so that a bound of a few standard deviations holds nearly all of it; what
    lies beyond passes unchanged. Without ActNorm the splines see logits of pixels, which with alpha=1e-6
    reach 14.

    References:
        Durkan et al. 2019, "Neural spline flows" (RQ-NSF with coupling layers; ActNorm and permutations stand
        for its linear layers).
    """

    Config = SplineFlowConfig

    def __init__(self, config: SplineFlowConfig, spec: DataSpec) -> None:
        def coupling(dim: int) -> SplineCoupling:
            net = half_net(config.net, dim, config.spline.num_parameters)
            return SplineCoupling(net, dim // 2, config.spline)

        super().__init__(config, spec, coupling)
        self.config = config
