"""Small classifiers of 28x28 grey images, which ship with their weights.

Inception's features were learnt on photographs of 1000 classes; those of a classifier of the set at hand tell
its images apart far better, need no download, and take milliseconds. Distances in them compare with one
another alone, never with published ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.errors import ConfigError
from genlab.extractors.base import Extractor, Features
from genlab.likelihood import to_unit
from genlab.memory import lowered, piece
from genlab.registry import EXTRACTORS
from genlab.types import DataSpec

WEIGHTS = Path(__file__).parent / "weights"
NUM_FEATURES = 128
NUM_CLASSES = 10
SHAPE = (1, 28, 28)
_CHUNK = 128  # images at once on a CPU: their planes stay in its cache
_BYTES = 2_000_000  # of one, generously


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Conv 3x3 with batch normalisation, which has the bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out_channels)
    )


class _Block(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, ``(B, C, H, W)`` -> the same.

    References:
        He et al. 2016, "Deep residual learning for image recognition", figure 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv(channels, channels), nn.ReLU(), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class Network(nn.Module):
    """Images float32 ``(B, 1, 28, 28)`` in [0, 1] -> pooled features ``(B, 128)`` and logits ``(B, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _conv(1, 32),
            nn.ReLU(),
            _conv(32, 64, stride=2),
            nn.ReLU(),
            _Block(64),
            _conv(64, NUM_FEATURES, stride=2),
            nn.ReLU(),
            _Block(NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features are at least 0: the means over the 7x7 places of a ReLU's planes."""
        features = self.trunk(x).mean((2, 3))
        return features, self.head(features)


class Classifier(Extractor):
    """The features before the last layer of a classifier of ten classes, and its logits.

    ``test_accuracy`` is the share of the test images of ``trained_on`` that it tells right; both are as its
    file of weights states them, and ``None`` where a user's file doesn't.

    Args:
        spec: the images that it will see: 1x28x28.
        weights: a file that ``scripts/train_extractor.py`` wrote; ``None`` for the shipped one.

    Raises:
        ConfigError: images of another shape, or a file that is absent, broken or of another network.

    References:
        Salimans et al. 2016, "Improved techniques for training GANs", section 4, and Heusel et al. 2017, "GANs
        trained by a two time-scale update rule converge to a local Nash equilibrium", eq. 6: what such logits
        and such features are for.
    """

    num_features = NUM_FEATURES
    num_classes = NUM_CLASSES
    sha256: str
    """Of the file of weights that ships with genlab."""

    def __init__(self, spec: DataSpec, weights: Path | None) -> None:
        super().__init__(spec, weights)
        if spec.shape != SHAPE:
            raise ConfigError(
                f"extractor '{self.name}' takes {DataSpec(*SHAPE)} images, not {spec}; name another "
                "(extractor=inception takes every size, grey or RGB), or extractor=auto"
            )
        self.network = Network()
        path = weights or WEIGHTS / f"{self.name}.safetensors"
        facts = self._load(path)
        if weights is None and hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise ConfigError(f"weights of extractor '{self.name}', {path}: altered; install genlab anew")
        self.trained_on = facts.get("trained_on")
        try:
            self.test_accuracy = float(facts["test_accuracy"]) if "test_accuracy" in facts else None
        except ValueError:
            raise ConfigError(
                f"weights of extractor '{self.name}', {path}: a test_accuracy that is none"
            ) from None
        self.network.to(memory_format=torch.channels_last)

    def _load(self, path: Path) -> dict[str, str]:
        """Read the weights, and what the file says of them; it holds numbers and text, nothing of it is run."""
        try:
            with safe_open(path, framework="pt") as file:
                self.network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                return dict(file.metadata() or {})
        except OSError as error:
            reason = error.strerror or "no such file"
        except SafetensorError:
            reason = "no safetensors file, or a broken one"
        except (RuntimeError, ValueError):
            reason = "weights of another network; scripts/train_extractor.py makes those of this one"
        raise ConfigError(f"weights of extractor '{self.name}', {path}: {reason}")

    def forward(self, x: Tensor) -> Features:
        """Features ``(B, 128)`` and logits ``(B, 10)`` of uint8 ``(B, 1, 28, 28)``.

        In float32 under autocast too: a distance must not depend on ``hardware.precision=bf16``.
        """
        with torch.autocast(x.device.type, enabled=False):
            size = piece(x.device, _BYTES, _CHUNK)
            parts = lowered(lambda n: [self.network(_input(part)) for part in x.split(n)], size)
        values, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return Features(values, logits)


def _input(x: Tensor) -> Tensor:
    return to_unit(x).contiguous(memory_format=torch.channels_last)


@EXTRACTORS.register("fashion_cnn")
class FashionCNN(Classifier):
    """Of the ten kinds of clothes of Fashion-MNIST."""

    name = "fashion_cnn"
    sha256 = "9e20bba03c99784bb810e7771658d31224b6c2941c0dc43f86a9ab865778f464"


@EXTRACTORS.register("mnist_cnn")
class MNISTCNN(Classifier):
    """Of the ten digits of MNIST."""

    name = "mnist_cnn"
    sha256 = "6cee1e65c0a561f3d57f0b56c02b605713d2d6c9944626d16a468b52db0d06cf"
