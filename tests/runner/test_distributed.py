"""Several processes train what one would, and end together."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from harness import differences
from team import together
from torch import nn
from torch.nn import functional as F

from genlab import checkpoint
from genlab.callbacks.base import Callback
from genlab.config import parse
from genlab.data.device import DeviceDataset, Splits
from genlab.distributed import Agreement, PeerError, Processes
from genlab.errors import TrainingError
from genlab.hardware import HardwareConfig, select
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.nets.mlp import MLPConfig
from genlab.nets.quantizer import VectorQuantizer
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec, Stage, Update

SPEC = DataSpec(1, 4, 4)
SETTINGS = {
    "epochs": 3,
    "batch_size": 12,
    "optimizer": {"name": "AdamW", "lr": 0.02, "weight_decay": 0.1},
    "schedule": {"name": "one_cycle"},
    "clip_grad_norm": 0.05,
    "ema_decay": 0.9,
    "log_every": 3,
    "monitor": "loss_critic",
}
"""Three epochs of four steps."""


class Critics(Model):
    """Two players of double precision, without noise; the first batch and every batch leave a trace."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.norm = nn.BatchNorm1d(16, affine=False)
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 16))
        self.critic = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
        self.mean = nn.Parameter(torch.zeros(16))
        self.double()

    def initialize(self, batch: Batch) -> None:
        with torch.no_grad():
            self.mean.copy_(self._flat(batch).mean(0))

    def stages(self) -> list[Stage]:
        critic = list(self.critic.parameters())
        return [Stage("train", {"critic": critic, "encoder": self.parameters_outside(self.critic)})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        x = self._flat(batch)
        if self.training:
            self.norm(x)
        fake = self.encoder(x - self.mean)
        real, false = self.critic(x), self.critic(fake.detach())
        loss = F.softplus(-real).mean() + F.softplus(false).mean()
        yield Update("critic", loss, {"real": real.mean()})
        if step % 2 == 0:
            yield Update("encoder", F.softplus(-self.critic(fake)).mean() + (fake - x).square().mean(), {})

    def _flat(self, batch: Batch) -> torch.Tensor:
        return batch.x.flatten(1).double() / 255


def _second() -> bool:
    return os.environ.get("RANK") == "1"


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


class Stopped(Critics):
    """Is told to stop in the second process, or in the only one, in its sixth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        if step == 5 and self.training and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield from super().updates(batch, stage, step)


class NoisyStopped(Stopped, Noisy):
    """Both."""


class Infinite(Critics):
    """Has a term that is not finite in the second process, in its eighth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        for update in super().updates(batch, stage, step):
            bad = step == 7 and self.training and _second()
            yield Update(update.group, update.loss, {"real": self.mean.sum() * (torch.nan if bad else 1)})


class Broken(Critics):
    """Raises in the second process, in its sixth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        if step == 5 and _second():
            raise ZeroDivisionError("of mine")
        yield from super().updates(batch, stage, step)


class Patience(Callback):
    """Stops after two epochs, and takes its time."""

    epochs = 0

    def on_epoch_end(self, snapshot: object) -> dict[str, float]:
        self.epochs += 1
        torch.rand(3)
        time.sleep(0.2)
        return {"epochs": self.epochs}

    @property
    def should_stop(self) -> bool:
        return self.epochs == 2


def _data(num_val: int) -> Splits:
    cpu = torch.device("cpu")
    noise = torch.randint(100, (53 + num_val, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    images = noise + 10 * torch.arange(16).view(4, 4)
    sets = (images[:53], images[53:], images[:0])
    return Splits(*(DeviceDataset(part.to(torch.uint8), None, cpu, cpu) for part in sets))


def _train(
    folder: Path,
    kind: Callable[[], Model],
    settings: dict,
    num_val: int = 31,
    patient: bool = False,
    seed: int = 0,
) -> Trainer:
    """What ``genlab train`` does, in each process; goes on where there is a checkpoint."""
    torch.set_num_threads(1)
    hardware = select(HardwareConfig(device="cpu", distributed="RANK" in os.environ))
    torch.manual_seed(seed)
    config, run = parse(TrainerConfig, SETTINGS | settings, "trainer"), RunFolder(folder)
    first = hardware.processes.first
    run.folder("checkpoints")
    state = hardware.processes.from_first(checkpoint.load(run.last) if first and run.last.exists() else None)
    callbacks = {"patience": Patience(None)} if first and patient else {}
    logger = RunLogger(run) if first else None
    trainer = Trainer(kind(), _data(num_val), config, hardware, run, logger, callbacks, seed)
    if state is not None:
        trainer.restore(state)
    trainer.fit()
    hardware.processes.leave()
    return trainer


def _weights(folder: Path, kind: type[Model] = Critics, settings: dict | None = None, *rest: object) -> dict:
    """Train; what was learned, and told."""
    trainer = _train(folder, kind, settings or {}, *rest)
    told = {name: value for name, value in trainer.metrics.items() if name != "images_per_second"}
    assert trainer.ema is not None
    return {
        "model": dict(trainer.model.state_dict()),
        "ema": dict(trainer.ema.model.state_dict()),
        "metrics": told,
        "step": trainer.step,
        "drawn": getattr(trainer.model, "drawn", []),
    }


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
    return folder, _weights(folder)


# ------------------------------------------------------------------ the same as one


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_learn_and_tell_what_one_does_with_the_same_batch(size, alone, here):
    folder, one = alone
    ends = together(size, _weights, here)
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
    one = _weights(folder, Critics, {}, 5)
    for end in together(3, _weights, here, Critics, {}, 5):
        assert end.error is None
        assert end.result["metrics"] == pytest.approx(one["metrics"], rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(before, after, alone, here):
    stopped = together(before, _weights, here, Stopped) if before > 1 else [_stopped_alone(here)]
    assert [end.code for end in stopped] == [143] * before
    assert 6 <= checkpoint.load(here / "checkpoints" / "last.pt")["step"] < 12
    resumed = [_weights(here)] if after == 1 else [end.result for end in together(after, _weights, here)]
    for result in resumed:
        _assert_equal_to_rounding(result, alone[1])


def _stopped_alone(folder):
    (end,) = together(1, _weights_alone, folder, Stopped)
    return end


def _weights_alone(folder: Path, kind: type[Model]) -> dict:
    del os.environ["TORCHELASTIC_RUN_ID"], os.environ["RANK"]
    return _weights(folder, kind)


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
    one = _weights(tmp_path_factory.mktemp("one"), Quantised)
    for end in together(2, _weights, here, Quantised):
        assert end.result["drawn"] == pytest.approx(one["drawn"], rel=1e-9)
        for name in ("codebook", "cluster_size", "cluster_sum"):
            values, expected = (r["model"][f"quantizer.{name}"] for r in (end.result, one))
            torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-11)


def test_a_code_begins_anew_at_one_place_in_all_processes(here):
    first, second = (end.result["drawn"] for end in together(2, _weights, here, Restarting))
    assert first == second
    assert len(set(first)) == 12


# ------------------------------------------------------------------ noise


def test_each_process_has_noise_of_its_own_and_the_first_that_of_one_alone(here, tmp_path_factory):
    one = _weights(tmp_path_factory.mktemp("one"), Noisy, {"batch_size": 6, "epochs": 1})
    first, second = (end.result["drawn"] for end in together(2, _weights, here, Noisy, {"epochs": 1}))
    assert first == one["drawn"][: len(first)]
    assert len(second) == len(first) == 4
    assert not set(first) & set(second)


def test_seeds_of_processes_are_told_apart():
    seeds = [Processes(rank, 4).seed(seed, step) for rank in range(4) for seed in range(4) for step in (0, 9)]
    assert len(set(seeds)) == 4 + 3 * 4 * 2  # the first has the run's own


def test_a_run_of_two_that_is_stopped_and_resumed_is_the_one_that_was_not(here, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    together(2, _weights, whole, Noisy)
    assert [end.code for end in together(2, _weights, here, NoisyStopped)] == [143, 143]
    together(2, _weights, here, Noisy)
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
    return _train(folder, _flow, settings, 96, seed=seed).metrics["val/bits_per_dim"]


@pytest.mark.slow
def test_a_flow_of_two_processes_is_as_good_as_flows_of_one(here, tmp_path_factory):
    ones = [_flow_loss(tmp_path_factory.mktemp(f"seed{seed}"), seed) for seed in range(3)]
    first, second = (end.result for end in together(2, _flow_loss, here))
    assert first == second
    spread = max(ones) - min(ones)
    assert min(ones) - 2 * spread < first < max(ones) + 2 * spread
    assert first < 7.2  # it has learned something: a uniform density has 8


# ------------------------------------------------------------------ ending together


def test_a_signal_to_one_process_stops_all_of_them_at_one_step(here):
    ends = together(2, _weights, here, Stopped)
    assert [end.code for end in ends] == [143, 143]
    assert (here / "checkpoints" / "last.pt").exists()


def test_a_term_that_is_not_finite_in_one_process_ends_all_with_one_message(here):
    ends = together(2, _weights, here, Infinite)
    messages = {str(end.error) for end in ends}
    assert [type(end.error) for end in ends] == [TrainingError, TrainingError]
    (message,) = messages
    assert "'real' is nan at step 7 (group 'critic')" in message
    assert checkpoint.load(here / "checkpoints" / "last.pt")["step"] == 4


def test_no_process_waits_for_one_that_is_gone(here):
    start = time.monotonic()
    first, second = together(2, _weights, here, Broken)
    assert isinstance(second.error, ZeroDivisionError)
    assert isinstance(first.error, PeerError)
    assert "another process of this run is gone" in str(first.error)
    assert time.monotonic() - start < 20


def test_the_first_process_decides_when_to_stop(here):
    ends = together(2, _weights, here, Critics, {"epochs": 5}, 31, True)
    assert [end.result["step"] for end in ends] == [8, 8]
    assert ends[0].result["metrics"]["patience/epochs"] == 2


def test_what_is_agreed_on_is_settled_about_once_a_second():
    class Counted(Processes):
        asked = 0

        def greatest(self, values):
            Counted.asked += 1
            return list(values)

    agreement = Agreement(Counted(0, 2))
    start = time.perf_counter()
    settled = [agreement.settled(15 if i >= 500 else 0) for i in range(2000)]
    assert time.perf_counter() - start < 1
    assert Counted.asked <= 12
    assert not any(settled[:500])
    assert set(settled) == {0, 15}
    assert agreement.settled(0, now=True) == 0
