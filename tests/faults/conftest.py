"""Faults happen in child processes, which one server forks that has imported everything once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
for folder in ("models", "runner"):  # the harness that runs commands, and what makes models small
    sys.path.append(str(TESTS / folder))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; no data of the user's is in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
