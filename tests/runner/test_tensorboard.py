"""What TensorBoard finds in the event files of a run, tab by tab."""

import re

import pytest
import torch
from harness import IMAGES, QUIET, TRAINING, UNMEASURED, UNWATCHED, genlab, only_run, train
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from genlab.assemble import model_builder
from genlab.callbacks.base import EpochsConfig
from genlab.config import conf_dir
from genlab.logger import RunLogger
from genlab.run_folder import RunFolder
from genlab.tensorboard_layout import layout
from genlab.types import Batch, DataSpec

VAE = ["model=vae", "model.latent_dim=2", "model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8"]
SPEC = DataSpec(1, 8, 8, num_classes=3)


def _read(folder):
    return EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()


def _layout(events):
    """Patterns of tags by category and title, as the newest layout has them."""
    proto = layout_pb2.Layout()
    proto.ParseFromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in proto.category
    }


def _start(events):
    plugin = plugin_data_pb2.HParamsPluginData()
    plugin.ParseFromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    return {name: _value(value) for name, value in plugin.session_start_info.hparams.items()}


def _value(value):
    return getattr(value, value.WhichOneof("kind"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A run of an autoencoder that is watched by all that there is."""
    watched = ["callbacks.weights={every: 1}"]
    return train(tmp_path_factory.mktemp("vae"), *IMAGES, *TRAINING, *VAE, *UNMEASURED, *watched)


@pytest.fixture(scope="module")
def events(vae):
    return _read(vae / "tensorboard")


# ------------------------------------------------------------------ custom scalars


def test_every_curve_of_a_run_is_in_one_chart(events):
    charts = [patterns for charts in _layout(events).values() for patterns in charts.values()]
    curves = [
        tag for tag in events.Tags()["scalars"] if not tag.startswith("likelihood/")
    ]  # measured once: no curve
    for tag in curves:
        assert sum(any(re.match(pattern, tag) for pattern in patterns) for patterns in charts) == 1, tag
    patterns = [pattern for chart in charts for pattern in chart]
    assert all(sum(bool(re.match(pattern, tag)) for tag in curves) == 1 for pattern in patterns)


def test_a_term_of_training_and_validation_share_a_chart(events):
    found = _layout(events)
    assert found["Loss"]["loss"] == ["train/loss$", "val/loss$"]
    assert found["Terms"]["kl"] == ["train/kl$", "val/kl$"]
    assert found["Terms"]["reconstruction"] == ["train/reconstruction$", "val/reconstruction$"]
    assert found["Speed"] == {"images_per_second": ["images_per_second$"]}
    assert "active_units" in found["posterior"]


FAMILIES = {
    "vae": {"Loss": {"loss"}, "Terms": {"kl", "reconstruction"}},
    "gan": {"Loss": {"losses"}, "Terms": {"D(x) and D(G(z))"}},
    "realnvp": {"Loss": {"loss", "bits_per_dim"}, "Terms": {"log_det", "log_prior"}},
    "ddpm": {"Loss": {"loss"}, "Terms": {"mse"}},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_terms_that_a_model_yields_have_the_charts_of_its_family(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"model={name}", "run_name=test"])
    model = model_builder(OmegaConf.to_container(composed.model))(SPEC)
    batch = Batch(torch.zeros(4, *SPEC.shape, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    (stage,) = model.stages()
    terms = [t for u in model.updates(batch, stage.name, 0) for t in u.terms(alone=len(stage.groups) == 1)]
    found = layout(f"{split}/{term}" for split in ("train", "val") for term in terms)
    for category, titles in FAMILIES[name].items():
        assert titles <= found[category].keys()


def test_a_resumed_run_shows_every_chart_from_its_first_step_on(here):
    short = [*QUIET, "trainer.epochs=1"]
    run = train(here / "outputs", *short)
    before = set((run / "tensorboard").iterdir())
    assert genlab("train", f"resume={run}", "trainer.epochs=2").code == 0
    (newer,) = set((run / "tensorboard").iterdir()) - before
    proto = layout_pb2.Layout()
    first = _read(newer).Tensors("custom_scalars__config__")[0]
    proto.ParseFromString(first.tensor_proto.string_val[0])
    assert ["train/loss$", "val/loss$"] in [list(c.multiline.tag) for p in proto.category for c in p.chart]


def test_an_evaluation_leaves_the_charts_of_the_training(run):
    assert genlab("eval", f"run={run}").code == 0
    assert {"Loss", "Terms", "Speed"} <= _layout(_read(run / "tensorboard")).keys()


# ------------------------------------------------------------------ hyperparameters


def test_a_run_says_at_its_beginning_what_it_is_set_to(events):
    start = _start(events)
    assert (start["model.beta"], start["seed"], start["dataset"]) == (1.0, 0.0, "noise")
    assert start["model.sample_pixels"] == "false"  # a number would read 0


def test_runs_of_different_models_are_compared_by_all_that_either_has(here):
    """TensorBoard takes one description of an experiment for all runs, so that none may describe its own."""
    vae = train(here / "a", *IMAGES, *TRAINING, *UNWATCHED, *VAE, "trainer.max_steps=1", *UNMEASURED)
    flow = train(here / "b", *QUIET, "trainer.max_steps=1")
    starts = []
    for run in (vae, flow):
        events = _read(run / "tensorboard")
        assert "_hparams_/experiment" not in events.summary_metadata
        assert "_hparams_/session_end_info" in events.summary_metadata
        starts.append(_start(events))
    assert "model.latent_dim" in starts[0].keys() - starts[1].keys()
    assert "model.num_flows" in starts[1].keys() - starts[0].keys()


def test_a_run_that_has_not_ended_says_so(here):
    options = ["plugins=[saboteur]", "model.name=saboteur", "+model.deed=not_finite"]
    assert genlab("train", *QUIET, *options).code != 0
    events = _read(only_run(here / "outputs") / "tensorboard")
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert "_hparams_/session_end_info" not in events.summary_metadata


# ------------------------------------------------------------------ images and histograms


def test_every_image_has_a_slider_over_epochs(events):
    for tag in ("samples", "reconstructions"):
        assert [image.step for image in events.Images(tag)] == [4, 8]
    assert {"latent_map", "kl_per_dim", "traversals"} <= set(events.Tags()["images"])


def test_histograms_of_the_weights_are_drawn_by_choice(events, finished):
    weights = [tag for tag in events.Tags()["histograms"] if tag.startswith("weights/")]
    assert any(tag.endswith(".weight") for tag in weights)
    assert [event.step for event in events.Histograms(weights[0])] == [4, 8]
    assert not any(tag.startswith("weights/") for tag in _read(finished / "tensorboard").Tags()["histograms"])


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), st.integers(1, 5000))
def test_a_long_run_is_looked_at_so_many_times_at_most(every, most, epochs):
    thin = EpochsConfig(every=every, most=most)
    due = [epoch for epoch in range(1, epochs + 1) if thin.due(epoch, epochs)]
    assert len(due) <= most
    assert len(due) >= min(most // 2, epochs // every)  # and not needlessly seldom
    assert all(epoch % every == 0 for epoch in due)
    assert due[: most // 10] == [every * i for i in range(1, most // 10 + 1)][: len(due)]


# ------------------------------------------------------------------ curves of a detection


@pytest.fixture
def logger(here):
    return RunLogger(RunFolder(here))


def _pr_curve(folder, tag):
    """True positives, false positives, true negatives, false negatives, precision and recall by threshold."""
    events = _read(folder)
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "pr_curves"
    return torch.tensor(events.Tensors(tag)[0].tensor_proto.float_val).view(6, -1)


def test_scores_that_tell_two_sets_apart_have_a_perfect_curve(logger, here):
    """Scores as large as log-likelihoods are, whose sigmoid would be 0 for all."""
    inside, outside = torch.linspace(-1e4, -1.1e4, 50), torch.linspace(-2e4, -3e4, 150)
    logger.pr_curve("apart", inside, outside, step=3)
    logger.close()
    *_, precision, recall = _pr_curve(here / "tensorboard", "apart")
    # Of 200 scores under 127 thresholds two lie between the same ones: one of the others among the 50.
    assert precision[recall == 1].max() >= 50 / 51
    assert precision.max() == 1
    assert precision[0] == pytest.approx(50 / 200)  # everything taken for the own
    assert (precision[recall > 0].diff() >= -1e-6).all()


def test_scores_that_tell_nothing_have_the_share_of_the_own_everywhere(logger, here):
    scores = torch.linspace(-5, 5, 400)
    logger.pr_curve("alike", scores, scores, step=0)
    logger.close()
    *_, precision, recall = _pr_curve(here / "tensorboard", "alike")
    assert precision[recall > 0].tolist() == pytest.approx([0.5] * int((recall > 0).sum()))


def test_a_detection_shows_a_curve_for_each_score_and_set_and_the_roc_curves(run):
    scores = "evaluation.scores=[log_likelihood,typicality]"
    named = [scores, "evaluation.datasets=[constant]", "evaluation.resamples=2", "evaluation.max_images=12"]
    assert genlab("eval", f"run={run}", "evaluation=ood", *named).code == 0
    events = _read(run / "tensorboard")
    curves = [t for t, about in events.summary_metadata.items() if about.plugin_data.plugin_name == "pr_curves"]
    assert {"ood/log_likelihood/constant", "ood/typicality/constant"} <= set(curves)
    (image,) = events.Images("ood/roc")
    assert image.width > 300
