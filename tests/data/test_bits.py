"""Images at one bit a pixel: a round trip, indexing, and conversions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genlab.data.bits import PackedImages, pack, unpacked
from genlab.data.images import Images, to_gray, to_square, to_static


def black_and_white(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (n, *shape), dtype=torch.uint8, generator=generator) * 255


def packed_of(images: torch.Tensor) -> PackedImages:
    return pack([images], len(images), tuple(images.shape[1:]))


@given(
    shape=st.tuples(*[st.integers(1, 3)], *[st.integers(1, 17)] * 2),
    sizes=st.lists(st.integers(0, 5), max_size=4),
    seed=st.integers(0, 99),
)
def test_what_is_packed_in_pieces_comes_out_as_it_was(shape, sizes, seed):
    images = black_and_white(sum(sizes), *shape, seed=seed)
    packed = pack(images.split(sizes) if sizes else [], len(images), shape)
    assert packed.shape == tuple(images.shape)
    assert torch.equal(packed.unpack(), images)
    assert packed.unpack().is_contiguous()


def test_sizes_of_memory():
    packed = packed_of(black_and_white(10, 1, 64, 64))
    assert packed.nbytes == 10 * 512
    assert packed_of(black_and_white(10, 1, 3, 3)).nbytes == 10 * 2


def test_the_first_pixel_is_the_highest_bit():
    image = torch.tensor([255, 0, 0, 0, 0, 0, 255, 255, 0, 255], dtype=torch.uint8).view(1, 1, 2, 5)
    assert packed_of(image).bits.tolist() == [[0b10000011, 0b01000000]]


@given(st.lists(st.integers(0, 19), max_size=30))
def test_an_index_picks_the_same_images(index):
    images = black_and_white(20, 1, 5, 3)
    picked = packed_of(images)[torch.tensor(index, dtype=torch.int64)]
    assert torch.equal(picked.unpack(), images[index])


@given(st.integers(0, 25), st.integers(0, 25), st.integers(1, 4))
def test_a_slice_picks_the_same_images(start, stop, step):
    images = black_and_white(20, 2, 3, 3)
    picked = packed_of(images)[start:stop:step]
    assert torch.equal(picked.unpack(), images[start:stop:step])


def test_any_value_but_0_is_white():
    images = torch.tensor([0, 1, 7, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert packed_of(images).unpack().flatten().tolist() == [0, 255, 255, 255]
    assert torch.equal(packed_of(images).unpack(), packed_of(images.bool()).unpack())


def test_a_part_of_a_packed_set_stays_packed_and_together():
    images, labels, factors = black_and_white(20, 1, 4, 4), torch.arange(20), torch.arange(40).view(20, 2)
    whole = Images(packed_of(images), labels, factors, ("a", "b"))
    for index in (torch.tensor([7, 3, 3]), slice(5, 9)):
        part = whole.take(index)
        assert isinstance(part.images, PackedImages)
        assert torch.equal(part.images.unpack(), images[index])
        assert torch.equal(part.labels, labels[index])
        assert torch.equal(part.factors, factors[index])
        assert part.factor_names == ("a", "b")


@pytest.mark.parametrize("chunk", [3, 100])
def test_conversions_are_those_of_the_unpacked_set_a_chunk_at_a_time(monkeypatch, chunk):
    expected = {size: to_square(black_and_white(10, 1, 12, 8), size) for size in (3, 8, 16)}
    monkeypatch.setattr("genlab.data.images.CHUNK", chunk)
    images = packed_of(black_and_white(10, 1, 12, 8))
    largest = 0
    unpack = PackedImages.unpack

    def watched(self):
        nonlocal largest
        largest = max(largest, len(self))
        return unpack(self)

    monkeypatch.setattr(PackedImages, "unpack", watched)
    for size, result in expected.items():
        assert torch.equal(to_square(images, size), result)
    assert largest <= chunk
    assert torch.equal(to_static(images, "train").unpack(), images.unpack())
    rgb = black_and_white(5, 3, 4, 4)
    assert torch.equal(to_gray(packed_of(rgb)), to_gray(rgb))


def test_unpacked_leaves_tensors_be():
    images = black_and_white(2, 1, 4, 4)
    assert unpacked(images) is images
