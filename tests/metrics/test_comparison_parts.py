"""How long samples take, by a clock that the samples themselves move; which parts a model can do."""

import pytest
import torch

from genlab.config import parse
from genlab.data import DatasetConfig
from genlab.errors import CapabilityError
from genlab.hardware import Hardware, HardwareConfig
from genlab.metrics import comparison
from genlab.metrics.base import Subject
from genlab.metrics.comparison import Comparison, ComparisonConfig, SamplingConfig
from genlab.models.base import Model
from genlab.types import DataSpec

CPU = Hardware(torch.device("cpu"), HardwareConfig())
ONLY = {"fid": None, "likelihood": None, "ood": None}
NOISE = parse(DatasetConfig, {"name": "noise", "format": {"kind": "noise", "num_images": 9}})


class Slow(Model):
    """Half a second for an image, and a minute more for the first batch; never more than ``max_batch``."""

    def __init__(self, max_batch):
        super().__init__(DataSpec(1, 2, 2))
        self.most, self.now, self.drawn = max_batch, 0.0, []

    @property
    def max_batch(self):
        return self.most

    def sample(self, n, y=None, generator=None):
        self.now += 0.5 * n + (0 if self.drawn else 60)
        self.drawn.append(n)
        return torch.zeros(n, 1, 2, 2, dtype=torch.uint8)


class Density(Model):
    def log_prob(self, x, y=None): ...


@pytest.mark.parametrize(
    ("settings", "max_batch", "drawn"),
    [
        ({"num_images": 8, "batch_size": 4}, 100, [4, 4, 4]),
        ({"num_images": 7, "batch_size": 3}, 100, [3, 3, 3, 1]),
        ({"num_images": 5, "batch_size": 500}, 2, [2, 2, 2, 1]),
        ({"num_images": 3, "batch_size": 500}, 100, [3, 3]),
    ],
)
def test_seconds_are_of_a_thousand_images_after_the_first_batch(settings, max_batch, drawn, monkeypatch):
    model = Slow(max_batch)
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: model.now)
    evaluation = Comparison(ComparisonConfig(**ONLY, sampling=SamplingConfig(**settings)))
    evaluation.check(Slow, NOISE)
    result = evaluation.run(Subject(model, "slow", "noise", None, {}, CPU))
    assert result.metrics == {"sampling/seconds_per_1000": pytest.approx(500.0)}
    assert model.drawn == drawn
    assert result.rows == [{"measure": "sampling of 1,000 images, s", "value": 500.0, "better": "lower"}]


@pytest.mark.parametrize(
    ("model", "parts"), [(Slow, {"sampling"}), (Density, {"likelihood", "ood"}), (Model, set())]
)
def test_sets_are_asked_for_by_the_parts_that_a_model_can_do(model, parts):
    """FID is left out by the settings: its extractor would have to know the images."""
    evaluation = Comparison(ComparisonConfig(fid=None))
    if not parts:
        with pytest.raises(CapabilityError, match="nothing to compare Model by"):
            evaluation.check(model, NOISE)
        return
    evaluation.check(model, NOISE)
    assert list(evaluation.datasets()) == list(evaluation.config.ood.datasets if "ood" in parts else [])


def test_a_part_that_is_null_is_not_said_to_be_left_out():
    """Only what a model lacks is."""
    evaluation = Comparison(ComparisonConfig(**ONLY, sampling=SamplingConfig(num_images=2)))
    evaluation.check(Slow, NOISE)
    (note,) = evaluation.run(Subject(Slow(9), "slow", "noise", None, {}, CPU)).notes
    assert note.startswith("sampling: 2 images, 2 at once after as many to warm up, on CPU")
