"""Two processes at one run: one goes on, undisturbed, and the other is told so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from children import Child, run, start, undisturbed
from harness import TINY, UNWATCHED, assert_same_run

from genlab.run_folder import RunFolder

TRAIN = ["train", *TINY, *UNWATCHED, "trainer.epochs=40", "~evaluation"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"), *TRAIN)


def _begun(folder: Path) -> Child:
    """A training with a checkpoint, held still."""
    training = start(*TRAIN, f"hydra.run.dir={folder}")
    end = time.monotonic() + 300
    while not (folder / "checkpoints" / "last.pt").exists():
        assert time.monotonic() < end
        assert training.process.is_alive()
        time.sleep(0.005)
    os.kill(training.process.pid, signal.SIGSTOP)
    return training


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_goes_on_undisturbed(whole, here):
    training = _begun(here / "run")
    (here / "second").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "second")
        for arguments in (["train", f"resume={here / 'run'}"], [*TRAIN, f"hydra.run.dir={here / 'run'}"]):
            outcome = run(*arguments)
            assert outcome.complaint() == f"{here / 'run'} is being trained by another process"
            assert outcome.code == 2
    os.kill(training.process.pid, signal.SIGCONT)
    outcome = training.finish()
    assert (outcome.code, outcome.err) == (0, "")
    assert_same_run(here / "run", whole)


@pytest.mark.slow
def test_the_lock_of_a_killed_process_holds_nobody_up(whole, here):
    training = _begun(here / "run")
    assert training.kill(0)
    assert (here / "run" / ".lock").exists()
    outcome = run("train", "resume=run")
    assert (outcome.code, outcome.err) == (0, "")
    assert_same_run(here / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_of_two_processes_that_resume_at_once_one_is_refused(attempt, whole, here):
    _begun(here / "run").kill(0)
    children = []
    for name in ("a", "b"):
        (here / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here / name)
            children.append(start("train", f"resume={here / 'run'}"))
    outcomes = sorted((child.finish() for child in children), key=lambda outcome: outcome.code)
    assert [outcome.code for outcome in outcomes] == [0, 2]
    assert "is being trained by another process" in outcomes[1].complaint()
    assert_same_run(here / "run", whole)


def test_a_lock_is_held_by_one(here):
    folder = RunFolder(here)
    with folder.lock():
        assert "is being trained" in run(*TRAIN, f"hydra.run.dir={here}").complaint()
