"""Looking at a run moves nothing in it."""

import pytest
import torch
from harness import QUIET, TINY, UNMEASURED, differences, genlab, rows, state, train

from genlab.assemble import model_builder
from genlab.hardware import HardwareConfig, select
from genlab.trainer import Trainer
from genlab.types import DataSpec

EMA = "trainer.ema_decay=0.9"
MOVED = ("model", "ema", "optimizers", "random")
"""What training moves, in a checkpoint."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"), *QUIET, EMA)


def _moved(a, b):
    return [where for key in MOVED for where in differences(state(a)[key], state(b)[key], key)]


@pytest.mark.parametrize(
    "watching",
    [
        [],
        ["callbacks=early_stopping"],
        ["callbacks.sample_grid.every=2", "callbacks.sample_grid.n=4"],
        ["callbacks.log_prob_histogram.num_images=7", "callbacks.sample_grid=null"],
        ["trainer.log_every=3", "trainer.checkpoint_every=1"],
    ],
    ids=" ".join,
)
def test_watching_does_not_change_the_training(watching, plain, here):
    watched = train(here / "watched", *TINY, *UNMEASURED, EMA, *watching)
    assert _moved(watched, plain) == []


def test_validation_does_not_change_the_training(plain, here, monkeypatch):
    monkeypatch.setattr(Trainer, "_validate", lambda self: None)
    blind = train(here / "blind", *QUIET, EMA)
    assert not any(row[2].startswith("val/") for row in rows(blind))
    assert _moved(blind, plain) == []


def test_averaging_weights_does_not_change_the_training(plain, here):
    other = train(here / "other", *QUIET)
    assert [where for where in _moved(other, plain) if not where.startswith("ema")] == []


def test_a_callback_that_was_not_isolated_would_be_noticed(plain, here, monkeypatch):
    monkeypatch.setattr(Trainer, "_validate", lambda self: torch.rand(1))
    assert _moved(train(here / "careless", *QUIET, EMA), plain) != []


def test_sampling_puts_random_state_and_training_mode_back():
    values = {"name": "realnvp", "num_flows": 4, "net": {"name": "mlp", "hidden_dim": 8}}
    model = model_builder(values)(DataSpec(1, 8, 8)).train()
    before = torch.get_rng_state()
    with select(HardwareConfig(device="cpu")).isolated(model, seed=0):
        inside = model.sample(4)
        assert not model.training
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert inside.float().std() > 0


@pytest.mark.parametrize("command", [["eval"], ["sample"]], ids="".join)
def test_a_verb_that_reads_a_run_leaves_its_checkpoints(command, run):
    files = sorted((run / "checkpoints").iterdir())
    before = [path.read_bytes() for path in files]
    assert genlab(*command, f"run={run}").code == 0
    assert sorted((run / "checkpoints").iterdir()) == files
    assert [path.read_bytes() for path in files] == before
