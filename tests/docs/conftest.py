"""Tests of documents run commands in a folder of their own, and leave no plugin behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CHECKOUT

from genlab.adversarial import LOSSES
from genlab.data.formats import FORMATS
from genlab.objectives import OBJECTIVES
from genlab.registry import CALLBACKS, EVALUATIONS, EXTRACTORS, MODELS, SCORES


@pytest.fixture
def examples(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: a copy of examples, whose classes are forgotten afterwards."""
    folder = shutil.copytree(CHECKOUT / "examples", here / "examples")
    monkeypatch.chdir(folder)
    for registry in (MODELS, CALLBACKS, EVALUATIONS, EXTRACTORS, SCORES):
        registry.names()  # genlab's own are there before they are copied
    for registry in (MODELS, CALLBACKS, EVALUATIONS, EXTRACTORS, SCORES, LOSSES, OBJECTIVES, FORMATS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]
