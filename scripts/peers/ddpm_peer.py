"""denoising-diffusion-pytorch: its U-Net, its diffusion, and the loop of its README."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlab.likelihood import to_unit
from peers.contest import Contestant, Setting, Size, Task
from peers.data import MemoryBatches
from peers.loop import looped

CHAIN = 1000


@dataclass(frozen=True)
class DDPMSize(Size):
    images: int = 1280
    batch: int = 64
    steps: int = 2
    dim: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    sampling_steps: int = 4


def unet(size: DDPMSize) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=size.dim, dim_mults=size.multipliers, channels=1)


def library(name: str, setting: Setting, size: DDPMSize, bf16: bool) -> Contestant:
    """The loop of its README, on genlab's objective and schedule; bfloat16 by autocast, as its trainer has it.

    That trainer also reads image files one by one, averages weights and clips gradients; this does not.
    """
    from denoising_diffusion_pytorch import GaussianDiffusion

    diffusion = GaussianDiffusion(
        unet(size),
        image_size=28,
        timesteps=CHAIN,
        sampling_timesteps=size.sampling_steps,
        objective="pred_noise",
        beta_schedule="linear",
    ).to(setting.device)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4)

    def precision() -> torch.autocast:
        return torch.autocast(setting.device.type, torch.bfloat16, enabled=bf16)

    def step(batch: Tensor) -> float:
        with precision():
            loss = diffusion(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def sample() -> float:
        with precision():
            return diffusion.sample(batch_size=size.batch).mean().item()

    batches = MemoryBatches(to_unit(setting.first(size)).to(setting.device), size.batch)
    trained = looped(name, (diffusion,), step, batches, size)
    tasks = {**trained.tasks, "sample": Task(sample, size.sampling_steps, size.batch)}
    return Contestant(name, tasks, trained.parameters)
