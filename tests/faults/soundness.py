"""What must hold of a run's folder whatever was done to the processes that worked in it."""

from __future__ import annotations

import csv
import json
import re
import xml.dom.minidom
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from harness import assert_same_run
from omegaconf import OmegaConf
from PIL import Image

from genlab import checkpoint

PART = re.compile(r"\.[\w-]+\.(yaml|json|csv|pt|png|svg|gif|npz|html|md)\.part")
"""What a killed process may leave: one for each file that it was to write, however often it was killed."""


def _read_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_metrics(path: Path) -> None:
    *lines, torn = path.read_text().split("\n")  # a row is appended, so that the last one may be torn
    for step, _, _, value in csv.reader(lines[1:]):
        assert int(step) >= 0
        float(value)
    assert not torn or len(next(csv.reader([torn]))) <= 4


def _read_arrays(path: Path) -> None:
    with np.load(path) as arrays:
        assert all(array.size for array in arrays.values())


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": OmegaConf.load,
    ".txt": lambda path: path.read_text(encoding="utf-8"),
    ".md": lambda path: path.read_text(encoding="utf-8"),
    ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
    ".csv": _read_metrics,
    ".pt": checkpoint.load,
    ".png": _read_picture,
    ".gif": _read_picture,
    ".npz": _read_arrays,
    ".svg": lambda path: xml.dom.minidom.parseString(path.read_bytes()),
}


def assert_sound(run: Path) -> None:
    """Every file with a final name is whole, and nothing else is left but what :data:`PART` names."""
    for path in run.rglob("*"):
        if path.is_dir() or path.suffix == ".log" or path.parent.name == "tensorboard":
            continue  # these are appended to; a torn end is skipped by whoever reads them
        if path.name.startswith("."):
            assert path.name == ".lock" or PART.fullmatch(path.name), f"{path} is left over"
            continue
        _READERS[path.suffix](path)


def names(run: Path) -> set[str]:
    """The files that a finished run has, but for TensorBoard's: each process adds one of its own there."""
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("tensorboard/")}


def assert_same_end(run: Path, whole: Path) -> None:
    """``run`` came to the end of ``whole``: parameters, every logged number, results and pictures."""
    assert_sound(run)
    assert_same_run(run, whole)
    assert names(run) == names(whole)
    for name in ("evaluation/likelihood.json", *sorted(names(whole))):
        if name.endswith(("likelihood.json", ".png", ".gif")):
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    metrics = [json.loads((folder / "summary.json").read_text())["metrics"] for folder in (run, whole)]
    assert metrics[0] == metrics[1]
