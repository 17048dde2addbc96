"""Precision, recall, density and coverage against their definitions."""

import numpy as np
import pytest
import torch

from genlab.errors import ConfigError
from genlab.fidelity.prdc import prdc


def _brute_force(real, fake, k):
    """The definitions, one pair at a time."""
    real, fake = real.double().numpy(), fake.double().numpy()

    def radius(x, among):
        return sorted(np.linalg.norm(x - other) for other in among)[k]  # the first is x itself

    of_real, of_fake = [radius(x, real) for x in real], [radius(y, fake) for y in fake]
    near = np.array([[np.linalg.norm(x - y) for x in real] for y in fake])
    in_real = near <= np.array(of_real)
    in_fake = near <= np.array(of_fake)[:, None]
    return {
        "precision": in_real.any(1).mean(),
        "recall": in_fake.any(0).mean(),
        "density": in_real.sum() / (k * len(fake)),
        "coverage": in_real.any(0).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_are_their_definitions(k):
    real, fake = torch.randn(60, 3), torch.randn(45, 3) + 1.5
    found = prdc(real, fake, k)
    assert found == pytest.approx(_brute_force(real, fake, k), abs=1e-12)
    assert all(0 < value < 1 for name, value in found.items() if name != "density")


def test_prdc_of_a_set_with_itself():
    features = torch.randn(50, 4)
    found = prdc(features, features, k=5)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    # Each ball holds its own image, its four nearest and, being closed, the fifth on its edge.
    assert found["density"] == pytest.approx(6 / 5)


def test_prdc_of_sets_far_from_each_other():
    found = prdc(torch.randn(30, 4), 1000 + torch.randn(40, 4))
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_samples_at_one_mode_of_two_are_precise_and_cover_half():
    near, far = torch.randn(50, 2), 100 + torch.randn(50, 2)
    found = prdc(torch.cat([near, far]), near + 1e-4)
    assert found["precision"] == 1
    assert found["recall"] == found["coverage"] == 0.5


def test_copies_of_one_image_are_in_its_ball():
    image = torch.randn(1, 300)
    found = prdc(image.expand(20, -1), image.expand(10, -1), k=3)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


@pytest.mark.parametrize("chunk", [1, 100, 999])
def test_prdc_do_not_depend_on_chunks(chunk):
    real, fake = torch.randn(70, 40), torch.randn(61, 40)
    assert prdc(real, fake, chunk=chunk) == prdc(real, fake)


def test_prdc_take_more_images_than_neighbours():
    with pytest.raises(
        ConfigError, match="k=5 takes more than 5 real images and samples, and here are 9 and 5"
    ):
        prdc(torch.randn(9, 2), torch.randn(5, 2))
