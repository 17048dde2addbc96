"""RealNVP: affine couplings on halves, with a permutation after each."""

from __future__ import annotations

from typing import Literal

from genlab.config import Positive, config
from genlab.models.coupling_flow import CouplingFlow, CouplingFlowConfig
from genlab.nets.coupling_chain import affine
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
        super().__init__(config, spec, affine(config.net, config.scale_bound))
        self.config = config
