"""Every number that a run logs is explained on the page of the curves."""

import csv
import json
import re

import pytest
from harness import CHECKOUT, IMAGES, TRAINING, UNWATCHED, train

SMALL = [*IMAGES, *TRAINING, *UNWATCHED, "trainer.max_steps=1"]
VAE = ["model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8", "model.latent_dim=2"]
CONV = ["model.encoder.channels=[8]", "model.decoder.channels=[8]"]
GAN = ["model/generator=mlp", "model/discriminator=mlp", "callbacks.fid=null", "evaluation=null"]
UNET = ["model.net.channels=8", "evaluation.max_images=2"]
FEW = ["evaluation.splits=[test]", "evaluation.max_images=8"]
OOD = ["evaluation=ood", "evaluation.datasets=[constant]", "evaluation.max_images=16"]
FAMILIES = {
    "flow": ["model=realnvp", "model.net.hidden_dim=8", *FEW],
    "glow": ["model=glow", "model.hidden_channels=8", "model.num_flows=1", *FEW],
    "residual flow": ["model=residual_flow", "model.blocks=[1]", "model.hidden_channels=8", *FEW],
    "vae": ["model=vae", *VAE, *FEW, "callbacks.posterior.num_images=16"],
    "capacity": ["model=vae", "model/objective=capacity", *VAE, "evaluation=reconstruction", *FEW],
    "total correlation": ["model=beta_tcvae", *VAE, *FEW],
    "factor vae": ["model=factor_vae", *VAE, *FEW],
    "iwae": ["model=iwae", "model.objective.num_samples=2", *VAE, *FEW],
    "vq vae": ["model=vq_vae", "model.net.channels=[8]", "model.prior.channels=8", *FEW],
    "sc vae": ["model=sc_vae", "model.feature_dim=8", "model.num_atoms=8", *FEW],
    "latent flow": ["model=latent_realnvp", "model.latent_dim=4", *CONV, *OOD],
    "gan": ["model=gan", *GAN, "model.loss.r1=1.0", "model.discriminator.norm=none"],
    "wgan": ["model=wgan_gp", "model.n_critic=1", *GAN],
    "diffusion": ["model=ddpm_small", *UNET, "model.bound_steps=2"],
    "hybrid": ["model=ddpm_small", *UNET, "model.loss=hybrid", "model.variance=learned", "model.bound_steps=2"],
    "flow matching": ["model=flow_matching_small", *UNET, "model.ode.num_steps=2", "model.num_steps=2"],
}
FAST = {"flow", "vae", "gan", "diffusion"}


def patterns() -> list[str]:
    """The names on the page as patterns: what stands in ``<>`` is for any word."""
    spans = re.findall(r"`([\w<>/]+)`", (CHECKOUT / "docs" / "CURVES.md").read_text())
    named = (span for span in spans if re.sub(r"<\w*>", "", span))  # not a placeholder alone
    return ["[^/]+".join(map(re.escape, re.split(r"<\w+>", span))) for span in named]


def unexplained(tags):
    known = patterns()
    terms = {re.sub("^(train|val)/", "", tag) for tag in tags}
    return {term for term in terms if not any(re.fullmatch(pattern, term) for pattern in known)}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in FAST else [pytest.mark.slow]) for f in FAMILIES]
)
def test_every_tag_of_a_run_is_on_the_page(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = FAMILIES[family]
    kept = [o for o in SMALL if not (o == "callbacks.posterior=null" and family == "vae")]
    run = train(tmp_path / "outputs", *kept, *overrides)
    with (run / "metrics.csv").open(newline="") as file:
        tags = {row["name"] for row in csv.DictReader(file)}
    tags |= json.loads((run / "summary.json").read_text())["metrics"].keys()
    assert {"train/loss", "train/loss_generator", "train/loss_model"} & tags
    assert unexplained(tags) == set()


def test_a_tag_that_no_one_has_explained_is_found():
    assert unexplained({"train/loss", "train/blurb", "fid/fashion_cnn", "sharpness/samples"}) == {
        "blurb",
        "sharpness/samples",
    }
