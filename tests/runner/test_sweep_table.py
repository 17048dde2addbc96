"""The table of a sweep: which measures and jobs stand where, under which names."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console
from sweep_jobs import column, entries, job_of, read_table

from genlab.report import sweep_table, table
from genlab.report.measures import describe
from genlab.report.sweep import print_report, write_report
from genlab.report.sweep_table import labels, main_metrics
from genlab.sweep import collect


def test_what_is_measured_at_the_end_comes_first():
    metrics = {"val/loss": 1.0, "val/kl": 2.0, "fid/cnn": 3.0}
    assert main_metrics([job_of(0, {}, metrics)]) == ["fid/cnn", "val/loss"]
    assert main_metrics([job_of(0, {}, {"val/loss": 1.0, "val/kl": 2.0})]) == ["val/loss", "val/kl"]


def test_metrics_that_belong_together_stand_together():
    jobs = [job_of(0, {}, {"ood/a/x": 1.0, "ood/b/x": 2.0}), job_of(1, {}, {"ood/a/y": 1.0, "ood/b/y": 2.0})]
    assert main_metrics(jobs) == ["ood/a/x", "ood/a/y", "ood/b/x", "ood/b/y"]


def test_parts_and_standard_errors_are_no_main_metrics():
    metrics = {"mig": 0.3, "mig/shape": 0.2, "likelihood/nelbo": 96.0, "likelihood/nelbo_se": 0.4}
    assert main_metrics([job_of(0, {}, metrics)]) == ["mig", "likelihood/nelbo"]


def test_a_narrow_terminal_shows_the_metrics_that_fit(here, monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(table, "_console", lambda: console)
    metrics = {f"disentanglement/score_{i}/completeness": i / 7 for i in range(8)}
    print_report(here, [job_of(i, {"model.beta": str(i)}, metrics) for i in range(3)])
    printed = console.file.getvalue()
    assert "…" not in printed
    assert "(with 6 more metrics)" in printed


def test_of_many_metrics_each_has_a_row(here, monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(table, "_console", lambda: console)
    jobs = [job_of(i, {"model.beta": str(i)}, {f"auroc/{k}": k / 7 for k in range(20)}) for i in range(3)]
    print_report(here, jobs)
    write_report(here, jobs)
    for text in (console.file.getvalue(), (here / "sweep.md").read_text()):
        for k in range(20):
            (row,) = [line for line in text.splitlines() if f"auroc/{k} " in line]
            assert row.count(f"{k / 7:.3f}") == 3


def test_awkward_text_survives_csv_and_markdown(here):
    error = "key='a|b', \"c\""
    write_report(here, [job_of(0, {"key": "a|b, c"}, {"m": 1.5}), job_of(1, {"key": "[1,2]"}, error=error)])
    table = read_table(here)
    assert column(table, "key") == ["a|b, c", "[1,2]"]
    assert table[1]["error"] == error
    rows = [entries(line) for line in (here / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert rows[0] == ["", "key=a\\|b, c", "key=[1,2]"]
    assert {len(row) for row in rows} == {3}


def _names(*settings):
    return labels([job_of(i, values, {"m": 1.0}) for i, values in enumerate(settings)])


def test_a_word_stands_for_itself_and_a_number_has_its_key():
    assert _names({"model": "vae"}, {"model": "gan"}) == ["vae", "gan"]
    assert _names({"model.beta": "1", "x": "1"}, {"model.beta": "4e-3", "x": "1"}) == ["beta=1", "beta=4e-3"]
    assert _names({"a.b": "true"}, {"a.b": "null"}) == ["b=true", "b=null"]
    assert _names({"m": "v", "seed": "0"}, {"m": "v", "seed": "1"}) == ["seed=0", "seed=1"]
    assert _names({"m": "v", "seed": "0"}, {"m": "w", "seed": "1"}) == ["v, seed=0", "w, seed=1"]
    assert _names({"m": "v"}, {"m": "w"}, {"m": "v"}) == ["v (0)", "w (1)", "v (2)"]
    assert _names({"m": "v"}) == ["job 0"]


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
        replace(job_of(0, {"model": "a"}, metrics), remarks=remarks),
        replace(job_of(1, {"model": "b"}, metrics | {"likelihood/test/bits_per_dim": 2.5}), remarks=bound),
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
    jobs = [job_of(i, {"m": name}, {"v": 1.0}) for i, name in enumerate("abc")]
    notes = [("all", "two"), ("all",), ("two", "all", "two")]
    jobs = [replace(job, notes=said, hardware="CPU") for job, said in zip(jobs, notes, strict=True)]
    failed = replace(job_of(3, {"m": "d"}, error="x"), notes=("none",))
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
    jobs = [job_of(i, {"k": str(i)}, {name: v[i] for name, v in values.items()}) for i in range(3)]
    rows = sweep_table.table(jobs)
    best = {row.metric: [entry.best for entry in row.cells] for row in rows if row.metric}
    assert best["fid/x"] == best["m"] == [False] * 3
    assert best["recall/x"] == [False, True, True]
    assert best["kid/x"] == [False, False, True]


def test_more_jobs_than_measures_have_a_row_each(here):
    jobs = [job_of(i, {"k": str(i)}, {"m": i / 7}) for i in range(9)]
    write_report(here, jobs)
    lines = [entries(line) for line in (here / "sweep.md").read_text().splitlines() if line.startswith("|")]
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
