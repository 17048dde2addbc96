"""Whatever comes from elsewhere meets an empty folder and an empty cache here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import QUIET, train


@pytest.fixture(autouse=True)
def _elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a folder of its own, and made-up files are read, too."""
    monkeypatch.setattr("genlab.data.store.file_md5s", lambda dataset: {})


@pytest.fixture
def cache(here: Path) -> Path:
    """The folder that data is fetched to; it doesn't exist yet."""
    return here / "cache" / "genlab"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("elsewhere"), *QUIET, "trainer.epochs=1")


@pytest.fixture
def foreign(_trained: Path, here: Path) -> Path:
    """A run that somebody sent."""
    return Path(shutil.copytree(_trained, here / "theirs" / "run"))
