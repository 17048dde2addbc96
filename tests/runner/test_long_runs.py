"""A run of thousands of epochs: what it keeps, and what may not grow with it."""

import errno
import json
import os
import re

import pytest
from harness import IMAGES, QUIET, TRAINING, UNWATCHED, genlab, only_run, train
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)

from genlab import checkpoint

VAE = ["model=vae", "model.latent_dim=2", "model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8"]


def _names(run):
    return {path.stem for path in (run / "checkpoints").iterdir()}


# ------------------------------------------------------------------ kept weights


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return train(tmp_path_factory.mktemp("kept"), *QUIET, "trainer.epochs=4", "trainer.keep=2")


def test_nothing_is_kept_beside_the_last_and_the_best_by_default(finished):
    assert _names(finished) == {"last", "previous", "best"}


def test_the_weights_of_the_last_epochs_are_kept(kept):
    assert _names(kept) == {"last", "previous", "best", "epoch-3", "epoch-4"}
    found = {epoch: checkpoint.load(kept / "checkpoints" / f"epoch-{epoch}.pt") for epoch in (3, 4)}
    assert [(state["epoch"], state["step"]) for state in found.values()] == [(3, 12), (4, 16)]


def test_kept_weights_can_be_evaluated_and_sampled_from(kept, here):
    images = []
    for weights in ("epoch-3", "epoch-4", "last"):
        outcome = genlab("sample", f"run={kept}", "n=4", f"weights={weights}", f"output={weights}.png")
        assert (outcome.code, outcome.err) == (0, "")
        images.append((here / f"{weights}.png").read_bytes())
    assert images[0] != images[1]
    assert images[1] == images[2]
    measured = genlab("eval", f"run={kept}", "evaluation=likelihood", "weights=epoch-3")
    assert (measured.code, measured.err) == (0, "")


def test_weights_that_were_not_kept_are_named_with_those_that_were(kept):
    outcome = genlab("eval", f"run={kept}", "evaluation=likelihood", "weights=epoch-1")
    assert "has no weights 'epoch-1'; it has best, epoch-3, epoch-4, last" in outcome.complaint()
    assert outcome.code != 0


@pytest.mark.parametrize("weights", ["epoch", "epoch-0", "../../other/last", "epoch-1.pt", "bst"])
def test_weights_of_no_known_name_are_refused(weights, kept):
    outcome = genlab("sample", f"run={kept}", f"weights={weights}")
    assert (
        outcome.complaint()
        == f"weights: '{weights}' is neither best nor last nor an epoch, epoch-12 for instance"
    )
    assert outcome.code == 2


def test_fewer_are_kept_when_a_run_goes_on_with_fewer(here):
    run = train(here / "outputs", *QUIET, "trainer.epochs=3", "trainer.keep=3")
    stranger = run / "checkpoints" / "epoch-of-mine.pt"
    stranger.touch()
    assert genlab("train", f"resume={run}", "trainer.epochs=4", "trainer.keep=1").code == 0
    assert _names(run) == {"last", "previous", "best", "epoch-4", stranger.stem}


def test_every_stage_keeps_its_own(here):
    model = ["model=latent_realnvp", "model.latent_dim=2", "trainer.epochs=2", "trainer.keep=1"]
    run = train(here / "outputs", *IMAGES, *TRAINING, *UNWATCHED, "evaluation=null", *model)
    assert _names(run) == {"last", "previous", "best", "autoencoder-epoch-2", "flow-epoch-2"}
    assert genlab("sample", f"run={run}", "n=2", "weights=flow-epoch-2").code == 0


def test_old_weights_go_only_once_the_new_ones_are_safe(here, monkeypatch):
    save = checkpoint.save

    def full(path, state, keep=None):
        if path.stem == "epoch-3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, state, keep)

    monkeypatch.setattr(checkpoint, "save", full)
    options = ["trainer.epochs=3", "trainer.keep=2", "output_dir=outputs"]
    outcome = genlab("train", *QUIET, *options)
    assert "epoch-3" in outcome.complaint()
    assert _names(only_run(here / "outputs")) == {"last", "previous", "best", "epoch-1", "epoch-2"}


# ------------------------------------------------------------------ the log


def test_the_log_goes_on_in_a_new_file_before_it_is_too_large(here):
    file = "hydra.job_logging.handlers.file"
    limits = [f"{file}.maxBytes=1000", f"{file}.backupCount=2"]
    run = train(here / "outputs", *QUIET, "trainer.epochs=40", *limits)
    logs = sorted(run.glob("train.log*"))
    assert [path.name for path in logs] == ["train.log", "train.log.1", "train.log.2"]
    assert all(path.stat().st_size <= 1000 for path in logs)
    epochs = re.findall(r"epoch (\d+)/40", "".join(path.read_text() for path in reversed(logs)))
    assert epochs == [str(epoch) for epoch in range(int(epochs[0]), 41)]  # the newest, without a gap


# ------------------------------------------------------------------ memory and disk


def _weighed(outputs, *overrides):
    """What the process and its files had grown to at some epochs, of a run that is watched by default."""
    run = train(outputs, *IMAGES, *TRAINING, *VAE, "evaluation=null", "plugins=[scales]", *overrides)
    return run, [json.loads(line) for line in (run / "scales.jsonl").read_text().splitlines()]


def test_nothing_that_an_epoch_makes_is_held_after_it(here):
    """Every fifth epoch draws all figures, so that there are six times all of them."""
    every = "+callbacks.scales={every: 10}"
    _, weighed = _weighed(here / "outputs", "trainer.epochs=40", every)
    early, late = weighed[0]["objects"], weighed[-1]["objects"]
    assert len(weighed) == 4
    assert late - early < 300  # ten an epoch: a figure has thousands; samples of speed and glyphs are cached


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_epochs_neither_take_memory_nor_fill_the_disk(here):
    every = "+callbacks.scales={every: 500}"
    run, weighed = _weighed(
        here / "outputs", "trainer.epochs=2000", "trainer.log_every=50", every, "trainer.keep=2"
    )
    early, late = weighed[0], weighed[-1]
    assert (early["epoch"], late["epoch"]) == (500, 2000)
    print(json.dumps(weighed, indent=1))
    # 45 kB an epoch, less than any figure takes; an allocator's own ups and downs were of 50 MiB at most.
    assert late["resident"] - early["resident"] < 64 * 2**20
    assert late["objects"] - early["objects"] < 1500  # one an epoch: samples of speed, up to a thousand
    events = EventAccumulator(str(run / "tensorboard"), STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
    assert all(len(events.Images(tag)) <= 101 for tag in events.Tags()["images"])  # the last one at the end
    assert all(len(events.Histograms(tag)) <= 100 for tag in events.Tags()["histograms"])
    assert len(list((run / "figures" / "samples").iterdir())) <= 100
    assert _names(run) == {"last", "previous", "best", "epoch-1999", "epoch-2000"}
    numbers = (late["metrics.csv"] + late["train.log"]) / 2000
    assert numbers < 1500  # bytes an epoch: a dozen rows of 40 and a line of 140
