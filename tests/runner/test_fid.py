"""The quality of samples through the command line: while a model trains, at the end, and of a saved run."""

import json

import pytest
from harness import (
    QUIET,
    assert_same_run,
    differences,
    genlab,
    only_run,
    rows,
    state,
    train,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genlab.callbacks.base import Snapshot
from genlab.callbacks.fid import FID, FIDConfig
from genlab.extractors.base import Extractor, Features
from genlab.models.base import Model
from genlab.registry import EXTRACTORS
from genlab.types import DataSpec


@EXTRACTORS.register("quarters")
class Quarters(Extractor):
    """Brightness of the four quarters, the brightest of which is the class."""

    name = "quarters"
    num_features = 4
    num_classes = 4
    trained_on = "noise"

    def forward(self, x):
        values = x.float().mean(1).unflatten(1, (2, -1)).unflatten(3, (2, -1)).mean((2, 4)).flatten(1)
        return Features(values, values)


COUNTS = ["num_samples=30", "max_images=20", "extractor=quarters", "batch_size=16"]
WATCHED = [*QUIET, "trainer.epochs=3", "callbacks=fid", *(f"callbacks.fid.{count}" for count in COUNTS)]
MEASURED = [
    *(override for override in QUIET if not override.startswith("evaluation.")),
    "evaluation=fid",
    *(f"evaluation.{count}" for count in COUNTS),
]
MODEL = {"fid/quarters", "fid/quarters/modes", "fid/quarters/class_kl"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Three epochs of four steps each, measured after all of them."""
    return train(tmp_path_factory.mktemp("watched"), *WATCHED)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return train(tmp_path_factory.mktemp("measured"), *MEASURED)


def _logged(run):
    """Step, epoch and name of what the callback logged."""
    return {row[:3] for row in rows(run) if row[2].startswith("fid/")}


# ------------------------------------------------------------------ while it trains


def test_numbers_are_logged_by_name_at_their_epochs(watched):
    assert _logged(watched) == {(str(4 * epoch), str(epoch), name) for epoch in (1, 2, 3) for name in MODEL}
    summary = json.loads((watched / "summary.json").read_text())["metrics"]
    assert summary.keys() >= MODEL
    assert summary["fid/quarters"] > 0
    assert 1 <= summary["fid/quarters/modes"] <= 4


def test_other_epochs_and_measures_can_be_named(here):
    named = ["callbacks.fid.at=[last]", "callbacks.fid.every=2", "callbacks.fid.measures=[kid,prdc]"]
    run = train(here, *WATCHED, *named)
    measures = ("kid", "kid_std", "precision", "recall", "density", "coverage")
    assert _logged(run) == {(str(4 * e), str(e), f"fid/quarters/{name}") for e in (2, 3) for name in measures}
    assert not list((run / "figures").glob("fid.*"))


def test_figures_are_drawn_and_shown(watched):
    drawn = {path.name for path in (watched / "figures").iterdir()}
    assert drawn >= {f"{name}.{kind}" for name in ("fid", "classes") for kind in ("png", "svg")}
    events = EventAccumulator(str(watched / "tensorboard"), size_guidance={"images": 0}).Reload()
    for name in ("fid", "classes"):
        assert [image.step for image in events.Images(name)] == [4, 8, 12]
    assert {event.step for event in events.Scalars("fid/quarters")} == {4, 8, 12}


def test_measuring_moves_nothing(watched, here):
    plain = train(here / "plain", *QUIET, "trainer.epochs=3")
    for key in ("model", "ema", "optimizers", "random"):
        assert list(differences(state(watched)[key], state(plain)[key], key)) == []


def test_a_resumed_run_has_the_whole_history(watched, here):
    sabotaged = [*WATCHED, "plugins=[saboteur]", "model.name=saboteur"]
    assert genlab("train", *sabotaged, "+model.deed=interrupt", "+model.at=5").code == 130
    run = only_run(here / "outputs")
    assert genlab("train", f"resume={run}").code == 0
    assert_same_run(run, watched)
    history = state(run)["callbacks"]["fid"]["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert history[0]["values"].keys() == {f"{name}/quarters" for name in ("fid", "modes", "class_kl")}


def test_a_model_that_does_not_sample_is_left_alone():
    callback = FID(FIDConfig(extractor="none such"))
    callback.check(Model, None)
    snapshot = Snapshot(Model(DataSpec(1, 8, 8)), None, None, None, "train", 1, 1, 1, {})
    assert callback.on_epoch_end(snapshot) is None
    callback.on_train_end(snapshot)


# ------------------------------------------------------------------ when it has trained


def test_a_trained_model_is_measured(measured):
    report = json.loads((measured / "evaluation" / "fid.json").read_text())
    rows = {row["measure"]: (row["samples"], row["training images"]) for row in report["rows"]}
    assert rows["images"] == (30, 30)
    assert "against 20 test images of noise" in report["title"]
    assert "4 features of quarters" in report["notes"][0]
    assert report["metrics"]["fid/quarters"] == rows["FID"][0]
    assert (measured / "figures" / "classes.png").exists()
    summary = json.loads((measured / "summary.json").read_text())["metrics"]
    assert report["metrics"].items() <= summary.items()


def test_a_saved_run_is_measured(run):
    outcome = genlab("eval", f"run={run}", "evaluation=fid", *(f"evaluation.{count}" for count in COUNTS))
    assert (outcome.code, outcome.err) == (0, "")
    for word in ("samples", "training images", "FID", "KID x 1000", "coverage", "class KL"):
        assert word in outcome.out
    first = (run / "evaluation" / "fid.json").read_text()
    genlab("eval", f"run={run}", "evaluation=fid", *(f"evaluation.{count}" for count in COUNTS))
    assert (run / "evaluation" / "fid.json").read_text() == first  # drawn by the seed, features from the cache


# ------------------------------------------------------------------ what doesn't fit


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*WATCHED, "callbacks.fid.extractor=quarter"], "did you mean 'quarters'"),
        ([*WATCHED, "callbacks.fid.extractor=fashion_cnn"], "callbacks.fid=null leaves it out"),
        ([*WATCHED, "callbacks.fid.num_samples=1"], "callbacks.fid: num_samples=1"),
        ([*WATCHED, "callbacks.fid.at=[end]"], "callbacks.fid.at"),
        ([*MEASURED, "evaluation.extractor=quarter"], "did you mean 'quarters'"),
        ([*MEASURED, "evaluation.extractor=inception", "evaluation.weights=none.pth"], "none.pth"),
        ([*MEASURED, "evaluation.measures=[]"], "name at least one"),
        ([*MEASURED, "evaluation.split=val", "dataset.num_val=0"], "num_val=0"),
    ],
)
def test_it_is_said_in_one_line_before_training(overrides, said, here):
    outcome = genlab("train", *overrides)
    assert outcome.code == 2
    assert said in outcome.complaint()
    assert not list(here.glob("outputs/**/config.yaml"))
