"""evaluation=ood from the command line: tables, figures, ensembles, background models, what is refused."""

import json

import pytest
import yaml
from harness import IMAGES, QUIET, TRAINING, UNWATCHED, genlab, train

from genlab.ood.log_likelihood import LogLikelihood

OOD = ["evaluation=ood", "evaluation.datasets=[noise,constant,again]", "evaluation.resamples=20"]


@pytest.fixture(autouse=True)
def again(here):
    """The noise of the run's own set under another name."""
    folder = here / "mine" / "dataset"
    folder.mkdir(parents=True)
    noise = {"kind": "noise", "num_images": 500}
    (folder / "again.yaml").write_text(yaml.dump({"name": "again", "format": noise}))


def _eval(*arguments):
    return genlab("eval", "--config-dir", "mine", *OOD, *arguments)


def _report(run):
    return json.loads((run / "evaluation" / "ood.json").read_text())


def test_rows_are_scores_and_columns_the_other_sets(run):
    outcome = _eval(f"run={run}")
    assert (outcome.code, outcome.err) == (0, "")
    report = _report(run)
    assert report["rows"][0]["score"] == "log_likelihood"
    assert len(report["rows"]) > 3
    for row in report["rows"]:
        assert list(row) == ["score", "constant", "again"]  # its own set, noise, is left out
    densities = report["further"][0]["rows"]
    assert [row["set"] for row in densities] == ["noise train", "noise test", "constant", "again"]
    details = report["further"][1]["rows"]
    for detail in details:
        assert 0 <= detail["low"] <= detail["AUROC"] <= detail["high"] <= 1
        assert {"AUPR", "FPR95", "images"} < detail.keys()
    assert "Every measure" not in outcome.out


def test_the_same_noise_is_no_better_than_chance(run):
    _eval(f"run={run}", "evaluation.scores=[log_likelihood]")
    assert _report(run)["metrics"]["ood/log_likelihood/again/AUROC"] == pytest.approx(0.5, abs=0.1)


def test_figures_are_drawn(run):
    _eval(f"run={run}", "evaluation.scores=[log_likelihood,typicality]")
    for name in ("ood_log_likelihood", "ood_typicality", "ood_roc", "ood_extremes"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 5000


def test_scores_are_chosen_by_name_and_take_options(run):
    scores = "evaluation.scores=[typicality]"
    assert _eval(f"run={run}", scores, "evaluation.options.typicality={batch_sizes:[3]}").code == 0
    assert [row["score"] for row in _report(run)["rows"]] == ["typicality", "typicality_of_3"]


def test_a_score_does_not_depend_on_which_others_are_asked_for(run):
    _eval(f"run={run}")
    together = _report(run)["metrics"]
    _eval(f"run={run}", "evaluation.scores=[typicality]")
    alone = _report(run)["metrics"]
    assert {name: together[name] for name in alone} == alone


def test_an_ensemble_is_several_runs(run, here):
    other = train(here / "outputs" / "other", *QUIET, "seed=1")
    outcome = _eval(f"run=[{run},{other}]", "evaluation.scores=[waic]")
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["score"] for row in _report(run)["rows"]] == ["waic"]


def test_what_overflows_is_least_typical_and_said(run, monkeypatch):
    """torch would sort what is no number above all else."""

    def overflowing(score, view):
        values = view.log_density().clone()
        values[:100] = float("nan") if view.name == "again" else values[:100]
        return {"log_likelihood": values}

    key = "ood/log_likelihood/again/AUROC"
    _eval(f"run={run}", "evaluation.scores=[log_likelihood]")
    before = _report(run)["metrics"][key]
    monkeypatch.setattr(LogLikelihood, "__call__", overflowing)
    outcome = _eval(f"run={run}", "evaluation.scores=[log_likelihood]")
    assert (
        "log_likelihood is not a number, taken for the least typical, for 100 of 500 images of again"
        in outcome.out
    )
    assert _report(run)["metrics"][key] == pytest.approx(0.8 * before + 0.2, abs=0.03)


def test_what_an_ensemble_would_have_given_is_said(run):
    assert "left out: 'waic' needs" in _eval(f"run={run}").out


def test_a_background_model_is_a_run(run, here):
    background = train(here / "outputs" / "background", *QUIET, "dataset.mutation_rate=0.3")
    with_background = ["evaluation.scores=[likelihood_ratio]", f"evaluation.background={background}"]
    assert _eval(f"run={run}", *with_background).code == 0
    assert [row["score"] for row in _report(run)["rows"]] == ["likelihood_ratio"]


def test_a_model_is_no_background_of_its_own(run):
    _eval(f"run={run}", "evaluation.scores=[likelihood_ratio]", f"evaluation.background={run}")
    assert _report(run)["metrics"]["ood/likelihood_ratio/constant/AUROC"] == 0.5  # all ratios are 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation.scores=[typicalty]"], "unknown score 'typicalty'; did you mean 'typicality'?"),
        (["+evaluation.options.waic.a=1"], "unknown key 'evaluation.options.waic.a'"),
        (["+evaluation.options.wiac={}"], "unknown score 'wiac'; did you mean 'waic'?"),
        (
            ["evaluation.scores=[likelihood_regret]"],
            "'likelihood_regret' optimises the posterior of a VAE, and",
        ),
        (["evaluation.scores=[waic]"], "run=[a,b,c]"),
        (["evaluation.scores=[likelihood_ratio]"], "evaluation.background"),
        (["evaluation.scores=[]"], "at least 1 item"),
        (["evaluation.background=nowhere"], "evaluation.background=nowhere is no run"),
        (["evaluation.datasets=[noise]"], "evaluation.datasets: noise is the model's own set"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_can_not_be_scored_is_named_in_one_line(run, arguments, message):
    outcome = _eval(f"run={run}", *arguments)
    assert message in outcome.complaint()
    assert outcome.code == 2


def test_a_background_of_other_images_is_refused(run, here):
    images = [*QUIET, "dataset.format.height=4"]
    background = train(here / "outputs" / "background", *images)
    complaint = _eval(f"run={run}", f"evaluation.background={background}").complaint()
    assert "a model of 4x8 grey images, and these are 8x8 grey" in complaint


def test_only_an_evaluation_that_takes_several_runs_gets_them(run):
    several = f"run=[{run},{run}]"
    assert "evaluation=likelihood takes one run" in genlab("eval", several, "several=ensemble").complaint()
    assert "genlab sample takes one run" in genlab("sample", several).complaint()
    assert "genlab train takes one run" in genlab("train", several.replace("run", "resume", 1)).complaint()


def test_a_model_without_any_score_is_refused_before_it_is_trained():
    plugin = ["plugins=[painter]", "~model", "+model.name=painter", "evaluation=ood"]
    outcome = genlab("train", *IMAGES, *TRAINING, *UNWATCHED, *plugin)
    assert "there is nothing to score images by under Painter" in outcome.complaint()
