"""The families that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from peers import ddpm, fid, gan, mig, realnvp, vae
from peers.contest import Entry, Setting, Size
from peers.ddpm_peer import DDPMSize
from peers.realnvp_models import FlowSize
from peers.vae_network import VAESize


@dataclass(frozen=True)
class Family:
    """``entries`` are its contestants by name; ``limited``: held against the rate of a matrix product."""

    title: str
    entries: Callable[[Setting, Size], Mapping[str, Entry]]
    size: Size
    limited: bool = False


FAMILIES = {
    "vae": Family("VAE, 784-400-400-20, batch 128", vae.entries, VAESize(), limited=True),
    "realnvp": Family("RealNVP on vectors, 8 couplings, batch 128", realnvp.entries, FlowSize(), limited=True),
    "gan": Family("DCGAN, batch 64", gan.entries, gan.GANSize()),
    "ddpm": Family("DDPM, U-Net of 32, 64 and 128 planes, batch 64", ddpm.entries, DDPMSize()),
    "fid": Family("FID of 10,000 x 2,048 features", fid.entries, fid.FIDSize()),
    "mig": Family("MIG of 10,000 codes x 10 and 5 factors", mig.entries, mig.MIGSize()),
}
