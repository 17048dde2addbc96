"""A sweep ends in one table and one figure of all its jobs, whatever becomes of them."""

import json
import signal
import time

import pytest
from harness import QUIET, assert_same_run, finish, genlab, python
from sweep_jobs import column, entries, only_sweep, read_table

from genlab.report.sweep_curves import draw_curves
from genlab.sweep import collect

SABOTAGE = [*QUIET, "plugins=[saboteur]", "model.name=saboteur"]
FILES = {"sweep.csv", "sweep.md", "sweep.html"} | {
    f"{name}.{kind}" for name in ("sweep", "sweep_curves") for kind in ("png", "svg")
}


# ------------------------------------------------------------------ two keys, one job of three fails


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("swept")
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=4,1,5", "seed=0,1", f"output_dir={outputs}")
    return outcome, *only_sweep(outputs)


def test_every_job_has_a_row_with_the_swept_values(swept):
    _, _, table = swept
    assert column(table, "job") == list("012345")
    assert column(table, "model.num_flows") == list("441155")
    assert column(table, "seed") == list("010101")
    assert column(table, "status") == ["ok", "ok", "failed", "failed", "ok", "ok"]
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
    head, _, *rows = [entries(line) for line in lines if line.startswith("|")]
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
    folder, table = only_sweep(here / "outputs")
    assert column(table, "model.permutation") == ["reverse", "checkerboard"]
    assert (folder / "sweep.png").exists()


def test_a_failure_in_one_batch_does_not_end_the_next(here):
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=1,4", "hydra.sweeper.max_batch_size=1")
    assert outcome.complaint() == "1 of 2 jobs failed: 0"
    assert column(only_sweep(here / "outputs")[1], "status") == ["failed", "ok"]


def test_a_job_that_breaks_off_in_training_is_failed(here):
    deeds = ["+model.deed=not_finite,none,bug", "+model.at=0"]
    outcome = genlab("train", "-m", *SABOTAGE, *deeds)
    folder, table = only_sweep(here / "outputs")
    assert outcome.complaint() == "2 of 3 jobs failed: 0, 2"
    assert "log_det" in table[0]["error"]
    assert "unexpected ZeroDivisionError: of mine" in table[2]["error"]
    assert "ZeroDivisionError" in (folder / table[2]["folder"] / "error.txt").read_text()


def test_a_sweep_of_which_nothing_is_left_has_a_table(here):
    outcome = genlab("train", "-m", *QUIET, "model.num_flows=1,2")
    folder, table = only_sweep(here / "outputs")
    assert outcome.complaint() == "2 of 2 jobs failed: 0, 1"
    assert column(table, "model.num_flows") == ["1", "2"]
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
    folder, table = only_sweep(here / "outputs")
    assert (stopped.code, stopped.err) == (130, "")
    assert column(table, "status") == ["ok", "unfinished"]
    assert f"unfinished: 1: {table[1]['folder']}" in stopped.out

    refused = genlab("train", f"resume={folder / table[0]['folder']}", "dataset.num_val=16")
    assert "a resumed run keeps its dataset" in refused.complaint()
    resumed = genlab("train", f"resume={folder / table[1]['folder']}")
    assert (resumed.code, resumed.err) == (0, "")
    assert f"brought up to date: {folder / 'sweep.md'}" in resumed.out
    again = read_table(folder)
    assert again[0] == table[0]
    assert column(again, "status") == ["ok", "ok"]
    assert float(again[1]["val/loss"]) > 0


def test_a_stopped_sweep_can_be_gone_on_with(here):
    deeds = ["+model.deed=none,interrupt,not_finite", "+model.at=5"]
    assert genlab("train", "-m", *SABOTAGE, *deeds).code == 130
    folder, table = only_sweep(here / "outputs")
    assert column(table, "status") == ["ok", "unfinished"]
    files = [path for path in (folder / table[0]["folder"]).rglob("*") if path.name != "train.log"]
    times = [path.stat().st_mtime_ns for path in files]

    resumed = genlab("train", f"resume={folder}")
    assert resumed.complaint() == "1 of 3 jobs failed: 2"
    assert "job 0 is done already" in resumed.out
    assert "continuing at step 6" in (folder / table[1]["folder"] / "train.log").read_text()
    again = read_table(folder)
    assert column(again, "status") == ["ok", "ok", "failed"]
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
    assert column(only_sweep(here / "outputs")[1], "status") == ["ok", "unfinished"]
