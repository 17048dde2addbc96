"""A sweep ends in one table and one figure of all its jobs, whatever becomes of them."""

import csv
import io
import json
import math
import os
import re
import signal
import statistics
import time
from dataclasses import replace

import numpy as np
import pytest
from harness import CHECKOUT, QUIET, Outcome, assert_same_run, finish, genlab, python
from matplotlib.colors import same_color
from PIL import Image
from rich.console import Console

from genlab.report import sweep_figure, sweep_table, table
from genlab.report.measures import describe
from genlab.report.sweep import print_report, write_report
from genlab.report.sweep_curves import draw_curves
from genlab.report.sweep_samples import draw_samples, find_samples
from genlab.report.sweep_table import labels, main_metrics
from genlab.sweep import Job, collect

SABOTAGE = [*QUIET, "plugins=[saboteur]", "model.name=saboteur"]
FILES = {"sweep.csv", "sweep.md", "sweep.html"} | {
    f"{name}.{kind}" for name in ("sweep", "sweep_curves") for kind in ("png", "svg")
}


def _sweep(outputs):
    """The one folder of a sweep under ``outputs``, and the rows of its table."""
    (folder,) = outputs.glob("sweeps/*")
    return folder, _table(folder)


def _table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _entries(line):
    """Of a row of a Markdown table."""
    return [entry.strip() for entry in re.split(r"(?<!\\)\|", line)[1:-1]]


def _column(table, name):
    return [row[name] for row in table]


# ------------------------------------------------------------------ two keys, one job of three fails


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("swept")
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=4,1,5", "seed=0,1", f"output_dir={outputs}")
    return outcome, *_sweep(outputs)


def test_every_job_has_a_row_with_the_swept_values(swept):
    _, _, table = swept
    assert _column(table, "job") == list("012345")
    assert _column(table, "model.num_flows") == list("441155")
    assert _column(table, "seed") == list("010101")
    assert _column(table, "status") == ["ok", "ok", "failed", "failed", "ok", "ok"]
    assert "trainer.epochs" not in table[0]  # the same in every job


def test_a_row_has_every_final_metric_of_its_run(swept):
    _, folder, table = swept
    for row in table[:2] + table[4:]:
        summary = json.loads((folder / row["folder"] / "summary.json").read_text())
        assert {name: float(row[name]) for name in summary["metrics"]} == summary["metrics"]
        assert float(row["seconds"]) == summary["train_seconds"]
        assert (int(row["parameters"]), int(row["steps"])) == (summary["parameters"], 8)
        assert row["hardware"] == summary["hardware"]
        assert row["error"] == ""


def test_a_failed_job_has_its_reason_and_no_metrics(swept):
    _, _, table = swept
    assert table[2]["error"] == "model.num_flows=1: input should be greater than or equal to 4"
    assert (table[2]["val/loss"], table[2]["seconds"]) == ("", "")


def test_a_sweep_with_failed_jobs_ends_in_one_line_and_an_exit_code(swept):
    outcome, _, _ = swept
    assert outcome.complaint() == "2 of 6 jobs failed: 2, 3"
    assert outcome.code == 1


def test_the_table_is_printed(swept):
    outcome, folder, _ = swept
    end = outcome.out[outcome.out.index("Sweep over model.num_flows, seed: 6 jobs") :]
    assert "failed: 2, 3: model.num_flows=1: input should be greater than or equal to 4" in end
    assert f"{folder / 'sweep.csv'}" in end
    assert len([line for line in end.splitlines() if line.endswith(" ok")]) == 4


def test_the_report_is_files_for_people_too(swept):
    _, folder, _ = swept
    assert {path.name for path in folder.iterdir()} >= FILES
    lines = (folder / "sweep.md").read_text().splitlines()
    head, _, *rows = [_entries(line) for line in lines if line.startswith("|")]
    assert head == ["", *(f"num_flows={n}, seed={seed}" for n in (4, 1, 5) for seed in (0, 1))]
    assert {len(row) for row in rows} == {7}
    assert {"job", "parameters", "training, s ↓", "bits/dim (test) ↓"} <= {row[0] for row in rows}
    assert rows[-1] == ["status", "ok", "ok", "failed", "failed", "ok", "ok"]
    assert "![" in lines[-1]


def test_every_job_that_is_done_has_a_loss_curve_with_its_validation(swept, monkeypatch):
    _, folder, _ = swept
    figures = []
    monkeypatch.setattr("genlab.report.sweep_curves.save", lambda figure, path: figures.append(figure))
    assert draw_curves(folder, collect(folder), folder / "curves")
    (panel,) = figures[0].axes
    assert panel.get_title() == "loss"
    labels = [line.get_label() for line in panel.lines if not line.get_label().startswith("_")]
    assert labels == [f"num_flows={n}, seed={seed}" for n in (4, 5) for seed in (0, 1)]
    assert [len(line.get_xdata()) for line in panel.lines] == [8, 2] * 4  # eight steps, two epochs


# ------------------------------------------------------------------ other sweeps


def test_a_sweep_without_a_failure_exits_with_zero_in_batches_too(here):
    batches = ["trainer.max_steps=1", "model=realnvp", "model.permutation=reverse,checkerboard"]
    outcome = genlab("train", "-m", *QUIET, *batches, "hydra.sweeper.max_batch_size=1")
    assert (outcome.code, outcome.err) == (0, "")
    folder, table = _sweep(here / "outputs")
    assert _column(table, "model.permutation") == ["reverse", "checkerboard"]
    assert (folder / "sweep.png").exists()


def test_a_failure_in_one_batch_does_not_end_the_next(here):
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=1,4", "hydra.sweeper.max_batch_size=1")
    assert outcome.complaint() == "1 of 2 jobs failed: 0"
    assert _column(_sweep(here / "outputs")[1], "status") == ["failed", "ok"]


def test_a_job_that_breaks_off_in_training_is_failed(here):
    deeds = ["+model.deed=not_finite,none,bug", "+model.at=0"]
    outcome = genlab("train", "-m", *SABOTAGE, *deeds)
    folder, table = _sweep(here / "outputs")
    assert outcome.complaint() == "2 of 3 jobs failed: 0, 2"
    assert "log_det" in table[0]["error"]
    assert "unexpected ZeroDivisionError: of mine" in table[2]["error"]
    assert "ZeroDivisionError" in (folder / table[2]["folder"] / "error.txt").read_text()


def test_a_sweep_of_which_nothing_is_left_has_a_table(here):
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=1,2")
    folder, table = _sweep(here / "outputs")
    assert outcome.complaint() == "2 of 2 jobs failed: 0, 1"
    assert _column(table, "model.num_flows") == ["1", "2"]
    assert not (folder / "sweep.png").exists()


def test_an_option_that_does_not_exist_ends_the_sweep_before_its_first_job(here):
    outcome = genlab("train", "-m", *QUIET, "model=realnvp,relnvp")
    assert outcome.complaint().startswith("unknown model 'relnvp'; did you mean 'realnvp")
    assert outcome.code == 2
    assert list(here.glob("**/job.json")) == []


def test_a_run_on_its_own_is_no_job(here):
    assert genlab("train", *QUIET, "trainer.max_steps=1").code == 0
    assert list(here.glob("**/job.json")) + list(here.glob("**/sweep.csv")) == []


# ------------------------------------------------------------------ stopped in its middle


def test_a_stopped_sweep_has_a_table_and_its_job_can_be_continued(here):
    stopped = genlab("train", "-m", *SABOTAGE, "+model.deed=none,interrupt,terminate", "+model.at=1")
    folder, table = _sweep(here / "outputs")
    assert (stopped.code, stopped.err) == (130, "")
    assert _column(table, "status") == ["ok", "unfinished"]
    assert f"unfinished: 1: {table[1]['folder']}" in stopped.out

    refused = genlab("train", f"resume={folder / table[0]['folder']}", "dataset.num_val=16")
    assert "a resumed run keeps its dataset" in refused.complaint()
    resumed = genlab("train", f"resume={folder / table[1]['folder']}")
    assert (resumed.code, resumed.err) == (0, "")
    assert f"brought up to date: {folder / 'sweep.md'}" in resumed.out
    again = _table(folder)
    assert again[0] == table[0]
    assert _column(again, "status") == ["ok", "ok"]
    assert float(again[1]["val/loss"]) > 0


def test_a_stopped_sweep_can_be_gone_on_with(here):
    deeds = ["+model.deed=none,interrupt,not_finite", "+model.at=5"]
    assert genlab("train", "-m", *SABOTAGE, *deeds).code == 130
    folder, table = _sweep(here / "outputs")
    assert _column(table, "status") == ["ok", "unfinished"]
    files = [path for path in (folder / table[0]["folder"]).rglob("*") if path.name != "train.log"]
    times = [path.stat().st_mtime_ns for path in files]

    resumed = genlab("train", f"resume={folder}")
    assert resumed.complaint() == "1 of 3 jobs failed: 2"
    assert "job 0 is done already" in resumed.out
    assert "continuing at step 6" in resumed.out
    again = _table(folder)
    assert _column(again, "status") == ["ok", "ok", "failed"]
    assert again[0] == table[0]
    assert [path.stat().st_mtime_ns for path in files] == times
    assert_same_run(*(folder / row["folder"] for row in again[:2]))


def test_another_sweep_in_the_same_folder_is_refused(here):
    sweep = ["train", "-m", *QUIET, "trainer.max_steps=1", "hydra.sweep.dir=mine"]
    assert genlab(*sweep, "seed=0").code == 0
    record = (here / "mine" / "0-realnvp-noise" / "job.json").read_text()
    refused = genlab(*sweep, "seed=1")
    assert refused.code == 2
    assert "0-realnvp-noise holds another job (" in refused.err
    assert "seed=0); name another folder for this sweep" in refused.err
    assert (here / "mine" / "0-realnvp-noise" / "job.json").read_text() == record


@pytest.mark.slow
def test_ctrl_c_ends_the_whole_sweep(here):
    sweep = python("-P", "-m", "genlab", "train", "-m", *QUIET, "trainer.epochs=1,100000,2")
    end = time.monotonic() + 60
    while not list(here.glob("outputs/sweeps/*/1-*/checkpoints/last.pt")) and sweep.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    outcome = finish(sweep)
    assert (outcome.code, outcome.err) == (130, "")
    assert _column(_sweep(here / "outputs")[1], "status") == ["ok", "unfinished"]


# ------------------------------------------------------------------ other sweepers and launchers

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
    assert _column(_sweep(here / "outputs")[1], "status") == ["ok", "failed"]


def test_a_sweeper_that_optimises_a_metric_that_no_run_has_is_told_which_there_are(here):
    outcome = _with_plugins(here, "hydra/sweeper=optimiser", "objective=val/los", "trainer.max_steps=1")
    assert "SAW objective=val/los: the run has no such metric; did you mean 'val/loss'?" in outcome.out
    assert "'val/loss'" in _sweep(here / "outputs")[1][0]["error"]


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
    assert _column(_sweep(here / "outputs")[1], "status") == ["ok", "failed", "ok"]
    assert list((here / "elsewhere").iterdir()) == []


# ------------------------------------------------------------------ the report alone


def _job(number, settings, metrics=None, error=""):
    status = "ok" if metrics else "failed"
    return Job(number, status, settings, metrics or {}, 1.0, f"{number}-run", error)


@pytest.fixture
def draw(monkeypatch, here):
    """Draws the jobs and gives the figure."""
    drawn = []
    save = sweep_figure.save
    monkeypatch.setattr(sweep_figure, "save", lambda figure, path: (drawn.append(figure), save(figure, path)))

    def _draw(jobs):
        assert sweep_figure.draw_sweep(jobs, here / "sweep")
        return drawn.pop()

    return _draw


def _lines(axes):
    """Places and means of the lines by their labels; one that is alone has none."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for i, line in enumerate(axes.get_lines())
        if i == 0 or not line.get_label().startswith("_")
    }


def test_numbers_over_more_than_a_decade_are_on_a_logarithmic_axis(draw):
    jobs = [_job(i, {"model.beta": b}, {"val/kl": i, "val/loss": 9}) for i, b in enumerate(["1", "8", "20"])]
    figure = draw(jobs)
    kl, loss = figure.axes
    assert (kl.get_title(), loss.get_title()) == ("val/kl", "val/loss")
    assert kl.get_xscale() == "log"
    assert kl.get_ylabel() == "nats per image"
    assert [label.get_text() for label in kl.get_xticklabels()] == ["1", "8", "20"]
    assert list(_lines(kl).values()) == [([1.0, 8.0, 20.0], [0, 1, 2])]


@pytest.mark.parametrize(
    ("values", "scale"),
    [("4 8 16", "linear"), ("0 1 50", "symlog"), ("-1 5 50", "linear"), ("1e-4 1e-2", "log")],
)
def test_the_axis_suits_the_values(values, scale, draw):
    figure = draw([_job(i, {"key": value}, {"m": 1.0}) for i, value in enumerate(values.split())])
    assert figure.axes[0].get_xscale() == scale


def test_text_values_are_categories_without_a_line_between(draw):
    jobs = [_job(i, {"model": name}, {"m": float(i)}) for i, name in enumerate(["realnvp", "vae", "null"])]
    (axes,) = draw(jobs).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["realnvp", "vae", "null"]
    assert axes.get_lines()[0].get_linestyle() == "None"


def test_a_second_key_makes_lines_and_seeds_are_averaged(draw):
    jobs = [
        _job(0, {"model": m, "model.latent_dim": d, "seed": s}, {"m": int(d) + int(s) + 100 * (m == "b")})
        for m in "ab"
        for d in ("2", "10")
        for s in ("0", "1", "5")
    ]
    figure = draw(jobs)
    (axes,) = figure.axes
    lines = _lines(axes)
    assert lines == {"a": ([2.0, 10.0], [4.0, 12.0]), "b": ([2.0, 10.0], [104.0, 112.0])}
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx(
        (4 - statistics.stdev([2, 3, 7]), 12 + statistics.stdev([2, 3, 7]))
    )
    assert same_color(axes.get_lines()[0].get_color(), "C0")
    assert figure.legends[0].get_title().get_text() == "model"
    assert "seeds 0, 1, 5" in figure.get_suptitle()


def test_a_sweep_of_seeds_alone_has_them_on_its_axis(draw):
    figure = draw([_job(i, {"seed": str(i)}, {"m": float(i)}) for i in range(3)])
    assert figure.axes[0].get_xlabel() == "seed"
    assert list(_lines(figure.axes[0]).values()) == [([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])]


def test_failed_jobs_and_what_is_not_finite_are_not_drawn(draw):
    values = [{"m": 1.0, "n": float("nan")}, None, {"m": 3.0, "n": float("inf")}]
    figure = draw([_job(i, {"key": str(i)}, v) for i, v in enumerate(values)])
    assert [axes.get_title() for axes in figure.axes] == ["m"]
    assert list(_lines(figure.axes[0]).values()) == [([0.0, 2.0], [1.0, 3.0])]


def test_labels_that_would_touch_are_left_out(draw):
    values = ["0", "1000", "1001", "1002", "2000"]
    figure = draw([_job(i, {"key": value}, {"m": 1.0}) for i, value in enumerate(["-5", *values])])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["-5", "1000", "2000"]


def test_what_is_measured_at_the_end_comes_first():
    metrics = {"val/loss": 1.0, "val/kl": 2.0, "fid/cnn": 3.0}
    assert main_metrics([_job(0, {}, metrics)]) == ["fid/cnn", "val/loss"]
    assert main_metrics([_job(0, {}, {"val/loss": 1.0, "val/kl": 2.0})]) == ["val/loss", "val/kl"]


def test_metrics_that_belong_together_stand_together():
    jobs = [_job(0, {}, {"ood/a/x": 1.0, "ood/b/x": 2.0}), _job(1, {}, {"ood/a/y": 1.0, "ood/b/y": 2.0})]
    assert main_metrics(jobs) == ["ood/a/x", "ood/a/y", "ood/b/x", "ood/b/y"]


def test_parts_and_standard_errors_are_no_main_metrics():
    metrics = {"mig": 0.3, "mig/shape": 0.2, "likelihood/nelbo": 96.0, "likelihood/nelbo_se": 0.4}
    assert main_metrics([_job(0, {}, metrics)]) == ["mig", "likelihood/nelbo"]


def test_a_narrow_terminal_shows_the_metrics_that_fit(here, monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(table, "_console", lambda: console)
    metrics = {f"disentanglement/score_{i}/completeness": i / 7 for i in range(8)}
    print_report(here, [_job(i, {"model.beta": str(i)}, metrics) for i in range(3)])
    printed = console.file.getvalue()
    assert "…" not in printed
    assert "(with 6 more metrics)" in printed


def test_of_many_metrics_each_has_a_row(here, monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(table, "_console", lambda: console)
    jobs = [_job(i, {"model.beta": str(i)}, {f"auroc/{k}": k / 7 for k in range(20)}) for i in range(3)]
    print_report(here, jobs)
    write_report(here, jobs)
    for text in (console.file.getvalue(), (here / "sweep.md").read_text()):
        for k in range(20):
            (row,) = [line for line in text.splitlines() if f"auroc/{k} " in line]
            assert row.count(f"{k / 7:.3f}") == 3


def test_awkward_text_survives_csv_and_markdown(here):
    error = "key='a|b', \"c\""
    write_report(here, [_job(0, {"key": "a|b, c"}, {"m": 1.5}), _job(1, {"key": "[1,2]"}, error=error)])
    table = _table(here)
    assert _column(table, "key") == ["a|b, c", "[1,2]"]
    assert table[1]["error"] == error
    rows = [_entries(line) for line in (here / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert rows[0] == ["", "key=a\\|b, c", "key=[1,2]"]
    assert {len(row) for row in rows} == {3}


def _names(*settings):
    return labels([_job(i, values, {"m": 1.0}) for i, values in enumerate(settings)])


def test_a_word_stands_for_itself_and_a_number_has_its_key():
    assert _names({"model": "vae"}, {"model": "gan"}) == ["vae", "gan"]
    assert _names({"model.beta": "1", "x": "1"}, {"model.beta": "4e-3", "x": "1"}) == ["beta=1", "beta=4e-3"]
    assert _names({"a.b": "true"}, {"a.b": "null"}) == ["b=true", "b=null"]
    assert _names({"m": "v", "seed": "0"}, {"m": "v", "seed": "1"}) == ["seed=0", "seed=1"]
    assert _names({"m": "v", "seed": "0"}, {"m": "w", "seed": "1"}) == ["v, seed=0", "w, seed=1"]
    assert _names({"m": "v"}, {"m": "w"}, {"m": "v"}) == ["v (0)", "w (1)", "v (2)"]
    assert _names({"m": "v"}) == ["job 0"]


def _run(folder, number, losses=(), grids=(), side=4):
    """A run's folder with curves of ``losses`` by step, and grids of samples, each of a colour of its own."""
    run = folder / f"{number}-run"
    (run / "figures").mkdir(parents=True)
    rows = [f"{step},1,{name},{value}" for name, value in losses for step in (1, 2)]
    (run / "metrics.csv").write_text("\n".join(["step,epoch,name,value", *rows]) + "\n")
    for n in grids:
        Image.new("RGB", (side, side), (n, 0, 255)).save(run / "figures" / f"samples_{n}.png")


def _curves(folder, jobs, monkeypatch):
    figures = []
    monkeypatch.setattr("genlab.report.sweep_curves.save", lambda figure, path: figures.append(figure))
    assert draw_curves(folder, jobs, folder / "curves")
    return {
        axes.get_title(): [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
        for axes in figures[0].axes
    }


@pytest.mark.parametrize(
    ("key", "panels"),
    [
        ("model", {"a": ["loss"], "b": ["loss_d", "loss_g"]}),
        ("model/loss", {"loss": ["a"], "loss_d": ["b"], "loss_g": ["b"]}),
    ],
)
def test_models_of_different_kinds_have_panels_of_their_own(key, panels, here, monkeypatch):
    _run(here, 0, [("train/loss", 3), ("val/loss", 2), ("train/kl", 1)])
    _run(here, 1, [("train/loss_d", 1), ("train/loss_g", 2)])
    jobs = [_job(i, {key: name}, {"m": 1.0}) for i, name in enumerate("ab")]
    assert _curves(here, [*jobs, _job(2, {key: "c"}, error="none")], monkeypatch) == panels


def test_samples_are_the_grid_of_25_or_the_largest(here):
    for number, grids in enumerate([(9, 16, 25, 36), (9, 16), ()]):
        _run(here, number, grids=grids)
    (here / "0-run" / "figures" / "samples_by_class.png").touch()
    jobs = {name: _job(i, {}, {"m": 1.0}) for i, name in enumerate("abc")}
    found = find_samples(here, {**jobs, "d": _job(0, {}, error="failed")})
    assert found == {
        "a": here / "0-run" / "figures" / "samples_25.png",
        "b": here / "1-run" / "figures" / "samples_16.png",
    }


def test_samples_of_all_jobs_are_one_picture_under_their_names(here):
    for i in range(4):
        _run(here, i, grids=[50 * i + 1], side=40)
    grids = {f"name {i}": here / f"{i}-run" / "figures" / f"samples_{50 * i + 1}.png" for i in range(4)}
    assert draw_samples(grids, here / "samples.png")
    with Image.open(here / "samples.png") as picture:
        pixels = np.array(picture)
    places = [np.argwhere((pixels == (50 * i + 1, 0, 255)).all(2)) for i in range(4)]
    tops, lefts = zip(*(place.min(0) for place in places), strict=True)
    assert [len(place) for place in places] == [1600] * 4
    assert tops[0] == tops[1] == tops[2] < tops[3]  # three in a row
    assert lefts[0] == lefts[3] < lefts[1] < lefts[2]
    assert (pixels[: tops[0], lefts[0] : lefts[0] + 40] < 128).any()  # the name
    assert not draw_samples({}, here / "none.png")
    assert not (here / "none.png").exists()


def test_by_products_are_folded_and_words_that_all_jobs_share_are_said_once(here):
    metrics = {
        "likelihood/test/bits_per_dim": 3.0,
        "likelihood/test/prior": 1.0,
        "ood/noise/log_prob": -9.0,
        "kid_std/cnn": 0.1,
    }
    remarks = {"likelihood/test/bits_per_dim": ["exact", "9 images"]}
    bound = {"likelihood/test/bits_per_dim": ["bound", "9 images"]}
    jobs = [
        replace(_job(0, {"model": "a"}, metrics), remarks=remarks),
        replace(_job(1, {"model": "b"}, metrics | {"likelihood/test/bits_per_dim": 2.5}), remarks=bound),
    ]
    rows = {row.label: row for row in sweep_table.table(jobs)}
    assert list(rows) == ["job", "training, s", "bits/dim (test, 9 images)"]
    cells = [(entry.text, entry.remark, entry.best) for entry in rows["bits/dim (test, 9 images)"].cells]
    assert cells == [("3.000", "exact", False), ("2.500", "bound", True)]
    assert [row.metric for row in sweep_table.details(jobs)] == list(metrics)[1:]
    write_report(here, jobs)
    page = (here / "sweep.html").read_text()
    assert "<summary>Further measures</summary>" in page
    assert "ood/noise" not in (here / "sweep.md").read_text()


def test_notes_name_the_jobs_that_they_are_not_of_alone(here):
    jobs = [_job(i, {"m": name}, {"v": 1.0}) for i, name in enumerate("abc")]
    notes = [("all", "two"), ("all",), ("two", "all", "two")]
    jobs = [replace(job, notes=said, hardware="CPU") for job, said in zip(jobs, notes, strict=True)]
    failed = replace(_job(3, {"m": "d"}, error="x"), notes=("none",))
    assert sweep_table.shared_notes([*jobs, failed]) == [
        ("trained on CPU", []),
        ("all", []),
        ("two", ["a", "c"]),
    ]


def test_of_equal_values_none_is_the_best_and_of_ties_each(here):
    values = {
        "fid/x": [2.0, 2.0, 2.0],
        "recall/x": [0.5, 0.7, 0.7],
        "kid/x": [math.nan, 0.2, 0.1],
        "m": [1, 2, 3],
    }
    jobs = [_job(i, {"k": str(i)}, {name: v[i] for name, v in values.items()}) for i in range(3)]
    rows = sweep_table.table(jobs)
    best = {row.metric: [entry.best for entry in row.cells] for row in rows if row.metric}
    assert best["fid/x"] == best["m"] == [False] * 3
    assert best["recall/x"] == [False, True, True]
    assert best["kid/x"] == [False, False, True]


def test_more_jobs_than_measures_have_a_row_each(here):
    jobs = [_job(i, {"k": str(i)}, {"m": i / 7}) for i in range(9)]
    write_report(here, jobs)
    lines = [_entries(line) for line in (here / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert lines[0] == ["", "job", "training, s ↓", "m"]
    assert lines[2:] == [[f"k={i}", str(i), "1.000", f"{i / 7:.3f}"] for i in range(9)]


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("fid/cnn", "FID (cnn)"),
        ("fid/cnn/class_kl", "class KL (cnn)"),
        ("likelihood/val/iwae_50", "IWAE-50 (val), nats per image"),
        ("likelihood/val/bits_per_dim", "bits/dim (val)"),
        ("likelihood/val/kl", "kl term (val), nats per image"),
        ("likelihood/val/prior_bits_per_dim", "prior term (val), bits/dim"),
        ("likelihood/test/other", "likelihood/test/other"),
        ("reconstruction/test/psnr", "PSNR (test), dB"),
        ("ood/typicality/mnist/AUROC", "AUROC against mnist (typicality)"),
        ("ood/mnist/code_log_prob", "log p(code) (mnist), nats per code"),
        ("sampling/seconds_per_1000", "sampling of 1,000 images, s"),
        ("val/loss", "validation loss"),
        ("mine/of/my/own", "mine/of/my/own"),
    ],
)
def test_measures_have_names_for_people(metric, label):
    assert describe(metric).label() == label


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("+model.deed=bug", "model.deed", "bug"),
        ("key='a, b'", "key", "a, b"),
        ("~evaluation", "evaluation", "null"),
    ],
)
def test_overrides_are_read_as_they_were_meant(override, key, value, here):
    record = {"number": 0, "overrides": [override], "sweep": "..", "status": "failed", "error": "two\nlines"}
    (here / "0-run").mkdir()
    (here / "0-run" / "job.json").write_text(json.dumps(record))
    (job,) = collect(here)
    assert job.settings == {key: value}
    assert (job.error, job.folder) == ("two lines", "0-run")
