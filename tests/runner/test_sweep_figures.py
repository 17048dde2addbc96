"""The figures of a sweep: axes, lines, curves and samples of its jobs."""

import statistics

import numpy as np
import pytest
from matplotlib.colors import same_color
from PIL import Image
from sweep_jobs import job_of

from genlab.report import sweep_figure
from genlab.report.sweep_curves import draw_curves
from genlab.report.sweep_samples import draw_samples, find_samples


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
    jobs = [job_of(i, {"model.beta": b}, {"val/kl": i, "val/loss": 9}) for i, b in enumerate(["1", "8", "20"])]
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
    figure = draw([job_of(i, {"key": value}, {"m": 1.0}) for i, value in enumerate(values.split())])
    assert figure.axes[0].get_xscale() == scale


def test_text_values_are_categories_without_a_line_between(draw):
    jobs = [job_of(i, {"model": name}, {"m": float(i)}) for i, name in enumerate(["realnvp", "vae", "null"])]
    (axes,) = draw(jobs).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["realnvp", "vae", "null"]
    assert axes.get_lines()[0].get_linestyle() == "None"


def test_a_second_key_makes_lines_and_seeds_are_averaged(draw):
    jobs = [
        job_of(0, {"model": m, "model.latent_dim": d, "seed": s}, {"m": int(d) + int(s) + 100 * (m == "b")})
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
    figure = draw([job_of(i, {"seed": str(i)}, {"m": float(i)}) for i in range(3)])
    assert figure.axes[0].get_xlabel() == "seed"
    assert list(_lines(figure.axes[0]).values()) == [([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])]


def test_failed_jobs_and_what_is_not_finite_are_not_drawn(draw):
    values = [{"m": 1.0, "n": float("nan")}, None, {"m": 3.0, "n": float("inf")}]
    figure = draw([job_of(i, {"key": str(i)}, v) for i, v in enumerate(values)])
    assert [axes.get_title() for axes in figure.axes] == ["m"]
    assert list(_lines(figure.axes[0]).values()) == [([0.0, 2.0], [1.0, 3.0])]


def test_labels_that_would_touch_are_left_out(draw):
    values = ["0", "1000", "1001", "1002", "2000"]
    figure = draw([job_of(i, {"key": value}, {"m": 1.0}) for i, value in enumerate(["-5", *values])])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["-5", "1000", "2000"]


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
    jobs = [job_of(i, {key: name}, {"m": 1.0}) for i, name in enumerate("ab")]
    assert _curves(here, [*jobs, job_of(2, {key: "c"}, error="none")], monkeypatch) == panels


def test_samples_are_the_grid_of_25_or_the_largest(here):
    for number, grids in enumerate([(9, 16, 25, 36), (9, 16), ()]):
        _run(here, number, grids=grids)
    (here / "0-run" / "figures" / "samples_by_class.png").touch()
    jobs = {name: job_of(i, {}, {"m": 1.0}) for i, name in enumerate("abc")}
    found = find_samples(here, {**jobs, "d": job_of(0, {}, error="failed")})
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
