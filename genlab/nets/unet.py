"""The U-Net of diffusion models: an image, a time and perhaps a label -> planes of the image's size."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, Index, ProperFraction, config
from genlab.nets.linear import Linear

Layer = TypeVar("Layer", bound=nn.Module)

_MAX_PERIOD = 10_000.0
_TIME_SCALE = 1000.0  # times run from 0 to 1 here, and in steps of a thousand in the papers


@config
class UNetConfig:
    """``channels * multipliers[i]`` planes at level ``i``, where the image is ``2**i`` times smaller.

    ``attention`` names the levels with self-attention after each block, 0 being the first; ``num_groups`` is
    that of group norm, and has to divide the planes of every level. With ``patch_size`` above 1 the first
    level sees patches of so many by so many pixels as one, and all is as many times cheaper as a patch has.
    """

    name: Literal["unet"] = "unet"
    channels: Count = 64
    multipliers: tuple[Count, ...] = Field(default=(1, 2, 2), min_length=1)
    num_blocks: Count = 2
    attention: tuple[Index, ...] = (2,)
    num_heads: Count = 4
    """Heads of each self-attention."""
    num_groups: Count = 8
    dropout: ProperFraction = 0.1
    """Share of the values in a block that are dropped in training."""
    patch_size: Count = 1

    def __post_init__(self) -> None:
        """Check what depends on several settings."""
        for level in self.attention:
            if level >= len(self.multipliers):
                raise ValueError(f"attention: there is no level {level} among 0 to {len(self.multipliers) - 1}")
        for level, width in enumerate(self.widths):
            for key, parts in ("num_groups", self.num_groups), ("num_heads", self.num_heads):
                if width % parts and (key == "num_groups" or level in self.attention):
                    raise ValueError(f"{key}={parts} does not divide the {width} planes of level {level}")

    @property
    def widths(self) -> list[int]:
        """The planes of each level."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def embedding_dim(self) -> int:
        """Of the time and the label, which every block sees."""
        return 4 * self.channels


class UNet(nn.Module):
    """``(B, in_channels, H, W)``, times in [0, 1] and labels -> ``(B, out_channels, H, W)``, zero at first.

    Sides may be of any length: a level is half of the one above, rounded up, and enlarged to its very size
    again; patches that stand over the edge are filled with zeros and cut off at the end.

    Args:
        config: widths and depths.
        in_channels: of the noisy image.
        out_channels: of what is said of it.
        num_labels: embeddings of labels, added to that of the time; 0: the network takes none.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", appendix B; Nichol & Dhariwal 2021,
        "Improved denoising diffusion probabilistic models", section 3.2 (time as scale and shift).
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, num_labels: int = 0) -> None:
        super().__init__()
        self.config = config
        width, embedding_dim, patch = config.widths[0], config.embedding_dim, config.patch_size**2
        self.embed_time = nn.Sequential(
            Linear(config.channels, embedding_dim), nn.SiLU(), Linear(embedding_dim, embedding_dim)
        )
        self.label = nn.Embedding(num_labels, embedding_dim) if num_labels else None
        self.first = nn.Conv2d(in_channels * patch, width, 3, padding=1)
        self.levels = _Level(config, 0, width)
        last = nn.Conv2d(width, out_channels * patch, 3, padding=1)
        self.last = nn.Sequential(nn.GroupNorm(config.num_groups, width), nn.SiLU(), _zeroed(last))

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Images ``(B, C, H, W)``, times ``(B,)``, labels ``(B,)`` where the network takes any."""
        embedding = self.embed_time(time_features(time, self.config.channels))
        if self.label is not None:
            embedding = embedding + self.label(y)
        size, (height, width) = self.config.patch_size, x.shape[-2:]
        patches = F.pixel_unshuffle(F.pad(x, (0, -width % size, 0, -height % size)), size)
        out = self.last(self.levels(self.first(patches), F.silu(embedding)))
        return F.pixel_shuffle(out, size)[..., :height, :width]


def time_features(time: Tensor, dim: int) -> Tensor:
    """Times in [0, 1] ``(B,)`` -> sines and cosines of them at ``dim`` frequencies ``(B, dim)``.

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.5; of a thousand times the time, as the
        steps of a diffusion are counted.
    """
    half = (dim + 1) // 2
    exponents = torch.arange(half, device=time.device, dtype=torch.float32) / half
    angles = _TIME_SCALE * time.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)[:, :dim].to(time.dtype)


class _Level(nn.Module):
    """Blocks on the way down, what lies below, and blocks on the way up: each takes in what there was at its
    place on the way down, the last one the level's own input."""

    def __init__(self, config: UNetConfig, level: int, in_width: int) -> None:
        super().__init__()
        width, attention = config.widths[level], level in config.attention
        below: _Below | _Bottom = (
            _Below(config, level) if level + 1 < len(config.widths) else _Bottom(config, level)
        )
        skips = [in_width] + config.num_blocks * [width]
        down = [_Block(config, skip, width, attention) for skip in skips[:-1]]
        up = [_Block(config, below.width + skips.pop(), width, attention)]
        up += [_Block(config, width + skip, width, attention) for skip in reversed(skips)]
        self.down, self.below, self.up = nn.ModuleList(down), below, nn.ModuleList(up)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        skips = [x]
        for block in self.down:
            skips.append(block(skips[-1], embedding))
        h: Tensor = self.below(skips[-1], embedding)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return h


class _Below(nn.Module):
    """The level below, which sees the image at half the size."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width, self.width = config.widths[level], config.widths[level + 1]
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.level = _Level(config, level + 1, width)
        self.enlarge = nn.Conv2d(self.width, self.width, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.level(self.shrink(x), embedding)
        out: Tensor = self.enlarge(F.interpolate(h, size=x.shape[-2:], mode="nearest"))
        return out


class _Bottom(nn.Module):
    """Two blocks below all others."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        self.width = config.widths[level]
        self.blocks = nn.ModuleList(
            _Block(config, self.width, self.width, attention)
            for attention in (level in config.attention, False)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x


class _Block(nn.Module):
    """A residual block whose second normalisation is scaled and shifted by the embedding, and self-attention
    where there is any; the identity at first where it keeps the width."""

    def __init__(self, config: UNetConfig, in_width: int, width: int, attention: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.GroupNorm(config.num_groups, in_width), nn.SiLU(), nn.Conv2d(in_width, width, 3, padding=1)
        )
        self.norm = nn.GroupNorm(config.num_groups, width)
        self.modulation = Linear(config.embedding_dim, 2 * width)
        conv = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Sequential(nn.SiLU(), nn.Dropout(config.dropout), _zeroed(conv))
        self.skip = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)
        self.attention = _Attention(config, width) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.enter(x)) * (1 + scale) + shift
        out: Tensor = self.attention(self.skip(x) + self.leave(h))
        return out


class _Attention(nn.Module):
    """Every pixel looks at all others; the identity at first."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.GroupNorm(config.num_groups, width)
        self.qkv = Linear(width, 3 * width)
        self.out = _zeroed(Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, pixels, planes)
        qkv = self.qkv(pixels).unflatten(2, (3, self.num_heads, -1))
        if x.device.type == "cpu":  # where attention in bfloat16 is slow
            qkv = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, heads, pixels, planes of a head) each
        with torch.autocast("cpu", enabled=False):
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = x + self.out(seen).transpose(1, 2).unflatten(2, x.shape[-2:])
        return out


def _zeroed(layer: Layer) -> Layer:
    """``layer`` with weight and bias zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
