"""The Inception network of the published FID."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from genlab.errors import ConfigError
from genlab.extractors.base import Extractor, Features
from genlab.memory import lowered, piece
from genlab.registry import EXTRACTORS
from genlab.types import DataSpec

_CHUNK = 64  # images at once on a CPU
_BYTES = 50_000_000  # of one at 299x299, generously: the first layers have planes of some 10 MB


@EXTRACTORS.register("inception")
class Inception(Extractor):
    """The 2048 pooled features of Inception-v3 as trained for TensorFlow in 2015, grey images tiled to RGB.

    Args:
        spec: the images that it will see, grey or RGB, of any size: they are resized to 299x299.
        weights: a local copy of the file that torch-fidelity and pytorch-fid fetch (both names end in
            ``inception-2015-12-05-6726825d.pth``); ``None`` looks in torch.hub's cache and downloads it.

    Raises:
        ConfigError: images neither grey nor RGB, weights that can't be had or are none of this network.

    References:
        Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision"; Heusel et al. 2017,
        "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", eq. 6;
        Parmar et al. 2022, "On aliased resizing and surprising subtleties in GAN evaluation".
    """

    name = "inception"
    num_features = 2048

    def __init__(self, spec: DataSpec, weights: Path | None) -> None:
        super().__init__(spec, weights)
        if spec.channels not in (1, 3):
            raise ConfigError(
                f"extractor '{self.name}' takes grey or RGB images, not {spec}; register an extractor of such "
                "images in a module of yours (plugins)"
            )
        state = _fetch() if weights is None else _read(weights)
        try:
            self.network = _network(state)
        except (RuntimeError, TypeError):  # of load_state_dict: other names, other shapes, no dict
            what = weights or "torch.hub's cache"
            raise ConfigError(
                f"weights of extractor '{self.name}', {what}: weights of another network"
            ) from None

    def forward(self, x: Tensor) -> Features:
        """Features ``(B, 2048)`` of uint8 ``(B, C, H, W)``, in float32 under autocast too."""
        with torch.autocast(x.device.type, enabled=False):
            tiled = x.expand(-1, 3, -1, -1)
            size = piece(x.device, _BYTES, _CHUNK)
            return Features(torch.cat(lowered(lambda n: [self.network(part) for part in tiled.split(n)], size)))


def _network(state: object) -> nn.Module:
    """The network with these weights; torchmetrics reads files with pickle, so it gets one that we wrote."""
    from torchmetrics.image.fid import NoTrainInceptionV3  # seconds, which no other extractor should cost

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    # antialias=False is the resize of TensorFlow 1, without antialiasing or half-pixel centres, that the first
    # FIDs and torch-fidelity have; torchmetrics' own default gives other FIDs (Parmar et al. 2022).
    # pytorch-fid has the same weights but half-pixel centres: its FIDs are close, not equal.
    return NoTrainInceptionV3("inception-v3-compat", ["2048"], file, antialias=False)  # type: ignore[arg-type]


def _read(path: Path) -> object:
    """Weights in a file of the user's: tensors alone, no code of it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception:  # what torch.load and pickle raise for a broken file is of many kinds
        reason = "no file of PyTorch weights, or a broken one"
    raise ConfigError(f"weights of extractor 'inception', {path}: {reason}")


def _fetch() -> object:
    """The published weights, from torch.hub's cache or the network; their name has the hash to check."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3  # type: ignore[import-untyped]

    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says there what it downloads
            return torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except Exception as error:  # of the address, the connection, the disk, the file: all leave no weights
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"can't fetch the weights of extractor 'inception' ({first}); name a local copy of "
            f"{Path(URL_INCEPTION_V3).name} (weights=FILE), or, for 28x28 grey images, an extractor that ships "
            "with its own (extractor=fashion_cnn, mnist_cnn)"
        ) from None
