"""Dimensions of flows whose singular values are known."""

import pytest
import torch
from ood_view import Known, noise, view
from torch import nn

from genlab import likelihood
from genlab.models.flow import Flow
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.nets.bijections import Bijection, Compose, Flatten
from genlab.nets.mlp import MLPConfig
from genlab.ood import local_intrinsic_dimension
from genlab.ood.local_intrinsic_dimension import (
    LocalIntrinsicDimension,
    LocalIntrinsicDimensionConfig,
    jacobian,
    rank,
    ranks,
)
from genlab.types import DataSpec

SPEC = DataSpec(1, 4, 4)


class Linear(Bijection):
    """``y = A x``."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x):
        return x @ self.matrix.T, torch.linalg.slogdet(self.matrix)[1].expand(len(x))


def _rotation(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]


def _linear_flow(singular_values):
    """A flow whose generator, from the base space to logits of pixels, has these singular values."""
    values = torch.as_tensor(singular_values, dtype=torch.float64)
    matrix = _rotation(16, 0) @ torch.diag(1 / values) @ _rotation(16, 1)
    return Flow(SPEC, Compose([Flatten(SPEC.shape), Linear(matrix.float())]), alpha=1e-6)


def _dimensions(flow, x, threshold):
    score = LocalIntrinsicDimension(LocalIntrinsicDimensionConfig(threshold=threshold))
    score.fit(view(x, flow))
    return score(view(x, flow))["local_intrinsic_dimension"]


def _realnvp():
    torch.manual_seed(0)
    net = MLPConfig(hidden_dim=24, num_layers=2)
    flow = RealNVP(RealNVPConfig(num_flows=4, actnorm=True, net=net), SPEC)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.25)
    return flow.eval()


def test_a_linear_generator_has_as_many_directions_as_singular_values_above_the_threshold():
    """Mid-grey pixels have a slope of a quarter from logits to pixels, the same for all 16 of them."""
    grey = torch.full((2, *SPEC.shape), 127, dtype=torch.uint8)
    grey[1] = 128
    values = [8.0] * 3 + [1.0] * 4 + [0.1] * 9
    for threshold, expected in ((3.0, 0), (1.0, 3), (0.1, 7), (0.02, 16)):  # of 2, 0.25 and 0.025 in pixels
        assert _dimensions(_linear_flow(values), grey, threshold).tolist() == [expected] * 2


def test_black_and_white_pixels_have_no_directions_but_noise():
    """Of an independent flow each pixel is a direction: of ``p (1 - p)`` of its grey level."""
    x = torch.full((3, *SPEC.shape), 255, dtype=torch.uint8)
    x.flatten(1)[:, :7] = 0
    x.flatten(1)[1, :5] = 128
    x.flatten(1)[2, 3:14] = 60
    assert _dimensions(_linear_flow([1.0] * 16), x, 0.02).tolist() == [0, 5, 11]
    assert _dimensions(_linear_flow([1.0] * 16), x, 0.001).tolist() == [16] * 3  # half a level from 0 or 1


def test_the_jacobian_is_autograds_and_is_that_of_the_inverse_inverted(monkeypatch):
    flow = _realnvp().double()
    pixels = torch.rand(1, *SPEC.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def encode(x):
        return flow.bijection(likelihood.logit(x, flow.alpha)[0])[0]

    def decode(z):
        return likelihood.sigmoid(flow.bijection.inverse(z), flow.alpha)

    expected = torch.autograd.functional.jacobian(encode, pixels).view(16, 16)
    for rows in (256, 5):  # with a remainder
        monkeypatch.setattr(local_intrinsic_dimension, "_ROWS", rows)
        torch.testing.assert_close(jacobian(encode, pixels), expected)
    generator = torch.autograd.functional.jacobian(decode, encode(pixels).detach()).view(16, 16)
    torch.testing.assert_close(generator @ expected, torch.eye(16, dtype=torch.float64), atol=1e-9, rtol=0)
    values = torch.linalg.svdvals(generator)
    for threshold in (0.003, 0.02, 0.1, 0.5):
        assert rank(expected, threshold) == (values > threshold).sum()


def test_the_score_is_the_rank_of_the_generator_at_each_image():
    flow, x = _realnvp(), noise(4, SPEC.shape)

    def decode(z):
        return likelihood.sigmoid(flow.bijection.inverse(z), flow.alpha)

    expected = []
    for z in flow.encode(x):
        generator = torch.autograd.functional.jacobian(decode, z[None]).view(16, 16)
        expected.append((torch.linalg.svdvals(generator.double()) > 0.1).sum().item())
    assert 0 < min(expected) < max(expected) < 16
    assert _dimensions(flow, x, 0.1).tolist() == expected


def test_ranks_are_shares_of_training_images_and_ties_count_half():
    among = torch.tensor([5.0, 1.0, 3.0, 3.0])
    assert ranks(torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0]), among).tolist() == [0, 0.125, 0.25, 0.5, 1]


def test_an_image_needs_both_likelihood_and_dimension(monkeypatch):
    def dimensions(self, seen):
        return seen.data.stored(slice(None))[:, 0, 0, 1].double()

    monkeypatch.setattr(LocalIntrinsicDimension, "_dimensions", dimensions)

    def seen(*pairs):
        x = torch.zeros(len(pairs), 1, 2, 2, dtype=torch.uint8)
        x[:, 0, 0, :] = torch.tensor(pairs)
        return view(x, Known(scale=1.0))

    score = LocalIntrinsicDimension(LocalIntrinsicDimensionConfig())
    score.fit(seen((10, 5), (20, 6), (30, 7), (40, 8)))
    found = score(seen((45, 9), (45, 0), (0, 9), (25, 9), (45, 6)))
    assert found["likelihood_and_dimension"].tolist() == [1, 0, 0, 0.5, 0.375]


@pytest.mark.parametrize(("limit", "slow_limit"), [(2, 3), (3, 2), (None, 2)])
def test_likelihood_and_dimension_are_of_the_same_images(limit, slow_limit):
    seen = view(noise(4, SPEC.shape), _realnvp(), limit=limit, slow_limit=slow_limit)
    score = LocalIntrinsicDimension(LocalIntrinsicDimensionConfig())
    score.fit(seen)
    assert all(len(values) == 2 for values in score(seen).values())


def test_only_flows_of_pixels_have_a_generator_to_look_at():
    score = LocalIntrinsicDimension(LocalIntrinsicDimensionConfig())
    assert score.obstacle(RealNVP, None) is None
    assert "needs a flow on pixels, and Known is none" in score.obstacle(Known, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_of_very_different_size_are_counted_right(dtype):
    matrix = _rotation(16, 0) @ torch.diag(torch.logspace(-1, 4, 16, dtype=torch.float64)) @ _rotation(16, 1)
    assert rank(matrix.to(dtype), 1 / 5.0) == (torch.logspace(-1, 4, 16) < 5).sum()
