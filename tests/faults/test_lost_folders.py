"""Parts of a run's folder are removed while it trains: it goes on, or ends in one line and can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import Lost, run
from harness import QUIET, assert_same_run, state
from soundness import assert_sound

from genlab import checkpoint

TRAIN = ["train", *QUIET, "trainer.epochs=3", "callbacks.sample_grid={n: 4, figures: [4]}", "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        assert run(*TRAIN).code == 0
        return Path.cwd() / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "figures", "metrics.csv", "checkpoints"])
def test_what_is_removed_under_a_training_does_not_break_it(name, whole, here):
    outcome = run(*TRAIN, fault=Lost(here / "run" / name, at=12))
    if outcome.code:
        complaint = outcome.complaint()
        assert f"{here / 'run' / name}" in complaint
        assert outcome.code in (1, 2)
    else:
        assert outcome.err == ""
    assert_sound(here / "run")
    for path in (here / "run").glob("checkpoints/*.pt"):
        checkpoint.load(path)
    resumed = run("train", "resume=run")
    assert (resumed.code, resumed.err) == (0, "")
    assert state(here / "run")["step"] == 12
    if name != "metrics.csv":
        assert_same_run(here / "run", whole)
    else:
        assert f"{here / 'run' / name}: rows up to step 12 are lost or altered" in resumed.out
