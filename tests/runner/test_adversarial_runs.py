"""Adversarial models through the command line: reproducible, resumed within a cycle, without a best epoch."""

import json
import os
import signal
from typing import Literal

import numpy as np
import pytest
from harness import (
    IMAGES,
    TRAINING,
    UNWATCHED,
    assert_same_run,
    differences,
    genlab,
    only_run,
    state,
    train,
)

from genlab import checkpoint, results, verbs
from genlab.config import Seed, config
from genlab.metrics.base import Evaluation, Result
from genlab.models.gan import GAN
from genlab.registry import EVALUATIONS

UNMEASURED = ["callbacks=default", *UNWATCHED, "evaluation=null"]
NETS = [
    "model/generator=mlp",
    "model/discriminator=mlp",
    "model.generator.hidden_dims=[8,8]",
    "model.generator.batch_norm=true",
    "model.discriminator.hidden_dims=[8,8]",
    "model.latent_dim=4",
    "model.n_critic=3",
]
SETTINGS = [*NETS, *IMAGES, *TRAINING, *UNMEASURED]
WGAN = ["model=wgan", *SETTINGS, "model.discriminator.norm=batch"]
"""Two epochs of four steps: the generator steps in the third and the sixth of all eight."""
AVERAGED = [
    "model=wgan_gp",
    *SETTINGS,
    "model.discriminator.norm=spectral",
    "trainer.groups.generator.ema_decay=0.9",
]
RUNS = {"wgan": WGAN, "averaged": AVERAGED}


@pytest.fixture(scope="module", autouse=True)
def _no_figures():
    """Half of the time of so small a run; they are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "draw_curves", lambda folder: None)
        patch.setattr(results, "draw_report", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of each kind that nothing disturbed, trained when it is first asked for."""
    runs = {}

    def get(kind):
        if kind not in runs:
            runs[kind] = train(tmp_path_factory.mktemp("whole"), *RUNS[kind])
        return runs[kind]

    return get


def stop(kind, at, *overrides):
    """Train until SIGINT comes in the step ``at``, counted from 0, before the discriminator's update."""
    updates = GAN.updates

    def interrupting(self, batch, stage, step):
        if self.training and step == at:
            os.kill(os.getpid(), signal.SIGINT)
        yield from updates(self, batch, stage, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GAN, "updates", interrupting)
        return genlab("train", *RUNS[kind], *overrides)


# --------------------------------------------------------------------------------------- one seed, one run


@pytest.mark.parametrize("kind", RUNS)
def test_two_adversarial_runs_of_one_seed_are_the_same(kind, whole, here):
    assert_same_run(train(here / "again", *RUNS[kind]), whole(kind))


@pytest.mark.parametrize(("kind", "at"), [("wgan", 1), ("wgan", 2), ("averaged", 4)])
def test_a_resume_within_a_cycle_of_the_two_players_ends_as_the_whole_run(kind, at, whole, here):
    assert stop(kind, at).code == 130
    run = only_run(here / "outputs")
    assert state(run)["step"] == at + 1
    assert genlab("train", f"resume={run}").code == 0
    assert_same_run(run, whole(kind))


def test_the_whole_runs_hold_what_a_resume_could_lose(whole):
    """Running statistics of both networks, spectral norm's vectors, averages that are not the weights."""
    wgan, averaged = (state(whole(kind)) for kind in RUNS)
    for part in ("generator", "discriminator"):
        assert any(key.startswith(part) and "running_mean" in key for key in wgan["model"])
    assert any(key.endswith("_u") for key in averaged["model"])
    different = list(differences(averaged["model"], averaged["ema"]))
    assert different
    assert all(key.startswith(".generator") for key in different)


def test_the_discriminator_steps_three_times_as_often(whole):
    optimizers = state(whole("averaged"))["optimizers"]
    steps = {
        name: {int(entry["step"]) for entry in optimizer["state"]["state"].values()}
        for name, optimizer in optimizers.items()
    }
    assert steps == {"discriminator": {8}, "generator": {2}}


def test_the_weights_of_a_wgan_are_in_range_in_its_checkpoint(whole):
    weights = state(whole("wgan"))["model"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    sizes = {name: value.abs().max() for name, value in weights.items() if not name.endswith(statistics)}
    bound = 0.01 * (1 + 1e-6)
    assert all(size <= bound for name, size in sizes.items() if name.startswith("discriminator"))
    assert any(size > bound for name, size in sizes.items() if name.startswith("generator"))


# --------------------------------------------------------------------------------------- no best epoch


@config
class WeightsSeenConfig:
    name: Literal["weights_seen"] = "weights_seen"
    seed: Seed = 0


class WeightsSeen(Evaluation):
    """The sum of each parameter that it was given to measure."""

    Config = WeightsSeenConfig

    def run(self, subject):
        sums = {name: p.double().sum().item() for name, p in subject.model.named_parameters()}
        return Result("weights", [], [], sums)


def test_with_nothing_to_monitor_the_last_checkpoint_is_what_is_measured(here, monkeypatch):
    assert "weights_seen" not in EVALUATIONS.names()
    monkeypatch.setitem(EVALUATIONS._classes, "weights_seen", WeightsSeen)
    option = here / "mine" / "evaluation" / "weights_seen.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("{name: weights_seen}")

    settings = [o for o in AVERAGED if o != "evaluation=null"]
    run = train(here / "outputs", *settings, "evaluation=weights_seen", "--config-dir", "mine")
    assert sorted(path.stem for path in (run / "checkpoints").glob("*.pt")) == ["last", "previous"]
    averages = checkpoint.load(run / "checkpoints" / "last.pt")["ema"]
    report = run / "evaluation" / "weights_seen.json"
    at_the_end = json.loads(report.read_text())["metrics"]
    report.unlink()
    measured = genlab("eval", "run=latest")
    assert (measured.code, measured.err) == (0, "")
    assert json.loads(report.read_text())["metrics"] == at_the_end
    assert any(name.startswith("generator") for name in at_the_end)
    for name, value in at_the_end.items():
        assert value == averages[name].double().sum().item()


def test_with_nothing_to_monitor_samples_are_of_the_last_checkpoint(whole, here):
    run = whole("averaged")
    drawn = {}
    for weights in ("best", "last"):
        outcome = genlab("sample", f"run={run}", "n=4", "format=npz", f"weights={weights}", f"output={weights}")
        assert (outcome.code, outcome.err) == (0, "")
        drawn[weights] = np.load(here / weights)["images"]
    assert np.array_equal(drawn["best"], drawn["last"])
    assert drawn["last"].std() > 0


def test_a_trained_generator_draws_from_noise_without_tails(whole, here):
    spread = {}
    for name, *options in (["normal"], ["truncated", "+model.noise.threshold=0.01"]):
        noise = [f"model.noise.name={name}", *options]
        outcome = genlab("sample", f"run={whole('averaged')}", *noise, "format=npz", "output=drawn")
        assert (outcome.code, outcome.err) == (0, "")
        spread[name] = np.load(here / "drawn")["images"].std(0).mean()
    # Noise of a hundredth, and rounding to whole levels.
    assert spread["truncated"] < 0.2 * spread["normal"]


def test_a_term_can_be_monitored_after_all(here):
    run = train(here / "outputs", *AVERAGED, "trainer.monitor=loss_generator")
    assert (run / "checkpoints" / "best.pt").exists()
    assert genlab("train", f"resume={run}", "trainer.epochs=3", "trainer.monitor=null").code == 0
    assert not (run / "checkpoints" / "best.pt").exists()  # nothing says any more that it was


@pytest.mark.parametrize("kind", RUNS)
def test_a_monitor_that_is_no_term_is_one_line(kind, here):
    outcome = genlab("train", *RUNS[kind], "trainer.monitor=loss_generatr")
    complaint = outcome.complaint()
    assert outcome.code == 2
    assert "unknown trainer.monitor 'loss_generatr'" in complaint
    assert ("did you mean 'loss_generator'" in complaint) == (kind == "averaged")  # batch norm leaves no terms


# --------------------------------------------------------------------------------------- one line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.loss.weight_clip=null"], "a Wasserstein critic has to be constrained"),
        (["model/loss=wasserstein_gp", "model.discriminator.norm=batch"], "batch norm mixes"),
        (["model/discriminator=dcgan", "dataset.format.height=7"], "3 halvings are too many for 7x8 images"),
        (["model/discriminator=dcgan", "trainer.batch_size=1"], "batches of two images at least"),
        (["model.conditioning=concatenate"], "model.conditioning='concatenate'"),
        (["model.loss.name=hinged"], "unknown model.loss.name 'hinged'; did you mean 'hinge'?"),
        (["model/loss=kl", "model.loss.label_smoothing=0.5"], "model.loss.label_smoothing=0.5"),
        (["+trainer.groups.critic.ema_decay=0.9"], "unknown key 'trainer.groups.critic'"),
        (["trainer.ema_decay=1.0"], "trainer.ema_decay=1.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_adversarial_settings_are_named_in_one_line(overrides, message):
    nets = [o for o in NETS if "dcgan" not in " ".join(overrides) or "discriminator" not in o]
    outcome = genlab("train", "model=wgan", *nets, *IMAGES, *TRAINING, *UNMEASURED, *overrides)
    assert message in outcome.complaint()
    assert outcome.code == 2


def test_an_average_asked_for_by_its_plain_name_is_of_the_generator(here):
    """As of every other model; of the discriminator too, which does no harm."""
    saved = state(train(here / "outputs", *WGAN, "trainer.ema_decay=0.9"))
    assert any(key.startswith(".generator") for key in differences(saved["model"], saved["ema"]))


def test_labels_of_a_conditional_run_are_drawn_on_demand(here):
    """Noise has no labels: a set of one's own has."""
    values = np.random.default_rng(0)
    np.savez(
        here / "own.npz",
        images=values.integers(0, 256, (60, 8, 8)).astype("uint8"),
        labels=np.arange(60) % 3,
    )
    own = ["dataset=npz", "dataset.root=own.npz", "dataset.num_val=10", *NETS, *TRAINING, *UNMEASURED]
    run = train(here / "outputs", "model=cgan", *own)
    weights = state(run)["model"]
    assert {"label.weight", "discriminator.label.weight"} <= set(weights)
    outcome = genlab("sample", f"run={run}", "n=2", "labels=[2,0]", "format=npz", "output=drawn.npz")
    assert (outcome.code, outcome.err) == (0, "")
    drawn = np.load(here / "drawn.npz")
    assert drawn["images"].shape == (4, 1, 8, 8)
    assert drawn["labels"].tolist() == [2, 2, 0, 0]
    assert drawn["images"].std() > 0
