"""A clock that jumps while a run goes on, or between a run and its resume, changes nothing but dates."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from children import Clock, Operation, Watch, run, undisturbed
from harness import QUIET, assert_same_run, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genlab.run_folder import find

TRAIN = ["train", *QUIET, "trainer.epochs=3"]
DAY = 86_400


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"), *TRAIN)


@pytest.mark.slow
def test_a_run_under_a_jumping_clock_is_the_same(whole, here):
    outcome = run(*TRAIN, fault=Clock(jumping=True))
    assert (outcome.code, outcome.err) == (0, "")
    assert_same_run(only_run(here / "outputs"), whole)
    summary = json.loads((only_run(here / "outputs") / "summary.json").read_text())
    assert 0 < summary["train_seconds"] < 600
    assert (
        "-" not in outcome.out.partition("epoch 3/3")[2].splitlines()[0].rpartition("  ")[2]
    )  # no time less than 0


class _Both:
    """Two faults at once."""

    def __init__(self, *faults):
        self.faults = faults

    def __call__(self):
        for fault in self.faults:
            fault()


@pytest.mark.slow
@pytest.mark.parametrize("days", [-10, 10])
def test_a_run_resumed_days_before_or_after_it_began_is_the_same(days, whole, here):
    kill = Watch(here / "run", here / "journal", Operation("fsync", "checkpoints/.last.pt.part"), 2)
    run(*TRAIN, "hydra.run.dir=run", fault=kill)
    outcome = run("train", "resume=run", fault=Clock(days * DAY))
    assert (outcome.code, outcome.err) == (0, "")
    assert_same_run(here / "run", whole)
    events = EventAccumulator(str(here / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))


@pytest.mark.slow
def test_runs_that_begin_at_the_same_time_do_not_meet(whole, here):
    """The clock stands still: both take the same name for their folder."""
    shutil.copytree(whole, here / "run")
    outcome = run(*TRAIN, "hydra.run.dir=run")
    assert f"{here / 'run'} holds a run already; continue it with resume=" in outcome.complaint()
    assert_same_run(here / "run", whole)


@pytest.mark.parametrize(("ahead", "latest"), [(-DAY, "second"), (60, "first"), (DAY, "second")])
def test_the_latest_run_is_not_one_of_a_clock_that_was_ahead(ahead, latest, here):
    now = time.time()
    for name, written in (("first", now + ahead), ("second", now - 60)):
        config = here / "outputs" / name / "config.yaml"
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (written, written))
    assert find("latest", here / "outputs").path.name == latest
