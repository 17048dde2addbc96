"""Composition from the command line: --cfg, --config-dir, plugins, sweeps."""

import shutil

import pytest
import yaml
from harness import CHECKOUT, QUIET, TINY, UNMEASURED, UNWATCHED, genlab, spawn


def test_cfg_job_prints_the_composed_configuration_and_makes_no_folder(here):
    outcome = genlab("train", *TINY, "--cfg", "job")
    printed = yaml.safe_load(outcome.out)
    assert outcome.code == 0
    assert printed["trainer"]["epochs"] == 2
    assert printed["dataset"]["format"]["height"] == 8
    assert list(here.iterdir()) == []


def test_a_group_file_of_the_users_own_is_an_option(here):
    (here / "mine" / "trainer").mkdir(parents=True)
    (here / "mine" / "trainer" / "brief.yaml").write_text(
        "# one step and no more\ndefaults: [default, _self_]\nmax_steps: 1\n"
    )
    config_dir = ["--config-dir", "mine"]
    listed = genlab("train", "--help", *config_dir).out
    composed = yaml.safe_load(genlab("train", "trainer=brief", "--cfg", "job", *config_dir).out)
    assert "brief" in listed
    assert "one step and no more" in listed
    assert composed["trainer"]["max_steps"] == 1


def test_a_model_outside_the_package_trains_and_samples(here):
    shutil.copytree(CHECKOUT / "examples" / "conf", here / "conf")
    shutil.copy(CHECKOUT / "examples" / "my_models.py", here)
    plugin = ["--config-dir", "conf", "plugins=[my_models]", "model=gaussian"]
    small = [o for o in TINY if not o.startswith("model.")]
    trained = spawn("train", *plugin, *small, *UNWATCHED, *UNMEASURED, "trainer.max_steps=2")
    assert (trained.code, trained.err) == (0, "")
    # What samples knows the model from the run alone.
    sampled = genlab("sample", "n=2")
    assert (sampled.code, sampled.err) == (0, "")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("sweep")
    outcome = genlab("train", "-m", *QUIET, f"output_dir={outputs}", "trainer.batch_size=999,16,32")
    return outcome, outputs


def test_a_sweep_goes_on_after_a_failed_job(sweep):
    outcome, outputs = sweep
    finished = sorted(path.parent.name[0] for path in outputs.glob("sweeps/*/*/summary.json"))
    assert finished == ["1", "2"]
    assert outcome.code != 0


def test_a_sweep_names_the_failed_job_and_its_reason(sweep):
    outcome, _ = sweep
    assert "job 0 failed: trainer.batch_size=999 is larger than the 64 training images" in outcome.out


def test_a_sweep_complains_at_its_end_of_the_job_that_failed(sweep):
    outcome, _ = sweep
    assert outcome.complaint() == "1 of 3 jobs failed: 0"
    assert outcome.code == 1


@pytest.mark.parametrize("override", ["evaluation=null", "experiment=null", "callbacks=null"])
def test_a_group_set_to_null_is_left_out(override):
    composed = genlab("train", override, "--cfg", "job")
    assert (composed.code, composed.err) == (0, "")
    assert not yaml.safe_load(composed.out).get(override.removesuffix("=null"))
