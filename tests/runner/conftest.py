"""Every test here has a folder of its own to run in; one finished run serves them all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import QUIET, TINY, train


@pytest.fixture(autouse=True)
def _elsewhere(here: Path) -> None:
    """Every test has a folder of its own."""


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
