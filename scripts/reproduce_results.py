"""Run studies of docs/RESULTS.md again and copy their pictures to docs/images.

    python scripts/reproduce_results.py [study ...]

Without names all of them, some of which take an hour on two CPU cores. Runs go to outputs/results, and one
that is there is not repeated. Without public mirrors MNIST and KMNIST are wanted in GENLAB_DATA.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OUTPUTS, IMAGES = Path("outputs/results"), Path(__file__).parent.parent / "docs" / "images"
SAMPLES = {"samples_25.png": "samples"}
CODES = SAMPLES | {"reconstructions.png": "reconstructions"}
FLOW = SAMPLES | {
    "loss_curves.png": "losses",
    "ood_log_likelihood.png": "histogram",
    "ood_extremes.png": "extremes",
}
PLAYERS = {"samples_over_epochs.png": "epochs", "loss_curves.png": "losses"}
BF16 = "hardware.precision=bf16"
DDPM = ["model=ddpm_small", "trainer.epochs=6", "callbacks.fid.every=1", "callbacks.fid.num_samples=2000"]
SMALL = ["model.hidden_channels=24", "model.num_blocks=1", "trainer.max_steps=800", "dataset.num_val=1000"]

STUDIES: dict[str, tuple[list[str], dict[str, str]]] = {
    "realnvp_fashion_ood": (["evaluation.datasets=[mnist,kmnist,mnist_10k,noise,constant]"], FLOW),
    "realnvp_mnist_ood": (["evaluation.datasets=[fashion_mnist,kmnist,noise,constant]"], FLOW),
    "latent_realnvp_fashion_ood": ([BF16], SAMPLES | {"ood_code_log_likelihood.png": "histogram"}),
    "glow_mnist": (["trainer.max_steps=2500", BF16, "hardware.channels_last=true"], SAMPLES),
    "vae_iwae_mnist": ([], CODES | {"traversals.png": "traversals", "kl_per_dim.png": "kl"}),
    "vae_mnist": ([BF16], CODES),
    "vampprior_mnist": ([BF16, "trainer.epochs=60"], CODES),
    "vq_vae_fashion": ([BF16], CODES),
    "sc_vae_fashion": (["callbacks.dictionary_atoms.n=96"], CODES | {"dictionary_atoms.png": "atoms"}),
    "gan_fashion_fid": (["trainer.epochs=10"], PLAYERS | {"fid.png": "fid", "classes.png": "classes"}),
    "wgan_fashion": (["trainer.epochs=10", BF16], PLAYERS),
    "wgan_gp_fashion": (["trainer.epochs=5", BF16], PLAYERS),
    "ddpm_fashion": ([*DDPM, BF16], {"samples_over_epochs.png": "epochs", "denoising.png": "denoising"}),
    "cgan_mnist": ([BF16], PLAYERS | {"samples_by_class.png": "samples"}),
}
LOSSES = ["minimax", "non_saturating", "kl", "least_squares", "hinge", "wasserstein"]
SWEEPS = {
    "realnvp_masks": ([*SMALL, BF16], {"sweep_curves.png": "curves", "0-*/figures/samples_16.png": "both"}),
    "compare": ([BF16], {"sweep_samples.png": "samples", "sweep_curves.png": "curves"}),
    "beta_vae_dsprites": ([BF16], {"2-*/figures/traversals.png": "traversals"}),
    "gan_losses": (
        ["trainer.epochs=4", BF16],
        {f"{job}-*/figures/samples_25.png": loss for job, loss in enumerate(LOSSES)},
    ),
}


def genlab(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "genlab", *arguments], check=True)


def study(name: str) -> None:
    many, folder = name in SWEEPS, OUTPUTS / name
    overrides, pictures = (SWEEPS if many else STUDIES)[name]
    if not folder.exists():
        kind = ["-m", f"hydra.sweep.dir={folder}"] if many else [f"hydra.run.dir={folder}"]
        genlab("train", f"experiment={name}", *overrides, *kind)
    if pictures is FLOW:
        genlab("eval", f"run={folder}", "evaluation=likelihood")
    for pattern, label in pictures.items():
        (picture,) = folder.glob(pattern if many else f"figures/{pattern}")
        shutil.copy(picture, IMAGES / f"{name}_{label}.png")


def main(names: list[str]) -> None:
    for name in names or [*STUDIES, *SWEEPS]:
        study(name)


if __name__ == "__main__":
    main(sys.argv[1:])
