"""What a run leaves behind, and what eval and sample make of it."""

import json
import os

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from harness import IMAGES, QUIET, TINY, TRAINING, UNWATCHED, genlab, rows, train
from painter import STEP
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)

from genlab import own
from genlab.models.flow import Flow

TERMS = ["loss", "log_prior", "log_det", "bits_per_dim"]


def test_the_configuration_is_saved(finished):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["trainer"]["epochs"] == 2
    assert saved["model"]["net"]["hidden_dim"] == 8
    assert saved["dataset"]["name"] == "noise"


def test_metrics_have_every_term_at_every_step(finished):
    steps = {}
    for step, _, name, value in rows(finished):
        steps.setdefault(name, []).append(int(step))
        assert np.isfinite(float(value))
    every, ends = list(range(1, 9)), [4, 8]
    expected = {f"train/{term}": every for term in [*TERMS, "grad_norm"]} | {"lr": every}
    assert steps == expected | {f"val/{term}": ends for term in TERMS}


def test_the_summary_has_the_final_metrics(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["steps"], summary["epochs"], summary["run_name"]) == (8, 2, "realnvp-noise")
    assert summary["versions"].keys() == {"genlab", "torch", "python"}
    last = {name: float(value) for step, _, name, value in rows(finished) if step == "8"}
    assert summary["metrics"]["val/loss"] == pytest.approx(last["val/loss"])
    assert {
        "likelihood/train/bits_per_dim",
        "likelihood/test/bits_per_dim",
        "likelihood/test/log_prob",
    } <= summary["metrics"].keys()


@pytest.mark.parametrize(
    "name",
    [
        "loss_curves.png",
        "samples_9.png",
        "samples_16.png",
        "samples_25.png",
        "samples_over_epochs.png",
        "samples/epoch_0001.png",
        "samples/epoch_0002.png",
        "likelihood.png",
    ],
)
def test_figures_show_something(name, finished):
    picture = mpl.image.imread(finished / "figures" / name)
    assert np.atleast_3d(picture)[..., :3].std() > 0.01


def test_a_finished_run_leaves_nothing_else(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {
        "checkpoints",
        "commands.txt",
        "config.yaml",
        "evaluation",
        "figures",
        "metrics.csv",
        "report.html",
        "summary.json",
        "tensorboard",
        "train.log",
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"last.pt", "previous.pt", "best.pt"}


# ------------------------------------------------------------------ TensorBoard


@pytest.fixture(scope="module")
def events(finished):
    return EventAccumulator(
        str(finished / "tensorboard"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE
    ).Reload()


def test_tensorboard_has_the_numbers_of_metrics_csv(events, finished):
    for name in {row[2] for row in rows(finished)}:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(int(step), float(value)) for step, _, n, value in rows(finished) if n == name]
        # The last validation is there twice: hparams shows the final metrics.
        assert {step for step, _ in read} == {step for step, _ in expected}
        values = dict(expected)
        assert [value for _, value in read] == pytest.approx([values[step] for step, _ in read], rel=1e-6), name


def test_tensorboard_has_the_speed(events):
    assert all(event.value > 0 for event in events.Scalars("images_per_second"))


def test_tensorboard_has_samples_after_each_epoch(events):
    assert [image.step for image in events.Images("samples")] == [4, 8]
    image = events.Images("samples")[0]
    side = 5 * (8 + 2) + 2  # 25 images of 8x8 with borders of 2, all of it enlarged
    assert image.width == image.height
    assert image.width % side == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_tensorboard_has_histograms_of_log_prob(split, events):
    histograms = events.Histograms(f"log_prob/{split}")
    assert [h.step for h in histograms] == [4, 8]
    assert histograms[0].histogram_value.num == {"train": 64, "val": 32}[split]


def test_tensorboard_has_the_configuration(events, finished):
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    shown = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    assert yaml.safe_load(shown) == yaml.safe_load((finished / "config.yaml").read_text())


def test_tensorboard_has_hparams_with_metrics(events):
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"trainer.optimizer.lr" in plugin
    assert b"model.num_flows" in plugin
    assert "_hparams_/session_end_info" in events.summary_metadata
    assert events.Scalars("likelihood/test/bits_per_dim")


# ------------------------------------------------------------------ eval


def _report(run, name):
    return json.loads((run / "evaluation" / f"{name}.json").read_text())


def test_eval_of_the_latest_writes_the_likelihood(run):
    (run / "evaluation" / "likelihood.json").unlink()
    outcome = genlab("eval", "run=latest", "evaluation=likelihood")
    assert (outcome.code, outcome.err) == (0, "")
    report = _report(run, "likelihood")
    assert [(row["set"], row["images"]) for row in report["rows"]] == [("noise train", 64), ("noise test", 96)]
    assert 7.5 < report["metrics"]["likelihood/test/bits_per_dim"] < 10  # noise has 8


def test_eval_measures_what_the_training_measured(run):
    trained = _report(run, "likelihood")
    assert genlab("eval", f"run={run}").code == 0
    assert _report(run, "likelihood") == trained


def test_eval_takes_overrides(run):
    assert genlab("eval", f"run={run}", "evaluation.max_images=10", "evaluation.splits=[val]").code == 0
    assert [(row["set"], row["images"]) for row in _report(run, "likelihood")["rows"]] == [("noise val", 10)]


def test_eval_of_the_last_weights(run):
    (run / "checkpoints" / "best.pt").write_bytes(b"broken")
    assert genlab("eval", f"run={run}", "weights=last").code == 0


def test_latest_is_the_newest(run, here):
    newer = train(here / "outputs" / "newer", *QUIET)
    assert str(newer) in genlab("sample").out
    later = (run / "config.yaml").stat().st_mtime + 1000
    os.utime(run / "config.yaml", (later, later))
    assert str(run) in genlab("sample").out


# ------------------------------------------------------------------ sample


def _sample(run, name, *overrides):
    outcome = genlab("sample", f"run={run}", "n=6", "format=npz", f"output={name}.npz", *overrides)
    assert (outcome.code, outcome.err) == (0, "")
    with np.load(f"{name}.npz") as arrays:
        return arrays["images"]


def test_samples_are_uint8_images(finished):
    images = _sample(finished, "a")
    assert (images.shape, images.dtype) == ((6, 1, 8, 8), np.uint8)


def test_one_seed_gives_the_same_samples(finished):
    assert np.array_equal(_sample(finished, "a", "seed=3"), _sample(finished, "b", "seed=3"))


def test_another_seed_gives_other_samples(finished):
    assert not np.array_equal(_sample(finished, "a", "seed=3"), _sample(finished, "b", "seed=4"))


def test_the_size_of_batches_does_not_change_the_samples(finished):
    assert np.array_equal(_sample(finished, "a"), _sample(finished, "b", "batch_size=4"))


def test_no_batch_is_larger_than_memory_allows(finished, monkeypatch):
    """Whatever was asked for: of 8x8 pixels, two images are 128 numbers."""
    sizes = []
    decode = Flow.decode
    with monkeypatch.context() as patch:
        patch.setattr("genlab.models.base._MAX_NUMBERS", 128)
        patch.setattr(Flow, "decode", lambda model, z: sizes.append(len(z)) or decode(model, z))
        images = _sample(finished, "a", "batch_size=1000")
    assert sizes == [2, 2, 2]
    assert np.array_equal(images, _sample(finished, "b"))


def test_a_low_temperature_stays_near_the_mode(finished):
    spread = [_sample(finished, f"t{t}", f"temperature={t}").std(0).mean() for t in (0.1, 1.0)]
    assert spread[0] < spread[1] / 2


def test_a_png_lands_in_the_runs_folder(run):
    outcome = genlab("sample", f"run={run}", "n=9", "seed=2")
    target = run / "samples" / "seed2_n9.png"
    assert str(target) in outcome.out
    assert mpl.image.imread(target).std() > 0.01


# ------------------------------------------------------------------ sample by class


@pytest.fixture(scope="module")
def _painted(tmp_path_factory):
    plugin = ["plugins=[painter]", "~model", "+model.name=painter", "~evaluation"]
    return train(tmp_path_factory.mktemp("conditional"), *IMAGES, *TRAINING, *UNWATCHED, *plugin)


@pytest.fixture
def conditional(_painted, here):
    """A run of a model with three classes, each of a grey of its own; made under another test's cache."""
    own.remember(_painted, ["painter"])
    return _painted


def _greys(images):
    """The class that the grey of each image is of."""
    return (images[:, 0, 0, 0] // STEP - 1).tolist()


def test_each_label_has_n_images(conditional):
    _sample(conditional, "a", "labels=[2,0]", "n=3", "batch_size=2")
    with np.load("a.npz") as arrays:
        assert arrays["labels"].tolist() == [2, 2, 2, 0, 0, 0]
        assert _greys(arrays["images"]) == arrays["labels"].tolist()


def test_without_labels_the_model_chooses(conditional):
    assert set(_greys(_sample(conditional, "a", "n=40"))) == {0, 1, 2}
    with np.load("a.npz") as arrays:
        assert arrays.files == ["images"]


def test_a_png_has_a_row_for_each_label(conditional):
    outcome = genlab("sample", f"run={conditional}", "n=4", "labels=[1,2]")
    target = conditional / "samples" / "seed0_n4_labels1-2.png"
    assert str(target) in outcome.out
    assert "8 images" in outcome.out
    cell = 112 + 2 * 14  # 8x8 pixels enlarged by 14, and a border of two such
    levels = np.rint(mpl.image.imread(target)[70::cell, 70::cell, 0] * 255) // STEP - 1
    assert levels.tolist() == [[1] * 4, [2] * 4]


def test_many_labels_make_no_long_name(conditional):
    for labels in ("[0,1,2]", f"[{','.join(['0,1'] * 30)}]", f"[{','.join(['1,0'] * 30)}]"):
        assert genlab("sample", f"run={conditional}", "n=1", f"labels={labels}").code == 0
    names = [path.name for path in (conditional / "samples").glob("seed0_n1_*")]
    assert len(names) == 3
    assert max(map(len, names)) < 60


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[0,3]", "labels: 3 is none of the 3 classes 0 to 2 of the model"),
        ("[-1]", "labels.0=-1: input should be greater than or equal to 0"),
        ("two", "labels='two': input should be a valid array"),
    ],
)
def test_labels_that_are_none_are_named(labels, message, conditional):
    outcome = genlab("sample", f"run={conditional}", f"labels={labels}")
    assert outcome.complaint() == message
    assert outcome.code == 2


def test_an_unconditional_model_takes_no_labels(run):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"never read")
    outcome = genlab("sample", f"run={run}", "labels=[0]")
    assert outcome.complaint() == "RealNVP is unconditional: leave labels=null"
    assert outcome.code == 2


# ------------------------------------------------------------------ early stopping


def test_early_stopping_ends_a_run_that_gets_no_better(here):
    run = train(
        here / "outputs",
        *QUIET,
        "trainer.epochs=50",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.min_delta=1000",
        "callbacks.sample_grid=null",
    )
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3


def test_a_run_without_validation_finishes(here):
    run = train(here / "outputs", *TINY, "dataset.num_val=0")
    assert not (run / "checkpoints" / "best.pt").exists()
    assert genlab("eval", f"run={run}").code == 0


@pytest.mark.parametrize(
    "verb", [["eval", "evaluation=likelihood"], ["sample", "n=2"]], ids=lambda verb: verb[0]
)
def test_what_a_trained_model_is_asked_for_is_compiled_too(run, monkeypatch, verb):
    asked = []
    monkeypatch.setattr("genlab.hardware.compile_model", lambda modules, mode: asked.append((modules, mode)))
    assert genlab(*verb, f"run={run}", "hardware.compile=default").code == 0
    (((model,), mode),) = asked
    assert isinstance(model, Flow)
    assert mode == "default"
