"""Run the studies of docs/RESULTS.md again and copy their pictures to docs/images.

    python scripts/reproduce_results.py [outputs]

Takes about a quarter of an hour on two CPU cores; MNIST and KMNIST are wanted in GENLAB_DATA where the public
mirrors can't be reached.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

IMAGES = Path(__file__).parent.parent / "docs" / "images"
STUDIES = {
    "realnvp_fashion": [
        "experiment=realnvp_fashion",
        "evaluation.datasets=[mnist,kmnist,mnist_10k,noise,constant]",
    ],
    "realnvp_mnist": ["experiment=realnvp_mnist", "evaluation.datasets=[fashion_mnist,kmnist,noise,constant]"],
}
PICTURES = {"samples_25.png": "samples", "loss_curves.png": "losses", "ood.png": "ood"}


def main(outputs: Path) -> None:
    for name, overrides in STUDIES.items():
        run = outputs / name
        genlab = [sys.executable, "-m", "genlab"]
        if not run.exists():
            subprocess.run([*genlab, "train", *overrides, f"hydra.run.dir={run}"], check=True)
        subprocess.run([*genlab, "eval", f"run={run}", "evaluation=likelihood"], check=True)
        for picture, label in PICTURES.items():
            shutil.copy(run / "figures" / picture, IMAGES / f"{name}_{label}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/results"))
