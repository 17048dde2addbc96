"""No test here touches the network or the user's cache unless it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genlab.data.fetch import UnavailableError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.delenv("GENLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "genlab"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: Path, md5: str) -> None:
        raise UnavailableError(f"{url}: no network")

    def run(command: list[str], folder: Path, what: str) -> str:
        raise UnavailableError(f"{command[0]} is not on this machine")

    monkeypatch.setattr("genlab.data.sources.download", download)
    monkeypatch.setattr("genlab.data.sources.run", run)


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's checksums are of the real files: forget them, so that made-up ones are read."""
    monkeypatch.setattr("genlab.data.store.file_md5s", lambda dataset: {})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
