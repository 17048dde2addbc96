"""A sweep ends in one table and one figure of all its jobs, whatever becomes of them."""

import csv
import io
import json
import os
import signal
import statistics
import time

import pytest
from harness import CHECKOUT, QUIET, Outcome, finish, genlab, python
from matplotlib.colors import same_color
from rich.console import Console

from genlab.report import sweep_figure, table
from genlab.report.sweep import main_metrics, print_report, write_report
from genlab.report.sweep_curves import draw_curves
from genlab.sweep import Job, collect

SABOTAGE = [*QUIET, "plugins=[saboteur]", "model.name=saboteur"]
FILES = {"sweep.csv", "sweep.md", "sweep.png", "sweep.svg", "sweep_curves.png", "sweep_curves.svg"}


def _sweep(outputs):
    """The one folder of a sweep under ``outputs``, and the rows of its table."""
    (folder,) = outputs.glob("sweeps/*")
    return folder, _table(folder)


def _table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
    rows = [line for line in lines if line.startswith("|")]
    assert [row.count("|") for row in rows] == [rows[0].count("|")] * 8
    assert "likelihood/test/bits_per_dim" in rows[0]
    assert rows[4].split()[-2] == "failed"
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the launcher of this test forks")
def test_jobs_in_other_processes_are_in_the_table(here):
    outcome = _with_plugins(here, "hydra/launcher=forked", "model.num_flows=4,1,6")
    assert outcome.complaint() == "1 of 3 jobs failed: 1"
    assert _column(_sweep(here / "outputs")[1], "status") == ["ok", "failed", "ok"]


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
    rows = [line for line in (here / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}


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
