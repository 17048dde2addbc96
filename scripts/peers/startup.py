"""From the command to the first training step, as whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 300.0  # seconds


def first_step(overrides: tuple[str, ...], folder: Path) -> float:
    """Seconds from ``genlab train`` until the loss of its first step is in ``metrics.csv``."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = ["train", *overrides, "trainer.log_every=1", "trainer.max_steps=1", f"hydra.run.dir={run}"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "genlab", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while time.perf_counter() - start < PATIENCE:
            if _logged(run / "metrics.csv"):
                return time.perf_counter() - start
            if process.poll() is not None:
                break
            time.sleep(0.005)
    finally:
        process.kill()
        _, errors = process.communicate()
    raise RuntimeError(f"genlab {' '.join(command)} came to no step: {errors.decode()}")


def _logged(metrics: Path) -> bool:
    return metrics.exists() and "train/loss" in metrics.read_text()


def start_ups(overrides: tuple[str, ...], repeats: int, folder: Path) -> list[float]:
    """Seconds of each process; one before them fills the system's caches."""
    return [first_step(overrides, folder) for _ in range(1 + repeats)][1:]
