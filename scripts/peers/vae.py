"""VAE of fully connected layers: a plain loop over a DataLoader, one in memory, and pythae's trainer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from genlab.likelihood import to_unit
from peers import ours
from peers.contest import Contestant, Entry, Setting
from peers.data import MemoryBatches, TorchvisionBatches
from peers.loop import looped
from peers.vae_network import DIM, PlainVAE, VAESize
from peers.vae_pythae import pythae


def plain(setting: Setting, size: VAESize, in_memory: bool) -> Contestant:
    """PyTorch's own VAE example with one more layer; its loss, as genlab's, is of grey levels in expectation.

    In memory it is the best that a loop gets without leaving PyTorch: uint8 images on the device, fused Adam.
    """
    model = PlainVAE(size).to(setting.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=in_memory)
    images = setting.first(size)

    def step(batch: Tensor) -> float:
        x = to_unit(batch) if in_memory else batch
        x = x.to(setting.device).view(-1, DIM)
        optimizer.zero_grad()
        decoded, mean, log_var = model(x)
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        loss = (F.binary_cross_entropy(decoded, x, reduction="sum") + kl) / len(x)
        loss.backward()
        optimizer.step()
        return loss.item()

    if in_memory:
        held = MemoryBatches(images.to(setting.device), size.batch)
        return looped("plain loop, in memory", (model,), step, held, size)
    return looped("plain loop", (model,), step, TorchvisionBatches(images, size.batch, setting.device), size)


def entries(setting: Setting, size: VAESize) -> dict[str, Entry]:
    layers = (f"hidden_dim={size.hidden}", "num_layers=2", "activation=relu")
    nets = [f"model.{net}.{layer}" for net in ("encoder", "decoder") for layer in layers]
    overrides = ("model=vae", f"model.latent_dim={size.latent}", *nets, "trainer.optimizer.lr=1e-3")
    return ours.entries(setting, size, overrides) | {
        "plain loop": partial(plain, setting, size, in_memory=False),
        "plain loop, in memory": partial(plain, setting, size, in_memory=True),
        "pythae": partial(pythae, setting, size),
    }
