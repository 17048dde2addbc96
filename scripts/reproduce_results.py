"""Run studies of docs/RESULTS.md again and copy their pictures to docs/images.

    python scripts/reproduce_results.py [study ...]

Without names all of them, in order; some take an hour on two CPU cores. Runs go to outputs/results, and
one that is there is not repeated. MNIST and KMNIST are wanted in GENLAB_DATA where the public mirrors can't be
reached.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OUTPUTS = Path("outputs/results")
IMAGES = Path(__file__).parent.parent / "docs" / "images"
SAMPLES = {"samples_25.png": "samples"}
CODES = SAMPLES | {"reconstructions.png": "reconstructions"}
FLOW = SAMPLES | {"loss_curves.png": "losses", "ood.png": "ood"}
PLAYERS = {"samples_over_epochs.png": "epochs", "loss_curves.png": "losses"}
BF16 = "hardware.precision=bf16"

STUDIES: dict[str, tuple[list[str], dict[str, str]]] = {
    "realnvp_fashion_ood": (["evaluation.datasets=[mnist,kmnist,mnist_10k,noise,constant]"], FLOW),
    "realnvp_mnist_ood": (["evaluation.datasets=[fashion_mnist,kmnist,noise,constant]"], FLOW),
    "vae_iwae_mnist": ([], CODES | {"traversals.png": "traversals", "kl_per_dim.png": "kl"}),
    "vae_mnist": ([BF16], CODES),
    "vampprior_mnist": ([BF16, "trainer.epochs=60"], CODES),
    "vq_vae_fashion": ([BF16], CODES),
    "sc_vae_fashion": (["callbacks.dictionary_atoms.n=96"], CODES | {"dictionary_atoms.png": "atoms"}),
    "gan_fashion_fid": (["trainer.epochs=10"], PLAYERS | {"fid.png": "fid", "classes.png": "classes"}),
    "wgan_fashion": (["trainer.epochs=10", BF16], PLAYERS),
    "wgan_gp_fashion": (["trainer.epochs=5", BF16], PLAYERS),
    "cgan_mnist": ([BF16], PLAYERS | {"samples_by_class.png": "samples"}),
}
LOSSES = ["minimax", "non_saturating", "kl", "least_squares", "hinge", "wasserstein"]
SWEEPS = {
    "beta_vae_dsprites": ([BF16], {"2-*/figures/traversals.png": "traversals"}),
    "gan_losses": (
        ["trainer.epochs=4", BF16],
        {f"{job}-*/figures/samples_25.png": loss for job, loss in enumerate(LOSSES)},
    ),
}


def genlab(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "genlab", *arguments], check=True)


def study(name: str) -> None:
    overrides, pictures = STUDIES[name]
    run = OUTPUTS / name
    if not run.exists():
        genlab("train", f"experiment={name}", *overrides, f"hydra.run.dir={run}")
    if pictures is FLOW:
        genlab("eval", f"run={run}", "evaluation=likelihood")
    for picture, label in pictures.items():
        shutil.copy(run / "figures" / picture, IMAGES / f"{name}_{label}.png")


def sweep(name: str) -> None:
    (overrides, pictures), folder = SWEEPS[name], OUTPUTS / name
    if not folder.exists():
        genlab("train", "-m", f"experiment={name}", *overrides, f"hydra.sweep.dir={folder}")
    for pattern, label in pictures.items():
        (picture,) = folder.glob(pattern)
        shutil.copy(picture, IMAGES / f"{name}_{label}.png")


def main(names: list[str]) -> None:
    for name in names or [*STUDIES, *SWEEPS]:
        (sweep if name in SWEEPS else study)(name)


if __name__ == "__main__":
    main(sys.argv[1:])
