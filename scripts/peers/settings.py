"""What the command's options describe: the setting that all contestants share, and a family of its size."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from peers.contest import Setting
from peers.data import images_of
from peers.families import FAMILIES, Family

TASKS = ("epoch", "step", "sample", "distance", "score")


def setting_of(args: Any) -> Setting:
    """The setting that the command's arguments describe; rows of genlab differ by precision alone."""
    device = torch.device(args.device)
    images, dataset = images_of(args.dataset)
    options = [
        "device=" + args.device,
        f"threads={args.threads}",
        *(["compile=default"] if args.compile else []),
    ]
    common = (f"hardware={device.type}", *(f"hardware.{option}" for option in options), *args.set)
    names = {"fp32": "genlab", "bf16": "genlab bf16"}
    rows = {names[p]: (*common, f"hardware.precision={p}") for p in args.precision}
    return Setting(images, dataset, device, rows, Path(tempfile.mkdtemp(prefix="genlab-bench-")))


def family_of(name: str, args: Any) -> Family:
    family = FAMILIES[name]
    return family if args.images is None else replace(family, size=replace(family.size, images=args.images))
