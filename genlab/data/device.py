"""Datasets that live on the device: an epoch is a permutation, a batch one gather."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genlab.data.bits import PackedImages, Pixels, rows
from genlab.data.images import all_but
from genlab.errors import ConfigError
from genlab.types import Batch

log = logging.getLogger(__name__)


class DeviceDataset:
    """Images held as uint8, or as bits, on the device where they fit.

    Args:
        images: uint8 ``(N, C, H, W)`` on the CPU, or packed.
        labels: int64 ``(N,)`` or ``None``.
        device: where batches are wanted.
        data_device: where the images are to be held; batches are copied to ``device`` where that is another.
        factors: int64 ``(N, F)`` or ``None``; held beside the images, and no part of a batch.
        factor_names: what the columns of ``factors`` are.

    Where its memory proves too small for them, the images stay on the CPU.
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
        self.device, self.factor_names = device, factor_names
        try:
            held = _placed(images, labels, factors, data_device)
        except torch.OutOfMemoryError:
            size = images.nbytes / 1e9
            log.warning("%.2f GB of images find no room on %s; held in the host's memory", size, data_device)
            held = _placed(images, labels, factors, torch.device("cpu"))
        self._images, self.labels, self.factors = held
        self._rows: Tensor | None = None

    def part(self, index: Tensor) -> DeviceDataset:
        """The images at ``index``, ascending int64 on the CPU, as a set that shares the memory of this one's.

        Labels and factors are its own.
        """
        if len(index) == len(self):
            return self
        part, index = copy.copy(self), index.to(self.data_device)
        part._rows = index if self._rows is None else self._rows[index]
        part.labels, part.factors = (None if x is None else rows(x, index) for x in (self.labels, self.factors))
        return part

    def __len__(self) -> int:
        return len(self._images if self._rows is None else self._rows)

    @property
    def data_device(self) -> torch.device:
        """Where the images are."""
        return self._images.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        _, c, h, w = self._images.shape
        return c, h, w

    def stored(self, index: Tensor | slice) -> Pixels:
        """The images at ``index``, as and where they are held."""
        return rows(self._images, self._place(index))

    def batch(self, index: Tensor | slice) -> Batch:
        """The images at ``index`` (on the data's device), on the model's device; the host waits for nothing."""
        place = self._place(index)
        if isinstance(self._images, PackedImages):  # bits travel, pixels don't
            x = replace(self._images, bits=self._sent(self._images.bits, place)).unpack()
        else:
            x = self._sent(self._images, place)
        return Batch(x, None if self.labels is None else self._sent(self.labels, index))

    def _place(self, index: Tensor | slice) -> Tensor | slice:
        """Where the images at ``index`` are among all that are held."""
        return index if self._rows is None else rows(self._rows, index)

    def _sent(self, values: Tensor, index: Tensor | slice) -> Tensor:
        """``values`` at ``index``, on the model's device."""
        if self.device.type == "cpu" or values.device.type != "cpu":
            return rows(values, index)
        # From pinned memory the copy runs beside the device's work, while the host gathers the next batch. The
        # allocator hands a buffer out again only once its copy is done, so that two or three take turns.
        count = len(range(len(values))[index]) if isinstance(index, slice) else len(index)
        staging = _staging((count, *values.shape[1:]), values.dtype, self.device)
        if isinstance(index, slice):
            staging.copy_(values[index])
        else:
            torch.index_select(values, 0, index, out=staging)
        return staging.to(self.device, non_blocking=True)

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

    def order(self, seed: int) -> Tensor:
        """The permutation of an epoch: int64 ``(N,)`` where the images are, of ``seed`` alone."""
        generator = torch.Generator(self.data_device).manual_seed(seed)
        return torch.randperm(len(self), generator=generator, device=self.data_device)

    def epoch(
        self, batch_size: int, seed: int, start: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Shuffled batches of equal size, the remainder left out, from batch ``start`` on.

        The order depends on ``seed`` alone, so that an epoch can be taken up in its middle. Of each batch, a
        process takes its ``share``: its rank among so many, whose shares make up the batch in their order.
        """
        order, (rank, world) = self.order(seed), share
        for i in range(start, self.num_batches(batch_size)):
            first, last = (i * batch_size + batch_size * r // world for r in (rank, rank + 1))
            yield self.batch(order[first:last])

    def in_order(
        self, batch_size: int, limit: int | None = None, turn: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The first ``limit`` images (all by default) in order, the last batch smaller.

        A process takes every batch that is its ``turn``: its rank among so many.
        """
        end, (rank, world) = min(len(self), limit or len(self)), turn
        for i in range(rank * batch_size, end, world * batch_size):
            yield self.batch(slice(i, min(i + batch_size, end)))


def _placed(
    images: Pixels, labels: Tensor | None, factors: Tensor | None, where: torch.device
) -> tuple[Pixels, Tensor | None, Tensor | None]:
    return (
        images.to(where),
        None if labels is None else labels.to(where),
        None if factors is None else factors.to(where),
    )


def _staging(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the host that ``device`` can copy from by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


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
    val = order[:num_val].sort().values
    return all_but(val, num_images), val
