"""Views of hand-made images, for the tests of scores."""

import torch

from genlab.data.device import DeviceDataset
from genlab.hardware import Hardware, HardwareConfig
from genlab.models.base import Model
from genlab.ood.base import View
from genlab.types import DataSpec

CPU = torch.device("cpu")


class Known(Model):
    """Its log-density of an image is ``scale`` times the first pixel, less ``shift``."""

    likelihood = "exact"

    def __init__(self, scale=-1.0, shift=0.0):
        super().__init__(DataSpec(1, 2, 2))
        self.scale, self.shift = scale, shift

    def log_prob(self, x, y=None):
        return self.scale * x[:, 0, 0, 0].double() - self.shift


def images(*first_pixels, shape=(1, 2, 2)):
    x = torch.zeros(len(first_pixels), *shape, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.tensor(first_pixels)
    return x


def noise(n, shape=(1, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def view(x, *models, background=None, labels=None, name="set", batch_size=4, limit=None, slow_limit=None):
    return View(
        name,
        DeviceDataset(x, labels, CPU, CPU),
        models,
        background,
        Hardware(CPU, HardwareConfig()),
        seed=0,
        limit=limit,
        slow_limit=slow_limit,
        batch_size=batch_size,
    )
