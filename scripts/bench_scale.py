"""What a run costs as its set grows: start-up, memory, and images a second, for generated 28x28 images.

    python scripts/bench_scale.py [--millions 1 3 10] [--steps 500] [--folder DIR]

Each set is an uncompressed npz of random bytes (7.84 GB for ten million), of which nine tenths are trained on.
One process goes through all batches of an epoch, another trains a small VAE for so many steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

PIXELS, BLOCK = 784, 10_000
TINY = "model=vae model.encoder.hidden_dim=64 model.decoder.hidden_dim=64 evaluation=null dataset=npz"
COLUMNS = ["million images", "s to load", "us to gather one", "s of the run", "GB at most", "of the images"]


def write(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as zipped, zipped.open("images.npy", "w", force_zip64=True) as file:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, 28, 28)})
        for start in range(0, count, BLOCK):
            file.write(np.random.default_rng(start).bytes(BLOCK * PIXELS))


def gather(path: str) -> None:
    """Print the seconds until a set is in place, and those of an epoch's batches."""
    from genlab import assemble, config, data, hardware

    values = config.load_option("dataset", "npz", [config.conf_dir()]) | {"root": path}
    device, start = hardware.select(hardware.HardwareConfig()), time.perf_counter()
    images = assemble.load_splits(config.parse(data.DatasetConfig, values), device).train
    loaded = time.perf_counter()
    for _ in images.epoch(256, seed=0):
        pass
    print(loaded - start, time.perf_counter() - loaded)


def measured(*command: str) -> tuple[str, float, float]:
    """What ``command`` prints, its seconds, and the most memory that it held, in bytes."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return printed, time.perf_counter() - start, usage.ru_maxrss * 1024


def row(millions: float, steps: int, folder: str) -> list[float]:
    path, count = f"{folder}/images.npz", int(millions * 1e6)
    write(Path(path), count)
    load, epoch = map(float, measured(__file__, "--gather", path)[0].split())
    options = f"{TINY} dataset.root={path} trainer.max_steps={steps} hydra.run.dir={folder}/run"
    _, seconds, peak = measured("-m", "genlab", "train", *options.split())
    return [millions, load, 1e6 * epoch / (0.9 * count), seconds, peak / 1e9, peak / (count * PIXELS)]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--millions", type=float, nargs="+", default=[1, 3, 10])
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--folder", help="where the files are written")
parser.add_argument("--gather", help=argparse.SUPPRESS)  # the file, in a process of its own
if __name__ == "__main__":
    args = parser.parse_args()
    if args.gather:
        sys.exit(gather(args.gather))
    print(" | ".join(COLUMNS))
    for millions in args.millions:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            values = zip(COLUMNS, row(millions, args.steps, folder), strict=True)
        print(" | ".join(f"{value:{len(name)}.2f}" for name, value in values), flush=True)
