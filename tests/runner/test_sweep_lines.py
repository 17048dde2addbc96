"""What a night's sweep says while it runs: a line for each job."""

import re
from datetime import datetime

import pytest
from harness import QUIET, genlab
from omegaconf import OmegaConf

from genlab.sweep_watch import Tally, count_jobs, line

NOON = datetime(2024, 5, 4, 12, 0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three jobs, of which one fails."""
    outputs = tmp_path_factory.mktemp("swept")
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=4,1,5", "seed=3", f"output_dir={outputs}")
    (folder,) = outputs.glob("sweeps/*")
    return outcome, folder


def _before_the_report(outcome):
    return outcome.out[: outcome.out.index("Sweep over")].splitlines()


def test_a_sweep_says_one_line_first_and_one_for_each_job(swept):
    outcome, folder = swept
    first, *jobs = _before_the_report(outcome)
    assert first == f"3 jobs in {folder}; what each one says is in its train.log"
    end = r"( s  ends about (\w{3} )?\d\d:\d\d)"
    assert re.fullmatch(r"1/3  job 0 ok: val/loss \d+\.?\d*  \(num_flows=4\)  [\d.]+" + end, jobs[0])
    reason = "model.num_flows=1: input should be greater than or equal to 4"
    assert re.fullmatch(rf"2/3  job 1 failed: {re.escape(reason)}  \(num_flows=1\)  [\d.]+" + end, jobs[1])
    assert re.fullmatch(r"3/3  job 2 ok: val/loss \d+\.?\d*  \(num_flows=5\)  [\d.]+ s", jobs[2])
    assert len(jobs) == 3


def test_what_a_job_says_is_in_its_log(swept):
    _, folder = swept
    for job in ("0-realnvp-noise", "2-realnvp-noise"):
        log = (folder / job / "train.log").read_text()
        assert "epoch 2/2  train/loss" in log
        assert re.search(r"\d/3  job \d ok", log)
    assert "1/3" not in (folder / "2-realnvp-noise" / "train.log").read_text()


def test_a_run_on_its_own_says_all(here):
    outcome = genlab("train", *QUIET)
    assert "epoch 2/2  train/loss" in outcome.out
    assert "Likelihood under" in outcome.out


def test_the_end_is_foreseen_from_the_jobs_that_are_done_and_those_beside_them():
    alone = Tally(ended=2, running=0, total=8, mean_seconds=600.0)
    assert alone.end(NOON) == datetime(2024, 5, 4, 13, 0)
    beside = Tally(ended=2, running=2, total=8, mean_seconds=600.0)
    assert beside.end(NOON) == datetime(2024, 5, 4, 12, 20)
    assert Tally(ended=8, running=0, total=8, mean_seconds=600.0).end(NOON) is None
    assert Tally(ended=2, running=0, total=None, mean_seconds=600.0).end(NOON) is None


def test_a_line_of_a_sweep_whose_sweeper_alone_knows_how_many_there_are():
    said = line(4, "", "ok", 3.25, Tally(5, 0, None, 3.0), NOON)
    assert said == "5  job 4 ok  3.2 s"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "model.beta=1,2,4", "seed=0,1"], 6),
        (["-m", "model.beta=range(1,5)", "trainer.groups={a: 1}"], 4),
        (["-m", "--config-dir", "conf", "seed=0,1", "seed=0,1,2", "~evaluation"], 3),
        (["-m", "seed=0"], 1),
        (["-m", "model=glob(*)"], None),
    ],
)
def test_the_jobs_of_a_sweep_are_counted(arguments, expected, monkeypatch):
    monkeypatch.setattr("sys.argv", ["genlab", *arguments])
    hydra = {"sweeper": {"params": None}, "runtime": {"choices": {"hydra/sweeper": "basic"}}}
    assert count_jobs(OmegaConf.create(hydra)) == expected


def test_the_trials_of_a_search_are_counted():
    hydra = {"sweeper": {"n_trials": 20}, "runtime": {"choices": {"hydra/sweeper": "optuna"}}}
    assert count_jobs(OmegaConf.create(hydra)) == 20


def test_keys_that_the_sweeper_was_given_count_too(monkeypatch):
    monkeypatch.setattr("sys.argv", ["genlab", "-m", "seed=0,1"])
    hydra = {"sweeper": {"params": {"model.beta": "1,2,4"}}, "runtime": {"choices": {"hydra/sweeper": "basic"}}}
    assert count_jobs(OmegaConf.create(hydra)) == 6
