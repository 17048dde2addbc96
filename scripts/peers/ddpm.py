"""DDPM with the U-Net of denoising-diffusion-pytorch in genlab too, so that all else is compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

from torch import Tensor, nn

from genlab.models.base import Model
from peers import ours
from peers.contest import Entry, Setting, Task
from peers.ddpm_peer import CHAIN, DDPMSize, library, unet
from peers.genlab_run import Run

PEERS = {"denoising-diffusion-pytorch": False, "denoising-diffusion-pytorch bf16": True}


class PeersUnet(nn.Module):
    """The library's U-Net, called as genlab calls its own: its steps count from 0, genlab's times end at 1."""

    def __init__(self, size: DDPMSize) -> None:
        super().__init__()
        self.net, self.config = unet(size), SimpleNamespace(channels=size.dim)

    def forward(self, x: Tensor, time: Tensor, y: None = None) -> Tensor:
        return self.net(x, time * CHAIN - 1)


def replace_unet(size: DDPMSize, model: Model) -> None:
    model.unet = PeersUnet(size)


def sampling(size: DDPMSize, run: Run) -> Mapping[str, Task]:
    """As ``genlab sample`` draws images."""

    def sample() -> float:
        model, device = run.trainer.model, run.device
        with device.isolated(model, seed=0), device.autocast():
            return float(model.sample(size.batch).float().mean() / 255)

    return {"sample": Task(sample, size.sampling_steps, size.batch)}


def entries(setting: Setting, size: DDPMSize) -> dict[str, Entry]:
    adam = ("trainer.optimizer.name=Adam", "trainer.optimizer.lr=1e-4")
    ddim = ("model.sampler=ddim", f"model.samplers.ddim.num_steps={size.sampling_steps}")
    widths = (f"channels={size.dim}", f"multipliers=[{','.join(map(str, size.multipliers))}]", "dropout=0.0")
    own = tuple(f"model.net.{key}" for key in (*widths, f"attention=[{len(size.multipliers) - 1}]"))
    overrides = ("model=ddpm", *adam, *ddim)
    ours_on = partial(ours.entries, setting, size, term="mse", more=partial(sampling, size))
    return (
        ours_on(overrides, change=partial(replace_unet, size))
        | ours_on((*overrides, *own), suffix=", its own U-Net")
        | {name: partial(library, name, setting, size, bf16) for name, bf16 in PEERS.items()}
    )
