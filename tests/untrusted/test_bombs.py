"""Small files that promise, or unzip to, what no memory holds: refused before it is allocated."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import CHECKOUT
from hostile import (
    MIB,
    gzipped_zeros,
    mat,
    mat_bomb,
    mat_element,
    npy,
    npz,
    png,
    repacked,
    sealed,
    tgz_bomb,
    zeros,
)
from small_sets import config_of, idx_bytes, shipped, small_idx

from genlab import checkpoint
from genlab.data import load_images
from genlab.data.archives import unpack
from genlab.data.fetch import MAX_BYTES, UnavailableError
from genlab.data.store import Store
from genlab.errors import CheckpointError, DataError

BIG = 400 * MIB


def own(kind: str, root: Path, **changes: object):
    return config_of({"name": "mine", "format": {"kind": kind}, "root": str(root)} | changes)


def put(cache: Path, name: str, content: bytes) -> None:
    (cache / name).parent.mkdir(parents=True, exist_ok=True)
    (cache / name).write_bytes(content)


PROBE = """
import json, re, sys
from pathlib import Path
import torch, scipy.io, PIL.Image, numpy
from genlab import checkpoint
from genlab.config import parse
from genlab.data import DatasetConfig, load_images
from genlab.data import store
from genlab.errors import GenlabError
store.file_md5s = lambda dataset: {}
held = lambda what: int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
start = held("VmRSS")
try:
    if sys.argv[1] == "checkpoint":
        checkpoint.load(Path(sys.argv[2]))
    else:
        load_images(parse(DatasetConfig, json.loads(sys.argv[2])), "train")
    line = "loaded"
except GenlabError as error:
    line = str(error)
print(json.dumps([line, (held("VmHWM") - start) // 1024]))
"""


def ends_small(kind: str, argument: str, most: int = 60) -> str:
    """The line that loading it ends in, in a process that grows by fewer than ``most`` MiB meanwhile."""
    command = [sys.executable, "-c", PROBE, kind, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    line, grown = json.loads(done.stdout)
    assert grown < most, f"{grown} MiB: {line}"
    return line


measured = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="no account of memory held here"
)
SMALL = {
    "name": "small",
    "format": {"kind": "idx", "height": 6, "width": 5, "num_classes": 3},
    "sources": [{"kind": "local", "folder": "Small/raw"}],
}
SVHN = {"name": "svhn", "format": {"kind": "svhn"}, "sources": [{"kind": "local", "folder": "."}]}
CIFAR = {"name": "cifar10", "format": {"kind": "cifar10"}, "sources": [{"kind": "local", "folder": "."}]}


@measured
@pytest.mark.slow
def test_a_gzip_file_is_unzipped_no_further_than_its_header_says(cache):
    put(cache, "small/train-images-idx3-ubyte.gz", gzipped_zeros(idx_bytes(np.zeros((2, 6, 5), np.uint8)), BIG))
    assert "2x6x5 bytes promised, 61 or more there" in ends_small("data", json.dumps(SMALL))


@measured
@pytest.mark.slow
def test_labels_that_outnumber_the_images_are_not_read(here):
    labels = npy((BIG,), "|u1", bytes(BIG))
    path = npz(here / "a.npz", compress=True, images=npy((2, 4, 4), content=bytes(32)), labels=labels)
    values = {"name": "mine", "format": {"kind": "npz"}, "root": str(path)}
    assert f"2 images but {BIG} labels" in ends_small("data", json.dumps(values))


@measured
@pytest.mark.slow
@pytest.mark.parametrize("content", [
    b"\x80\x02Nr\xff\xff\xff\x3f.",  # remembers None as object 1,073,741,823
    b"\x80\x02}(U\x04datacnumpy\nndarray\n((J\xff\xff\xff\x7ftU\x02u1tRU\x06labels]u.",
    b"\x80\x02}(U\x04dataK\x00U\x06labels" + b"](]q\x01" + b"".join(
        b"](" + b"h%c" % i * 9 + b"eq%c" % (i + 1) for i in range(1, 9)) + b"eu.",
], ids=["memo", "array", "laughs"])  # fmt: skip
def test_a_pickle_makes_nothing_large(cache, content):
    for name in [f"data_batch_{i}" for i in range(1, 6)]:
        put(cache, f"cifar10/{name}", content)
    assert "data_batch_1 is corrupt" in ends_small("data", json.dumps(CIFAR))


@measured
@pytest.mark.slow
def test_a_checkpoint_is_not_unzipped(here):
    checkpoint.save(here / "a.pt", {"w": torch.ones(BIG // 4)})
    bomb = repacked(here / "a.pt", here / "b.pt", lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 4 * MIB
    assert "compressed" in ends_small("checkpoint", str(bomb))


@measured
@pytest.mark.slow
@pytest.mark.parametrize(
    "call", [b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.", b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR."]
)
def test_a_checkpoint_calls_for_no_bytes(here, call):
    checkpoint.save(here / "a.pt", {"w": torch.ones(3)})
    change = lambda name, content: b"\x80\x02" + call if name == "data.pkl" else content  # noqa: E731
    assert "refused" in ends_small("checkpoint", str(repacked(here / "a.pt", here / "b.pt", change)))


@measured
@pytest.mark.slow
def test_a_matrix_of_matlab_is_inflated_up_to_what_the_set_has(cache):
    put(cache, "svhn/train_32x32.mat", mat_bomb(BIG))
    assert "more than 300000000 bytes" in ends_small("data", json.dumps(SVHN), most=700)


# ------------------------------------------------------------------ what the headers say


def mat_header(shape: tuple[int, ...], kind: int = 2, promised: int = 64, flags: int = 9) -> bytes:
    labels = mat_element(b"y", (2, 1), 2, 8) + bytes(8)
    return mat(mat_element(b"X", shape, kind, promised, flags) + bytes(promised), labels)


@pytest.mark.parametrize(
    "content",
    [
        mat_header((32, 32, 3, 2**31 - 1)),
        mat_header((2**31 - 1, 2**31 - 1)),
        mat_header((10**5, 10**5), flags=1),  # cells
        mat_header((10**5, 10**5), flags=2),  # structures
        mat_header((32, 32, 3, -2)),
        mat(mat_element(b"X", (32, 32, 3, 2), 2, 2**32 - 200)),
        mat(struct.pack("<II", 15, 2**32 - 1) + zeros(b"", MIB)),
        b"MATLAB 7.3".ljust(200, b"\0"),
        struct.pack("<5i", 0, 2**31 - 1, 2**31 - 1, 0, 2) + b"X\0" + bytes(200),  # version 4
    ],
)
def test_a_matlab_file_that_promises_too_much(cache, content):
    put(cache, "svhn/train_32x32.mat", content)
    with pytest.raises(DataError, match=r"svhn: train_32x32\.mat is corrupt"):
        load_images(shipped("svhn"), "train")


@pytest.mark.parametrize(
    "images",
    [
        npy((10**6, 10**4, 10**4), content=bytes(100)),
        npy((-2, -2, 4), content=bytes(16)),
        npy((2, 2.0, 4), content=bytes(16)),
        npy((2, True, 4), content=bytes(8)),
        npy((2, 2, 4), "|V1000000000", bytes(16)),
        npy((2, 2, 4), [("a", "|u1"), ("b", "O")], bytes(16)),
        npy((2, 2, 4), "O", pickle.dumps([])),
        npy((2, 2, 4), "no type", bytes(16)),
        npy((2, 2, 4), content=bytes(16), version=b"\x03\x00"),
        npy((2, 2, 4), content=bytes(16), version=b"\x09\x09"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(50),
        b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 0x2000,
        b"\x93NUMPY\x01\x00\x00\x20" + b"-" * 0x2000,
        b"\x93NUMPY\x01\x00\x04\x00'''a",
        b"",
    ],
)
def test_an_array_that_promises_what_it_does_not_have(here, images):
    path = npz(here / "a.npz", images=images)
    with pytest.raises(DataError, match=r"a\.npz: 'images' is") as caught:
        load_images(own("npz", path), "train")
    assert "\n" not in str(caught.value)


def test_a_directory_that_lies_about_sizes(here):
    path = npz(here / "a.npz", compress=True, images=npy((2**20, 28, 28), content=bytes(1000)))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as zipped:
        (info,) = zipped.infolist()
        start = zipped.start_dir
    large = 128 + 2**20 * 784
    data[start + 24 : start + 28] = struct.pack("<I", large)
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{large} bytes promised by {info.compress_size}"):
        load_images(own("npz", path), "train")
    data[start + 20 : start + 24] = struct.pack("<I", large)
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{large} bytes promised by {large}"):
        load_images(own("npz", path), "train")


def test_a_set_for_which_there_is_no_memory_is_refused_by_its_header(here, monkeypatch):
    path = npz(here / "a.npz", images=npy((2000, 8, 8), content=bytes(128_000)))
    monkeypatch.setattr("genlab.memory._free_bytes", lambda: 100_000)
    for config in (own("npz", path), config_of({"name": "noise", "format": {"kind": "noise"}})):
        with pytest.raises(
            DataError, match=r"0\.0 GB of images, and 0\.0 GB of memory are free; make them smaller"
        ):
            load_images(config, "train")
    for i in range(20):
        (here / f"{i}.png").write_bytes(png(50, 50, zeros(bytes(51 * 50), 0)))
    with pytest.raises(DataError, match="GB of images"):
        load_images(own("folder", here), "train")


def test_a_picture_of_ten_billion_pixels_is_refused_by_its_header(here):
    for name, pixels in {"train/a": 100_000, "train/b": 4, "test/c": 4}.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / f"{name}.png").write_bytes(png(pixels, pixels, zeros(bytes(20), 0)))
    for changes in ({}, {"image_size": 4}):
        with pytest.raises(DataError, match=r"a\.png can't be read .*decompression bomb"):
            load_images(own("folder", here, **changes), "train")
    skipping = own("folder", here, format={"kind": "folder", "on_error": "skip"})
    assert load_images(skipping, "train").images.shape == (1, 3, 4, 4)


def test_an_archive_without_end(here, cache):
    with pytest.raises(UnavailableError, match="headers without end"):
        unpack(tgz_bomb(here / "a.tgz", 64 * MIB), Store(small_idx()))
    with tarfile.open(here / "b.tgz", "w:gz") as tar:
        for i in range(10_001):
            tar.addfile(tarfile.TarInfo(f"{i}.txt"))
    with pytest.raises(UnavailableError, match="holds more than 10000 files"):
        unpack(here / "b.tgz", Store(small_idx()))


def test_members_together_are_bounded(here, cache, monkeypatch):
    monkeypatch.setattr("genlab.data.archives.MAX_BYTES", 3 * MIB)
    with tarfile.open(here / "a.tgz", "w:gz") as tar:
        for name in "abcd":
            info = tarfile.TarInfo(name)
            info.size = MIB
            tar.addfile(info, io.BytesIO(bytes(MIB)))
    with pytest.raises(
        UnavailableError, match=f"holds more than {MAX_BYTES} bytes|holds more than {3 * MIB} bytes"
    ):
        unpack(here / "a.tgz", Store(small_idx()))
    assert not list(cache.rglob("*.part"))


def _storage_of(count: int):
    """A change of a checkpoint of four numbers: it says that there are ``count``."""

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"K\x04", b"J" + struct.pack("<i", count)) if name == "data.pkl" else content

    return change


@pytest.mark.parametrize("count", [5, 10**6, 2**31 - 1])
def test_a_checkpoint_whose_tensor_is_larger_than_its_bytes(here, count):
    checkpoint.save(here / "a.pt", {"w": torch.ones(4)})
    path = repacked(here / "a.pt", here / "b.pt", _storage_of(count))
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoint.load(path)


def test_what_is_no_checkpoint_though_it_has_the_seal(here):
    for archive in (
        b"",
        b"PK\x05\x06" + bytes(18),
        npz(here / "a.npz", images=npy((1,), content=b"x")).read_bytes(),
    ):
        (here / "a.pt").write_bytes(sealed(archive))
        with pytest.raises(CheckpointError, match=r"can't be read|cut short"):
            checkpoint.load(here / "a.pt")
