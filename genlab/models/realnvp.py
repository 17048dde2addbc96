"""RealNVP: affine couplings on halves, with a permutation after each."""

from __future__ import annotations

from typing import Literal

from genlab.config import Positive, config
from genlab.models.coupling_flow import CouplingFlow, CouplingFlowConfig, half_net
from genlab.nets.bijections import AffineCoupling
from genlab.registry import MODELS
from genlab.types import DataSpec


@config
class RealNVPConfig(CouplingFlowConfig):
    """Settings of :class:`RealNVP`."""

    name: Literal["realnvp"] = "realnvp"
    scale_bound: Positive = 2.0


@MODELS.register("realnvp")
class RealNVP(CouplingFlow):
    """Affine couplings, see :class:`~genlab.models.coupling_flow.CouplingFlow` for the rest.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP".
    """

    Config = RealNVPConfig

    def __init__(self, config: RealNVPConfig, spec: DataSpec) -> None:
        def coupling(dim: int) -> AffineCoupling:
            return AffineCoupling(half_net(config.net, dim, 2), dim // 2, config.scale_bound)

        super().__init__(config, spec, coupling)
        self.config = config
