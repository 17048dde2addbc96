"""Configs and files of small made-up sets."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genlab.config import conf_dir, parse
from genlab.data import DatasetConfig


def config_of(values: Mapping[str, Any]) -> DatasetConfig:
    return parse(DatasetConfig, values, "dataset")


def shipped(name: str, /, **changes: Any) -> DatasetConfig:
    """The set ``name`` of conf/dataset, with top-level keys changed."""
    return config_of(yaml.safe_load((conf_dir() / "dataset" / f"{name}.yaml").read_text()) | changes)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_set(folder: Path, rng: np.random.Generator, n: int = 12, **changes: Any) -> DatasetConfig:
    """A set in IDX files, zipped, in ``folder``, and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        images = rng.integers(0, 256, (n, 6, 5), dtype=np.uint8)
        labels = (np.arange(n) % 3).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(array)))
    return small_idx(**changes)


def small_idx(**changes: Any) -> DatasetConfig:
    values = {
        "name": "small",
        "format": {"kind": "idx", "height": 6, "width": 5, "num_classes": 3},
        "sources": [{"kind": "local", "folder": "Small/raw"}],
    }
    return config_of(values | changes)
