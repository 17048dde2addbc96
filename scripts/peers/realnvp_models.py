"""The same RealNVP as each library builds it: a network, and its log-density of vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peers.contest import Size

DIM = 784


@dataclass(frozen=True)
class FlowSize(Size):
    images: int = 60_000
    batch: int = 128
    steps: int = 20
    couplings: int = 8
    hidden: int = 512


def normflows(size: FlowSize) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    import normflows as nf

    flows: list[nn.Module] = []
    for _ in range(size.couplings):
        net = nf.nets.MLP([DIM // 2, size.hidden, size.hidden, DIM], init_zeros=True)
        flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(DIM, mode="swap")]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), flows)
    return model, model.log_prob


def nflows(size: FlowSize) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import MLP

    class Net(MLP):
        def forward(self, inputs: Tensor, context: None = None) -> Tensor:  # its couplings hand a context over
            return super().forward(inputs)

    def net(inputs: int, outputs: int) -> Net:
        return Net([inputs], [outputs], [size.hidden, size.hidden])

    halves = [torch.arange(DIM) % 2 == i % 2 for i in range(size.couplings)]
    couplings = [transforms.AffineCouplingTransform(half.long(), net) for half in halves]
    base = distributions.StandardNormal([DIM])
    model = flows.Flow(transforms.CompositeTransform(couplings), base)
    return model, model.log_prob


def zuko(size: FlowSize) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from zuko.flows import RealNVP

    model = RealNVP(DIM, transforms=size.couplings, hidden_features=(size.hidden, size.hidden))
    return model, lambda x: model().log_prob(x)


MODELS = {"normflows": normflows, "nflows": nflows, "zuko": zuko}
