"""The U-Net of diffusion models: an image, a time and perhaps a label -> planes of the image's size."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, Index, ProperFraction, config

_MAX_PERIOD = 10_000.0
_TIME_SCALE = 1000.0  # times run from 0 to 1 here, and in steps of a thousand in the papers


@config
class UNetConfig:
    """``channels * multipliers[i]`` planes at level ``i``, where the image is ``2**i`` times smaller.

    ``attention`` names the levels with self-attention after each block (0 is the image's own size);
    ``num_groups`` is that of group norm, and has to divide the planes of every level.
    """

    name: Literal["unet"] = "unet"
    channels: Count = 64
    multipliers: tuple[Count, ...] = Field(default=(1, 2, 2), min_length=1)
    num_blocks: Count = 2
    attention: tuple[Index, ...] = (2,)
    num_heads: Count = 4
    num_groups: Count = 8
    dropout: ProperFraction = 0.1

    def __post_init__(self) -> None:
        """Check what depends on several settings."""
        for level in self.attention:
            if level >= len(self.multipliers):
                raise ValueError(f"attention: there is no level {level} among 0 to {len(self.multipliers) - 1}")
        for level, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            for key, parts in ("num_groups", self.num_groups), ("num_heads", self.num_heads):
                if width % parts and (key == "num_groups" or level in self.attention):
                    raise ValueError(f"{key}={parts} does not divide the {width} planes of level {level}")


class UNet(nn.Module):
    """``(B, in_channels, H, W)``, times in [0, 1] and labels -> ``(B, out_channels, H, W)``, zero at first.

    Sides need not be even: a level is half of the one above, rounded up, and enlarged to its very size again.

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
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.time_dim = config.channels
        embedding_dim = 4 * config.channels
        self.embed_time = nn.Sequential(
            nn.Linear(self.time_dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.label = nn.Embedding(num_labels, embedding_dim) if num_labels else None
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)

        def stage(in_width: int, level: int) -> _Stage:
            return _Stage(config, in_width, widths[level], embedding_dim, level in config.attention)

        skips, width = [widths[0]], widths[0]
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, level_width in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(config.num_blocks):
                blocks.append(stage(width, level))
                width = level_width
                skips.append(width)
            self.down.append(blocks)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        bottom = len(widths) - 1
        self.middle = nn.ModuleList([stage(width, bottom), _Block(config, width, width, embedding_dim)])
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for _ in range(config.num_blocks + 1):
                blocks.append(stage(width + skips.pop(), level))
                width = widths[level]
            self.up.append(blocks)
            if level:
                self.enlarge.append(nn.Conv2d(width, width, 3, padding=1))
        last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.last = nn.Sequential(nn.GroupNorm(config.num_groups, width), nn.SiLU(), _zeroed(last))

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Images ``(B, C, H, W)``, times ``(B,)``, labels ``(B,)`` where the network takes any."""
        embedding = self.embed_time(time_features(time, self.time_dim))
        if self.label is not None:
            embedding = embedding + self.label(y)
        embedding = F.silu(embedding)
        h = self.first(x)
        skips = [h]
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                h = block(h, embedding)
                skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
                skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for level, blocks in enumerate(self.up):
            for block in blocks.children():
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            if level < len(self.enlarge):
                h = self.enlarge[level](F.interpolate(h, size=skips[-1].shape[-2:], mode="nearest"))
        out: Tensor = self.last(h)
        return out


def time_features(time: Tensor, dim: int) -> Tensor:
    """Times in [0, 1] ``(B,)`` -> sines and cosines of them at ``dim`` frequencies ``(B, dim)``.

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.5; of a thousand times the time, as the
        steps of a diffusion are counted.
    """
    half = (dim + 1) // 2
    exponents = torch.arange(half, device=time.device, dtype=torch.float32) / max(half, 1)
    angles = _TIME_SCALE * time.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)[:, :dim].to(time.dtype)


class _Block(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the embedding; the identity at first
    where it keeps the width."""

    def __init__(self, config: UNetConfig, in_width: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        groups = math.gcd(in_width, config.num_groups)
        self.enter = nn.Sequential(
            nn.GroupNorm(groups, in_width), nn.SiLU(), nn.Conv2d(in_width, width, 3, padding=1)
        )
        self.norm = nn.GroupNorm(config.num_groups, width)
        self.modulation = nn.Linear(embedding_dim, 2 * width)
        conv = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Sequential(nn.SiLU(), nn.Dropout(config.dropout), _zeroed(conv))
        self.skip = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.enter(x)) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.leave(h)
        return out


class _Attention(nn.Module):
    """Every pixel looks at all others; the identity at first."""

    def __init__(self, width: int, num_heads: int, num_groups: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(num_groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.num_heads, -1))
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, pixels, planes of a head) each
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(seen.transpose(-1, -2).flatten(1, 2).unflatten(2, (height, width)))
        return out


class _Stage(nn.Module):
    """A residual block, and self-attention after it where there is any."""

    def __init__(
        self, config: UNetConfig, in_width: int, width: int, embedding_dim: int, attention: bool
    ) -> None:
        super().__init__()
        self.block = _Block(config, in_width, width, embedding_dim)
        self.attention = _Attention(width, config.num_heads, config.num_groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.attention(self.block(x, embedding))
        return out


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """``conv`` with weight and bias zero."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
