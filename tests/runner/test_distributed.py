"""Several processes train what one would."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from critics import SETTINGS, SPEC, Critics, Stopped, learned, trained
from harness import differences
from team import together

from genlab import checkpoint
from genlab.distributed import Processes
from genlab.models.base import Model
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.nets.mlp import MLPConfig
from genlab.nets.quantizer import VectorQuantizer
from genlab.types import Batch, Update


class Noisy(Critics):
    """Draws random numbers, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        noise = torch.rand(len(batch.x), 1, device=batch.x.device)
        if self.training:
            self.drawn.append(noise.mean().item())
        for update in super().updates(batch, stage, step):
            yield Update(update.group, update.loss * (1 + noise.mean()), update.logs)


class NoisyStopped(Stopped, Noisy):
    """Both."""


def _assert_equal_to_rounding(a: dict, b: dict) -> None:
    for part in ("model", "ema"):
        assert a[part].keys() == b[part].keys()
        for name, values in a[part].items():
            # A variance within each share leaves out that of their means, as it does in the layer itself.
            rough = {"rtol": 0.5, "atol": 0.0} if name == "norm.running_var" else {"rtol": 1e-9, "atol": 1e-11}
            torch.testing.assert_close(values, b[part][name], **rough, msg=f"{part}.{name}")
    assert a["step"] == b["step"]


def _rows(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / "metrics.csv").read_text().splitlines()[1:]
    return [tuple(line.split(",")) for line in lines if "images_per_second" not in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A whole run of one process: its folder and what it learned."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, learned(folder)


# ------------------------------------------------------------------ the same as one


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_learn_and_tell_what_one_does_with_the_same_batch(size, alone, here):
    folder, one = alone
    ends = together(size, learned, here)
    for end in ends:
        assert end.error is None
        _assert_equal_to_rounding(end.result, one)
        assert list(differences(end.result["model"], ends[0].result["model"])) == []
        assert end.result["metrics"] == ends[0].result["metrics"]
    assert end.result["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    assert [row[:3] for row in _rows(here)] == [row[:3] for row in _rows(folder)]
    told, expected = ([float(row[3]) for row in _rows(run)] for run in (here, folder))
    assert told == pytest.approx(expected, rel=1e-6)
    best = [checkpoint.load(run / "checkpoints" / "best.pt")["epoch"] for run in (here, folder)]
    assert best[0] == best[1]


def test_clipping_takes_hold_in_the_run_that_is_compared(alone):
    folder, _ = alone
    norms = [float(row[3]) for row in _rows(folder) if row[2].startswith("train/grad_norm")]
    assert max(norms) > SETTINGS["clip_grad_norm"]


def test_a_process_may_be_left_without_validation_images(here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    one = learned(folder, Critics, {}, 5)
    for end in together(3, learned, here, Critics, {}, 5):
        assert end.error is None
        assert end.result["metrics"] == pytest.approx(one["metrics"], rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(before, after, alone, here):
    stopped = together(before, learned, here, Stopped) if before > 1 else [_stopped_alone(here)]
    assert [end.code for end in stopped] == [143] * before
    assert 6 <= checkpoint.load(here / "checkpoints" / "last.pt")["step"] < 12
    resumed = [learned(here)] if after == 1 else [end.result for end in together(after, learned, here)]
    for result in resumed:
        _assert_equal_to_rounding(result, alone[1])


def _stopped_alone(folder):
    (end,) = together(1, _weights_alone, folder, Stopped)
    return end


def _weights_alone(folder: Path, kind: type[Model]) -> dict:
    del os.environ["TORCHELASTIC_RUN_ID"], os.environ["RANK"]
    return learned(folder, kind)


class Quantised(Critics):
    """Keeps a codebook of images by running k-means."""

    restart_threshold = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = VectorQuantizer(4, 16, 0.8, self.restart_threshold).double()
        self.drawn: list[float] = []

    def initialize(self, batch: Batch) -> None:
        self.quantizer.initialize(self._flat(batch))

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        x = self._flat(batch)
        if self.training:
            self.quantizer.update(x, self.quantizer.nearest(x))
            self.drawn.append(self.quantizer.codebook.sum().item())
        yield from super().updates(batch, stage, step)


class Restarting(Quantised):
    """Every code that is rare begins anew."""

    restart_threshold = 0.9


def test_a_codebook_follows_the_batches_of_all_processes(here, tmp_path_factory):
    one = learned(tmp_path_factory.mktemp("one"), Quantised)
    for end in together(2, learned, here, Quantised):
        assert end.result["drawn"] == pytest.approx(one["drawn"], rel=1e-9)
        for name in ("codebook", "cluster_size", "cluster_sum"):
            values, expected = (r["model"][f"quantizer.{name}"] for r in (end.result, one))
            torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-11)


def test_a_code_begins_anew_at_one_place_in_all_processes(here):
    first, second = (end.result["drawn"] for end in together(2, learned, here, Restarting))
    assert first == second
    assert len(set(first)) == 12


# ------------------------------------------------------------------ noise


def test_each_process_has_noise_of_its_own_and_the_first_that_of_one_alone(here, tmp_path_factory):
    one = learned(tmp_path_factory.mktemp("one"), Noisy, {"batch_size": 6, "epochs": 1})
    first, second = (end.result["drawn"] for end in together(2, learned, here, Noisy, {"epochs": 1}))
    assert first == one["drawn"][: len(first)]
    assert len(second) == len(first) == 4
    assert not set(first) & set(second)


def test_seeds_of_processes_are_told_apart():
    seeds = [Processes(rank, 4).seed(seed, step) for rank in range(4) for seed in range(4) for step in (0, 9)]
    assert len(set(seeds)) == 4 + 3 * 4 * 2  # the first has the run's own


def test_a_run_of_two_that_is_stopped_and_resumed_is_the_one_that_was_not(here, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    together(2, learned, whole, Noisy)
    assert [end.code for end in together(2, learned, here, NoisyStopped)] == [143, 143]
    together(2, learned, here, Noisy)
    a, b = (checkpoint.load(run / "checkpoints" / "last.pt") for run in (whole, here))
    moved = [
        where for part in ("model", "ema", "optimizers", "random") for where in differences(a[part], b[part])
    ]
    # Running statistics were averaged once more, where the one was stopped.
    assert [where for where in moved if "norm.running" not in where] == []
    assert len(b["random"]) == 2


def _flow() -> Model:
    return RealNVP(RealNVPConfig(num_flows=4, net=MLPConfig(hidden_dim=8)), SPEC)


def _flow_loss(folder: Path, seed: int = 0) -> float:
    """Bits per dimension of held-out images, which are dequantised with noise."""
    adam = {"name": "Adam", "lr": 0.003}
    settings = {"epochs": 10, "optimizer": adam, "clip_grad_norm": None, "monitor": "loss", "log_every": 50}
    return trained(folder, _flow, settings, 96, seed=seed).metrics["val/bits_per_dim"]


@pytest.mark.slow
def test_a_flow_of_two_processes_is_as_good_as_flows_of_one(here, tmp_path_factory):
    ones = [_flow_loss(tmp_path_factory.mktemp(f"seed{seed}"), seed) for seed in range(3)]
    first, second = (end.result for end in together(2, _flow_loss, here))
    assert first == second
    spread = max(ones) - min(ones)
    assert min(ones) - 2 * spread < first < max(ones) + 2 * spread
    assert first < 7.2  # it has learned something: a uniform density has 8
