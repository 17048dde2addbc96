"""The images of a comparison, and the ways in which users bring them to a plain loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from genlab.config import conf_dir, parse
from genlab.data import DatasetConfig, load_images
from genlab.errors import DataError

GENERATED = ("dataset=noise", "dataset.format.num_images=60000")
"""Images of FashionMNIST's shape and number, where that set is not to be had."""


def composed(overrides: tuple[str, ...]) -> dict:
    """The configuration of ``genlab train`` with ``overrides``, plain."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", [*overrides, "run_name=bench"]), resolve=True)
    assert isinstance(values, dict)
    return values


def images_of(name: str) -> tuple[Tensor, tuple[str, ...]]:
    """The training images of the set ``name`` and how genlab reads them; generated ones where none are."""
    overrides: tuple[str, ...] = (f"dataset={name}",)
    try:
        return _read(overrides), overrides
    except DataError as error:
        print(f"{error}; images are generated")
        return _read(GENERATED), GENERATED


def _read(overrides: tuple[str, ...]) -> Tensor:
    images = load_images(parse(DatasetConfig, composed(overrides)["dataset"]), "train").images
    assert isinstance(images, Tensor)
    return images


class TorchvisionSet(datasets.MNIST):
    """torchvision's dataset, given images instead of their files; how it hands them out is torchvision's."""

    def __init__(self, images: Tensor) -> None:
        datasets.VisionDataset.__init__(self, root="", transform=transforms.ToTensor())
        self.data, self.targets = images.squeeze(1), torch.zeros(len(images), dtype=torch.int64)


class TorchvisionBatches:
    """Images of a shuffled DataLoader with two workers, as tutorials have it."""

    def __init__(self, images: Tensor, batch: int, device: torch.device) -> None:
        pin = device.type == "cuda"
        self.loader = DataLoader(TorchvisionSet(images), batch, shuffle=True, num_workers=2, pin_memory=pin)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Tensor]:
        return (x for x, _ in self.loader)


class MemoryBatches:
    """Shuffled batches of ``values``, a tensor in the device's memory: the best that a plain loop can have."""

    def __init__(self, values: Tensor, batch: int) -> None:
        self.values, self.batch = values, batch

    def __len__(self) -> int:
        return len(self.values) // self.batch

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.values), device=self.values.device)
        return (self.values[index] for index in order.split(self.batch))
