"""How files become images: one class per format, chosen by ``format.kind`` in a dataset's YAML.

Each has ``files(split)``, the names of the files it needs from the dataset's sources (none for the
user's own images and for what is made up); ``spec(store)``, the shape before any conversion; and
``read(split, store)``, the images. A set whose factors of variation are known has ``factor_names``.
"""

from typing import Annotated

from pydantic import Discriminator

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

Format = Annotated[
    Idx
    | Emnist
    | MnistJson
    | Cifar10
    | Svhn
    | Omniglot
    | Dsprites
    | DspritesRendered
    | Npz
    | Folder
    | Noise
    | Constant,
    Discriminator("kind"),
]

__all__ = ["DspritesRendered", "Format", "Made"]
