"""Checkpoints: what a crash, a bad disk or a stranger may do to them."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from harness import differences, genlab

from genlab import checkpoint
from genlab.errors import CheckpointError


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _state(step: int, size: int = 1000) -> dict:
    return {"step": step, "model": {"w": torch.full((size,), float(step))}, "ema": None, "names": ["a", "b"]}


def test_what_is_saved_is_loaded(here):
    state = {**_state(3), "random": {"cpu": torch.get_rng_state()}, "best": -1.5, "pair": (1, torch.ones(2))}
    checkpoint.save(here / "last.pt", state)
    assert list(differences(checkpoint.load(here / "last.pt"), {"format": checkpoint.FORMAT, **state})) == []


def test_torch_reads_a_checkpoint(here):
    checkpoint.save(here / "last.pt", _state(3))
    loaded = torch.load(here / "last.pt", weights_only=True)
    assert torch.equal(loaded["model"]["w"], torch.full((1000,), 3.0))


def test_the_checkpoint_before_is_kept(here):
    for step in (1, 2, 3):
        checkpoint.save(here / "last.pt", _state(step), keep=here / "previous.pt")
    assert checkpoint.load(here / "last.pt")["step"] == 3
    assert checkpoint.load(here / "previous.pt")["step"] == 2
    assert sorted(path.name for path in here.iterdir()) == ["last.pt", "previous.pt"]


def test_a_failed_write_leaves_the_old_one(here, monkeypatch):
    checkpoint.save(here / "last.pt", _state(1), keep=here / "previous.pt")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(here / "last.pt", _state(2), keep=here / "previous.pt")
    assert checkpoint.load(here / "last.pt")["step"] == 1
    assert [path.name for path in here.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99], ids="{:.0%}".format)
def test_a_checkpoint_cut_short_is_an_error(keep, here):
    path = here / "last.pt"
    checkpoint.save(path, _state(1))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match="cut short"):
        checkpoint.load(path)


def test_every_flipped_byte_is_detected(here):
    path, draw = here / "last.pt", random.Random(0)
    checkpoint.save(path, _state(1))
    data = path.read_bytes()
    for _ in range(200):
        broken = bytearray(data)
        broken[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"altered|not genlab's"):
            checkpoint.load(path)


def test_a_checkpoint_of_another_format_is_refused(here, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(here / "last.pt", _state(1))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="not of format 1"):
        checkpoint.load(here / "last.pt")


def test_a_checkpoint_that_would_run_code_is_refused(here):
    checkpoint.save(here / "good.pt", _state(1))
    checkpoint.save(here / "last.pt", {**_state(2), "model": Bomb(here / "armed")})
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.load_latest([here / "last.pt", here / "good.pt"])
    assert not (here / "armed").exists()
    # It is a bomb: torch without weights_only does run it.
    torch.load(here / "last.pt", weights_only=False)
    assert (here / "armed").exists()


# ------------------------------------------------------------------ killed while writing


def _write_for_ever(folder) -> None:
    torch.set_num_threads(1)  # the parent's threads were not forked with it, and would be waited for
    step = 0
    while True:
        step += 1
        checkpoint.save(folder / "last.pt", _state(step, 200_000), keep=folder / "previous.pt")


@pytest.mark.parametrize("kills", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_a_checkpoint(kills, here):
    draw, steps = random.Random(0), []
    checkpoint.save(here / "last.pt", _state(0, 200_000))
    for _ in range(kills):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(here,))
        writer.start()
        time.sleep(draw.uniform(0.01, 0.08))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        state = checkpoint.load_latest([here / "last.pt", here / "previous.pt"])
        assert (state["model"]["w"] == state["step"]).all()
        steps.append(state["step"])
    assert max(steps) > 0  # the writer did get to write


def test_what_a_killed_writer_left_is_cleared_away(here):
    (here / ".last.pt.part").write_bytes(b"half")
    checkpoint.save(here / "last.pt", _state(1))
    assert [path.name for path in here.iterdir()] == ["last.pt"]


# ------------------------------------------------------------------ broken ones in a run


def _flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize("damage", [_flip, _cut], ids=["flipped", "cut"])
def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(damage, run):
    damage(run / "checkpoints" / "last.pt")
    outcome = genlab("train", f"resume={run}", "trainer.epochs=3")
    assert (outcome.code, outcome.err) == (0, "")
    assert "falling back to previous.pt" in outcome.out
    assert "continuing at step 4, epoch 1" in outcome.out
    assert checkpoint.load(run / "checkpoints" / "last.pt")["epoch"] == 3


@pytest.mark.parametrize(("verb", "key"), [("train", "resume"), ("eval", "run"), ("sample", "run")])
def test_nothing_but_broken_checkpoints_is_an_error(verb, key, run):
    for path in (run / "checkpoints").iterdir():
        _flip(path)
    outcome = genlab(verb, f"{key}={run}")
    complaint = outcome.complaint()
    assert outcome.code == 2
    assert "last.pt has been altered" in complaint
    assert "previous.pt has been altered" in complaint


@pytest.mark.parametrize(("verb", "key"), [("train", "resume"), ("eval", "run"), ("sample", "run")])
def test_a_run_with_an_armed_checkpoint_is_refused(verb, key, run, here):
    for path in (run / "checkpoints").iterdir():
        checkpoint.save(path, {**checkpoint.load(path), "metrics": Bomb(here / "armed")})
    outcome = genlab(verb, f"{key}={run}")
    assert "is refused: it holds objects other than tensors and plain values" in outcome.complaint()
    assert outcome.code == 2
    assert not (here / "armed").exists()
