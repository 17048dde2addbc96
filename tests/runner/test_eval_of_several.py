"""`genlab eval run=[a,b]`: each run is measured, and one page has all; or the others are an ensemble."""

import csv

import pytest
from harness import OOD, QUIET, genlab, train
from pages import Page, assert_needs_nothing


@pytest.fixture
def other(here):
    """A run of another kind of model."""
    networks = [f"model/{part}=mlp" for part in ("generator", "discriminator")]
    quiet = [setting for setting in QUIET if not setting.startswith(("model.", "evaluation"))]
    unmeasured = ["callbacks.fid=null", "evaluation=null"]
    return train(here / "outputs" / "other", *quiet, "model=gan", *networks, *unmeasured)


def _comparison(here):
    (folder,) = here.glob("outputs/comparisons/*")
    with (folder / "comparison.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


FID = [
    "evaluation=comparison",
    "evaluation.fid=null",
    "evaluation.ood=null",
    "evaluation.sampling.num_images=9",
]


def test_runs_of_two_models_are_measured_and_compared(run, other, here):
    outcome = genlab("eval", f"run=[{run},{other}]", *FID)
    assert (outcome.code, outcome.err) == (0, "")
    folder, table = _comparison(here)
    assert [row["model"] for row in table] == ["realnvp", "gan"]
    assert all(float(row["sampling/seconds_per_1000"]) > 0 for row in table)
    assert table[0]["likelihood/test/bits_per_dim"]
    assert not table[1]["likelihood/test/bits_per_dim"]  # a GAN has none
    page = Page(folder / "comparison.html")
    assert page.said.startswith("Comparison of 2 runs")
    assert set(page.links) == {
        "../../run/report.html",
        f"../../{other.relative_to(here / 'outputs')}/report.html",
    }
    assert_needs_nothing(page, folder)
    assert f"genlab eval run=[{run},{other}]" in page.said.replace("'", "")
    assert "Comparison of 2 runs" in outcome.out
    for each in (run, other):
        assert "sampling of 1,000 images" in Page(each / "report.html").said


def test_runs_of_one_model_are_told_apart_by_what_differs(run, here):
    other = train(here / "outputs" / "wider", *QUIET, "model.num_flows=5", "seed=2")
    assert genlab("eval", f"run=[{run},{other}]").code == 0  # each by what it was evaluated by
    folder, table = _comparison(here)
    assert [(row["seed"], row["model.num_flows"]) for row in table] == [("0", "4"), ("2", "5")]
    assert all(row["likelihood/test/bits_per_dim"] for row in table)
    assert "num_flows=5" in Page(folder / "comparison.html").said


def test_without_an_evaluation_nothing_is_measured_anew(run, other, here):
    before = (run / "evaluation" / "likelihood.json").stat().st_mtime_ns
    assert genlab("eval", f"run=[{run},{other}]", "evaluation=null").code == 0
    assert (run / "evaluation" / "likelihood.json").stat().st_mtime_ns == before
    _, table = _comparison(here)
    assert table[0]["likelihood/test/bits_per_dim"]


def test_a_run_that_can_not_be_measured_is_a_failed_row(run, other, here):
    outcome = genlab("eval", f"run=[{run},{other}]", "evaluation=likelihood", "evaluation.max_images=5")
    assert outcome.complaint() == "1 of 2 runs could not be measured: 1"
    assert outcome.code == 1
    _, table = _comparison(here)
    assert [row["status"] for row in table] == ["ok", "failed"]
    assert table[1]["error"] == "evaluation=likelihood needs a likelihood, and GAN has none"
    assert not table[1]["val/loss"]


def test_what_fails_for_every_run_is_one_error_and_no_page(run, other, here):
    outcome = genlab("eval", f"run=[{run},{other}]", "evaluation=likelyhood")
    assert "did you mean 'likelihood'" in outcome.complaint()
    assert outcome.code == 2
    assert "twice" in genlab("eval", f"run=[{run},{run}]").complaint()
    assert "there is no" in genlab("eval", f"run=[{run},nowhere]").complaint()
    assert "several" in genlab("eval", f"run=[{run},{other}]", "several=compared").complaint()
    assert not (here / "outputs" / "comparisons").exists()


def test_an_ensemble_is_compared_where_that_is_asked_for(run, here):
    other = train(here / "outputs" / "other", *QUIET, "seed=1")
    assert genlab("eval", f"run=[{run},{other}]", *OOD).code == 0
    assert not (here / "outputs" / "comparisons").exists()
    assert genlab("eval", f"run=[{run},{other}]", *OOD, "several=compare").code == 0
    _, table = _comparison(here)
    assert all(row["ood/log_likelihood/constant/AUROC"] for row in table)


def test_of_different_datasets_no_number_is_the_best(run, here):
    other = train(here / "outputs" / "other", *[s for s in QUIET if s != "dataset=noise"], "dataset=constant")
    assert genlab("eval", f"run=[{run},{other}]").code == 0
    folder, table = _comparison(here)
    assert [row["dataset"] for row in table] == ["noise", "constant"]
    page = Page(folder / "comparison.html")
    assert "no best is marked" in page.said
    assert page.text.count('class="best"') <= 1  # the time of training, which is of no images
