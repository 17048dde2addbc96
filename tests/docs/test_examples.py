"""Every example of a part outside the package does what it is there to show."""

import json

import pytest
import torch
from harness import IMAGES, TRAINING, UNMEASURED, UNWATCHED, genlab, train

from genlab.errors import ConfigError

OUTSIDE = ["--config-dir", "conf"]
BRIEF = [*TRAINING, *UNWATCHED, "trainer.max_steps=2", "trainer.epochs=1"]
SMALL = [*IMAGES, *BRIEF]
NETS = ["model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8", "model.latent_dim=2"]


def metrics(run):
    return json.loads((run / "summary.json").read_text())["metrics"]


@pytest.fixture
def gaussian(examples):
    """A run of the model in my_models.py."""
    return train(examples / "outputs", *OUTSIDE, "plugins=[my_models]", "model=gaussian", *SMALL, *UNMEASURED)


def test_a_dataset_with_a_format_of_its_own(examples):
    discs = ["plugins=[my_datasets]", "model=vae", "dataset=discs", "dataset.format.num_images=96"]
    sizes = ["dataset.format.size=8", "dataset.num_val=32", *NETS, *UNMEASURED]
    run = train(examples / "outputs", *OUTSIDE, *discs, *sizes, *BRIEF)
    assert metrics(run)["val/loss"] > 0


def test_discs_are_as_large_as_their_label_says(examples, monkeypatch):
    monkeypatch.syspath_prepend(examples)
    from my_datasets import Discs

    images = Discs(kind="discs", num_images=300).read("train", None)
    area = (images.images == 255).sum((1, 2, 3)).float()
    means = torch.stack([area[images.labels == label].mean() for label in range(3)])
    # A disc of radius 28 (1 + label) / 14 pixels; its area in whole pixels varies by its place.
    torch.testing.assert_close(means, torch.pi * torch.tensor([2.0, 4.0, 6.0]) ** 2, rtol=0.03, atol=0)


def test_a_loss_of_a_gan(examples):
    nets = ["model/generator=mlp", "model/discriminator=mlp", "callbacks.fid=null", "evaluation=null"]
    run = train(
        examples / "outputs", *OUTSIDE, "plugins=[my_losses]", "model=gan", "model/loss=pearson", *nets, *SMALL
    )
    assert "train/loss_generator" in (run / "metrics.csv").read_text()


def test_pearsons_best_discriminator_has_the_value_that_its_docstring_gives(examples, monkeypatch):
    monkeypatch.syspath_prepend(examples)
    from my_losses import Pearson

    ratio = torch.tensor([0.5, 1.0, 4.0])  # p_data / p_g on three points, where p_g is even
    value = (2 * (ratio - 1)).requires_grad_()
    # E over real images is the mean over points weighted by the ratio.
    loss = Pearson().discriminator(ratio * value, value)
    (gradient,) = torch.autograd.grad(loss, value)
    torch.testing.assert_close(gradient, torch.zeros(3))


def test_an_objective_of_a_vae(examples):
    mmd = ["plugins=[my_losses]", "model=vae", "model/objective=mmd", *NETS]
    run = train(examples / "outputs", *OUTSIDE, *mmd, *SMALL, *UNMEASURED)
    assert metrics(run)["val/mmd"] >= 0
    outcome = genlab("train", *OUTSIDE, *mmd, *SMALL, "+model.objective.weigth=1.0")
    assert outcome.complaint() == "unknown key 'model.objective.weigth'; did you mean 'weight'?"


def test_a_model(gaussian):
    assert genlab("sample", "plugins=[my_models]", "n=4").code == 0
    assert "bits/dim" in (gaussian / "evaluation" / "likelihood.json").read_text()


def test_an_evaluation(gaussian):
    outcome = genlab("eval", *OUTSIDE, "plugins=[my_models,my_evaluations]", "evaluation=memorisation")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads((gaussian / "evaluation" / "memorisation.json").read_text())["metrics"]
    assert found.keys() == {"memorisation/samples", "memorisation/test"}
    assert min(found.values()) > 0


def test_an_ood_score(gaussian):
    named = ["evaluation.datasets=[constant]", "evaluation.scores=[distance_to_mean]"]
    option = "+evaluation.options.distance_to_mean.order=1.0"
    outcome = genlab("eval", "plugins=[my_models,my_scores]", "evaluation=ood", *named, option)
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = json.loads((gaussian / "evaluation" / "ood.json").read_text())["rows"]
    assert row["score"] == "distance_to_mean"


def test_a_callback(examples):
    watching = ["plugins=[my_models,my_callbacks]", "model=gaussian", "callbacks=sharpness"]
    run = train(examples / "outputs", *OUTSIDE, *watching, *SMALL, *UNMEASURED)
    # Neighbours in an image of noise differ by a third of the range, as two uniform numbers do.
    assert metrics(run)["sharpness/images"] == pytest.approx(1 / 3, abs=0.02)


def test_a_second_part_of_one_name_is_refused(examples, monkeypatch):
    (examples / "my_other.py").write_text((examples / "my_losses.py").read_text())
    monkeypatch.syspath_prepend(examples)
    import my_losses  # noqa: F401

    with pytest.raises(ConfigError, match="two classes register the loss 'pearson': my_losses and my_other"):
        import my_other  # noqa: F401
