"""Whatever comes from elsewhere meets an empty folder and an empty cache here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import QUIET, train


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("genlab.data.store.file_md5s", lambda dataset: {})  # made-up files are read, too
    return tmp_path


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
