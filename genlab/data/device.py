"""Datasets that live on the device: an epoch is a permutation, a batch one gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genlab.data.bits import Pixels, unpacked
from genlab.errors import ConfigError
from genlab.types import Batch


class DeviceDataset:
    """Images held as uint8, or as bits, on the device where they fit.

    Args:
        images: uint8 ``(N, C, H, W)`` on the CPU, or packed.
        labels: int64 ``(N,)`` or ``None``.
        device: where batches are wanted.
        data_device: where the images are held; batches are copied to ``device`` where that is another.
        factors: int64 ``(N, F)`` or ``None``; held beside the images, and no part of a batch.
        factor_names: what the columns of ``factors`` are.
    """

    def __init__(
        self,
        images: Pixels,
        labels: Tensor | None,
        device: torch.device,
        data_device: torch.device,
        factors: Tensor | None = None,
        factor_names: tuple[str, ...] = (),
    ) -> None:
        self.device = device
        self.images: Pixels = _place(images, device, data_device)
        self.labels: Tensor | None = None if labels is None else _place(labels, device, data_device)
        self.factors: Tensor | None = None if factors is None else _place(factors, device, data_device)
        self.factor_names = factor_names

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor | slice) -> Batch:
        """The images at ``index`` (on the data's device), on the model's device."""
        x = unpacked(self.images[index].to(self.device, non_blocking=True))  # bits travel, pixels don't
        y = None if self.labels is None else self.labels[index].to(self.device, non_blocking=True)
        return Batch(x, y)

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch.

        Raises:
            ConfigError: the batch is larger than the set.
        """
        if batch_size > len(self):
            raise ConfigError(
                f"trainer.batch_size={batch_size} is larger than the {len(self)} training images; lower it"
            )
        return len(self) // batch_size

    def epoch(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled batches of equal size, the remainder left out, from batch ``start`` on.

        The order depends on ``seed`` alone, so that an epoch can be taken up in its middle.
        """
        generator = torch.Generator(self.images.device).manual_seed(seed)
        order = torch.randperm(len(self), generator=generator, device=self.images.device)
        for i in range(start, self.num_batches(batch_size)):
            yield self.batch(order[i * batch_size : (i + 1) * batch_size])

    def in_order(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The first ``limit`` images (all by default) in order, the last batch smaller."""
        end = min(len(self), limit or len(self))
        for i in range(0, end, batch_size):
            yield self.batch(slice(i, min(i + batch_size, end)))


def _place(values: Pixels, device: torch.device, data_device: torch.device) -> Any:  # of the same type
    values = values.to(data_device)
    pinned = data_device.type == "cpu" and device.type == "cuda"
    return values.pin_memory() if pinned else values


@dataclass(frozen=True)
class Splits:
    """The parts of one dataset: ``val`` is held out of the training images."""

    train: DeviceDataset
    val: DeviceDataset
    test: DeviceDataset
    name: str = ""
    """What results call the set."""


def hold_out(num_images: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images, drawn by a fixed seed.

    Raises:
        ConfigError: nothing is left to train on.
    """
    if num_val >= num_images:
        raise ConfigError(
            f"dataset.num_val={num_val} leaves none of the {num_images} training images; lower it"
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return order[num_val:].sort().values, order[:num_val].sort().values
