"""Distances, balls and classes that are known, and features that are kept."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from genlab.config import parse
from genlab.data import DatasetConfig
from genlab.data.bits import pack
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import ConfigError, GenlabError
from genlab.extractors.base import Extractor, Features
from genlab.fidelity import distances
from genlab.fidelity.classes import MIN_SHARE, class_accuracy, class_histogram, class_kl, modes
from genlab.fidelity.distances import frechet_distance, kernel_distance, statistics
from genlab.fidelity.features import chosen, real_features, sample_features
from genlab.fidelity.prdc import prdc
from genlab.fidelity.quality import Quality, QualityConfig
from genlab.hardware import Hardware, HardwareConfig
from genlab.metrics.base import Subject
from genlab.metrics.fid import FIDConfig, FIDEvaluation
from genlab.models.base import Model
from genlab.registry import EXTRACTORS
from genlab.report.figures import as_image
from genlab.report.quality import class_bars, fid_curve
from genlab.types import DataSpec

CPU = torch.device("cpu")
SPEC = DataSpec(1, 4, 4, 3)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "genlab" / "features"


# ------------------------------------------------------------------ FID


def _exactly(n, mean, cov):
    """Features whose sample mean and covariance are ``mean`` and ``cov`` up to rounding, float64."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return (torch.linalg.cholesky(cov) @ white).T + mean


def _covariance(dim):
    a = torch.randn(dim, dim, dtype=torch.float64)
    return a @ a.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def test_fid_of_a_set_with_itself_is_nothing():
    features = 100 + torch.randn(300, 20) @ torch.randn(20, 20)
    assert frechet_distance(features, features) < 1e-6 * features.var(0).sum()


def test_fid_of_gaussians_is_the_closed_form():
    """``|m - n|^2 + tr(S + T - 2 (S^(1/2) T S^(1/2))^(1/2))``, of covariances that do not commute."""
    m, n, s, t = torch.randn(6).double(), torch.randn(6).double(), _covariance(6), _covariance(6)
    root = sqrtm(s.numpy())
    expected = (m - n).square().sum() + (s + t).trace() - 2 * np.trace(sqrtm(root @ t.numpy() @ root)).real
    found = frechet_distance(_exactly(50, m, s), _exactly(70, n, t))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_fid_of_a_shift_and_a_scaling():
    unit = torch.eye(4, dtype=torch.float64)
    real, fake = _exactly(40, torch.zeros(4), unit), _exactly(40, torch.full((4,), 3.0), 4 * unit)
    assert frechet_distance(real, fake) == pytest.approx(4 * 9 + 4 * (2 - 1) ** 2, rel=1e-9)


@pytest.mark.parametrize(("chunk", "block"), [(1, 3), (7, 8), (1000, 5)])
def test_statistics_are_those_of_the_features_in_any_chunks_and_blocks(monkeypatch, chunk, block):
    monkeypatch.setattr(distances, "_BLOCK", block)
    x, centre = 5 + torch.randn(60, 8), torch.full((8,), 4.0, dtype=torch.float64)
    mean, cov = statistics(x, centre, chunk)
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose((mean + centre).numpy(), x.double().mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(cov.numpy(), np.cov(x.double().numpy().T), atol=1e-12)


def test_a_mean_far_from_0_costs_no_digits():
    real, fake = torch.randn(90, 8).double(), 2 * torch.randn(80, 8).double()
    moved = frechet_distance(real + 1e6, fake + 1e6)
    assert moved == pytest.approx(frechet_distance(real, fake), rel=1e-7)


def test_fid_of_fewer_images_than_features_is_that_of_singular_covariances():
    real, fake = torch.randn(12, 20).double(), 1 + torch.randn(15, 20).double()
    cov, other = (np.cov(x.numpy().T) for x in (real, fake))
    apart = (real.mean(0) - fake.mean(0)).square().sum().item() + np.trace(cov + other)
    # The root's trace, of singular matrices: the singular values of the two sets' common moments.
    x, y = ((x - x.mean(0)).numpy() / (len(x) - 1) ** 0.5 for x in (real, fake))
    expected = apart - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_fid_is_that_of_torchmetrics_fed_otherwise():
    real, fake = torch.rand(90, 8, dtype=torch.float64), torch.rand(80, 8, dtype=torch.float64) ** 2
    network = nn.Identity()
    network.num_features = 8
    metric = FrechetInceptionDistance(feature=network)
    for features, is_real in ((real, True), (fake, False)):
        for part in features[torch.randperm(len(features))].split(11):
            metric.update(part, real=is_real)
    assert frechet_distance(real, fake) == pytest.approx(metric.compute().item(), rel=1e-8)


# ------------------------------------------------------------------ KID


def test_kid_of_a_few_is_the_unbiased_discrepancy():
    """Of as many images as there are in a subset, every subset is all of them."""
    real, fake = torch.randn(30, 5), 1 + torch.randn(30, 5)
    x, y = real.double().numpy(), fake.double().numpy()
    kxx, kyy, kxy = ((a @ b.T / 5 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum(k.sum() - np.trace(k) for k in (kxx, kyy)) / (30 * 29)
    mean, std = kernel_distance(real, fake)
    assert mean == pytest.approx(within - 2 * kxy.mean(), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)


@pytest.fixture
def small_subsets(monkeypatch):
    monkeypatch.setattr(distances, "SUBSET_SIZE", 100)


@pytest.mark.usefixtures("small_subsets")
def test_kid_of_one_distribution_is_nothing_beside_that_of_two():
    real, same, other = torch.randn(1000, 4), torch.randn(1000, 4), 1 + torch.randn(1000, 4)
    mean, std = kernel_distance(real, same)
    # 1000 images hold ten subsets that share none: the mean of those varies by a third of what one does.
    assert abs(mean) < 3 * std / 10**0.5
    assert kernel_distance(real, other)[0] > 10 * std


@pytest.mark.usefixtures("small_subsets")
def test_kid_is_drawn_by_the_seed():
    real, fake = torch.randn(150, 3), torch.randn(150, 3)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(kernel_distance(real, fake))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_a_distance_of_what_is_none_ends_in_one_line(distance):
    with pytest.raises(ConfigError, match="at least 2 real images and 2 samples, and here are 5 and 1"):
        distance(torch.randn(5, 3), torch.randn(1, 3))
    with pytest.raises(GenlabError, match="features of the samples are not finite"):
        distance(torch.randn(5, 3), torch.full((5, 3), math.nan))


# ------------------------------------------------------------------ precision, recall, density, coverage


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


# ------------------------------------------------------------------ features


class Halves(Extractor):
    """Brightness of the upper and lower half, times a weight; three classes by the upper half's."""

    name = "halves"
    num_features = 2
    num_classes = 3
    trained_on = "set"

    def __init__(self, spec=SPEC, weights=None):
        super().__init__(spec, weights)
        self.register_buffer("weight", torch.ones(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        values = self.weight * x.float().unflatten(2, (2, -1)).mean((1, 3, 4))
        return Features(values, -(values[:, :1] / 85 - 0.5 - torch.arange(3)).abs())


class Painter(Model):
    """Conditional: the brightness of an image is its class's, the rest is noise."""

    def __init__(self, num_classes=3):
        super().__init__(SPEC)
        self.num_classes = num_classes
        self.asked = []

    def sample(self, n, y=None, generator=None):
        self.asked.append(y)
        base = torch.zeros(n) if y is None else 85 * y
        noise = torch.randint(0, 80, (n, 1, 4, 4), generator=generator)
        return (noise + base[:, None, None, None]).to(torch.uint8)


def _data(n=20, seed=0, packed=False):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    if packed:
        images = pack([images > 127], n, (1, 4, 4))
    return DeviceDataset(images, torch.arange(n) % 3, CPU, CPU)


def test_features_are_those_of_the_images_in_any_batches():
    data, extractor = _data(), Halves()
    whole = extractor(data.stored(slice(None)))
    for batch_size in (3, 20, 100):
        found = real_features(extractor, data, None, batch_size)
        assert torch.equal(found.values, whole.values)
        assert torch.equal(found.logits, whole.logits)


def test_a_second_look_is_at_the_cache(cache):
    extractor = Halves()
    first = real_features(extractor, _data(), 10, 4)
    assert (extractor.calls, len(list(cache.iterdir()))) == (3, 1)
    again = Halves()
    second = real_features(again, _data(), 10, 5)
    assert again.calls == 0
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.logits, second.logits)


def test_other_images_weights_and_counts_are_other_features(cache):
    heavier = Halves()
    heavier.weight += 1
    for extractor, data, limit in (
        (Halves(), _data(), 10),
        (Halves(), _data(seed=1), 10),
        (Halves(), _data(), 11),
        (Halves(), _data(), None),
        (Halves(), _data(packed=True), 10),
        (heavier, _data(), 10),
    ):
        real_features(extractor, data, limit, 50)
        assert extractor.calls == 1
    assert len(list(cache.iterdir())) == 6


def test_a_file_that_was_altered_is_noticed_and_replaced(cache, caplog):
    expected = real_features(Halves(), _data(), None, 50)
    (path,) = cache.iterdir()
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    extractor = Halves()
    found = real_features(extractor, _data(), None, 50)
    assert extractor.calls == 1
    assert torch.equal(found.values, expected.values)
    assert "has been altered" in caplog.text
    assert "computing them anew" in caplog.text
    real_features(extractor, _data(), None, 50)
    assert extractor.calls == 1


def test_a_cache_that_can_not_be_written_costs_time_alone(cache, caplog):
    cache.parent.mkdir()
    cache.write_text("in the way")
    extractor = Halves()
    for calls in (1, 2):
        found = real_features(extractor, _data(), None, 50)
        assert len(found.values) == 20
        assert extractor.calls == calls
    assert "can't be kept" in caplog.text


def test_packed_images_have_the_features_of_their_pixels():
    packed = _data(packed=True)
    pixels = DeviceDataset(packed.stored(slice(None)).unpack(), None, CPU, CPU)
    a, b = (real_features(Halves(), data, 7, 3).values for data in (packed, pixels))
    assert torch.equal(a, b)


def test_an_extractor_without_classes_has_no_logits():
    class Plain(Halves):
        def forward(self, x):
            return Features(super().forward(x).values)

    for _ in range(2):  # computed, and read
        assert real_features(Plain(), _data(), None, 7).logits is None


def test_images_of_a_sorted_set_are_taken_from_all_of_it():
    data = DeviceDataset(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.arange(10) // 5, CPU, CPU)
    assert data.labels[chosen(data, 4)].tolist() == [0, 0, 1, 1]
    assert chosen(data, None).tolist() == chosen(data, 99).tolist() == list(range(10))


def test_samples_are_of_all_classes_evenly():
    model = Painter()
    features, y = sample_features(Halves(), model, 7, 3)
    assert y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(torch.cat(model.asked), y)
    assert torch.equal(features.logits.argmax(1), y)


def test_an_unconditional_model_is_asked_for_no_class():
    model = Painter(num_classes=None)
    features, y = sample_features(Halves(), model, 7, 5)
    assert y is None
    assert model.asked == [None, None]
    assert features.values.shape == (7, 2)


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
    found = quality.measure(quality.real(_data(), None), *quality.samples(Painter()))
    assert found.keys() - {"kid_std/halves"} == names - {"kid_std/halves"}
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("dataset", "knows"), [("other", False), ("set-static", True), ("set_10k", True)])
def test_of_images_whose_classes_it_does_not_know_an_extractor_says_nothing(dataset, knows):
    settings = QualityConfig(extractor="halves", measures=("classes",), num_samples=6)
    quality = Quality(settings, SPEC, dataset, CPU)
    real, (fake, y) = quality.real(_data(), None), quality.samples(Painter())
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
    data = Splits(_data(50, 1), _data(9), _data(40), "set")
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
