"""Bytes of a dataset's files flipped at random: detected, or harmless; never a crash, a hang or a traceback.

A file whose checksum is known is refused. Of the others, some flips can't be seen: what is loaded has the right
shape and type then, and in files with a checksum of their own (gzip, npz) every pixel is the right one. PNG has
such checksums, too, but PIL does not look at those of the pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import digits, judged, npz
from PIL import Image
from scipy.io import savemat
from small_sets import config_of, idx_bytes, shipped, small_idx

from genlab.data import DatasetConfig, load_images
from genlab.errors import DataError

FEW, MANY = 60, 400
"""Flips of each kind of file: in the fast suite, in the slow one."""
Maker = Callable[[Path, np.random.Generator], tuple[Path, DatasetConfig]]


def _cached(here: Path, name: str, content: bytes) -> Path:
    path = here / "cache" / "genlab" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _idx(pack: Callable[[bytes], bytes], ending: str, **changes: Any) -> Maker:
    def make(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
        images = rng.integers(0, 256, (12, 6, 5), dtype=np.uint8)
        _cached(
            here,
            f"small/train-labels-idx1-ubyte{ending}",
            pack(idx_bytes((np.arange(12) % 3).astype(np.uint8))),
        )
        content = idx_bytes(images)
        sha256 = {"train-images-idx3-ubyte": hashlib.sha256(content).hexdigest()}
        known = {"checksums": sha256} if changes else {}
        return _cached(here, f"small/train-images-idx3-ubyte{ending}", pack(content)), small_idx(**known)

    return make


def _npz(compress: bool) -> Maker:
    def make(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
        labels = (np.arange(20) % 3).astype(np.uint8)
        path = npz(here / "a.npz", compress, images=_npy(digits(rng, 20)), labels=_npy(labels))
        return path, config_of({"name": "mine", "format": {"kind": "npz"}, "root": str(path)})

    return make


def _folder(ending: str, on_error: str) -> Maker:
    def make(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
        for i, image in enumerate(digits(rng, 6)):
            for split in ("train", "test"):
                path = here / "images" / split / f"{i}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
        values = {
            "name": "mine",
            "format": {"kind": "folder", "on_error": on_error},
            "root": str(here / "images"),
        }
        return here / "images" / "train" / f"3.{ending}", config_of(values)

    return make


def _cifar(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
    batch = {
        b"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8),
        b"labels": [3, 7],
        b"batch_label": b"one",
    }
    return _cached(here, "cifar10/test_batch", pickle.dumps(batch, 4)), shipped("cifar10")


def _svhn(compress: bool) -> Maker:
    def make(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
        file = io.BytesIO()
        labels = np.array([[10], [1], [9]], np.uint8)
        arrays = {"X": rng.integers(0, 256, (32, 32, 3, 3), dtype=np.uint8), "y": labels}
        savemat(file, arrays, do_compression=compress)
        return _cached(here, "svhn/test_32x32.mat", file.getvalue()), shipped("svhn")

    return make


def _dsprites(here: Path, rng: np.random.Generator) -> tuple[Path, DatasetConfig]:
    grid = np.stack(np.meshgrid([0], *map(range, (3, 2, 4, 3, 3)), indexing="ij"), -1).reshape(-1, 6)
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    members = {"imgs": _npy((digits(rng, 216) > 127).astype(np.uint8)), "latents_classes": _npy(grid)}
    (here / "cache" / "genlab" / "dsprites").mkdir(parents=True)
    path = npz(here / "cache" / "genlab" / "dsprites" / name, compress=True, **members)
    local = [{"kind": "local", "folder": "dsprites"}]
    return path, shipped("dsprites", format={"kind": "dsprites", "size": 8}, checksums={}, sources=local)


KINDS: dict[str, tuple[Maker, str]] = {
    "idx": (_idx(bytes, ""), "train"),
    "idx.gz": (_idx(gzip.compress, ".gz"), "train"),
    "idx.gz, known": (_idx(gzip.compress, ".gz", checksums=True), "train"),
    "npz": (_npz(compress=False), "train"),
    "npz, compressed": (_npz(compress=True), "train"),
    "png": (_folder("png", "raise"), "train"),
    "png, skipped": (_folder("png", "skip"), "train"),
    "jpg": (_folder("jpg", "raise"), "train"),
    "gif, skipped": (_folder("gif", "skip"), "train"),
    "cifar": (_cifar, "test"),
    "svhn": (_svhn(compress=False), "test"),
    "svhn, compressed": (_svhn(compress=True), "test"),
    "dsprites": (_dsprites, "train"),
}
EXACT = {"idx.gz", "idx.gz, known", "npz", "npz, compressed", "svhn, compressed", "dsprites"}
"""Those whose bytes carry a checksum: what is loaded is what was written."""


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def flips(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.filterwarnings("ignore")  # of scipy and numpy about what they read
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_are_detected_or_harmless(here, rng, kind, flips, monkeypatch):
    monkeypatch.setattr("genlab.data.sources.download", _no_network)
    make, split = KINDS[kind]
    path, config = make(here, rng)
    good, draw, detected = path.read_bytes(), random.Random(kind), 0
    whole = load_images(config, split)
    for _ in range(flips):
        broken = bytearray(good)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            place = draw.randrange(
                min(len(good), 300) if draw.random() < 0.5 else len(good)
            )  # headers are first
            broken[place] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        outcome = judged(config, split)
        if isinstance(outcome, str):
            detected += 1
            continue
        assert outcome[1:] == tuple(whole.images.shape[1:]) or kind.startswith("npz")
        assert len(whole) - outcome[0] in ((0, 1) if "skipped" in kind else (0,))
        if kind in EXACT:
            again = load_images(config, split)
            assert torch.equal(_pixels(again), _pixels(whole))
    print(f"{kind}: {detected} of {flips} detected")
    assert detected > 0 or kind == "jpg" or "skipped" in kind
    if "known" in kind:
        assert (
            detected >= flips * 0.9
        )  # the rest are in what gzip keeps beside the content: its time, its system


def _pixels(loaded: Any) -> torch.Tensor:
    return loaded.images if isinstance(loaded.images, torch.Tensor) else loaded.images.unpack()


def _no_network(url: str, path: Path, md5: str) -> None:
    from genlab.data.fetch import UnavailableError

    raise UnavailableError(f"{url}: no network")


def test_a_file_with_a_known_checksum_that_is_no_archive_lets_no_flip_pass(here, rng):
    path, config = _idx(bytes, "", checksums=True)(here, rng)
    good, draw = path.read_bytes(), random.Random(0)
    for _ in range(200):
        broken = bytearray(good)
        broken[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(DataError, match="corrupt, or another file"):
            load_images(config, "train")
