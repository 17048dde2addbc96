"""The evaluation from a model and a dataset to a table, metrics and a heat map."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from codes import grid

from genlab import hardware
from genlab.assemble import build_evaluation
from genlab.config import parse
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset, Splits
from genlab.disentanglement import dci as forests
from genlab.errors import ConfigError, DataError, GenlabError
from genlab.metrics.base import Subject
from genlab.metrics.disentanglement import DisentanglementConfig, DisentanglementEvaluation
from genlab.models.base import Model
from genlab.nets.gaussian import DiagonalGaussian
from genlab.report.table import print_table
from genlab.types import DataSpec

NAMES = ("shape", "scale", "x", "y")
SPEC = DataSpec(1, 2, 2)
SMALL = {"batch_size": 100, "num_train": 300, "num_eval": 200, "group_size": 16, "num_samples": 1000}


class Encoder(Model):
    """Reads the factors off the pixels."""

    def encode(self, x):
        return x.flatten(1).float() / 20


class Inferring(Encoder):
    """The same, with a narrow posterior."""

    def posterior(self, x):
        mean = self.encode(x)
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(0.05)))


class Collapsed(Encoder):
    """Its posterior is the prior, whatever it sees."""

    def posterior(self, x):
        return DiagonalGaussian(torch.zeros(len(x), 6), torch.zeros(len(x), 6))


class Diverged(Encoder):
    def encode(self, x):
        return super().encode(x) * float("nan")


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(forests, "NUM_TREES", 3)
    monkeypatch.setattr(forests, "DEPTHS", (4, 8))


@pytest.fixture
def cpu():
    return hardware.select(hardware.HardwareConfig(device="cpu"))


@pytest.fixture
def data(cpu):
    factors = grid()
    images = (20 * factors).to(torch.uint8).view(-1, *SPEC.shape)
    return DeviceDataset(images, None, cpu.device, cpu.device, factors, NAMES)


def _evaluate(model, data, cpu, **options):
    evaluation = DisentanglementEvaluation(DisentanglementConfig(**SMALL | options))
    subject = Subject(model(SPEC), "run", "squares", Splits(data, data, data), {}, cpu)
    with cpu.isolated(subject.model, 0):
        return evaluation, evaluation.run(subject)


def test_a_perfect_code_scores_full_marks(data, cpu, capsys):
    _, result = _evaluate(Inferring, data, cpu)
    values = {row["measure"]: row["value"] for row in result.rows}
    assert list(values) == [
        "mig_hist20",
        "mig_chen",
        "sap",
        "dci_disentanglement",
        "dci_completeness",
        "dci_informativeness",
        "factor_vae",
        "beta_vae",
        "modularity",
    ]
    # Drawn without replacement, factors are not quite independent, so nor are codes.
    assert values.pop("sap") > 0.25
    assert list(values.values()) == pytest.approx([1] * 8, abs=0.05)
    assert {
        f"disentanglement/{name}": value for name, value in values.items()
    }.items() <= result.metrics.items()
    assert result.metrics["disentanglement/mig_hist20/scale"] == result.rows[0]["scale"]
    assert result.metrics["disentanglement/active_dimensions"] == 4
    print_table(result)
    assert "scale" in capsys.readouterr().out
    assert json.loads(json.dumps(result.rows)) == list(result.rows)


def test_a_collapsed_posterior_scores_nothing_and_is_named(data, cpu):
    _, result = _evaluate(Collapsed, data, cpu)
    assert all(math.isfinite(value) for value in result.metrics.values())
    values = {row["measure"]: row["value"] for row in result.rows}
    assert values["beta_vae"] == pytest.approx(0.25, abs=0.12)
    zero = set(values) - {"beta_vae", "dci_informativeness"}
    assert [values[name] for name in zero] == pytest.approx([0] * len(zero), abs=1e-6)
    assert any("0 of 6 dimensions" in note for note in result.notes)


def test_a_model_without_a_posterior_has_no_sampled_gap(data, cpu):
    _, result = _evaluate(Encoder, data, cpu, measures=("mig_hist20", "mig_chen"))
    assert [row["measure"] for row in result.rows] == ["mig_hist20"]
    assert any(note.startswith("mig_chen is left out") for note in result.notes)


def test_the_notes_state_the_protocol(data, cpu):
    _, result = _evaluate(Inferring, data, cpu, max_images=500)
    notes = "\n".join(result.notes)
    assert "500 random test images of squares" in notes
    assert "shape (2), scale (2), x (3), y (4)" in notes
    assert "320 further images" in notes  # a third of 960
    parts = [result.metrics[f"disentanglement/mig_chen/{name}"] for name in NAMES[1:]]
    assert f"leaves out: {sum(parts) / 3:.3f}" in notes


def test_no_measure_depends_on_which_others_are_taken(data, cpu):
    _, every = _evaluate(Inferring, data, cpu)
    _, some = _evaluate(Inferring, data, cpu, measures=("factor_vae", "mig_chen", "dci"))
    assert some.metrics.items() <= every.metrics.items()


def test_images_are_drawn_by_the_seed(data, cpu):
    values = [
        _evaluate(Inferring, data, cpu, measures=("mig_chen",), max_images=200, seed=seed)[1].metrics
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_the_heat_map_is_drawn(data, cpu, tmp_path):
    evaluation, result = _evaluate(Encoder, data, cpu, measures=("mig_hist20",))
    torch.testing.assert_close(result.information.diag(), torch.ones(4).double())
    evaluation.draw(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"disentanglement.png", "disentanglement.svg"}
    assert all(text in (tmp_path / "disentanglement.svg").read_text() for text in ("z3", "scale", "1.00"))


def test_a_factor_that_never_varies_is_left_out(data, cpu):
    data.factors = torch.cat([torch.zeros(len(data), 1, dtype=torch.int64), data.factors], dim=1)
    data.factor_names = ("colour", *NAMES)
    _, result = _evaluate(Encoder, data, cpu, measures=("mig_hist20",))
    assert list(result.factor_names) == list(NAMES)
    assert result.metrics["disentanglement/mig_hist20"] > 0.99


def test_too_little_to_tell_apart_is_refused(data, cpu):
    with pytest.raises(ConfigError, match=r"two factors that vary; here are 4 and 0, among 1 images"):
        _evaluate(Encoder, data, cpu, max_images=1)


def test_codes_that_are_not_finite_are_refused(data, cpu):
    with pytest.raises(GenlabError, match="codes are not finite"):
        _evaluate(Diverged, data, cpu)


def test_images_without_their_factors_are_refused(data, cpu):
    data.factors = None
    with pytest.raises(DataError, match="without their factors"):
        _evaluate(Encoder, data, cpu)


# ------------------------------------------------------------------------------------ before any work


def _dataset(kind, **options):
    return parse(DatasetConfig, {"name": "some", "format": {"kind": kind, **options}}, "dataset")


def test_a_set_without_factors_is_refused_before_any_work():
    dataset = _dataset("noise", channels=1, height=2, width=2, num_images=4)
    with pytest.raises(ConfigError, match="some has none; take dataset=dsprites or dsprites_rendered"):
        build_evaluation({"name": "disentanglement"}, Encoder, dataset)


def test_a_model_without_codes_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="Model does not encode"):
        build_evaluation({"name": "disentanglement"}, Model, SimpleNamespace(factor_names=NAMES))


def test_an_empty_split_is_refused_before_any_work():
    dataset = SimpleNamespace(factor_names=NAMES, num_val=0)
    with pytest.raises(ConfigError, match="num_val=0"):
        build_evaluation({"name": "disentanglement", "split": "val"}, Encoder, dataset)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("measures", [], "name at least one"),
        ("measures", ["mig"], "mig_hist20"),
        ("group_size", 1, "greater than or equal to 2"),
        ("splits", ["test"], "did you mean 'split'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_evaluation({"name": "disentanglement", key: value}, Encoder, SimpleNamespace(factor_names=NAMES))
