"""No memory left, at any point: one line with the setting to lower, and the checkpoint before it is kept."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import QUIET, assert_same_run, genlab, only_run, state, train

from genlab.extractors import base, classifier
from genlab.models.realnvp import RealNVP
from genlab.types import DataSpec

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
WAY_OUT = "out of memory; lower trainer.batch_size (evaluation.batch_size, batch_size for eval, sample)"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), *QUIET)


def _failing(real: Callable[..., Any], at: int) -> Callable[..., Any]:
    """``real``, but the call number ``at`` finds no memory."""
    left = [at]

    @functools.wraps(real)
    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise torch.OutOfMemoryError(MESSAGE)
        return real(*arguments, **options)

    del call.__wrapped__  # by which the step of an optimizer is found
    return call


PLACES = {
    "forward": (RealNVP, "updates", 7),  # validation asks for them, too, of its two batches
    "validation": (RealNVP, "validate", 3),
    "backward": (torch.Tensor, "backward", 5),
    "optimizer": (torch.optim.AdamW, "step", 5),
}


@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=() if name == "backward" else pytest.mark.slow) for name in PLACES]
)
def test_a_training_that_runs_out_of_memory_is_resumed(place, whole, here, monkeypatch):
    owner, name, at = PLACES[place]
    monkeypatch.setattr(owner, name, _failing(getattr(owner, name), at))
    outcome = genlab("train", *QUIET)
    monkeypatch.undo()
    run = only_run(here / "outputs")
    assert outcome.complaint().startswith(WAY_OUT)
    assert outcome.code == 1
    assert (state(run)["epoch"], state(run)["step"]) == (1, 4)
    assert genlab("train", f"resume={run}").code == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize("verb", ["eval", "sample"])
def test_an_evaluation_or_sampling_that_runs_out_of_memory_leaves_the_run_as_it_is(
    verb, whole, here, monkeypatch
):
    run = Path(shutil.copytree(whole, here / "run"))
    name = {"eval": "log_prob", "sample": "sample"}[verb]
    monkeypatch.setattr(RealNVP, name, _failing(getattr(RealNVP, name), 0))
    outcome = genlab(verb, f"run={run}")
    assert outcome.complaint().startswith(WAY_OUT)
    assert outcome.code == 1
    assert_same_run(run, whole)
    assert genlab(verb, f"run={run}").code == 0  # the second time there is room


def test_a_network_of_features_takes_as_many_images_as_fit(monkeypatch, caplog):
    extractor = base.load_extractor("fashion_cnn", DataSpec(1, 28, 28, 10), "fashion_mnist", None)
    images = torch.randint(0, 256, (40, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    expected, forward = extractor(images.to(torch.uint8)), classifier.Network.forward

    def cramped(self, x):
        if len(x) > 10:
            raise torch.OutOfMemoryError(MESSAGE)
        return forward(self, x)

    monkeypatch.setattr(classifier.Network, "forward", cramped)
    with caplog.at_level(logging.WARNING):
        found = extractor(images.to(torch.uint8))
    # Sums of other shapes are added up in another order.
    assert torch.allclose(found.values, expected.values, atol=1e-5)
    assert "out of memory: 8 at once instead of 16" in caplog.text
