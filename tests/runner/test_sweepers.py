"""Sweeps under other sweepers and launchers than Hydra's own."""

import os

import pytest
from harness import CHECKOUT, QUIET, Outcome, finish, genlab, python
from sweep_jobs import column, only_sweep

PLUGINS = """
import os
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

class Optimiser(BasicSweeper):
    def sweep(self, arguments):
        self.overrides = [[[*arguments, f"model.num_flows={n}"] for n in (4, 1)]]
        for job in self.launcher.launch(self.overrides[0], initial_job_idx=0):
            try:
                print("SAW", type(job.return_value).__name__)
            except Exception as error:
                print("SAW", error)

class Forked(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        import genlab.verbs  # once, not in every fork
        for i, overrides in enumerate(job_overrides):
            if os.fork() == 0:
                os.makedirs("elsewhere", exist_ok=True)
                os.chdir("elsewhere")
                super().launch([overrides], initial_job_idx + i)
                os._exit(0)
            os.wait()
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]

for group, cls in (("sweeper", Optimiser), ("launcher", Forked)):
    node = {"_target_": f"hydra_plugins.mine.{cls.__name__}"}
    if cls is Optimiser:
        node |= {"max_batch_size": None, "params": None}
    ConfigStore.instance().store(group=f"hydra/{group}", name=cls.__name__.lower(), node=node)
"""


def _with_plugins(here, *overrides: str) -> Outcome:
    (here / "hydra_plugins").mkdir()
    (here / "hydra_plugins" / "mine.py").write_text(PLUGINS)
    path = os.pathsep.join([str(CHECKOUT), str(here)])
    return finish(python("-P", "-m", "genlab", "train", "-m", *QUIET, *overrides, env={"PYTHONPATH": path}))


def test_a_sweeper_that_optimises_sees_values_and_exceptions(here):
    outcome = _with_plugins(here, "hydra/sweeper=optimiser")
    assert "SAW float" in outcome.out
    assert "SAW model.num_flows=1: input should be" in outcome.out
    assert column(only_sweep(here / "outputs")[1], "status") == ["ok", "failed"]


def test_a_sweeper_that_optimises_a_metric_that_no_run_has_is_told_which_there_are(here):
    outcome = _with_plugins(here, "hydra/sweeper=optimiser", "objective=val/los", "trainer.max_steps=1")
    assert "SAW objective=val/los: the run has no such metric; did you mean 'val/loss'?" in outcome.out
    assert "'val/loss'" in only_sweep(here / "outputs")[1][0]["error"]


def test_what_nobody_optimises_need_not_be_there(here):
    unknown = [*QUIET, "objective=val/los", "trainer.max_steps=1"]
    assert genlab("train", *unknown).code == 0
    assert genlab("train", "-m", *unknown, "seed=0").code == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the launcher of this test forks")
def test_jobs_in_other_processes_are_in_the_table(here):
    (here / "mine_too.py").write_text(
        "open('mine_too.py')"
    )  # where the sweep was started, there its jobs stand
    outcome = _with_plugins(here, "hydra/launcher=forked", "model.num_flows=4,1,6", "plugins=[mine_too]")
    assert outcome.complaint() == "1 of 3 jobs failed: 1"
    assert column(only_sweep(here / "outputs")[1], "status") == ["ok", "failed", "ok"]
    assert list((here / "elsewhere").iterdir()) == []
