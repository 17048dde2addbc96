"""How files become images: one class per format, chosen by ``format.kind`` in a dataset's YAML.

A set whose factors of variation are known has ``factor_names``.
"""

from typing import Annotated, Protocol

from genlab.data.formats.cifar import Cifar10
from genlab.data.formats.digits import MnistJson
from genlab.data.formats.dsprites import Dsprites
from genlab.data.formats.dsprites_rendered import DspritesRendered
from genlab.data.formats.folder import Folder
from genlab.data.formats.idx import Emnist, Idx
from genlab.data.formats.npz import Npz
from genlab.data.formats.omniglot import Omniglot
from genlab.data.formats.svhn import Svhn
from genlab.data.formats.synthetic import Constant, Made, Noise
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.registry import Choice
from genlab.types import DataSpec


class ReadsImages(Protocol):
    """What a format offers; ``kind`` is a literal of its own."""

    @property
    def kind(self) -> str:
        """The name that ``format.kind`` gives."""
        ...

    def files(self, split: Split) -> tuple[str, ...]:
        """The names of the files that it needs from the dataset's sources; empty where it has no sources."""
        ...

    def spec(self, store: Store) -> DataSpec:
        """The shape of the images, before any is read."""
        ...

    def read(self, split: Split, store: Store) -> Images:
        """All images of ``split``."""
        ...


FORMATS = Choice(
    "format",
    "kind",
    Idx,
    Emnist,
    MnistJson,
    Cifar10,
    Svhn,
    Omniglot,
    Dsprites,
    DspritesRendered,
    Npz,
    Folder,
    Noise,
    Constant,
)
Format = Annotated[ReadsImages, FORMATS]

__all__ = ["FORMATS", "DspritesRendered", "Format", "Made"]
