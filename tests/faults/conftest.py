"""Faults happen in child processes, which one server forks that has imported everything once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
for folder in ("models", "runner"):  # the harness that runs commands, and what makes models small
    sys.path.append(str(TESTS / folder))


@pytest.fixture(autouse=True)
def _elsewhere(here: Path) -> None:
    """Every test has a folder of its own."""
