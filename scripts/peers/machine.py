"""The machine that figures are of."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import genlab

PACKAGES = [
    "pythae",
    "normflows",
    "nflows",
    "zuko",
    "denoising-diffusion-pytorch",
    "torch-fidelity",
    "torchmetrics",
    "disent",
]


def describe(device: torch.device) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "genlab": genlab.__version__,
        "date": datetime.date.today().isoformat(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
    }


def processor() -> str:
    """As Linux names it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
