"""The factor grid of dSprites: drawn here, and read from a file laid out as the published one."""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import shipped

from genlab.assemble import load_splits
from genlab.data import data_spec, ensure_available, load_images
from genlab.data.bits import PackedImages
from genlab.data.formats.dsprites import _FILE as FILE
from genlab.data.formats.dsprites import FACTOR_NAMES
from genlab.data.images import Images, shuffled_part_of
from genlab.errors import ConfigError, DataError
from genlab.hardware import HardwareConfig, select

GRID = {"size": 16, "num_scales": 2, "num_orientations": 4, "num_positions": 3}
LOCAL = [{"kind": "local", "folder": "dsprites"}]


def rendered(limit: int | None = None, **changes):
    values = shipped("dsprites_rendered").format.__dict__ | GRID | changes
    return shipped("dsprites_rendered", limit=limit, num_val=5, format=values)


def whole(config) -> dict[tuple[int, ...], np.ndarray]:
    """Each image of the grid by its factors."""
    found = {}
    for split in ("train", "test"):
        loaded = load_images(config, split)
        for factors, image in zip(loaded.factors.tolist(), loaded.images.unpack(), strict=True):
            found[tuple(factors)] = image[0].numpy()
    return found


def test_the_full_grid_is_that_of_the_published_set():
    config = shipped("dsprites_rendered")
    assert config.format.grid == (3, 6, 40, 32, 32)
    assert math.prod(config.format.grid) == 737_280
    assert data_spec(config) == data_spec(shipped("dsprites"))
    assert str(data_spec(config)) == "64x64 grey"
    assert data_spec(config).num_classes == 3
    assert config.name != shipped("dsprites").name


def test_factor_names():
    names = ("shape", "scale", "orientation", "position_x", "position_y")
    assert shipped("dsprites").factor_names == shipped("dsprites_rendered").factor_names == names
    assert shipped("mnist").factor_names == ()
    loaded = load_images(rendered(), "test")
    assert loaded.factor_names == names
    assert loaded.factors.dtype == torch.int64
    assert loaded.factors.is_contiguous()


def test_splits_cover_the_grid_without_overlap():
    train, test = (load_images(rendered(), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (194, 22)
    both = [tuple(f) for split in (train, test) for f in split.factors.tolist()]
    assert sorted(both) == list(np.ndindex(3, 2, 4, 3, 3))
    for split in (train, test):
        assert isinstance(split.images, PackedImages)
        assert torch.equal(split.labels, split.factors[:, 0])


def test_the_split_is_fixed_and_any_first_images_are_spread_over_the_grid():
    assert shuffled_part_of(20, "test", 0.2).tolist() == [18, 1, 19, 8]
    assert sorted(torch.cat([shuffled_part_of(20, s, 0.2) for s in ("train", "test")]).tolist()) == [*range(20)]
    train = load_images(rendered(), "train")
    first = load_images(rendered(limit=20), "train")
    assert torch.equal(first.factors, train.factors[:20])
    assert torch.equal(first.images.bits, train.images.bits[:20])
    assert first.labels.unique().tolist() == [0, 1, 2]


@settings(max_examples=10, deadline=None)
@given(size=st.integers(16, 40), data=st.data())
def test_positions_move_the_sprite_by_whole_pixels_within_the_image(size, data):
    num_positions = data.draw(st.integers(2, min(4, size // 2)))
    config = rendered(size=size, num_scales=1, num_orientations=2, num_positions=num_positions)
    images = whole(config)
    steps = np.rint(np.linspace(0, size // 2 - 1, num_positions)).astype(int)
    assert len(set(steps)) == num_positions
    for (shape, scale, orientation, x, y), image in images.items():
        first = images[(shape, scale, orientation, 0, 0)]
        assert np.array_equal(image, np.roll(first, (steps[y], steps[x]), axis=(0, 1)))
        assert image.sum() == first.sum() > 0
    edges = sum(int(image[side].sum()) for image in images.values() for side in (0, -1))
    edges += sum(int(image[:, side].sum()) for image in images.values() for side in (0, -1))
    assert edges == 0  # nothing is cut off, and np.roll wrapped nothing around


def test_the_published_positions_are_a_pixel_apart_and_reach_both_sides_alike():
    config = shipped("dsprites_rendered", limit=3000)
    loaded = load_images(config, "train")
    pixels = loaded.images.unpack()[:, 0].double()
    places = torch.arange(64, dtype=torch.float64)
    symmetric = loaded.factors[:, 0] != 2  # square and ellipse have their centre in the middle
    for axis, factor in ((1, 3), (2, 4)):
        centre = (pixels.sum(axis) * places).sum(1) / pixels.sum((1, 2))
        expected = loaded.factors[:, factor] + 16  # 0 to 31 in the middle of 0 to 63
        assert (centre - expected)[symmetric].abs().max() < 0.2


def test_sprites_grow_with_their_scale_and_shapes_differ():
    images = whole(rendered(size=64, num_scales=6, num_orientations=8, num_positions=1))
    area = {factors: int(image.sum()) // 255 for factors, image in images.items()}
    for shape in range(3):
        for orientation in range(8):
            areas = [area[shape, scale, orientation, 0, 0] for scale in range(6)]
            assert areas == sorted(set(areas))
            assert areas[-1] / areas[0] == pytest.approx(4, rel=0.1)
    square, ellipse, heart = (np.mean([area[shape, 5, i, 0, 0] for i in range(8)]) for shape in range(3))
    assert square == pytest.approx(2 * 15.75**2, rel=0.02)
    assert ellipse == pytest.approx(math.pi * 15.75**2 / 2, rel=0.02)
    assert heart == pytest.approx((4 + math.pi) * (15.75 / 1.7836) ** 2, rel=0.02)


def test_the_heart_stands_upright_and_a_full_turn_changes_nothing():
    images = whole(rendered(size=64, num_scales=1, num_orientations=5, num_positions=1))
    heart = images[2, 0, 0, 0, 0][:33, :33] > 0
    assert np.array_equal(heart, heart[:, ::-1])
    rows = heart.sum(axis=1)[heart.any(axis=1)]
    assert rows.argmax() < len(rows) / 2  # widest in its upper half
    assert rows[-1] <= 3  # a tip below
    assert not heart[heart.any(axis=1).argmax(), 16]  # a notch above
    quarter = images[2, 0, 1, 0, 0][:33, :33] > 0
    assert np.array_equal(quarter, np.rot90(heart))
    for shape in range(3):
        assert np.array_equal(images[shape, 0, 0, 0, 0], images[shape, 0, 4, 0, 0])


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="num_positions=9: at most half the size of 16"):
        rendered(num_positions=9)
    with pytest.raises(ConfigError, match="root: 'dsprites_rendered' makes its images and reads none"):
        shipped("dsprites_rendered", root="/x")
    with pytest.raises(ConfigError, match="takes no sources"):
        shipped("dsprites_rendered", sources=LOCAL)


def test_a_smaller_size_is_ordinary_grey_levels():
    config = rendered()
    loaded = load_images(type(config)(**config.__dict__ | {"image_size": 8, "grayscale": True}), "test")
    assert loaded.images.shape == (22, 1, 8, 8)
    assert len(loaded.images.unique()) > 2
    assert loaded.factor_names == FACTOR_NAMES


def test_splits_on_the_device_have_factors():
    splits = load_splits(rendered(), select(HardwareConfig(device="cpu")))
    assert [len(x) for x in (splits.train, splits.val, splits.test)] == [189, 5, 22]
    both = torch.cat([splits.train.factors, splits.val.factors, splits.test.factors])
    assert len(both.unique(dim=0)) == 216
    for data in (splits.train, splits.val, splits.test):
        assert data.factor_names == FACTOR_NAMES
        batch = data.batch(slice(0, 4))
        assert torch.equal(batch.y, data.factors[:4, 0])
        assert batch.x.shape == (4, 1, 16, 16)


# ------------------------------------------------------------------- the published file


@pytest.fixture
def arrays(rng) -> dict[str, np.ndarray]:
    """As the published file has them, of a grid of 1x3x2x4x3x3."""
    classes = np.array(list(np.ndindex(1, 3, 2, 4, 3, 3)), np.int64)
    return {
        "metadata": np.array({"sizes": [1, 3, 2, 4, 3, 3]}),  # a pickle
        "imgs": rng.integers(0, 2, (216, 6, 6), dtype=np.uint8),
        "latents_classes": classes,
        "latents_values": classes.astype(np.float64),
    }


def published(**changes):
    return shipped("dsprites", format={"kind": "dsprites", "size": 6}, sources=LOCAL, **changes)


def save(cache, arrays: dict[str, np.ndarray]) -> None:
    (cache / "dsprites").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(cache / "dsprites" / FILE, **arrays)


def test_a_file_as_published_is_read(cache, arrays, monkeypatch):
    save(cache, arrays)
    monkeypatch.setattr("genlab.data.formats.dsprites.CHUNK", 50)
    expected = {tuple(c[1:]): i for c, i in zip(arrays["latents_classes"], arrays["imgs"], strict=True)}
    found = whole(published())
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key] * 255) for key in expected)
    train, test = load_images(published(), "train"), load_images(published(), "test")
    assert (len(train), len(test)) == (194, 22)
    assert isinstance(train.images, PackedImages)
    assert torch.equal(train.labels, train.factors[:, 0])
    limited = load_images(published(limit=30), "train")
    assert torch.equal(limited.factors, train.factors[:30])


def test_both_sets_are_split_alike(cache, arrays):
    save(cache, arrays)
    for split in ("train", "test"):
        assert torch.equal(load_images(published(), split).factors, load_images(rendered(), split).factors)


def test_the_file_is_never_unpacked_as_a_whole(cache, arrays, monkeypatch):
    save(cache, arrays)
    monkeypatch.setattr("genlab.data.formats.dsprites.CHUNK", 50)
    sizes = []
    read = zipfile.ZipExtFile.read

    def watched(self, n=-1):
        content = read(self, n)
        if self.name == "imgs.npy":
            sizes.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    monkeypatch.setattr(PackedImages, "unpack", lambda self: pytest.fail("unpacked"))
    loaded: Images = load_images(published(), "train")
    assert isinstance(loaded.images, PackedImages)
    assert max(sizes) == 50 * 36


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": None}, "There is no item named 'imgs.npy'"),
        ({"latents_classes": None}, "There is no item named 'latents_classes.npy'"),
        ({"imgs": np.zeros((215, 6, 6), np.uint8)}, r"imgs has shape \(215, 6, 6\), not \(216, 6, 6\)"),
        ({"imgs": np.zeros((216, 3, 6, 6), np.uint8)}, "imgs has shape"),
        ({"imgs": np.zeros((216, 6, 6))}, "imgs is float64"),
        ({"imgs": np.array([{}] * 216)}, "imgs is object"),
        ({"imgs": np.full((216, 6, 6), 2, np.uint8)}, "imgs has values other than 0 and 1"),
        ({"latents_classes": np.zeros((216, 6), np.int64)}, "216 images are not all combinations of 1x1x1x1x1"),
        ({"latents_classes": np.full((216, 6), -1, np.int64)}, "are not all combinations"),
        ({"latents_classes": np.zeros((216, 5), np.int64)}, r"latents_classes has shape \(216, 5\)"),
        ({"latents_classes": np.zeros((0, 6), np.int64)}, r"latents_classes has shape \(0, 6\)"),
        ({"latents_classes": np.zeros((216, 6), np.int32)}, "latents_classes is int32"),
    ],
)
def test_wrong_arrays_end_in_one_line(cache, arrays, changes, message):
    save(cache, {key: array for key, array in (arrays | changes).items() if array is not None})
    with pytest.raises(DataError, match=rf"dataset dsprites: {FILE} is corrupt \(.*{message}") as caught:
        load_images(published(), "train")
    assert "\n" not in str(caught.value)


def test_broken_files_end_in_one_line(cache, arrays):
    save(cache, arrays)
    path = cache / "dsprites" / FILE
    content = path.read_bytes()
    middle = zipfile.ZipFile(path).getinfo("imgs.npy").header_offset + 200
    flipped = content[:middle] + b"xyz" + content[middle + 3 :]
    for broken in (b"", b"junk", content[:-30], content[:1000], flipped):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=f"{FILE} is corrupt") as caught:
            load_images(published(), "test")
        assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_is_refused(cache, arrays):
    save(cache, arrays)
    header = io.BytesIO()
    shape = {"descr": "<i8", "fortran_order": False, "shape": (10**12, 6)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(cache / "dsprites" / FILE, "w") as zipped:
        zipped.writestr("latents_classes.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"shape \(1000000000000, 6\) in 100 bytes"):
        load_images(published(), "train")


def test_the_download_is_checked(cache, monkeypatch):
    asked = []

    def download(url: str, path, md5: str) -> None:
        asked.append((url, md5))
        path.write_bytes(b"lies")

    monkeypatch.setattr("genlab.data.sources.download", download)
    with pytest.raises(DataError, match=rf"url: {FILE}: corrupt, or another file \(md5"):
        ensure_available(shipped("dsprites"))
    assert [url for url, _ in asked] == [shipped("dsprites").sources[1].url + f"/{FILE}"]
    assert not list(cache.rglob("*.npz"))


def test_a_download_is_kept(cache, arrays, monkeypatch):
    import hashlib

    save(cache / "elsewhere", arrays)
    content = (cache / "elsewhere" / "dsprites" / FILE).read_bytes()
    monkeypatch.setattr("genlab.data.sources.download", lambda url, path, md5: path.write_bytes(content))
    url = {"kind": "url", "url": "https://example.org", "md5s": {FILE: hashlib.md5(content).hexdigest()}}
    config = shipped("dsprites", format={"kind": "dsprites", "size": 6}, sources=[url])
    ensure_available(config)
    assert (cache / "dsprites" / FILE).read_bytes() == content
    assert len(load_images(published(), "test")) == 22
    other = shipped("dsprites", format={"kind": "dsprites", "size": 6}, sources=[url | {"md5s": {"x": "0"}}])
    with pytest.raises(DataError, match=rf"url: https://example\.org has no {FILE}"):
        ensure_available(other)
