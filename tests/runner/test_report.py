"""Every run ends with a page of itself; `genlab eval` brings it up to date."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from browser import browser
from harness import OOD, QUIET, TINY, genlab, spawn
from matplotlib.figure import Figure
from pages import Page, assert_needs_nothing
from PIL import Image

from genlab import results
from genlab.models.realnvp import RealNVP
from genlab.report.captions import figures
from genlab.report.figures import save
from genlab.report.run import Run, read_metrics
from genlab.report.run_page import write_report
from genlab.run_folder import RunFolder
from genlab.types import Update

EVIL = "<script>alert('x')</script>"


# ------------------------------------------------------------------ the page of a run


@pytest.fixture(scope="module")
def page(finished):
    return Page(finished / "report.html")


def test_the_page_needs_no_other_file(page, finished):
    assert_needs_nothing(page, finished)


def test_the_page_says_what_was_run_and_how_to_repeat_it(page, finished):
    assert page.said.startswith("realnvp-noise")
    (command,) = (finished / "commands.txt").read_text().splitlines()
    assert command.startswith("genlab train dataset=noise")
    assert command in page.said
    assert "hidden_dim: 8" in page.words  # the configuration
    assert f"{json.loads((finished / 'summary.json').read_text())['parameters']:,}" in page.said


def test_the_page_has_the_numbers_with_their_protocol(page, finished):
    report = json.loads((finished / "evaluation" / "likelihood.json").read_text())
    assert report["title"] in page.said
    for note in report["notes"]:
        assert note in page.said
    for row in report["rows"]:
        assert row["set"] in page.said
        assert f"{row['bits/dim']:.3f}" in page.said
    assert f"of the weights after step {report['step']}" in page.said
    assert "validation loss" in page.said


def test_the_page_shows_every_figure_with_a_caption(page, finished):
    shown = [
        figure for figure in figures(Run.read(RunFolder(finished))) if figure.name != "samples_over_epochs"
    ]
    assert {"loss_curves", "likelihood", "samples_25"} <= {figure.name for figure in shown}
    assert len(page.images) == len(shown) + 2  # the samples after each of two epochs
    for number, figure in enumerate(shown, start=1):
        assert f"Figure {number}. {' '.join(figure.caption.split())}" in page.said
        assert {f"figures/{path.name}" for path in figure.files} <= set(page.links)


def test_captions_lie_beside_the_figures_with_the_run_and_its_numbers(finished):
    text = (finished / "figures" / "captions.md").read_text()
    assert "## loss_curves\n\n![loss_curves](loss_curves.png)" in text
    assert "Run realnvp-noise: realnvp on noise, 2 epochs." in text
    last = read_metrics(finished / "metrics.csv")["val/loss"][-1].value
    assert f"{last:,.1f} (val)" in text


def test_a_report_is_the_same_whenever_it_is_written(run):
    write_report(RunFolder(run))
    first = (run / "report.html").read_bytes()
    write_report(RunFolder(run))
    assert (run / "report.html").read_bytes() == first


def test_the_text_of_others_stays_text(run):
    folder = RunFolder(run)
    folder.replace_config(folder.load_config() | {"run_name": EVIL})
    folder.update_summary({"run_name": EVIL, "hardware": EVIL, "metrics": {EVIL: 1.0}})
    report = {"title": EVIL, "rows": [{EVIL: EVIL}], "notes": [EVIL], "metrics": {EVIL: 2.0}}
    (run / "evaluation" / "evil.json").write_text(json.dumps(report))
    (run / "commands.txt").write_text(f"genlab train run_name={EVIL}\n")
    shutil.copy(run / "figures" / "loss_curves.png", run / "figures" / "<b onclick=x>.png")
    write_report(folder)
    page = Page(run / "report.html")
    assert {"script", "b onclick"}.isdisjoint(page.tags)
    assert page.words.count(EVIL) > 5
    assert "<script" not in page.text
    assert "<script" not in (run / "figures" / "captions.md").read_text()


@pytest.mark.parametrize("gone", ["figures", "evaluation", "summary.json", "metrics.csv", "config.yaml"])
def test_what_is_missing_or_broken_is_left_out(gone, run):
    target = run / gone
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.write_bytes(target.read_bytes()[:40] + b"\xff\x00")
    write_report(RunFolder(run))
    page = Page(run / "report.html")
    assert "What to notice" in page.said
    assert ("has not come to its end" in page.said) is (gone == "summary.json")


def test_half_a_picture_and_half_a_line_are_passed_over(run):
    whole = (run / "figures" / "loss_curves.png").read_bytes()
    (run / "figures" / "half.png").write_bytes(whole[:20])
    with (run / "metrics.csv").open("a") as file:
        file.write("9,2,train/lo")
    assert "half" not in [figure.name for figure in figures(Run.read(RunFolder(run)))]
    assert len(read_metrics(run / "metrics.csv")["train/loss"]) == 8


def test_a_figure_is_the_same_bytes_as_png_and_svg_and_carries_its_title(here):
    digests = set()
    for name in ("a", "b"):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2], label="x")
        axes.imshow(np.eye(40))
        axes.set_title("Codes\nof 5 images", loc="left")
        axes.legend()
        save(figure, here / name)
        digests |= {
            hashlib.sha256((here / f"{name}.{kind}").read_bytes()).hexdigest() for kind in ("png", "svg")
        }
    assert len(digests) == 2
    with Image.open(here / "a.png") as image:
        assert image.info["Title"] == "Codes of 5 images"
    svg = (here / "a.svg").read_text()
    assert "<dc:date>" not in svg
    assert svg.count("<image") == 1  # pixels, and no path for each


# ------------------------------------------------------------------ runs and evaluations


def test_a_new_evaluation_joins_the_page(run):
    before = Page(run / "report.html")
    assert genlab("eval", f"run={run}", *OOD).code == 0
    after = Page(run / "report.html")
    assert "Out-of-distribution detection" not in before.said
    assert "Out-of-distribution detection by realnvp-noise" in after.said
    assert "Likelihood under realnvp-noise" in after.said
    assert "AUROC against constant" in after.said  # the caption of its histogram
    assert len(after.images) == len(before.images) + 3


def test_a_resumed_run_says_what_it_was_continued_by(run):
    assert genlab("train", f"resume={run}", "trainer.epochs=3").code == 0
    first, second = (run / "commands.txt").read_text().splitlines()
    page = Page(run / "report.html")
    assert page.said.index(first) < page.said.index("It was continued by") < page.said.index(second)
    assert "trainer.epochs=3" in second
    assert "3 epochs, 12 steps" in page.said


def test_a_job_of_a_sweep_is_repeated_by_itself(here):
    assert genlab("train", "-m", *QUIET, "seed=3,4").code == 0
    (run,) = here.glob("outputs/sweeps/*/1-*")
    words = Page(run / "report.html").said
    assert "seed=4" in words.partition("To repeat it")[2].partition("Configuration")[0]
    assert "seed=3" not in words
    sweep = Page(run.parent / "sweep.html")
    assert set(sweep.links) == {f"{path.name}/report.html" for path in run.parent.glob("?-*")}
    assert_needs_nothing(sweep, run.parent)


def test_a_run_that_breaks_off_has_a_report_that_says_why(here, monkeypatch):
    def overflowing(model, batch, stage, step):
        loss = -model.log_prob(batch.x).mean()
        yield Update("model", loss * (float("nan") if step == 6 else 1.0), {})

    monkeypatch.setattr(RealNVP, "updates", overflowing)
    assert "is nan at step 6" in genlab("train", *QUIET).complaint()
    (report,) = here.glob("outputs/**/report.html")
    said = Page(report).said
    assert "Training broke off after step 6: the term 'loss' is nan at step 6" in said
    monkeypatch.undo()
    assert genlab("train", f"resume={report.parent}").code == 0
    assert "broke off" not in Page(report).said


def test_a_report_that_fails_loses_nothing_and_is_told(here, monkeypatch):
    def broken(folder):
        raise RuntimeError("of mine")

    monkeypatch.setattr("genlab.report.run_page.write_report", broken)
    monkeypatch.setattr(results, "loss_curves", broken)
    outcome = genlab("train", *QUIET)
    assert (outcome.code, outcome.err) == (0, "")
    (summary,) = here.glob("outputs/**/summary.json")
    assert "likelihood/test/bits_per_dim" in json.loads(summary.read_text())["metrics"]
    assert f"{summary.parent / 'report.html'}: not written: unexpected RuntimeError: of mine" in outcome.out
    assert "loss curves: not written" in outcome.out


def test_ctrl_c_leaves_a_report_of_what_there_is(here):
    interrupting = "import os, signal\nfrom genlab.models.flow import Flow\nupdates = Flow.updates\n" + (
        "def stop(self, batch, stage, step):\n"
        "    if step == 5:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    yield from updates(self, batch, stage, step)\n"
        "Flow.updates = stop\n"
    )
    (here / "interrupting.py").write_text(interrupting)
    outcome = spawn("train", *QUIET, "plugins=[interrupting]", env={"PYTHONPATH": f"{here}"})
    (run,) = (path.parent for path in here.glob("outputs/**/config.yaml"))
    assert outcome.code == 130, outcome.err
    assert "has not come to its end" in Page(run / "report.html").said
    assert f"genlab train resume={run}" in Page(run / "report.html").said


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a sweep, and that of one of its jobs."""
    outputs = tmp_path_factory.mktemp("pages")
    lr = "trainer.optimizer.lr=1e-3,1e-4,1e-5"
    assert genlab("train", "-m", *TINY, *OOD, lr, f"output_dir={outputs}").code == 0
    (sweep,) = outputs.glob("sweeps/*")
    return sweep / "sweep.html", next(sweep.glob("0-*")) / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_window_and_show_their_pictures(width, scheme, pages, here):
    with browser(here / "profile") as window:
        for page in pages:
            window.open(page, width, scheme)
            assert window.evaluate("innerWidth") == width
            assert window.evaluate("document.documentElement.scrollWidth") <= width
            window.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            shown = window.evaluate("[...document.images].map(i => i.naturalWidth * i.clientWidth > 0)")
            assert len(shown) > 1
            assert all(shown)
            assert window.evaluate("document.documentElement.scrollWidth") <= width
            window.screenshot(here / "page.png")
            with Image.open(here / "page.png") as shot:
                margin = np.array(shot.convert("L"))[:, 2]
            assert margin.min() > 200 if scheme == "light" else margin.max() < 60
