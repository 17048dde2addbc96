"""Every published format: a round trip, and what broken files end in."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from small_sets import config_of, idx_bytes, idx_set, shipped

from genlab.data import data_spec, load_images
from genlab.errors import DataError


def test_idx_round_trip_of_zipped_and_plain_files(cache, rng):
    config = idx_set(cache / "small", rng)
    zipped = load_images(config, "train")
    for path in (cache / "small").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load_images(config, "train")
    assert zipped.images.shape == (12, 1, 6, 5)
    assert zipped.images.dtype == torch.uint8
    assert zipped.images.is_contiguous()
    assert zipped.labels.tolist() == [0, 1, 2] * 4
    assert zipped.labels.dtype == torch.int64
    assert torch.equal(zipped.images, plain.images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "doesn't start as an IDX file of 3 dimensions"),
        (b"\0\0\x0d\x03" + bytes(20), "doesn't start as an IDX file of 3 dimensions"),
        (idx_bytes(np.zeros((12, 6, 5), np.uint8))[:-1], "12x6x5 bytes promised, 359 there"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "4294967295x4294967295x4294967295 bytes promised, 0 there"),
        (idx_bytes(np.zeros((12, 6, 6), np.uint8)), r"images of shape \(1, 6, 6\), not \(1, 6, 5\)"),
        (idx_bytes(np.zeros((11, 6, 5), np.uint8)), "11 images but 12 labels"),
        (idx_bytes(np.zeros((0, 6, 5), np.uint8)), "no images"),
        (gzip.compress(bytes(1000))[:-9], "truncated or corrupt gzip"),
    ],
)
def test_broken_idx_images_end_in_one_line(cache, rng, content, message):
    config = idx_set(cache / "small", rng)
    (cache / "small" / "train-images-idx3-ubyte.gz").unlink()
    (cache / "small" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_images(config, "train")
    assert "\n" not in str(caught.value)
    assert "small" in str(caught.value)
    load_images(config, "test")  # the other split doesn't need the broken file


def test_labels_out_of_range_are_refused(cache, rng):
    config = idx_set(cache / "small", rng)
    labels = idx_bytes(np.full(12, 7, np.uint8))
    (cache / "small" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match="small, train: labels 7 to 7, not within 0 to 2"):
        load_images(config, "train")


@pytest.mark.usefixtures("unlisted")
def test_emnist_is_turned_upright_and_its_letters_start_at_0(cache, rng):
    folder = cache / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (26, 28, 28), dtype=np.uint8)
    labels = np.arange(1, 27, dtype=np.uint8)
    (folder / "emnist-letters-test-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "emnist-letters-test-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    config = shipped("emnist", format={"kind": "emnist", "subset": "letters"})
    loaded = load_images(config, "test")
    assert np.array_equal(loaded.images[:, 0].numpy(), images.transpose(0, 2, 1))
    assert loaded.labels.tolist() == list(range(26))
    assert data_spec(config).num_classes == 26


def test_mnist_json_restores_bytes_and_splits_by_a_fixed_permutation(cache, rng):
    folder = cache / "tiny"
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (10, 3, 784))
    for label in range(10):
        floats = [round(x / 255, 3) for x in pixels[label].ravel().tolist()]
        (folder / f"{label}.json").write_text(json.dumps({"data": floats}))
    sources = [{"kind": "local", "folder": "tiny"}]
    config = config_of({"name": "tiny", "format": {"kind": "mnist_json", "num_train": 20}, "sources": sources})
    train, test = load_images(config, "train"), load_images(config, "test")
    assert (len(train), len(test)) == (20, 10)
    both = [*zip(train.images, train.labels, strict=True), *zip(test.images, test.labels, strict=True)]
    got = {(int(y), x.numpy().tobytes()) for x, y in both}
    assert got == {(y, pixels[y, i].astype(np.uint8).tobytes()) for y in range(10) for i in range(3)}
    assert test.labels.tolist() == [4, 2, 9, 0, 7, 5, 1, 3, 4, 0]  # the split must never move

    for content in ("{}", "[", '{"data": [0.5]}', json.dumps({"data": [2.0] * 784})):
        (folder / "4.json").write_text(content)
        with pytest.raises(DataError, match=r"tiny: 4\.json is corrupt"):
            load_images(config, "test")


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch in the opcodes of the published files, which Python 2 wrote."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    shape = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in images.shape) + b"t"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\0K\1tR(K\3" + text(b"|") + b"NNNJ" + b"\xff" * 4 + b"J"
    dtype += b"\xff" * 4 + b"K\0tb"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + text(b"b") + b"tR"
    array = blank + b"(K\1" + shape + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\2}(" + text(b"labels") + numbers + text(b"data") + array + b"u."


@pytest.mark.usefixtures("unlisted")
def test_cifar10_is_read_without_trusting_its_pickles(cache, rng):
    folder = cache / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
    (folder / "test_batch").write_bytes(python2_pickle(images, [3, 1, 4, 9]))
    loaded = load_images(shipped("cifar10"), "test")
    assert np.array_equal(loaded.images.numpy(), images.reshape(4, 3, 32, 32))
    assert loaded.labels.tolist() == [3, 1, 4, 9]

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": images, b"labels": [3, 1, 4, 9]}, 4))
    assert torch.equal(load_images(shipped("cifar10"), "test").images, loaded.images)

    (folder / "test_batch").write_bytes(pickle.dumps(Path("/evil"), 4))
    with pytest.raises(DataError, match=r"test_batch is corrupt \(it asks for pathlib"):
        load_images(shipped("cifar10"), "test")
    (folder / "test_batch").write_bytes(b"junk")
    with pytest.raises(DataError, match="test_batch is corrupt"):
        load_images(shipped("cifar10"), "test")


def test_a_changed_cifar10_batch_is_refused_by_torchvisions_checksum(cache):
    folder = cache / "cifar10"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"test_batch: corrupt, or another file \(md5 .*no network"):
        load_images(shipped("cifar10"), "test")


@pytest.mark.usefixtures("unlisted")
def test_svhn_is_transposed_and_its_class_10_is_the_digit_0(cache, rng):
    cache.mkdir(parents=True)
    images = rng.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    savemat(cache / "test_32x32.mat", {"X": images, "y": np.array([[10], [1], [9], [2], [10]], np.uint8)})
    loaded = load_images(shipped("svhn"), "test")
    assert np.array_equal(loaded.images.numpy(), images.transpose(3, 2, 0, 1))
    assert loaded.labels.tolist() == [0, 1, 9, 2, 0]

    (cache / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DataError, match=r"svhn: test_32x32\.mat is corrupt"):
        load_images(shipped("svhn"), "test")


@pytest.mark.usefixtures("unlisted")
def test_omniglot_ink_is_bright_and_characters_are_numbered_through(cache):
    folder = cache / "omniglot-py"
    folder.mkdir(parents=True)
    ink = np.full((105, 105), 255, np.uint8)
    ink[:50] = 0
    png = io.BytesIO()
    Image.fromarray(ink).convert("1").save(png, "png")
    with zipfile.ZipFile(folder / "images_evaluation.zip", "w") as zipped:
        for name in ("B/character01/1.png", "A/character01/1.png", "A/character01/2.png", "A/readme.txt"):
            zipped.writestr(f"images_evaluation/{name}", png.getvalue())
    loaded = load_images(shipped("omniglot"), "test")
    assert loaded.images.shape == (3, 1, 28, 28)
    assert loaded.images[0, 0, 0, 0] == 255
    assert loaded.images[0, 0, -1, 0] == 0
    assert loaded.labels.tolist() == [964, 964, 965]
    assert data_spec(shipped("omniglot")).num_classes == 1623

    (folder / "images_evaluation.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"images_evaluation\.zip is corrupt"):
        load_images(shipped("omniglot"), "test")
