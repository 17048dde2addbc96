"""A run that is interrupted, stopped or killed and then resumed is the run that was not."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from harness import (
    QUIET,
    assert_same_run,
    differences,
    finish,
    genlab,
    only_run,
    python,
    rows,
    spawn,
    state,
    train,
)

from genlab.checkpoint import load_latest
from genlab.run_folder import RunFolder

SABOTAGE = [*QUIET, "trainer.ema_decay=0.9", "trainer.epochs=3", "plugins=[saboteur]", "model.name=saboteur"]
"""Three epochs of four steps."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing disturbed."""
    return train(tmp_path_factory.mktemp("whole"), *SABOTAGE)


def _stop(deed, at, *overrides):
    """The arguments of a run that ends itself in the step ``at``, counted from 0."""
    return ["train", *SABOTAGE, f"+model.deed={deed}", f"+model.at={at}", *overrides]


def _resume(run, *overrides):
    outcome = genlab("train", f"resume={run}", *overrides)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def _config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def _wait_for(condition, process, seconds=60):
    """Until ``condition()`` holds or ``process`` has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_two_runs_of_one_seed_are_the_same(whole, here):
    assert_same_run(train(here / "again", *SABOTAGE), whole)


def test_two_seeds_differ(whole, here):
    other = train(here / "other", *SABOTAGE, "seed=1")
    assert list(differences(state(other)["model"], state(whole)["model"])) != []
    assert rows(other) != rows(whole)


# ------------------------------------------------------------------ signals


@pytest.mark.parametrize(
    ("deed", "code", "at"),
    [
        ("interrupt", 130, 0),
        ("interrupt", 130, 5),
        ("terminate", 143, 7),
        ("interrupt", 130, 11),
    ],
)
def test_a_signal_and_a_resume_change_nothing(deed, code, at, whole, here):
    stopped = genlab(*_stop(deed, at))
    run = only_run(here / "outputs")
    assert (stopped.code, stopped.err) == (code, "")
    assert f"stopped at step {at + 1}; continue with: genlab train resume={run}" in stopped.out
    assert state(run)["step"] == at + 1
    _resume(run)
    assert_same_run(run, whole)


def test_the_mean_over_a_window_survives_a_signal_in_its_middle(here):
    whole = train(here / "whole", *SABOTAGE, "trainer.log_every=3")
    genlab(*_stop("interrupt", 4, "trainer.log_every=3", "output_dir=stopped"))
    run = only_run(here / "stopped")
    _resume(run)
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_signal_to_the_process_gives_the_exit_code_of_a_shell(here):
    stopped = spawn(*_stop("terminate", 1))
    assert (stopped.code, stopped.err) == (143, "")


def test_a_process_killed_by_force_is_resumed_to_the_same_end(whole, here):
    killed = spawn(*_stop("kill", 6))
    run = only_run(here / "outputs")
    assert killed.code == -signal.SIGKILL
    assert state(run)["step"] == 4
    assert rows(run) != rows(whole)
    _resume(run)
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_over(whole, here):
    killed = spawn(*_stop("kill", 2))
    run = only_run(here / "outputs")
    assert killed.code == -signal.SIGKILL
    assert "no checkpoint yet: starting from the beginning" in _resume(run).out
    assert_same_run(run, whole)


def test_a_run_that_dies_after_a_validation_logs_it_once(here):
    """The checkpoint of ``checkpoint_every`` at the end of the epoch is there, the one after it is not."""
    watched = [*SABOTAGE, "callbacks.sample_grid={n: 1, figures: []}", "trainer.checkpoint_every=4"]
    whole = train(here / "whole", *watched)
    died = genlab("train", *watched, "+model.deed=bug", "+model.looking=true", "output_dir=died")
    run = only_run(here / "died")
    assert died.code == 1
    _resume(run)
    assert_same_run(run, whole)


# ------------------------------------------------------------------ what a resume may and may not do


def test_more_epochs_continue_a_finished_run(run):
    before = rows(run)
    _resume(run, "trainer.epochs=4")
    assert (state(run)["epoch"], state(run)["step"]) == (4, 16)
    assert rows(run)[: len(before)] == before
    assert _config(run)["trainer"]["epochs"] == 4


def test_a_finished_run_resumed_stays_as_it_is(run, here):
    before = Path(shutil.copytree(run, here / "before"))
    _resume(run)
    assert_same_run(run, before)


def test_resume_takes_everything_from_the_run(run, here):
    before = _config(run)
    _resume(run)
    assert _config(run) == before
    assert [path.parent for path in here.glob("**/config.yaml")] == [run]


def test_resume_of_the_latest(run):
    assert f"done: {run}" in genlab("train", "resume=latest", "trainer.epochs=3").out


def test_a_second_process_is_refused(run):
    before = _config(run)
    with RunFolder(run).lock():
        outcome = genlab("train", f"resume={run}", "trainer.epochs=9")
    assert f"{run} is being trained by another process" in outcome.complaint()
    assert outcome.code == 2
    assert _config(run) == before


def test_a_run_in_training_locks_its_folder(here):
    training = python("-P", "-m", "genlab", "train", *SABOTAGE, "trainer.epochs=100000")
    _wait_for(lambda: list(here.glob("outputs/**/last.pt")), training)
    outcome = genlab("train", f"resume={only_run(here / 'outputs')}")
    training.send_signal(signal.SIGINT)
    assert finish(training).code == 130
    assert "is being trained by another process" in outcome.complaint()


@pytest.mark.parametrize("override", ["model.num_flows=6", "trainer.optimizer.name=SGD", "dataset.num_val=16"])
def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(override, run):
    before = _config(run)
    outcome = genlab("train", f"resume={run}", override, "trainer.epochs=3")
    assert outcome.complaint()
    assert outcome.code == 2
    assert _config(run) == before


def test_a_run_without_an_evaluation_is_resumed(here):
    run = train(here / "outputs", *QUIET[:-2], "~evaluation")
    _resume(run, "trainer.epochs=3")


def test_a_broken_summary_does_not_end_a_resumed_run(run):
    (run / "summary.json").write_text('{"epochs": ')
    _resume(run, "trainer.epochs=3")


def test_a_torn_last_line_of_metrics_is_dropped(run):
    before = rows(run)
    with (run / "metrics.csv").open("a") as file:
        file.write("9,2,train/lo")
    _resume(run)
    assert rows(run) == before


# ------------------------------------------------------------------ killed at random


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_random_again_and_again_comes_to_the_same_end(here):
    long = [*SABOTAGE, "trainer.epochs=300"]
    whole = train(here / "whole", *long)
    draw, steps = random.Random(0), [0]
    start = ["-P", "-m", "genlab", "train"]
    process = python(*start, *long, "output_dir=killed")
    _wait_for(lambda: list(here.glob("killed/**/last.pt")), process)
    run = only_run(here / "killed")
    for _ in range(12):
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        steps.append(load_latest([run / "checkpoints" / f"{name}.pt" for name in ("last", "previous")])["step"])
        process = python(*start, f"resume={run}")
        written = (run / "metrics.csv").stat().st_size
        _wait_for(lambda size=written: (run / "metrics.csv").stat().st_size != size, process)
    assert finish(process).code == 0
    assert len(set(steps)) > 6  # the kills came while it trained
    assert_same_run(run, whole)
