"""Errors of reconstructions that are known."""

import math

import pytest
import torch

from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import ConfigError
from genlab.hardware import Hardware, HardwareConfig
from genlab.metrics.base import Subject
from genlab.metrics.reconstruction import (
    ReconstructionConfig,
    ReconstructionEvaluation,
    compare,
    summarise,
)
from genlab.models.base import Model
from genlab.types import DataSpec


class _Darker(Model):
    """Every pixel 51 levels darker: 0.2 on [0, 1]."""

    def reconstruct(self, x):
        return x - 51


def _images(n, side=16):
    return torch.randint(51, 256, (n, 1, side, side), dtype=torch.uint8)


def _subject(model, images):
    device = torch.device("cpu")
    data = DeviceDataset(images, None, device, device)
    hardware = Hardware(device, HardwareConfig())
    return Subject(model, "run", "set", Splits(data, data, data), {}, hardware)


def test_a_known_error():
    x = _images(5)
    error, ssim = compare(x, x - 51)
    torch.testing.assert_close(error, torch.full((5,), 0.04))
    assert ((ssim > 0) & (ssim < 1)).all()
    assert summarise(error, ssim)["PSNR"] == pytest.approx(10 * math.log10(1 / 0.04), abs=1e-3)


def test_the_same_images_have_no_error():
    x = _images(3)
    error, ssim = compare(x, x)
    torch.testing.assert_close(ssim, torch.ones(3))
    assert set(summarise(error, ssim)) == {"MSE", "SSIM"}  # an infinite PSNR is no number to average


def test_other_images_have_an_ssim_near_zero():
    _, ssim = compare(_images(4, 32), _images(4, 32))
    assert ssim.abs().max() < 0.2


def test_ssim_of_constant_images_is_its_luminance_term():
    """``(2ab + c) / (a^2 + b^2 + c)`` with ``c = 0.01^2``, since there is neither contrast nor structure."""
    a, b = 51, 204
    _, ssim = compare(*(torch.full((1, 1, 16, 16), v, dtype=torch.uint8) for v in (a, b)))
    p, q, c = a / 255, b / 255, 0.01**2
    assert ssim.item() == pytest.approx((2 * p * q + c) / (p * p + q * q + c), abs=1e-4)


def test_every_image_counts_once_whatever_the_batches():
    config = ReconstructionConfig(splits=("val", "test"), max_images=10, batch_size=4)
    result = ReconstructionEvaluation(config).run(_subject(_Darker(DataSpec(1, 16, 16)), _images(23)))
    assert [row["images"] for row in result.rows] == [10, 10]
    assert len(result.scores["test"]) == 10
    assert result.metrics["reconstruction/test/mse"] == pytest.approx(0.04)
    assert result.metrics.keys() == {
        f"reconstruction/{split}/{key}" for split in ("val", "test") for key in ("mse", "psnr", "ssim")
    }


def test_images_smaller_than_the_window_have_no_ssim():
    evaluation = ReconstructionEvaluation(ReconstructionConfig(splits=("test",)))
    result = evaluation.run(_subject(_Darker(DataSpec(1, 8, 8)), _images(5, 8)))
    assert result.metrics.keys() == {"reconstruction/test/mse", "reconstruction/test/psnr"}
    assert any("no SSIM" in note for note in result.notes)


def test_a_model_that_does_not_reconstruct_is_refused():
    with pytest.raises(ConfigError, match="needs reconstructions, and Model has none"):
        ReconstructionEvaluation(ReconstructionConfig()).check(Model, DatasetConfig.__new__(DatasetConfig))
