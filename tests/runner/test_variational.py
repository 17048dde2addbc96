"""VAEs through the command line: what is measured of them, and what is said where something doesn't fit."""

import json

import pytest
from harness import IMAGES, TRAINING, UNWATCHED, genlab, train

NETS = ["model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8", "model.eval_samples=2"]
QUIET = [*IMAGES, *TRAINING, *UNWATCHED, "trainer.epochs=1"]


def _report(run, name):
    return json.loads((run / "evaluation" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    bounds = ["evaluation.splits=[val,test]", "evaluation.importance_samples=[2,6]"]
    return train(tmp_path_factory.mktemp("vae"), "model=vae", *NETS, *QUIET, *bounds)


def test_a_vae_is_measured_by_its_bounds(run):
    report = _report(run, "likelihood")
    rows = [(row["set"], row["nats per image"]) for row in report["rows"]]
    terms = ["NELBO", "KL", "reconstruction", "IWAE-2", "IWAE-6"]
    assert rows == [(f"noise {split}", term) for split in ("val", "test") for term in terms]
    metrics = report["metrics"]
    assert metrics["likelihood/val/nelbo"] > metrics["likelihood/val/iwae_2"] > metrics["likelihood/val/iwae_6"]
    assert metrics["likelihood/val/log_prob"] == -metrics["likelihood/val/iwae_6"]


def test_binarised_pixels_have_no_bits_per_dim(run):
    report = _report(run, "likelihood")
    assert not any("bits" in name for name in report["metrics"])
    assert "no bits/dim" in report["notes"][0]


def test_pixels_of_256_levels_have_bits_per_dim(tmp_path):
    levels = ["model/likelihood=categorical", "evaluation.splits=[test]"]
    run = train(tmp_path, "model=vae", *NETS, *QUIET, *levels)
    assert 7.9 < _report(run, "likelihood")["metrics"]["likelihood/test/bits_per_dim"] < 8.5  # noise has 8


def test_a_statically_binarised_set_says_so(tmp_path):
    run = train(tmp_path, "model=vae", *NETS, *QUIET, "dataset.binarization=static", "evaluation.splits=[test]")
    assert _report(run, "likelihood")["rows"][0]["set"] == "noise-static test"


def test_factor_vae_trains_its_discriminator(tmp_path):
    net = ["model.objective.discriminator.hidden_dim=8", "evaluation.splits=[test]"]
    run = train(tmp_path, "model=factor_vae", *NETS, *QUIET, *net)
    metrics = (run / "metrics.csv").read_text()
    for name in ("loss_model", "loss_discriminator", "lr_discriminator", "total_correlation"):
        assert name in metrics


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=vae", "model/prior=flow", "model.latent_dim=1"], "at least 2"),
        (["model=vae", "model/encoder=conv", "model.encoder.channels=[4,4,4,4]"], "too many"),
        (["model=vae", "evaluation=disentanglement"], "dsprites"),
        (["model=sc_vae", "evaluation=likelihood"], "likelihood"),
        (["model=vq_vae", "model.net.channels=[4,4,4,4]"], "too many"),
        (["model=vae", "model.latent_dim=0"], "latent_dim"),
        (["model=vae", "model/warmup=cyclical", "model.warmup.ramp=2.0"], "ramp"),
        (["model=vae", "model/likelihood=gaussian", "model.likelihood.scale=0"], "scale"),
        (["model=iwae", "model.objective.gradient=double"], "gradient"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(tmp_path, overrides, said):
    outcome = genlab("train", *overrides, *IMAGES, *TRAINING, f"output_dir={tmp_path}")
    assert outcome.code == 2
    assert said in outcome.complaint()
