"""``scripts/fuzz.py`` runs, and what it runs finds nothing in a few seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from harness import CHECKOUT


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (extra fuzz)")
@pytest.mark.parametrize("target", ["idx", "npz", "config"])
def test_a_short_search_finds_nothing(here, target):
    command = [sys.executable, CHECKOUT / "scripts" / "fuzz.py", target, "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
