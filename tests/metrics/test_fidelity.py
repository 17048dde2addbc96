"""Classes that are known, the measures together, their table and figures."""

import math

import pytest
import torch
from halves import CPU, SPEC, Halves, Painter, small_set
from torch import nn

from genlab.config import parse
from genlab.data import DatasetConfig
from genlab.data.device import Splits
from genlab.errors import ConfigError
from genlab.extractors.base import Features
from genlab.fidelity.classes import MIN_SHARE, class_accuracy, class_histogram, class_kl, modes
from genlab.fidelity.quality import Quality, QualityConfig
from genlab.hardware import Hardware, HardwareConfig
from genlab.metrics.base import Subject
from genlab.metrics.fid import FIDConfig, FIDEvaluation
from genlab.models.base import Model
from genlab.registry import EXTRACTORS
from genlab.report.figures import as_image
from genlab.report.quality import class_bars, fid_curve

# ------------------------------------------------------------------ classes


def _logits(*classes, count=4):
    return 3 * nn.functional.one_hot(torch.tensor(classes), count).float()


def test_a_histogram_has_a_place_for_every_class():
    assert class_histogram(_logits(0, 2, 2, 0, 2)).tolist() == [0.4, 0, 0.6, 0]


def test_modes_are_classes_with_a_sample():
    assert modes(class_histogram(_logits(0, 2, 2))) == 2


def test_divergence_of_classes():
    half, quarter = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    assert class_kl(half, half) == 0
    assert class_kl(half, quarter) == pytest.approx(math.log(2))


def test_a_class_that_no_real_image_has_counts_as_one_in_ten_thousand():
    fake, real = torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double()
    assert class_kl(fake, real) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / MIN_SHARE))


def test_accuracy_of_classes():
    assert class_accuracy(_logits(0, 1, 2, 3), torch.tensor([0, 1, 2, 0])) == 0.75


# ------------------------------------------------------------------ all of it


@pytest.fixture
def registered(monkeypatch):
    EXTRACTORS.names()  # so that the look-up doesn't come after the patch
    monkeypatch.setitem(EXTRACTORS._classes, "halves", Halves)


ALL = {f"{name}/halves" for name in ("fid", "kid", "kid_std", "precision", "recall", "density", "coverage")}
CLASSES = {f"{name}/halves" for name in ("modes", "class_kl", "class_accuracy")}


def _quality(**options):
    return Quality(QualityConfig(extractor="halves", **options), SPEC, "set", CPU)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("measures", "names"),
    [
        (["fid"], {"fid/halves"}),
        (["kid"], {"kid/halves", "kid_std/halves"}),
        (["prdc"], {name for name in ALL if "d/" not in name}),
        (["classes"], CLASSES),
        (["fid", "kid", "prdc", "classes"], ALL | CLASSES),
    ],
)
def test_measures_are_those_that_were_named(measures, names):
    quality = _quality(measures=tuple(measures), num_samples=30)
    found = quality.measure(quality.real(small_set(), None), *quality.samples(Painter()))
    assert found.keys() - {"kid_std/halves"} == names - {"kid_std/halves"}
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("dataset", "knows"), [("other", False), ("set-static", True), ("set_10k", True)])
def test_of_images_whose_classes_it_does_not_know_an_extractor_says_nothing(dataset, knows):
    settings = QualityConfig(extractor="halves", measures=("classes",), num_samples=6)
    quality = Quality(settings, SPEC, dataset, CPU)
    real, (fake, y) = quality.real(small_set(), None), quality.samples(Painter())
    assert quality.measure(real, fake, y).keys() == (CLASSES if knows else set())
    assert bool(quality.class_shares(samples=fake)) == knows


@pytest.mark.usefixtures("registered")
def test_fewer_images_than_features_are_warned_of_once(caplog):
    quality = _quality(measures=("fid",))
    few, enough = (Features(torch.randn(n, 2)) for n in (2, 3))
    quality.measure(enough, enough)
    assert not caplog.records
    for _ in range(2):
        quality.measure(enough, few)
    (record,) = caplog.records
    assert "FID of 2 samples and 3 real images in 2 features" in record.getMessage()


@pytest.mark.usefixtures("registered")
def test_building_an_extractor_draws_no_random_numbers(monkeypatch):
    monkeypatch.setattr(Halves, "num_features", property(lambda self: torch.rand(1)))
    before = torch.get_rng_state()
    _quality()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measures": []}, "name at least one"),
        ({"measures": ["fd"]}, "measures"),
        ({"num_samples": 5}, "num_samples=5: these measures take at least 6"),
        ({"num_samples": 5, "max_images": 1, "measures": ["fid"]}, "max_images=1"),
        ({"num_samples": 0, "measures": ["classes"]}, "num_samples"),
    ],
)
def test_settings_that_can_not_be(options, said):
    with pytest.raises(ConfigError, match=said):
        parse(FIDConfig, options)


# ------------------------------------------------------------------ the evaluation


def _run(model, **options):
    data = Splits(small_set(50, 1), small_set(9), small_set(40), "set")
    subject = Subject(model, "run", "set", data, {}, Hardware(CPU, HardwareConfig()))
    return FIDEvaluation(FIDConfig(extractor="halves", num_samples=30, batch_size=16, **options)).run(subject)


@pytest.mark.usefixtures("registered")
def test_the_table_has_samples_and_training_images(tmp_path):
    result = _run(Painter())
    assert result.title == "Samples of run against 40 test images of set"
    samples, train = (
        {row["measure"]: row[column] for row in result.rows} for column in ("samples", "training images")
    )
    assert (samples["images"], train["images"]) == (30, 30)
    assert train["FID"] < samples["FID"] == result.metrics["fid/halves"]
    assert samples["KID x 1000"] == pytest.approx(1000 * result.metrics["kid/halves"])
    assert result.metrics.keys() == ALL | CLASSES
    assert result.metrics["class_accuracy/halves"] == samples["class accuracy"] == 1
    assert samples["modes"] == 3
    FIDEvaluation(FIDConfig()).draw(result, tmp_path)
    assert {path.name for path in tmp_path.glob("classes.*")} == {"classes.png", "classes.svg"}


@pytest.mark.usefixtures("registered")
def test_without_classes_there_is_no_figure(tmp_path):
    result = _run(Painter(None), measures=("fid",))
    assert result.metrics.keys() == {"fid/halves"}
    FIDEvaluation(FIDConfig()).draw(result, tmp_path)
    assert not list(tmp_path.glob("classes.*"))


@pytest.mark.usefixtures("registered")
def test_training_images_are_not_held_against_themselves():
    assert all(row.keys() == {"measure", "samples"} for row in _run(Painter(), split="train").rows)


def test_a_model_that_does_not_sample_is_refused():
    with pytest.raises(ConfigError, match="needs samples, and Model does not sample"):
        FIDEvaluation(FIDConfig()).check(Model, DatasetConfig.__new__(DatasetConfig))


# ------------------------------------------------------------------ figures


def test_a_curve_is_marked_at_its_epochs_with_its_values():
    axes = fid_curve({"train": [(1, 213.4), (5, 44.25), (10, 31.7)]}, "Title").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5", "10"]
    assert [text.get_text() for text in axes.texts] == ["213.4", "44.2", "31.7"]
    assert (axes.get_yscale(), axes.get_legend()) == ("linear", None)


def test_a_curve_that_falls_far_is_on_a_logarithmic_axis():
    assert fid_curve({"train": [(1, 800.0), (2, 3.0)]}, "Title").axes[0].get_yscale() == "log"


@pytest.mark.parametrize("points", [[(3, 0.0)], [(epoch, 1.0 + epoch) for epoch in range(1, 40)]])
def test_a_curve_of_few_or_many_points_can_be_drawn(points):
    assert as_image(fid_curve({"a": points, "b": points}, "Title")).float().std() > 1


def test_each_class_has_a_bar_of_each_set():
    axes = class_bars({"samples": [0.5, 0.5, 0.0], "test images": [0.2, 0.3, 0.5]}, "Title").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.5, 0, 0.2, 0.3, 0.5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
