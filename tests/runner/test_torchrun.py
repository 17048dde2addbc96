"""How processes are started together, what they leave, and how they tell what went wrong."""

import json
import signal
import time

import pytest
import torch
from harness import QUIET, finish, genlab, only_run, rows, state
from team import environment, torchrun

from genlab import hardware
from genlab.distributed import Processes, join
from genlab.errors import ConfigError


def _start(monkeypatch, rank=0, size=2):
    for name, value in environment(rank, size, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("genlab.torchrun.first_to_say", lambda message: True)
    monkeypatch.setattr("genlab.torchrun.common_folder", lambda own: own)


QUICK = ["train", "dataset=noise", "evaluation=null", "hardware.device=cpu"]


def test_distributed_without_torchrun_says_how_to_start():
    outcome = genlab(*QUICK, "hardware=distributed")
    assert outcome.code == 2
    assert "torchrun --nproc-per-node=2 -m genlab train ... hardware=distributed" in outcome.complaint()


def test_torchrun_without_distributed_is_refused(monkeypatch, here):
    _start(monkeypatch)
    outcome = genlab(*QUICK)
    assert outcome.code == 2
    assert "2 processes" in outcome.complaint()
    assert "add hardware=distributed" in outcome.complaint()
    assert not list(here.glob("outputs/*/*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["eval", "run=latest"], "genlab eval works in one process"),
        (["sample"], "genlab sample works in one process"),
        ([*QUICK, "-m", "seed=0,1", "hardware=distributed"], "a sweep starts its jobs itself"),
    ],
)
def test_what_works_in_one_process_is_refused_under_torchrun(arguments, complaint, run, monkeypatch):
    _start(monkeypatch)
    outcome = genlab(*arguments)
    assert outcome.code == 2
    assert complaint in outcome.complaint()


def test_a_batch_that_cannot_be_shared_names_those_that_can():
    with pytest.raises(ConfigError, match=r"trainer.batch_size=100 .* 3 processes .*take 99 or 102"):
        Processes(0, 3).check_batch(100)
    with pytest.raises(ConfigError, match=r"take 8$"):
        Processes(0, 8).check_batch(3)
    Processes(0, 3).check_batch(99)


def test_a_device_without_collectives_is_refused(monkeypatch):
    _start(monkeypatch)
    with pytest.raises(ConfigError, match="take one of them"):
        join(torch.device("mps"), distributed=True)


@pytest.mark.parametrize(
    ("device", "complaint"), [("cuda:0", "each process has a device of its own"), ("cuda:1", "2 CUDA devices")]
)
def test_each_process_has_a_cuda_device_of_its_own(device, complaint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _start(monkeypatch, rank=1, size=2 if device == "cuda:0" else 3)
    with pytest.raises(ConfigError, match=complaint):
        join(torch.device(device), distributed=True)


def test_a_process_takes_the_cuda_device_of_its_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    _start(monkeypatch, rank=3, size=4)
    assert [hardware._device(name).index for name in ("auto", "cuda")] == [3, 3]


# ------------------------------------------------------------------ torchrun

TEAM = [*QUIET, "hardware=distributed", "hardware.device=cpu"]
TRAITOR = """
import os
from saboteur import DEEDS, Saboteur

updates = Saboteur.updates

def betrayed(self, batch, stage, step):
    if step == 5 and os.environ["RANK"] == "1":
        DEEDS[self.config.deed]()
    yield from updates(self, batch, stage, step)

Saboteur.updates = betrayed
"""
"""A plugin: what the saboteur does, the second process alone does."""


def _betray(here, deed, *overrides):
    (here / "traitor.py").write_text(TRAITOR)
    plugin = ["plugins=[saboteur,traitor]", "model.name=saboteur", f"+model.deed={deed}", "+model.at=999"]
    return finish(torchrun(2, "train", *TEAM, *plugin, *overrides))


def _complaints(outcome):
    return [line for line in outcome.err.splitlines() if line.startswith("genlab: error")]


@pytest.mark.slow
def test_torchrun_leaves_one_run_that_one_process_can_measure_and_continue(here):
    outcome = finish(torchrun(2, "train", *TEAM))
    assert (outcome.code, _complaints(outcome)) == (0, [])
    assert outcome.out.count("done: ") == outcome.out.count("2 processes share every batch") == 1
    assert {path.name for path in here.iterdir()} <= {"outputs", "cache"}
    run = only_run(here / "outputs")
    assert [path.parent for path in here.glob("outputs/*/*/*.log")] == [run]
    assert list(here.glob("outputs/*/*")) == [run]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["hardware"].startswith("2 x CPU")
    assert summary["command"].startswith("torchrun --nproc-per-node=2 -m genlab train ")
    assert genlab("eval", f"run={run}").code == 0
    resumed = genlab("train", f"resume={run}", "hardware=cpu", "trainer.epochs=3")
    assert (resumed.code, state(run)["epoch"]) == (0, 3)
    assert len(state(run)["random"]) == 1


@pytest.mark.slow
def test_a_signal_to_torchrun_is_a_stop_that_a_resume_undoes(here):
    process = torchrun(2, "train", *TEAM, "trainer.epochs=100000")
    end = time.monotonic() + 100
    while not list(here.glob("outputs/**/last.pt")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    run = only_run(here / "outputs")
    step = state(run)["step"]
    assert outcome.code != 0
    assert (
        f"stopped at step {step}; continue with: torchrun --nproc-per-node=2 -m genlab train resume="
        in outcome.out
    )
    assert "Traceback" not in outcome.out
    epochs = state(run)["epoch"] + 2
    resumed = finish(torchrun(2, "train", f"resume={run}", f"trainer.epochs={epochs}"))
    assert resumed.code == 0
    assert state(run)["step"] == 4 * epochs
    assert len(state(run)["random"]) == 2
    assert max(int(row[0]) for row in rows(run)) == 4 * epochs
    assert {path.name for path in here.iterdir()} <= {"outputs", "cache"}


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_is_told_once(here):
    outcome = _betray(here, "bug")
    assert outcome.code != 0
    (line,) = _complaints(outcome)
    assert "unexpected ZeroDivisionError" in line
    run = only_run(here / "outputs")
    assert "of mine" in (run / "error.txt").read_text()
    assert state(run)["step"] == 4


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(here):
    outcome = _betray(here, "kill")
    assert outcome.code != 0
    assert len(_complaints(outcome)) <= 1  # torchrun may be the faster one to end the first process


@pytest.mark.slow
def test_a_mistake_is_told_once_and_leaves_nothing(here):
    outcome = finish(torchrun(2, "train", *TEAM, "trainer.batch_size=15"))
    assert outcome.code != 0
    (line,) = _complaints(outcome)
    assert "take 14 or 16" in line
    assert not list(here.glob("outputs/*/*"))
