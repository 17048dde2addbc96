"""Mutated training images, for background models."""

from __future__ import annotations

import pytest
import torch
from small_sets import idx_set, small_idx

from genlab.data import load_images
from genlab.data.images import to_mutated
from genlab.errors import ConfigError

WHITE = torch.full((50, 1, 28, 28), 255, dtype=torch.uint8)


def test_the_share_of_mutated_pixels_is_the_rate_and_their_levels_are_uniform():
    mutated = to_mutated(WHITE.clone(), rate=0.3)
    levels = mutated.flatten().bincount(minlength=256)[:255] / mutated.numel()
    n, p = mutated.numel(), 0.3 / 256
    assert levels.sum().item() == pytest.approx(255 * p, abs=4 * (0.3 * 0.7 / n) ** 0.5)
    assert (levels - p).abs().max() < 5 * (p / n) ** 0.5


def test_at_rate_1_nothing_is_left():
    black = torch.zeros_like(WHITE)
    assert torch.equal(to_mutated(WHITE.clone(), 1.0), to_mutated(black, 1.0))


def test_images_are_mutated_where_they_are():
    images = WHITE.clone()
    assert to_mutated(images, 0.3).data_ptr() == images.data_ptr()


def test_the_first_images_do_not_depend_on_those_that_follow(monkeypatch):
    whole = to_mutated(WHITE.clone(), 0.2)
    monkeypatch.setattr("genlab.data.images.CHUNK", 7)
    assert torch.equal(to_mutated(WHITE[:20].clone(), 0.2), whole[:20])


def test_only_training_images_are_mutated(cache, rng):
    plain, mutated = idx_set(cache / "small", rng), small_idx(mutation_rate=0.5)
    assert not torch.equal(load_images(plain, "train").images, load_images(mutated, "train").images)
    assert torch.equal(load_images(plain, "test").images, load_images(mutated, "test").images)


def test_results_name_the_set():
    assert small_idx(mutation_rate=0.25).label == f"{small_idx().label}-mutated0.25"


def test_a_rate_above_1_is_refused():
    with pytest.raises(ConfigError, match=r"mutation_rate"):
        small_idx(mutation_rate=1.5)
