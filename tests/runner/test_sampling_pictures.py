"""What is seen of sampling and denoising, and samples of a trained run by any sampler."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from harness import IMAGES, TRAINING, WATCHING, genlab, train
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from genlab.assemble import build_callbacks
from genlab.callbacks.base import Snapshot
from genlab.data.device import DeviceDataset, Splits
from genlab.report.animation import Frame, save_gif
from genlab.run_folder import RunFolder
from genlab.types import SamplingStep

NET = [
    "model.net.channels=8",
    "model.net.multipliers=[1]",
    "model.net.num_blocks=1",
    "model.net.attention=[]",
    "model.net.num_groups=4",
]
UNWATCHED = [f"callbacks.{name}=null" for name in WATCHING if name not in ("sampling_steps", "denoising")]
WATCHED = [*NET, *IMAGES, *TRAINING, *UNWATCHED, "~evaluation"]
QUIET = [*NET, *TRAINING, "~callbacks", "~evaluation", "trainer.monitor=null", "trainer.optimizer.lr=0.01"]
EXPECTED = {"sampling_steps.png", "sampling_steps.svg", "sampling_steps.gif", "denoising.png", "denoising.svg"}


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    fast = ["model.schedule.num_steps=40", "model.samplers.dpm_solver.num_steps=6", "model.target=v"]
    return train(tmp_path_factory.mktemp("ddpm"), "model=ddpm", *WATCHED, *fast, "callbacks.denoising.every=1")


@pytest.fixture(scope="module")
def flow_matching(tmp_path_factory):
    fast = ["model.num_steps=5", "callbacks.sampling_steps.film=null"]
    return train(tmp_path_factory.mktemp("flow"), "model=flow_matching", *WATCHED, *fast)


def _events(run):
    return EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()


# ------------------------------------------------------------------ runs


def test_a_diffusion_model_gets_its_pictures(ddpm):
    assert {path.name for path in (ddpm / "figures").iterdir()} >= EXPECTED
    for name in ("sampling_steps", "denoising"):
        assert mpl.image.imread(ddpm / "figures" / f"{name}.png")[..., :3].std() > 0.01
    events = _events(ddpm)
    assert [image.step for image in events.Images("sampling_steps")] == [8]  # the end is always shown
    assert [image.step for image in events.Images("denoising")] == [4, 8]


def test_a_flow_matching_model_gets_them_too_and_no_film_where_none_is_wanted(flow_matching):
    written = {path.name for path in (flow_matching / "figures").iterdir()}
    assert written & EXPECTED == EXPECTED - {"sampling_steps.gif"}


@pytest.mark.parametrize("model", ["ddpm", "flow_matching"])
def test_nothing_is_scored_while_a_score_costs_a_hundred_evaluations(model):
    assert "\n  log_prob_histogram: null\n" in genlab("train", f"model={model}", "--cfg", "job").out


def test_a_flow_gets_none_of_them(finished):
    assert not {path.name for path in (finished / "figures").iterdir()} & EXPECTED


# ------------------------------------------------------------------ samples of a trained run


def _samples(run, name, *overrides):
    outcome = genlab("sample", f"run={run}", "n=3", "format=npz", f"output={name}.npz", *overrides)
    assert outcome.code == 0, outcome.err
    return np.load(f"{name}.npz")["images"]


def test_a_trained_run_is_sampled_by_another_sampler_and_a_seed_says_which_images(ddpm):
    ddim = ["model.sampler=ddim", "model.samplers.ddim.num_steps=10", "model.samplers.ddim.eta=1"]
    once = _samples(ddpm, "once", "seed=3", *ddim)
    assert (once.shape, once.dtype) == ((3, 1, 8, 8), np.uint8)
    assert np.array_equal(once, _samples(ddpm, "again", "seed=3", *ddim))
    assert not np.array_equal(once, _samples(ddpm, "other", "seed=4", *ddim))
    assert not np.array_equal(once, _samples(ddpm, "without_chance", "seed=3", *ddim[:-1]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.sampler=euler",
            "model.sampler='euler': input should be 'ancestral', 'ddim' or 'dpm_solver'",
        ),
        (
            "model.samplers.ddim.num_steps=0",
            "model.samplers.ddim.num_steps=0: input should be greater than or equal to 1",
        ),
        (
            "model.samplers.ddim.eta=2",
            "model.samplers.ddim.eta=2: input should be less than or equal to 1",
        ),
    ],
)
def test_a_sampler_that_is_none_is_named(ddpm, override, message):
    assert genlab("sample", f"run={ddpm}", override).complaint() == message


def test_guidance_is_changed_on_a_trained_run(here):
    """Noise has no labels: a set of one's own has."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(60) % 3)
    own = ["dataset=npz", "dataset.root=images.npz", "dataset.num_val=0"]
    run = train(here / "outputs", "model=flow_matching", "model/conditioning=classifier_free", *own, *QUIET)
    labelled = _samples(run, "labelled", "labels=[2,0]")
    assert labelled.shape == (6, 1, 8, 8)
    assert not np.array_equal(labelled, _samples(run, "more", "labels=[2,0]", "model.conditioning.guidance=9"))


# ------------------------------------------------------------------ what they show


class Brightening(nn.Module):
    """``x`` is ten times the number of the step, and the image foreseen is of grey level 200."""

    num_classes = None
    device = torch.device("cpu")

    def __init__(self, num_steps=10):
        super().__init__()
        self.num_steps, self.asked = num_steps, []

    def sample_steps(self, n, y=None, generator=None):
        self.asked.append((n, y))
        for i in range(self.num_steps + 1):
            x = torch.full((n, 1, 8, 8), 10 * i % 256, dtype=torch.uint8)
            yield SamplingStep(1 - i / self.num_steps, x, torch.full_like(x, 200))


class Veil(nn.Module):
    """Adds ten times as many levels as the time, and is wrong by 100."""

    def __init__(self):
        super().__init__()
        self.noise = []

    def denoised(self, x, time, generator=None):
        self.noise.append(torch.rand(1, generator=generator).item())
        return x + round(10 * time), x + 100


def _snapshot(model, folder=None, n=5):
    cpu = torch.device("cpu")
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    data = DeviceDataset(images, None, cpu, cpu)
    logger = type("Silent", (), {"images": lambda *_: None})()
    return Snapshot(model, Splits(data, data, data), folder, logger, "train", 1, 1, 1, {})


def _callback(name, model, **options):
    (callback,) = build_callbacks({name: options}, type(model), None).values()
    return callback


def _drawn(name, model, **options):
    """The labels of rows and columns, and the grey level of each image."""
    figure = _callback(name, model, **options).draw(_snapshot(model))[name]
    (axes,) = figure.axes
    rows, columns = axes.get_yticklabels(), axes.get_xticklabels()
    pixels = axes.get_images()[0].get_array()
    levels = [[int(pixels[int(y), int(x), 0]) for x in axes.get_xticks()] for y in axes.get_yticks()]
    return [tick.get_text() for tick in rows], [tick.get_text() for tick in columns], levels


def test_steps_are_chosen_evenly_with_the_first_and_the_last_and_their_times():
    rows, columns, levels = _drawn("sampling_steps", Brightening(), n=2, columns=3)
    assert rows == ["sample 1", "foreseen", "sample 2", "foreseen"]
    assert columns == ["1", "0.5", "0"]
    assert levels == [[0, 50, 100], [200, 200, 200]] * 2


def test_fewer_steps_than_columns_are_all_shown():
    _, columns, _ = _drawn("sampling_steps", Brightening(2), n=1, columns=9)
    assert columns == ["1", "0.5", "0"]


def test_a_conditional_model_shows_one_class_after_another():
    model = Brightening()
    model.num_classes = 3
    rows, _, _ = _drawn("sampling_steps", model, n=4)
    assert model.asked[0][1].tolist() == [0, 1, 2, 0]
    assert rows[::2] == ["class 0", "class 1", "class 2", "class 0"]


def _film(path):
    with Image.open(path) as gif:
        frames = [frame.convert("L") for frame in ImageSequence.Iterator(gif)]
        return frames, [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]


def test_the_film_goes_from_noise_to_image_and_holds_the_last(tmp_path):
    model = Brightening()
    callback = _callback("sampling_steps", model, n=2, film=9)
    callback.on_train_end(_snapshot(model, RunFolder(tmp_path)))
    frames, shown = _film(tmp_path / "figures" / "sampling_steps.gif")
    assert [n for n, _ in model.asked] == [2, 9]
    assert [round(frame.getpixel((60, 90)) / 10) for frame in frames] == list(range(11))
    assert shown == [*[200] * 10, 2000]
    captions = {frame.crop((0, 0, frame.width, 28)).tobytes() for frame in frames}
    assert len(captions) == 11


def test_a_long_way_makes_a_short_film(tmp_path):
    model = Brightening(1000)
    _callback("sampling_steps", model, n=1, film=1).on_train_end(_snapshot(model, RunFolder(tmp_path)))
    frames, _ = _film(tmp_path / "figures" / "sampling_steps.gif")
    assert len(frames) == 60


def test_a_film_of_one_frame_is_none(tmp_path):
    save_gif([Frame(Image.new("L", (20, 20)), "alone")], tmp_path / "film.gif")
    assert list(tmp_path.iterdir()) == []


def test_images_stand_above_what_noise_and_the_model_make_of_them():
    model = Veil()
    rows, columns, levels = _drawn("denoising", model, n=2, times=[0.2, 1.0])
    assert rows == ["image", "with noise", "denoised"] * 2
    assert columns == ["time 0.2", "time 1"]
    assert levels == [[0, 0], [2, 10], [100, 100], [1, 1], [3, 11], [101, 101]]
    assert model.noise[0] == model.noise[1]  # of one kind, and more of it


@pytest.mark.parametrize(
    ("name", "model", "together"), [("denoising", Veil, 3), ("sampling_steps", Brightening, 2)]
)
def test_rows_of_one_image_stand_together(name, model, together):
    (axes,) = _callback(name, model(), n=3).draw(_snapshot(model()))[name].axes
    gaps = np.diff(axes.get_yticks())
    assert [i + 1 for i, gap in enumerate(gaps) if gap > gaps.min()] == [together, 2 * together]


def test_fewer_held_out_images_are_enough():
    rows, _, _ = _drawn("denoising", Veil(), n=50)
    assert len(rows) == 15


@pytest.mark.parametrize("name", ["sampling_steps", "denoising"])
def test_a_model_that_can_not_is_left_alone(name, tmp_path):
    callback = _callback(name, nn.Module())
    assert callback.draw(_snapshot(nn.Module())) == {}
    callback.on_train_end(_snapshot(nn.Module(), RunFolder(tmp_path)))
    assert list(tmp_path.rglob("*.gif")) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("denoising.times=[0]", "denoising.times.0=0: input should be greater than 0"),
        ("denoising.times=[0.5,2]", "denoising.times.1=2: input should be less than or equal to 1"),
        ("denoising.times=[]", "denoising.times=[]: "),
        ("sampling_steps.columns=1", "sampling_steps.columns=1: input should be greater than or equal to 2"),
    ],
)
def test_settings_that_show_nothing_are_named(setting, message):
    assert genlab("train", f"callbacks.{setting}").complaint().startswith(f"callbacks.{message}")
