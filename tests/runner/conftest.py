"""Every test here has a folder of its own to run in; one finished run serves them all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import QUIET, TINY, train


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; no data of the user's is in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything a default run has; look, don't touch."""
    return train(tmp_path_factory.mktemp("finished"), *TINY, "trainer.ema_decay=0.9")


@pytest.fixture(scope="session")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("plain"), *QUIET, "trainer.ema_decay=0.9")


@pytest.fixture
def run(_plain: Path, here: Path) -> Path:
    """A finished run without callbacks, to be broken or continued."""
    return Path(shutil.copytree(_plain, here / "outputs" / "run"))
