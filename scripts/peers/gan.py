"""DCGAN with the layers of conf/model/gan.yaml, against the loop of PyTorch's DCGAN tutorial.

https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from peers import ours
from peers.contest import Contestant, Entry, Setting, Size
from peers.data import TorchvisionBatches
from peers.gan_networks import CODE, discriminator, generator
from peers.loop import looped


@dataclass(frozen=True)
class GANSize(Size):
    images: int = 19_200
    batch: int = 64
    steps: int = 10


def tutorial(setting: Setting, size: GANSize) -> Contestant:
    device = setting.device
    net_g, net_d = generator().to(device), discriminator().to(device)
    criterion = nn.BCELoss()
    optimizer_d = torch.optim.Adam(net_d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(net_g.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(batch: Tensor) -> float:
        net_d.zero_grad()
        real = batch.to(device)
        label = torch.full((len(real),), 1.0, device=device)
        output = net_d(real).view(-1)
        loss_real = criterion(output, label)
        loss_real.backward()
        seen = [output.mean().item()]
        fake = net_g(torch.randn(len(real), CODE, 1, 1, device=device))
        label.fill_(0.0)
        output = net_d(fake.detach()).view(-1)
        loss_fake = criterion(output, label)
        loss_fake.backward()
        seen.append(output.mean().item())
        loss_d = loss_real + loss_fake
        optimizer_d.step()
        net_g.zero_grad()
        label.fill_(1.0)
        output = net_d(fake).view(-1)
        loss_g = criterion(output, label)
        loss_g.backward()
        seen.append(output.mean().item())
        optimizer_g.step()
        losses.append((loss_g.item(), *seen))
        return loss_d.item()

    losses: list[tuple[float, ...]] = []
    batches = TorchvisionBatches(setting.first(size), size.batch, device)
    return looped("tutorial loop", (net_g, net_d), step, batches, size)


def entries(setting: Setting, size: GANSize) -> dict[str, Entry]:
    overrides = ("model=gan", "model/generator=dcgan", "model/discriminator=dcgan")
    return ours.entries(setting, size, overrides, term="loss_discriminator") | {
        "tutorial loop": partial(tutorial, setting, size)
    }
