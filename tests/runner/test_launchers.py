"""Sweeps by Hydra's plugins: launchers that run jobs elsewhere, and a sweeper that searches."""

import csv
import importlib.util
import json
import os
import re
from pathlib import Path

import matplotlib
import pytest
from harness import QUIET, assert_same_run, finish, genlab, python, train
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

UNMEASURED = [*(setting for setting in QUIET if not setting.startswith("evaluation.")), "evaluation=null"]
SABOTAGE = [*UNMEASURED, "plugins=[saboteur]", "model.name=saboteur", "+model.at=5"]
"""The deed is done in the second of two epochs, behind a checkpoint."""


def _needs(plugin):
    """Marks a slow test that is skipped where a plugin of Hydra is not installed."""
    there = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    reason = f"{plugin} is not installed: pip install 'genlab[sweep]'"
    return lambda test: pytest.mark.slow(pytest.mark.skipif(not there, reason=reason)(test))


def _sweep(*overrides, **variables):
    """A sweep as a process of its own; the outcome, its folder and the rows of its table."""
    outcome = _elsewhere(*overrides, **variables)
    (folder,) = Path("outputs").glob("sweeps/*")
    return outcome, folder, _table(folder)


def _elsewhere(*overrides, **variables):
    fonts = {"MPLCONFIGDIR": matplotlib.get_cachedir()}  # lest every process look for all fonts
    return finish(python("-P", "-m", "genlab", "train", "-m", *overrides, env=fonts | variables))


def _table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _complaint(outcome):
    """genlab's one line on stderr, among those of the plugins; there is no traceback anywhere."""
    assert "Traceback" not in outcome.out + outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("genlab: error: ")]
    return line.removeprefix("genlab: error: ")


# ------------------------------------------------------------------ one machine


@_needs("hydra_joblib_launcher")
def test_joblib_runs_jobs_side_by_side_that_share_the_cores(here):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hardware.threads=null"]
    outcome, folder, table = _sweep(
        *SABOTAGE, *launcher, "+model.deed=none,not_finite,none", OMP_NUM_THREADS=""
    )
    assert _complaint(outcome) == "1 of 3 jobs failed: 1"
    assert outcome.out.count("job 1 failed: the term 'log_det' is nan") == 1
    assert [row["status"] for row in table] == ["ok", "failed", "ok"]
    assert_same_run(folder / table[0]["folder"], folder / table[2]["folder"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = re.search(r"(\d+) threads", table[0]["hardware"])
    assert int(threads[1]) == max(1, cores // 2)


@_needs("hydra_joblib_launcher")
def test_a_job_whose_worker_was_killed_is_finished_as_if_nothing_had_happened(here):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    outcome, folder, table = _sweep(*SABOTAGE, *launcher, "+model.deed=kill")
    assert re.match(r"the sweep broke off \(TerminatedWorkerError: .*\); go on", _complaint(outcome))
    assert f"genlab train resume={folder.absolute()}" in outcome.err
    assert [row["status"] for row in table] == ["unfinished"]
    job = folder / table[0]["folder"]
    assert json.loads((job / "job.json").read_text())["status"] == "unfinished"

    resumed = genlab("train", f"resume={job}")
    assert (resumed.code, resumed.err) == (0, "")
    assert "continuing at step 4" in resumed.out
    assert_same_run(job, train(here / "other", *SABOTAGE))
    assert [row["status"] for row in _table(folder)] == ["ok"]


# ------------------------------------------------------------------ clusters


@_needs("hydra_ray_launcher")
def test_ray_starts_the_job_of_a_killed_worker_again_and_it_goes_on(here):
    ray = "hydra.launcher.ray.init"
    options = [f"{ray}.address=local", f"+{ray}.num_cpus=2", f"+{ray}.include_dashboard=false"]
    deeds = "+model.deed=none,kill_once,not_finite"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # no message home, no token in it
    outcome, folder, table = _sweep(*SABOTAGE, "hydra/launcher=ray", *options, deeds, **quiet)
    assert _complaint(outcome) == "1 of 3 jobs failed: 2"
    assert [row["status"] for row in table] == ["ok", "ok", "failed"]
    assert "the term 'log_det' is nan" in table[2]["error"]
    assert "continuing at step 4" in (folder / table[1]["folder"] / "train.log").read_text()
    assert_same_run(folder / table[0]["folder"], folder / table[1]["folder"])


@_needs("hydra_submitit_launcher")
def test_a_job_that_submitit_queues_again_goes_on(here):
    deeds = "+model.deed=none,preempt_once"
    outcome, folder, table = _sweep(*SABOTAGE, "hydra/launcher=submitit_local", deeds)
    assert outcome.code == 0, outcome.err
    assert [row["status"] for row in table] == ["ok", "ok"]
    again = folder / table[1]["folder"]
    assert "continuing at step 4" in (again / "train.log").read_text()
    assert_same_run(folder / table[0]["folder"], again)
    assert deeds in json.loads((again / "job.json").read_text())["command"]  # the sweep's, not the worker's


@_needs("hydra_submitit_launcher")
def test_slurm_is_asked_for_a_gpu_and_to_queue_jobs_again(here):
    programs = here / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        (programs / name).write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    launcher = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90"]
    outcome = _elsewhere(*QUIET, *launcher, "seed=0,1", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert _complaint(outcome).startswith("the sweep broke off (FailedJobError: no such partition")
    (script,) = here.glob("outputs/sweeps/*/.submitit/*.sh")
    flags = {line.removeprefix("#SBATCH ") for line in script.read_text().splitlines()}
    assert flags >= {
        "--gpus-per-node=1",
        "--cpus-per-task=4",
        "--partition=gpu",
        "--time=90",
        "--requeue",
        "--array=0-1%2",
    }
    assert any(flag.startswith("--signal=USR2@") for flag in flags)


# ------------------------------------------------------------------ a search

SEARCH = [
    *(setting for setting in UNMEASURED if not setting.startswith("model.num_flows")),
    *("trainer.max_steps=2", "hydra/sweeper=optuna"),
    *("hydra.sweeper.n_jobs=1", "hydra.sweeper.max_failure_rate=1.0", "hydra.sweeper.sampler.seed=0"),
    "hydra.sweeper.n_trials=3",
]
RATES = "trainer.optimizer.lr=tag(log,interval(1e-5,0.3))"


@_needs("hydra_optuna_sweeper")
@pytest.mark.parametrize(("direction", "choose"), [("minimize", min), ("maximize", max)])
def test_optuna_searches_over_the_metric_that_is_named(direction, choose, here):
    goal = ["objective=val/bits_per_dim", f"hydra.sweeper.direction={direction}"]
    outcome = genlab("train", "-m", *SEARCH, *goal, RATES)
    assert outcome.code == 0, outcome.err
    (folder,) = here.glob("outputs/sweeps/*")
    table = _table(folder)
    values = [float(row["val/bits_per_dim"]) for row in table]
    assert len(set(values)) == 3
    found = OmegaConf.load(folder / "optimization_results.yaml")
    assert found.best_value == choose(values)
    best = table[values.index(choose(values))]
    assert float(best["trainer.optimizer.lr"]) == found.best_params["trainer.optimizer.lr"]
    named = f"best: {best['job']}: lr={best['trainer.optimizer.lr']}: val/bits_per_dim"
    for said in (outcome.out, (folder / "sweep.md").read_text(), (folder / "sweep.html").read_text()):
        assert named in said


@_needs("hydra_optuna_sweeper")
def test_a_search_that_was_stopped_goes_on_where_it_was(here):
    whole = genlab("train", "-m", *SEARCH, RATES, "hydra.sweep.dir=whole")
    genlab("train", "-m", *SEARCH, RATES, "hydra.sweep.dir=part", "hydra.sweeper.n_trials=2")
    again = genlab("train", "resume=part", "hydra.sweeper.n_trials=3")
    assert (whole.code, again.code) == (0, 0), again.err
    assert again.out.count("is done already") == 2
    rows = [[row | {"seconds": ""} for row in _table(Path(name))] for name in ("whole", "part")]
    assert rows[0] == rows[1]


@_needs("hydra_optuna_sweeper")
def test_a_trial_that_fails_does_not_end_the_search_over_several_objectives(here):
    goals = ["objective=[val/loss,val/bits_per_dim]", "hydra.sweeper.direction=[minimize,maximize]"]
    sampler = ["hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=4"]
    outcome = genlab("train", "-m", *SEARCH, *goals, *sampler, "model.num_flows=range(1,5)")
    (folder,) = here.glob("outputs/sweeps/*")
    table = _table(folder)
    states = [row["status"] for row in table]
    assert set(states) == {"ok", "failed"}
    assert f"{states.count('failed')} of 4 jobs failed" in _complaint(outcome)
    values = [
        [float(row["val/loss"]), float(row["val/bits_per_dim"])] for row in table if row["status"] == "ok"
    ]
    solutions = OmegaConf.load(folder / "optimization_results.yaml").solutions
    assert solutions
    assert all(solution["values"] in values for solution in solutions)


@_needs("hydra_optuna_sweeper")
def test_the_recipe_of_a_search_is_one_that_works(here):
    small = ["dataset=noise", "dataset.format.num_images=200", "dataset.num_val=50", "trainer.max_steps=1"]
    outcome = genlab(
        "train", "-m", "experiment=search_vae", *small, "callbacks=null", "hydra.sweeper.n_trials=2"
    )
    assert outcome.code == 0, outcome.err
    assert "best: " in outcome.out


# ------------------------------------------------------------------ without the plugins


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("hydra/launcher=ray", "launcher/ray.yaml"),
        ("hydra/launcher=slurm", "launcher/submitit_slurm.yaml"),
        ("hydra/sweeper=optuna", "sweeper/optuna.yaml"),
        ("experiment=search_vae", "sweeper/optuna.yaml"),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_the_way_to_it(option, file, here, monkeypatch):
    Plugins.instance()  # by which those that are there come into the store
    group, name = file.split("/")
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group], name, raising=False)
    complaint = genlab("train", "-m", *QUIET, option).complaint()
    assert complaint.startswith(f"hydra/{group}={name.removesuffix('.yaml')} needs a plugin of Hydra")
    assert complaint.endswith("pip install 'genlab[sweep]'")


def test_a_launcher_that_is_misspelt_is_corrected(here):
    complaint = genlab("train", "-m", *QUIET, "hydra/launcher=jobib").complaint()
    assert complaint == "unknown hydra/launcher 'jobib'; did you mean 'joblib'?"
