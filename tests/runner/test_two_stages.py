"""A model of two stages in the trainer: each moves what is its own, and a resume takes up either of them."""

import os
import signal

import pytest
from harness import IMAGES, TRAINING, UNMEASURED, UNWATCHED, assert_same_run, genlab, only_run, state, train

from genlab import checkpoint
from genlab.models.vq_vae import VQVAE

MODEL = [
    "model=vq_vae",
    "model.net={channels:[4,4],num_blocks:0}",
    "model.num_codes=8",
    "model.prior.channels=4",
    "model.prior.num_layers=1",
]
VQ_VAE = [*IMAGES, *MODEL, *TRAINING, *UNWATCHED, *UNMEASURED, "trainer.epochs=1"]
"""One epoch of four steps in each stage."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), *VQ_VAE)


def _stop(stage, at):
    """Train until SIGINT comes in step ``at`` of ``stage``."""
    updates = VQVAE.updates

    def interrupting(self, batch, now, step):
        if self.training and (now, step) == (stage, at):
            os.kill(os.getpid(), signal.SIGINT)
        yield from updates(self, batch, now, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VQVAE, "updates", interrupting)
        return genlab("train", *VQ_VAE)


def _moved(before, after):
    """The parts of the model that differ in two checkpoints."""
    a, b = before["model"], after["model"]
    return {name.split(".")[0] for name in a if not a[name].equal(b[name])}


def test_the_second_stage_leaves_the_first_as_it_is(whole):
    after_codes = checkpoint.load(whole / "checkpoints" / "previous.pt")
    after_prior = checkpoint.load(whole / "checkpoints" / "last.pt")
    assert (after_codes["stage"], after_prior["stage"]) == ("codes", "prior")
    assert _moved(after_codes, after_prior) == {"prior"}


@pytest.mark.parametrize("stage", ["codes", "prior"])
def test_a_resume_in_either_stage_ends_as_the_whole_run(stage, whole, here):
    assert _stop(stage, at=1).code == 130
    run = only_run(here / "outputs")
    assert (state(run)["stage"], state(run)["stage_step"]) == (stage, 2)
    assert genlab("train", f"resume={run}").code == 0
    assert_same_run(run, whole)


def test_each_stage_has_epochs_of_its_own(here):
    run = train(here / "outputs", *VQ_VAE, "trainer.stages.prior.epochs=2")
    assert (state(run)["step"], state(run)["stage_step"]) == (4 + 8, 8)
