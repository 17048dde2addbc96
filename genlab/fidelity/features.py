"""Features of real images, kept on the disk, and of samples, whose images are not kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genlab import checkpoint
from genlab.data.bits import PackedImages, Pixels
from genlab.data.device import DeviceDataset
from genlab.data.fetch import replacing
from genlab.data.images import CHUNK
from genlab.errors import CheckpointError
from genlab.extractors.base import Extractor, Features
from genlab.models.base import Model
from genlab.own import user_cache
from genlab.progress import tracked
from genlab.types import Samples

log = logging.getLogger(__name__)


def chosen(data: DeviceDataset, limit: int | None) -> Tensor:
    """Which ``limit`` images stand for all, int64 on the data's device: at equal steps, the first among them.

    Not the first so many: sets come sorted, by class or by factor.

    >>> chosen(DeviceDataset(torch.zeros(7, 1, 2, 2), None, torch.device("cpu"), torch.device("cpu")), 3)
    tensor([0, 2, 4])
    """
    count = min(len(data), limit or len(data))
    return torch.arange(count, device=data.data_device) * len(data) // count


@torch.no_grad()
def real_features(
    extractor: Extractor, data: DeviceDataset, limit: int | None, batch_size: int, label: str | None = None
) -> Features:
    """Features of the images that :func:`chosen` names, on the device of batches.

    They are kept under the user's cache, and found there by what they depend on; a broken file is computed
    anew, and where none can be written the time is lost and nothing else.

    Args:
        extractor: on the device of batches.
        data: the images.
        limit: how many at most; ``None``: all.
        batch_size: images at once.
        label: of a bar on a terminal; ``None``: no bar.
    """
    index = chosen(data, limit)
    path = user_cache() / "features" / f"{_key(extractor, data, index)}.pt"
    found = _read(path)
    if found is None:
        parts = tracked(index.split(batch_size), label)
        found = _joined([_extract(extractor, data.batch(part).x) for part in parts])
        _keep(path, found)
    logits = None if found.logits is None else found.logits.to(data.device)
    return Features(found.values.to(data.device), logits)


@torch.no_grad()
def sample_features(
    extractor: Extractor, model: Model, n: int, batch_size: int, label: str | None = None
) -> tuple[Features, Tensor | None]:
    """Features of ``n`` samples, drawn by torch's global generator, and the classes ``(n,)`` asked for.

    A conditional model is asked for its classes in turn, so that each has ``n / K`` samples; of another one
    the classes are ``None``. Arguments as of :func:`real_features`.
    """
    assert isinstance(model, Samples)
    y = None
    if model.num_classes is not None:
        y = torch.arange(n, device=model.device) % model.num_classes
    parts = []
    batch_size = min(batch_size, model.max_batch)
    for start in tracked(range(0, n, batch_size), label):
        end = min(start + batch_size, n)
        x = model.sample(end - start, None if y is None else y[start:end])
        parts.append(_extract(extractor, x))
    return _joined(parts), y


def _extract(extractor: Extractor, x: Tensor) -> Features:
    """In full precision, whatever samples are drawn in."""
    with torch.autocast(x.device.type, enabled=False):
        features: Features = extractor(x)
    return features


def _joined(parts: Sequence[Features]) -> Features:
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)


# --------------------------------------------------------------------------------------- on the disk


def _key(extractor: Extractor, data: DeviceDataset, index: Tensor) -> str:
    """SHA-256 of all that the features depend on: the network, its precision, and the images at ``index``."""
    packed = isinstance(data.stored(slice(0)), PackedImages)
    precision = torch.get_float32_matmul_precision()  # TF32 rounds features
    facts = (extractor.checksum(), precision, packed, len(index), *data.image_shape)
    digest = hashlib.sha256(repr(facts).encode())
    for part in index.split(CHUNK):
        digest.update(_stored(data.stored(part)).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stored(images: Pixels) -> Tensor:
    """The bytes that hold ``images``, packed where they are."""
    return images.bits if isinstance(images, PackedImages) else images


def _read(path: Path) -> Features | None:
    """What :func:`_keep` wrote, on the CPU; ``None`` where there is nothing, or nothing sound."""
    try:
        if not path.exists():
            return None
        state = checkpoint.load(path)
        return Features(state["values"], state["logits"])
    except (CheckpointError, KeyError, OSError) as error:
        log.warning("cached features: %s; computing them anew", error)
        return None


def _keep(path: Path, features: Features) -> None:
    try:
        with replacing(path) as part:
            checkpoint.save(part, {"values": features.values.cpu(), "logits": _cpu(features.logits)})
    except OSError as error:
        log.warning("features can't be kept in %s: %s", path.parent, error.strerror or error)


def _cpu(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.cpu()
