"""The user's own images, npz and folder: what is read, and what bad input ends in."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import config_of

from genlab.data import data_spec, ensure_available, load_images
from genlab.data.images import part_of
from genlab.errors import ConfigError, DataError


def npz(root: Path | str | None, **changes):
    return config_of({"name": "mine", "format": {"kind": "npz"}, "root": root and str(root)} | changes)


def folder(root: Path | str | None, on_error: str = "raise", **changes):
    values = {"name": "mine", "format": {"kind": "folder", "on_error": on_error}, "root": root and str(root)}
    return config_of(values | changes)


@pytest.mark.parametrize("shape", [(20, 8, 6), (20, 8, 6, 1), (20, 1, 8, 6)])
def test_npz_layouts_all_become_nchw(tmp_path, rng, shape):
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    for split in ("train", "test"):
        np.savez_compressed(tmp_path / f"{split}.npz", images=images)
    loaded = load_images(npz(tmp_path), "train")
    assert np.array_equal(loaded.images.numpy(), images.reshape(20, 1, 8, 6))
    assert loaded.labels is None
    assert data_spec(npz(tmp_path)).shape == (1, 8, 6)
    assert data_spec(npz(tmp_path)).num_classes is None


def test_one_npz_file_is_split_without_overlap(tmp_path, rng):
    images = rng.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(50) % 7)
    config = npz(tmp_path / "a.npz", format={"kind": "npz", "test_fraction": 0.2})
    train, test = load_images(config, "train"), load_images(config, "test")
    assert (len(train), len(test)) == (40, 10)
    seen = {x.numpy().tobytes(): int(y) for s in (train, test) for x, y in zip(s.images, s.labels, strict=True)}
    assert seen == {x.transpose(2, 0, 1).tobytes(): i % 7 for i, x in enumerate(images)}
    assert data_spec(config).num_classes == 7
    assert torch.equal(load_images(config, "test").images, test.images)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_read_in_pieces_as_it_would_be_at_once(tmp_path, rng, monkeypatch, order, save):
    images = np.asarray(rng.integers(0, 256, (53, 5, 4, 3), dtype=np.uint8), order=order)
    save(tmp_path / "a.npz", images=images, labels=np.arange(53, dtype=np.int16) % 7)
    at_once = {split: load_images(npz(tmp_path / "a.npz"), split) for split in ("train", "test")}
    monkeypatch.setattr("genlab.data.formats.npz.CHUNK", 7)
    for split, whole in at_once.items():
        pieces, rows = load_images(npz(tmp_path / "a.npz"), split), part_of(53, split, 0.1)
        assert np.array_equal(pieces.images.numpy(), images[rows.numpy()].transpose(0, 3, 1, 2))
        assert torch.equal(pieces.images, whole.images)
        assert pieces.labels.tolist() == whole.labels.tolist() == (rows % 7).tolist()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no account of the most memory held here")
def test_a_set_is_never_in_memory_twice(tmp_path):
    """Of 80 MB of images, read, split in two and placed, the process grows by little more than 80 MB."""
    np.savez(tmp_path / "a.npz", images=np.ones((100_000, 20, 40), np.uint8))
    code = f"""
import re
from pathlib import Path
from genlab.assemble import load_splits
from genlab.config import parse
from genlab.data import DatasetConfig
from genlab.hardware import HardwareConfig, select
values = {{"name": "mine", "format": {{"kind": "npz"}}, "root": {str(tmp_path / "a.npz")!r}, "num_val": 5000}}
config, device = parse(DatasetConfig, values), select(HardwareConfig(device="cpu"))
held = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
start = held()
data = load_splits(config, device)
for batch in data.train.epoch(100, seed=0): pass
print(held() - start)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 70_000 < int(done.stdout) < 120_000  # KiB


def test_a_limit_lets_go_of_the_other_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((100, 4, 4), np.uint8))
    few = load_images(npz(tmp_path / "a.npz", limit=10), "train").images
    assert few.untyped_storage().nbytes() == few.nbytes == 160


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 4, 4), np.uint8)}, r"no array 'images' \(it has: x\)"),
        ({"images": np.zeros((4, 4, 4))}, r"'images' is float64, not uint8"),
        ({"images": np.array([{}] * 4)}, "'images' is object, not uint8"),
        ({"images": np.zeros((4, 4, 4, 2), np.uint8)}, r"'images' has shape \(4, 4, 4, 2\), not"),
        ({"images": np.zeros((4, 4), np.uint8)}, r"'images' has shape \(4, 4\), not"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "no images"),
        ({"images": np.zeros((4, 4, 4), np.uint8), "labels": np.zeros(4)}, "'labels' is float64, not whole"),
        ({"images": np.zeros((4, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "4 images but 3 labels"),
        ({"images": np.zeros((4, 4, 4), np.uint8), "labels": -np.ones(4, int)}, "labels -1 to -1, not within"),
        ({"images": np.zeros((4, 4, 4), np.uint8), "labels": np.zeros((4, 1), int)}, r"shape \(4, 1\), not"),
    ],
)
def test_wrong_arrays_end_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_images(npz(tmp_path / "a.npz"), "train")
    assert "\n" not in str(caught.value)


def test_an_npz_header_that_promises_too_much_is_refused_before_allocation(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**4, 10**4)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as zipped:
        zipped.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"shape \(1000000, 10000, 10000\) in 100 bytes"):
        data_spec(npz(tmp_path / "a.npz"))


def test_broken_npz_files(tmp_path, rng):
    images = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"a\.npz is corrupt, or no npz file"):
        data_spec(npz(tmp_path / "a.npz"))
    (tmp_path / "a.npz").write_bytes(whole.replace(images[7].tobytes(), bytes(64)))
    with pytest.raises(DataError, match=r"'images' is corrupt .*CRC"):
        load_images(npz(tmp_path / "a.npz"), "train")
    np.savez(tmp_path / "train.npz", images=images)
    with pytest.raises(DataError, match=r"test\.npz: no such file"):
        ensure_available(npz(tmp_path))


def test_labels_in_one_of_the_pair_are_refused(tmp_path):
    images = np.zeros((4, 4, 4), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(4))
    np.savez(tmp_path / "test.npz", images=images)
    with pytest.raises(DataError, match="labels in only one of train and test"):
        load_images(npz(tmp_path), "test")


@pytest.mark.parametrize("make", [npz, folder])
def test_root_is_named_where_missing_or_wrong(make):
    with pytest.raises(ConfigError, match=r"dataset\.root is missing: set it to the (npz|folder) data"):
        data_spec(make(None))
    with pytest.raises(DataError, match=r"dataset\.root=/no/such: no such file or folder"):
        data_spec(make("/no/such"))


def save(path: Path, value: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def test_folder_with_splits_and_classes(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "cat" / "1.png", 10)
        save(tmp_path / split / "dog" / "deep" / "1.bmp", 20, mode="L")
        save(tmp_path / split / "dog" / "2.png", 30, mode="LA")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    loaded = load_images(folder(tmp_path), "train")
    assert loaded.images.shape == (3, 3, 4, 6)
    assert loaded.images[:, 0, 0, 0].tolist() == [10, 30, 20]  # dog/2.png before dog/deep/1.bmp
    assert loaded.labels.tolist() == [0, 1, 1]
    assert data_spec(folder(tmp_path)).num_classes == 2
    grey = folder(tmp_path, grayscale=True, image_size=3)
    assert load_images(grey, "test").images.shape == (3, *data_spec(grey).shape) == (3, 1, 3, 3)


def test_folder_without_splits_or_classes_even_if_it_is_called_train(tmp_path):
    for i in range(10):
        save(tmp_path / "train" / f"{i}.png", i)
    config = folder(tmp_path / "train", format={"kind": "folder", "test_fraction": 0.3})
    train, test = load_images(config, "train"), load_images(config, "test")
    assert (len(train), len(test)) == (7, 3)
    assert sorted(torch.cat([train.images, test.images])[:, 0, 0, 0].tolist()) == list(range(10))
    assert train.labels is None


def test_sixteen_bit_images_keep_their_high_byte(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / f"{i}.png")
    assert load_images(folder(tmp_path), "train").images.unique().tolist() == [0x80]


def test_sizes_that_differ_need_image_size(tmp_path):
    save(tmp_path / "1.png", size=(6, 4))
    save(tmp_path / "2.png", size=(5, 9))
    with pytest.raises(ConfigError, match=r"1\.png is 4x6, .*2\.png is 9x5; set dataset\.image_size"):
        data_spec(folder(tmp_path))
    assert load_images(folder(tmp_path, image_size=8), "train").images.shape == (1, 3, 8, 8)


def test_broken_images_are_an_error_or_skipped(tmp_path, caplog):
    for i in range(8):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"3\.png can't be read .*dataset\.format\.on_error=skip"):
        data_spec(folder(tmp_path))
    config = folder(tmp_path, on_error="skip")
    count = len(load_images(config, "train")) + len(load_images(config, "test"))
    assert count == 6
    assert "images that can't be read, such as" in caplog.text


def test_none_readable(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"none of 2 images can be read, such as .*a\.png"):
        data_spec(folder(tmp_path, on_error="skip"))


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "1.png", size=(30, 30))
    save(tmp_path / "2.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # over it PIL only warns, up to twice as many
    with warnings.catch_warnings(), pytest.raises(DataError, match=r"1\.png can't be read .*bomb"):
        data_spec(folder(tmp_path))


def test_folders_that_make_no_sense(tmp_path):
    with pytest.raises(DataError, match=r"no images \(\.bmp, "):
        data_spec(folder(tmp_path))
    save(tmp_path / "train" / "1.png")
    with pytest.raises(DataError, match="no folder 'test' beside"):
        data_spec(folder(tmp_path))
    save(tmp_path / "test" / "cat" / "1.png")
    (tmp_path / "train" / "1.png").unlink()
    save(tmp_path / "train" / "dog" / "1.png")
    with pytest.raises(DataError, match="class 'cat' is not in train"):
        load_images(folder(tmp_path), "test")
    save(tmp_path / "test" / "2.png")
    with pytest.raises(DataError, match="holds both images and class folders"):
        load_images(folder(tmp_path), "test")
    with pytest.raises(DataError, match="not a folder"):
        data_spec(folder(tmp_path / "test" / "2.png"))


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    save(tmp_path / "1.png")

    def refuse(self: Path):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=rf"dataset mine: {tmp_path}: Permission denied"):
        data_spec(folder(tmp_path))
