"""Static binarisation: one draw of every pixel, the same everywhere and always."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import idx_set, shipped, small_idx

from genlab.assemble import fetch_sets
from genlab.config import conf_dir
from genlab.data import data_spec, load_images
from genlab.data.bits import PackedImages
from genlab.data.images import to_static
from genlab.errors import ConfigError
from genlab.types import DataSpec


def test_the_draw_is_fixed():
    greys = torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)
    drawn = [to_static(greys, split).bits.flatten().tolist() for split in ("train", "test")]
    assert drawn == [[10, 67, 130, 166], [191, 170, 178, 59]]  # a trained model's data must never move


@settings(max_examples=25)
@given(n=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 9))
def test_the_first_images_do_not_depend_on_those_that_follow(n, more, seed):
    generator = torch.Generator().manual_seed(seed)
    greys = torch.randint(256, (n + more, 1, 3, 5), dtype=torch.uint8, generator=generator)
    assert torch.equal(to_static(greys, "train").bits[:n], to_static(greys[:n], "train").bits)


def test_chunks_do_not_change_the_draw(monkeypatch):
    greys = torch.randint(256, (20, 1, 3, 5), dtype=torch.uint8)
    whole = to_static(greys, "train").bits
    monkeypatch.setattr("genlab.data.images.CHUNK", 7)
    assert torch.equal(to_static(greys, "train").bits, whole)


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_a_pixel_is_white_as_often_as_its_level_says(level):
    drawn = to_static(torch.full((400, 1, 16, 16), level, dtype=torch.uint8), "train").unpack()
    share = drawn.double().mean().item() / 255
    deviation = (level / 255 * (1 - level / 255) / drawn.numel()) ** 0.5
    assert share == pytest.approx(level / 255, abs=4 * deviation)


def test_a_set_is_packed_keeps_its_labels_and_is_the_same_on_two_loads(cache, rng):
    idx_set(cache / "small", rng)
    config = small_idx(binarization="static")
    grey, drawn = load_images(small_idx(), "train"), load_images(config, "train")
    assert isinstance(drawn.images, PackedImages)
    assert data_spec(config) == data_spec(small_idx())
    assert torch.equal(drawn.labels, grey.labels)
    assert torch.equal(drawn.images.bits, load_images(config, "train").images.bits)
    pixels = drawn.images.unpack()
    assert pixels.unique().tolist() == [0, 255]
    assert pixels[grey.images == 0].sum() == 0
    limited = load_images(small_idx(binarization="static", limit=5), "train")
    assert torch.equal(limited.images.bits, drawn.images.bits[:5])


def test_it_comes_after_the_resize(cache, rng):
    idx_set(cache / "small", rng)
    loaded = load_images(small_idx(binarization="static", image_size=4), "test")
    assert loaded.images.shape == (12, 1, 4, 4)
    assert isinstance(loaded.images, PackedImages)


def test_results_tell_the_sets_apart():
    assert shipped("mnist").label == "mnist"
    assert shipped("mnist", binarization="static").label == "mnist-static"
    with pytest.raises(ConfigError, match=r"dataset\.binarization='dynamic'"):
        shipped("mnist", binarization="dynamic")


def test_other_sets_are_binarised_as_the_models_own(cache):
    class Asks:
        resize = False

        def datasets(self):
            return ("noise", "constant")

    for binarization in ("static", None):
        others = fetch_sets(
            Asks(), [conf_dir()], DataSpec(1, 8, 8), shipped("mnist", binarization=binarization)
        )
        assert [other.binarization for other in others.values()] == [binarization] * 2
    noise = fetch_sets(Asks(), [conf_dir()], DataSpec(1, 8, 8), shipped("mnist", binarization="static"))[
        "noise"
    ]
    pixels = load_images(noise, "test").images[:2000].unpack()
    assert pixels.float().mean().item() == pytest.approx(127.5, abs=2)
