"""What a run imports before its first step: it is libraries that the user waits for."""

import subprocess
import sys

import pytest
import torch
from harness import TINY
from torchvision.utils import make_grid

from genlab.report.figures import grid

LATER = [
    "matplotlib",
    "torchvision",
    "torchmetrics",
    "sklearn",
    "scipy",
    "pandas",
    "torch._dynamo",
    "sympy",
    "jinja2",
]
"""Libraries that draw and measure, of which none is quick to import."""

FIRST_STEP = """
import os, sys
from genlab.iteration import Iteration
from genlab.cli import main

step = Iteration.__call__

def first(*arguments, **options):
    step(*arguments, **options)
    print("imported:", *sys.modules, flush=True)
    os._exit(0)

Iteration.__call__ = first
main()
"""


def test_what_draws_and_measures_is_imported_after_the_first_step(here):
    (here / "first_step.py").write_text(FIRST_STEP)
    command = ["first_step.py", "train", *TINY, "evaluation=ood", "evaluation.datasets=[constant]"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    imported = done.stdout.partition("imported:")[2].split()
    assert "torch" in imported, done.stderr
    assert [name for name in LATER if name in imported] == []


@pytest.mark.parametrize("count", [1, 2, 7, 9])
@pytest.mark.parametrize("columns", [None, 1, 3, 20])
@pytest.mark.parametrize(("channels", "side"), [(1, 5), (3, 80), (1, 200)])
def test_a_grid_is_that_of_torchvision(count, columns, channels, side):
    images = torch.randint(256, (count, channels, side, side + 1), dtype=torch.uint8)
    factor = max(1, 112 // (side + 1))
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    nrow = columns or -int(-(count**0.5) // 1)
    assert torch.equal(grid(images, columns), make_grid(large, nrow=nrow, padding=2 * factor, pad_value=255))
