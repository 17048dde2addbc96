"""What a feature extractor is, and which one suits a set of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from genlab.registry import EXTRACTORS
from genlab.types import DataSpec


@dataclass(frozen=True)
class Features:
    """Of images: float32 ``(N, D)``, and the extractor's logits of classes ``(N, K)`` where it has classes."""

    values: Tensor
    logits: Tensor | None = None


class Extractor(nn.Module):
    """A frozen network in ``eval()``, built as ``cls(spec, weights)``; its registered name is the metric's.

    Args:
        spec: the images that it will see.
        weights: a file of the user's; ``None`` for the ones that belong to it.

    Raises:
        ConfigError: it takes no such images, or its weights can't be had; the message says the way out.
    """

    name: str
    num_features: int
    num_classes: int | None = None
    """Classes of its logits, where it has them."""
    trained_on: str | None = None
    """The set whose classes they are: of other images they say nothing."""

    def __init__(self, spec: DataSpec, weights: Path | None) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Features:
        """Features of uint8 ``(B, C, H, W)``."""
        raise NotImplementedError

    def knows(self, dataset: str) -> bool:
        """Whether its classes are those of ``dataset``, however that was binarised."""
        return self.num_classes is not None and self.trained_on == _origin(dataset)

    def checksum(self) -> str:
        """SHA-256 of its name and weights: features of another network are other features."""
        digest = hashlib.sha256(self.name.encode())
        for name, values in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def auto(spec: DataSpec, dataset: str) -> str:
    """The extractor for a set: the classifier trained on it, that of digits for other grey images of 28x28.

    For all else it is Inception.

    >>> auto(DataSpec(1, 28, 28, 10), "fashion_mnist"), auto(DataSpec(3, 32, 32, 10), "cifar10")
    ('fashion_cnn', 'inception')
    """
    if spec.shape != (1, 28, 28):
        return "inception"
    return "fashion_cnn" if _origin(dataset) == "fashion_mnist" else "mnist_cnn"


def _origin(dataset: str) -> str:
    """The set that a label's images are from: ``mnist`` of ``mnist-static`` and of ``mnist_10k``."""
    return dataset.split("-")[0].removesuffix("_10k")


def load_extractor(name: str, spec: DataSpec, dataset: str, weights: str | None) -> Extractor:
    """The extractor ``name``, or the one that ``"auto"`` stands for, on the CPU."""
    resolved = auto(spec, dataset) if name == "auto" else name
    extractor: Extractor = EXTRACTORS[resolved](spec, None if weights is None else Path(weights).expanduser())
    return extractor.eval().requires_grad_(False)
