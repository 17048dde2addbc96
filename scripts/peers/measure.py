"""All measurements of a family, or of one contestant's memory, as plain values for JSON."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from peers.contest import Setting
from peers.data import images_of
from peers.families import FAMILIES, Family, set_up
from peers.limits import Limits
from peers.rounds import compete, silence

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


def measured(family: Family, setting: Setting, args: Any) -> dict[str, Any]:
    """The rows of each task, limits and operations where they are asked for, and who is missing."""
    with silence():
        contestants, missing = set_up(family.entries(setting, family.size))
    limits = Limits(setting.device) if family.limited else None
    tasks = {}
    for task in args.tasks:
        if any(task in c.tasks for c in contestants):
            between = limits.measure if limits else lambda: None
            tasks[task] = compete(contestants, task, args.rounds, setting.device, between)
    counted = contestants[0].operations if family.limited else None
    return {
        "title": family.title,
        "tasks": tasks,
        "missing": missing,
        "rates": limits.rates if limits else {},
        "operations": counted() if counted else 0,
        "memory": {},
    }
