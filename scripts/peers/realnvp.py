"""RealNVP on vectors: affine couplings of fully connected nets, by normflows, nflows and zuko."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from genlab import likelihood
from peers import ours
from peers.contest import Contestant, Entry, Setting
from peers.data import MemoryBatches
from peers.loop import looped
from peers.realnvp_models import DIM, MODELS, FlowSize


def peer(name: str, build: Callable, setting: Setting, size: FlowSize) -> Contestant:
    """A plain loop on images in memory, in the preprocessing that bits per dimension ask for."""
    model, log_prob = build(size)
    optimizer = torch.optim.Adam(model.to(setting.device).parameters(), lr=1e-3)

    def step(batch: Tensor) -> float:
        x, log_det = likelihood.logit(likelihood.dequantise(batch), alpha=1e-6)
        optimizer.zero_grad()
        loss = -likelihood.to_levels(log_prob(x.flatten(1)) + log_det, DIM).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    batches = MemoryBatches(setting.first(size).to(setting.device), size.batch)
    return looped(name, (model,), step, batches, size)


def entries(setting: Setting, size: FlowSize) -> dict[str, Entry]:
    net = (f"hidden_dim={size.hidden}", "num_layers=2", "activation=relu", "tanh_features=false")
    flow = (
        f"num_flows={size.couplings}",
        "permutation=reverse",
        "actnorm=false",
        *(f"net.{key}" for key in net),
    )
    adam = ("name=Adam", "lr=1e-3", "weight_decay=0.0")
    overrides = (
        "model=realnvp",
        *(f"model.{key}" for key in flow),
        *(f"trainer.optimizer.{key}" for key in adam),
    )
    return ours.entries(setting, size, overrides) | {
        name: partial(peer, name, build, setting, size) for name, build in MODELS.items()
    }
