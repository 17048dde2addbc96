"""The likelihood evaluation of a bound over the steps of a chain, whose terms are known."""

import math

import pytest
import torch

from genlab.data.device import DeviceDataset, Splits
from genlab.hardware import Hardware, HardwareConfig
from genlab.metrics.base import Subject
from genlab.metrics.likelihood import LikelihoodConfig, LikelihoodEvaluation
from genlab.models.base import Model
from genlab.report.step_terms import draw_step_terms
from genlab.types import DataSpec

CPU = torch.device("cpu")


class Chain(Model):
    """The terms of an image are 1, 2, 4, 8 and 16 bits for each of its pixels, times its first pixel."""

    likelihood = "bound"
    protocol = "known"
    strata = ((1, 1), (2, 3), (4, 7), (8, 10))

    def step_terms(self, x):
        bits = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
        return x[:, 0, 0, :1] * self.spec.dim * math.log(2) * bits

    def log_prob(self, x, y=None):
        return -100.0 * torch.ones(len(x))


def run(model, *first_pixels):
    x = torch.tensor(first_pixels, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 3)
    data = DeviceDataset(x, None, CPU, CPU)
    subject = Subject(model, "run", "set", Splits(data, data, data), {}, Hardware(CPU, HardwareConfig()))
    config = LikelihoodConfig(splits=("val", "test"), batch_size=2, max_images=3)
    evaluation = LikelihoodEvaluation(config)
    return evaluation, evaluation.run(subject)


@pytest.fixture
def model():
    return Chain(DataSpec(1, 2, 3))


def test_a_bound_over_steps_is_shown_by_kind_in_nats_and_bits(model):
    _, result = run(model, 0, 2, 4, 100)  # the last is beyond max_images
    kinds, _ = result.further
    assert kinds.printed
    assert [row["set"] for row in kinds.rows] == ["set val"] * 3 + ["set test"] * 3
    assert [row["term"] for row in kinds.rows[3:]] == [
        "L_0, reconstruction",
        "L_1 to L_9, diffusion",
        "L_10, prior",
    ]
    bits = [2.0, 28.0, 32.0]  # of the mean image
    nats = [6 * math.log(2) * value for value in bits]
    assert [row["bits/dim"] for row in kinds.rows[:3]] == pytest.approx(bits)
    assert [row["nats per image"] for row in kinds.rows[:3]] == pytest.approx(nats)
    spread = 2 / math.sqrt(3) / 2  # over the mean: of 0, 2, 4
    assert [row["± s.e."] for row in kinds.rows[:3]] == pytest.approx([spread * value for value in nats])


def test_the_kinds_are_metrics_and_make_up_the_score(model):
    _, result = run(model, 0, 2, 4)
    metrics = result.metrics
    for split in ("val", "test"):
        kinds = [f"likelihood/{split}/{kind}" for kind in ("reconstruction", "diffusion", "prior")]
        assert sum(metrics[kind] for kind in kinds) == pytest.approx(-metrics[f"likelihood/{split}/log_prob"])
        in_bits = sum(metrics[f"{kind}_bits_per_dim"] for kind in kinds)
        assert in_bits == pytest.approx(metrics[f"likelihood/{split}/bits_per_dim"])
        assert in_bits == pytest.approx(62)
        assert all(metrics[f"{kind}_se"] > 0 for kind in kinds)
    assert result.rows[0]["log p(x)"] == pytest.approx(-62 * 6 * math.log(2))
    assert result.scores["test"].tolist() == pytest.approx([-x * 31 * 6 * math.log(2) for x in (0, 2, 4)])


def test_the_steps_are_for_the_file_alone(model):
    _, result = run(model, 1, 1, 1)
    _, steps = result.further
    assert not steps.printed
    found = [
        (row["first step"], row["last step"], row["bits/dim"]) for row in steps.rows if row["set"] == "set test"
    ]
    assert found == [
        (1, 1, pytest.approx(1)),
        (2, 3, pytest.approx(2)),
        (4, 7, pytest.approx(4)),
        (8, 10, pytest.approx(8)),
    ]


def test_another_likelihood_of_such_a_model_is_scored_as_a_whole(model):
    model.likelihood = "unbiased"
    _, result = run(model, 0, 2, 4)
    assert not result.further
    assert result.metrics["likelihood/test/log_prob"] == -100
    assert "likelihood/test/prior" not in result.metrics


def test_figures_are_drawn_of_both(model, tmp_path):
    evaluation, result = run(model, 1, 2, 3)
    evaluation.draw(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"likelihood{part}.{suffix}" for part in ("", "_steps") for suffix in ("png", "svg")
    }


def test_the_figure_shows_what_one_step_costs(tmp_path, monkeypatch):
    """A stratum's term is shared among its steps, and stands at their geometric middle."""
    drawn = []
    monkeypatch.setattr("genlab.report.step_terms.save", lambda figure, path: drawn.append(figure))
    draw_step_terms({"test": torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])}, Chain.strata, "title", tmp_path / "x")
    curve, first, last, *_ = drawn[0].axes[0].lines
    assert curve.get_xdata().tolist() == pytest.approx([6**0.5, 28**0.5, 80**0.5])
    assert curve.get_ydata().tolist() == pytest.approx([1, 1, 8 / 3])
    assert (first.get_xdata().tolist(), first.get_ydata().tolist()) == ([1], [1.0])
    assert (last.get_xdata().tolist(), last.get_ydata().tolist()) == ([10], [16.0])
    assert "31 bits/dim in all" in curve.get_label()
