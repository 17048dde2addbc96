"""Addresses and checksums of public mirrors, read from torchvision's own tables when they are needed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

TorchvisionSet = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "SVHN", "Omniglot"]


@dataclass(frozen=True)
class RemoteFile:
    """A file, the mirrors that have it in the order to try, and its md5."""

    urls: tuple[str, ...]
    filename: str
    md5: str
    is_archive: bool = False
    """Whether it only wraps the files that a format reads."""


def remote_file(dataset: TorchvisionSet, name: str) -> RemoteFile:
    """What to download for the file ``name``: itself, itself with ``.gz``, or an archive around it."""
    files = _remote_files(dataset)
    return next(f for f in files if f.is_archive or f.filename.removesuffix(".gz") == name)


@functools.cache
def file_md5s(dataset: TorchvisionSet) -> dict[str, str]:
    """The md5 of each file as it is stored, by its name; of an archive's members where listed."""
    md5s = {file.filename: file.md5 for file in _remote_files(dataset)}
    if dataset == "CIFAR10":
        cls = _torchvision_class(dataset)
        md5s |= dict([*cls.train_list, *cls.test_list])
    return md5s


@functools.cache
def _remote_files(dataset: TorchvisionSet) -> tuple[RemoteFile, ...]:
    cls = _torchvision_class(dataset)
    match dataset:
        case "EMNIST":
            return (RemoteFile((cls.url,), "emnist.zip", cls.md5, is_archive=True),)
        case "CIFAR10":
            return (RemoteFile((cls.url,), cls.filename, cls.tgz_md5, is_archive=True),)
        case "SVHN":
            return tuple(RemoteFile((url,), name, md5) for url, name, md5 in cls.split_list.values())
        case "Omniglot":
            return tuple(
                RemoteFile((f"{cls.download_url_prefix}/{name}.zip",), f"{name}.zip", md5)
                for name, md5 in cls.zips_md5.items()
            )
        case _:
            return tuple(
                RemoteFile(tuple(mirror + name for mirror in cls.mirrors), name, md5)
                for name, md5 in cls.resources
            )


def _torchvision_class(dataset: TorchvisionSet) -> Any:
    from torchvision import datasets  # takes seconds to import

    return getattr(datasets, dataset)
