"""Models of several families side by side: one command, one page."""

import base64
import csv
import json
import re
from html.parser import HTMLParser

import pytest
from harness import IMAGES, TRAINING, genlab

from genlab.extractors.base import Extractor, Features
from genlab.registry import EXTRACTORS
from genlab.report.sweep import write_report
from genlab.report.table import cell
from genlab.sweep import Job, collect


@EXTRACTORS.register("halves")
class Halves(Extractor):
    """Brightness of the upper and of the lower half."""

    name = "halves"
    num_features = 2

    def forward(self, x):
        return Features(x.float().unflatten(2, (2, -1)).mean((1, 3, 4)), None)


FID = ["extractor=halves", "num_samples=30", "max_images=20", "k=2"]
LIKELIHOOD = ["max_images=10"]
OOD = ["datasets=[constant]", "max_images=1000", "resamples=10", "batch_size=100"]
COMPARED = [
    "experiment=compare",
    *IMAGES,
    *TRAINING[1:],  # the experiment says how long
    "trainer.max_steps=3",
    *(f"evaluation.fid.{setting}" for setting in FID),
    *(f"evaluation.likelihood.{setting}" for setting in LIKELIHOOD),
    *(f"evaluation.ood.{setting}" for setting in OOD),
    "evaluation.sampling.num_images=20",
]
MODELS = ["realnvp", "gan", "vae", "feature_flow"]
FAILURE = "feature_flow"  # its classifier takes images of 28x28


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("compared")
    outcome = genlab("train", "-m", *COMPARED, f"model={','.join(MODELS)}", f"output_dir={outputs}")
    (folder,) = outputs.glob("sweeps/*")
    return outcome, folder


def _metrics(folder, model):
    (run,) = folder.glob(f"*-{model}")
    return json.loads((run / "summary.json").read_text())["metrics"]


def _report(run, name="comparison"):
    return json.loads((run / "evaluation" / f"{name}.json").read_text())


# ------------------------------------------------------------------ what is measured

QUALITY = {f"{name}/halves" for name in ("fid", "precision", "recall", "density", "coverage")}
AUROC = "ood/log_likelihood/constant/AUROC"
SECONDS = "sampling/seconds_per_1000"


def test_a_model_is_measured_by_what_it_can_do(compared):
    _, folder = compared
    assert _metrics(folder, "gan").keys() == {*QUALITY, SECONDS}
    flow, vae = _metrics(folder, "realnvp"), _metrics(folder, "vae")
    assert flow.keys() >= {*QUALITY, SECONDS, AUROC, "likelihood/test/bits_per_dim"}
    assert vae.keys() >= {*QUALITY, SECONDS, AUROC, "likelihood/test/log_prob"}
    assert "likelihood/test/bits_per_dim" not in vae  # it is of binarised pixels


def test_what_is_left_out_and_of_which_kind_a_figure_is_are_said(compared):
    _, folder = compared
    notes = {name: _report(folder / f"{i}-{name}")["notes"] for i, name in enumerate(MODELS[:3])}
    assert [note for note in notes["gan"] if note.startswith("left out")] == [
        "left out: evaluation=likelihood needs a likelihood, and GAN has none",
        "left out: evaluation.scores: 'log_likelihood' needs a density, and GAN has none",
    ]
    assert not any(note.startswith("left out") for note in notes["realnvp"])
    assert any(note.startswith("sampling: 20 images") and "CPU" in note for note in notes["vae"])
    remarks = {name: _report(folder / f"{i}-{name}")["remarks"] for i, name in enumerate(MODELS[:3])}
    assert remarks["realnvp"]["likelihood/test/bits_per_dim"] == ["exact", "10 images"]
    assert remarks["vae"]["likelihood/test/log_prob"] == ["bound", "binarised", "10 images"]
    assert remarks["vae"][AUROC] == ["96 images"]  # there are no more
    assert remarks["gan"]["fid/halves"] == ["30 samples"]


def test_parts_are_as_if_they_were_run_alone(compared):
    _, folder = compared
    run, together = folder / "2-vae", _metrics(folder, "vae")
    alone = {}
    for name, settings in {
        "fid": [*FID, "measures=[fid,prdc]"],
        "likelihood": [*LIKELIHOOD, "splits=[test]", "importance_samples=[]"],
        "ood": [*OOD, "scores=[log_likelihood]"],
    }.items():
        settings = [f"evaluation.{setting}" for setting in settings]
        outcome = genlab("eval", f"run={run}", f"evaluation={name}", *settings)
        assert (outcome.code, outcome.err) == (0, "")
        alone |= _report(run, name)["metrics"]
        (run / "evaluation" / f"{name}.json").unlink()
    assert alone.items() <= together.items()
    assert together.keys() - alone.keys() == {SECONDS, *(key for key in together if key.startswith("val/"))}


def test_a_saved_run_is_compared_too(compared):
    _, folder = compared
    before = (folder / "0-realnvp" / "evaluation" / "comparison.json").read_text()
    outcome = genlab("eval", f"run={folder / '0-realnvp'}")  # what it was evaluated by
    assert (outcome.code, outcome.err) == (0, "")
    assert "FID (halves, 30 samples)" in outcome.out
    first, again = json.loads(before)["metrics"], _report(folder / "0-realnvp")["metrics"]
    assert first.pop(SECONDS) > 0
    assert again.pop(SECONDS) > 0
    assert first == again


def test_parts_draw_their_figures(compared):
    _, folder = compared
    drawn = {path.name for path in (folder / "0-realnvp" / "figures").glob("*.png")}
    assert drawn >= {"likelihood.png", "ood_log_likelihood.png", "ood_roc.png", "samples_25.png"}


# ------------------------------------------------------------------ the page


EMBEDDED = "data:image/png;base64,"


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.addresses, self.text = [], [], [], ""
        self._metric = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            values[name] for name in ("src", "href", "srcset", "action", "data") if name in values
        ]
        if tag == "tr":
            self.rows.append({"metric": None, "cells": [], "best": []})
        if tag in ("td", "th"):
            self.rows[-1]["metric"] = self.rows[-1]["metric"] or values.get("title")
            self.rows[-1]["cells"].append("")
            self.rows[-1]["best"].append(values.get("class") == "best")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1]["cells"][-1] += data

    def row(self, metric):
        """The one of that metric, without its head."""
        (row,) = [row for row in self.rows if row["metric"] == metric]
        return row["cells"][1:], row["best"][1:]


@pytest.fixture(scope="module")
def page(compared):
    return Page((compared[1] / "sweep.html").read_text())


def test_the_page_needs_nothing_beside_it(compared, page):
    assert page.addresses
    links = {f"{i}-{model}/report.html" for i, model in enumerate(MODELS) if model != FAILURE}
    assert {address for address in page.addresses if not address.startswith(EMBEDDED)} == links
    assert all((compared[1] / link).is_file() for link in links)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import", (compared[1] / "sweep.html").read_text())


def test_a_column_for_each_job_under_what_was_swept(page):
    assert page.rows[0]["cells"] == ["", *MODELS]
    assert page.rows[1]["cells"] == ["job", "0", "1", "2", "3"]


def test_numbers_on_the_page_are_those_of_the_runs(compared, page):
    outcome, folder = compared
    summaries = [_metrics(folder, model) if model != FAILURE else {} for model in MODELS]
    shown = [row["metric"] for row in page.rows if row["metric"]]
    assert {*QUALITY, SECONDS, AUROC, "likelihood/test/bits_per_dim", "likelihood/test/log_prob"} <= set(shown)
    for metric in shown:
        texts = [text.split(" ")[0] for text in page.row(metric)[0]]
        assert texts == [cell(summary.get(metric)) for summary in summaries]
    parameters = next(row for row in page.rows if row["cells"][0] == "parameters")
    assert parameters["cells"][1:] == [
        *(f"{json.loads(p.read_text())['parameters']:,}" for p in sorted(folder.glob("*/summary.json"))),
        "",
    ]
    assert "1 of 4 jobs failed" in outcome.complaint()


def test_the_best_of_a_row_is_marked_in_the_direction_of_the_measure(compared, page):
    _, folder = compared
    for metric, choose in (("fid/halves", min), ("coverage/halves", max), (AUROC, max), (SECONDS, min)):
        values = [_metrics(folder, model).get(metric) for model in MODELS[:3]]
        best = choose(value for value in values if value is not None)
        several = len(set(values) - {None}) > 1
        assert page.row(metric)[1] == [*(several and value == best for value in values), False]
    assert not any(page.row("likelihood/test/log_prob")[1])  # of 256 levels and of two


def test_kinds_that_differ_stand_beside_the_figures(page):
    texts, _ = page.row("likelihood/test/log_prob")
    assert [text.partition(" ")[2] for text in texts] == ["exact", "", "bound, binarised", ""]
    (head,) = [row["cells"][0] for row in page.rows if row["metric"] == "likelihood/test/log_prob"]
    assert head.startswith("log p(x) (test, 10 images), nats per image")


def test_the_page_has_the_samples_of_each_job(compared, page):
    _, folder = compared
    pictures = [address for address in page.addresses if address.startswith(EMBEDDED)]
    embedded = [base64.b64decode(address.removeprefix(EMBEDDED)) for address in pictures]
    for path in sorted(folder.glob("*/figures/samples_25.png")):
        assert path.read_bytes() in embedded
    assert (folder / "sweep_curves.png").read_bytes() in embedded
    assert (folder / "sweep.png").read_bytes() in embedded
    assert len(embedded) == 3 + 2


def test_the_page_says_what_failed_what_was_left_out_and_how_it_was_made(compared, page):
    _, folder = compared
    words = " ".join(page.text.split())
    (failed,) = [job for job in collect(folder) if job.status == "failed"]
    assert f"{FAILURE} failed: {failed.error}" in words
    assert "gan: left out: evaluation=likelihood needs a likelihood, and GAN has none" in words
    assert "realnvp, gan, vae:" not in words  # what is of all jobs names none
    assert "genlab train experiment=compare" in words
    assert "2 features of halves" in words


def test_markdown_and_csv_have_the_same(compared):
    _, folder = compared
    text = (folder / "sweep.md").read_text()
    values = _metrics(folder, "gan")["fid/halves"]
    (row,) = [line for line in text.splitlines() if "FID (halves, 30 samples) ↓" in line]
    assert cell(values) in row
    assert "![Samples](sweep_samples.png)" in text
    assert (folder / "sweep_samples.png").exists()
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["fid/halves"]) == values


def test_text_of_others_is_escaped(here):
    evil = "<script>alert('x')</script>"
    metrics, notes = {f"{evil}/a": 1.0}, (f"note {evil}",)
    jobs = [
        Job(0, "ok", {"run_name": evil}, metrics, 1.0, f"0-{evil}", "", notes=notes, command=f"genlab {evil}"),
        Job(1, "failed", {"run_name": "b"}, {}, None, "1-b", f"error {evil}"),
    ]
    write_report(here, jobs)
    for name in ("sweep.html", "sweep.md"):
        assert "<script" not in (here / name).read_text()
    words = Page((here / "sweep.html").read_text()).text
    for text in (f"note {evil}", f"genlab {evil}", f"error {evil}", f"run_name={evil}", f"{evil}/a"):
        assert text in words


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluation.fid.extractor=halfs"], "did you mean 'halves'?; evaluation.fid=null leaves it out"),
        (["evaluation.fid.extractor=fashion_cnn"], "evaluation.fid=null leaves it out"),
        (["evaluation.ood.scores=[log_likelihod]"], "did you mean 'log_likelihood'"),
        (["evaluation.likelihood.splits=[val]", "dataset.num_val=0"], "num_val=0"),
        (["evaluation.fid.num_sample=3"], "unknown key"),
        ([f"evaluation.{part}=null" for part in ("fid", "likelihood", "ood", "sampling")], "are all null"),
        (
            ["model=gan", "evaluation.fid=null", "evaluation.sampling=null"],
            "there is nothing to compare GAN by",
        ),
    ],
)
def test_settings_that_do_not_fit_are_no_part_to_leave_out(overrides, said, here):
    outcome = genlab("train", *COMPARED, "model=realnvp", *overrides)
    assert outcome.code == 2
    assert said in outcome.complaint()
    assert not list(here.glob("outputs/**/config.yaml"))
