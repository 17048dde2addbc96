"""An extractor and a model whose features and classes are known, and images for them."""

import torch

from genlab.data.bits import pack
from genlab.data.device import DeviceDataset
from genlab.extractors.base import Extractor, Features
from genlab.models.base import Model
from genlab.types import DataSpec

CPU = torch.device("cpu")
SPEC = DataSpec(1, 4, 4, 3)


class Halves(Extractor):
    """Brightness of the upper and lower half, times a weight; three classes by the upper half's."""

    name = "halves"
    num_features = 2
    num_classes = 3
    trained_on = "set"

    def __init__(self, spec=SPEC, weights=None):
        super().__init__(spec, weights)
        self.register_buffer("weight", torch.ones(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        values = self.weight * x.float().unflatten(2, (2, -1)).mean((1, 3, 4))
        return Features(values, -(values[:, :1] / 85 - 0.5 - torch.arange(3)).abs())


class Painter(Model):
    """Conditional: the brightness of an image is its class's, the rest is noise."""

    def __init__(self, num_classes=3):
        super().__init__(SPEC)
        self.num_classes = num_classes
        self.asked = []

    def sample(self, n, y=None, generator=None):
        self.asked.append(y)
        base = torch.zeros(n) if y is None else 85 * y
        noise = torch.randint(0, 80, (n, 1, 4, 4), generator=generator)
        return (noise + base[:, None, None, None]).to(torch.uint8)


def small_set(n=20, seed=0, packed=False):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    if packed:
        images = pack([images > 127], n, (1, 4, 4))
    return DeviceDataset(images, torch.arange(n) % 3, CPU, CPU)
