"""Samples, reconstructions, traversals, interpolations, maps of codes: who gets which, what they show."""

import itertools
import json

import matplotlib as mpl
import numpy as np
import pytest
import torch
from harness import IMAGES, TRAINING, UNMEASURED, UNWATCHED, WATCHING, genlab, rows, state, train
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from torch import nn

from genlab.assemble import build_callbacks
from genlab.callbacks.base import Snapshot
from genlab.callbacks.codes import dimensions
from genlab.callbacks.latent_map import _plane
from genlab.callbacks.traversals import moved
from genlab.data.device import DeviceDataset, Splits
from genlab.nets.gaussian import DiagonalGaussian
from genlab.report import figures
from genlab.report.animation import Frames, over_epochs, save_gif
from genlab.report.figures import as_image, loss_curves
from genlab.report.latent import code_map, kl_bars
from genlab.report.mosaic import mosaic, signed
from genlab.run_folder import RunFolder
from genlab.types import DataSpec

VAE = ["model=vae", "model.encoder.hidden_dim=16", "model.decoder.hidden_dim=16", "model.eval_samples=2"]
TINY_VAE = [*VAE, *IMAGES, *TRAINING, *UNMEASURED, "evaluation.importance_samples=[2]"]
SCALARS = {f"posterior/{name}" for name in ("active_units", "mutual_information", "kl_max", "kl_min")}
DRAWN = ["reconstructions", "interpolation", "latent_map"]
OF_A_VAE = [*DRAWN, "traversals", "kl_per_dim"]


@pytest.fixture(scope="module", params=[2, 4])
def vae(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"vae{request.param}")
    return train(folder, *TINY_VAE, f"model.latent_dim={request.param}")


def _expected(run):
    return [*OF_A_VAE, *(["latent_grid"] if "vae2" in str(run) else [])]


def _pictures(run):
    known = {*OF_A_VAE, "latent_grid"}
    return {path.stem for path in (run / "figures").glob("*.svg") if path.stem in known}


def _events(run):
    return EventAccumulator(str(run / "tensorboard"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()


def test_a_vae_gets_every_picture(vae):
    assert _pictures(vae) == set(_expected(vae))
    for name in _expected(vae):
        assert mpl.image.imread(vae / "figures" / f"{name}.png")[..., :3].std() > 0.01


def test_tensorboard_has_the_pictures(vae):
    events = _events(vae)
    assert {*_expected(vae), "samples"} <= set(events.Tags()["images"])
    assert [image.step for image in events.Images("reconstructions")] == [4, 8]
    assert [image.step for image in events.Images("traversals")] == [8]  # the end is always shown
    assert len(events.Histograms("posterior/kl_per_dim")) == 2


def test_numbers_of_a_callback_are_final_metrics(vae):
    logged = {(int(step), name): float(value) for step, _, name, value in rows(vae)}
    assert {(step, name) for step, name in logged if name.startswith("posterior/")} == {
        (step, name) for step in (4, 8) for name in SCALARS
    }
    summary = json.loads((vae / "summary.json").read_text())["metrics"]
    assert summary.keys() >= SCALARS
    assert not any(name.startswith(("train/", "lr")) for name in summary)
    events = _events(vae)
    for name in SCALARS:
        assert summary[name] == state(vae)["metrics"][name] == pytest.approx(logged[8, name], rel=1e-6)
        assert {event.step for event in events.Scalars(name)} == {4, 8}


def test_a_flow_gets_the_pictures_that_show_something_of_it(finished):
    assert _pictures(finished) == set(DRAWN)
    assert not any(row[2].startswith("posterior/") for row in rows(finished))


def test_looking_at_a_vae_does_not_change_its_training(vae, here):
    if "vae4" not in str(vae):
        pytest.skip("one is enough")
    plain = train(here / "plain", *TINY_VAE, *UNWATCHED, "model.latent_dim=4")
    for key, value in state(plain)["model"].items():
        assert torch.equal(value, state(vae)["model"][key]), key
    assert _pictures(plain) == set()


def test_without_validation_test_images_are_held_out():
    train, none, test = _data(3), _data(0), _data(2)
    assert Snapshot(None, Splits(train, none, test), None, None, "train", 1, 1, 1, {}).held_out is test
    assert Snapshot(None, Splits(train, test, none), None, None, "train", 1, 1, 1, {}).held_out is test


# ------------------------------------------------------------------ samples over epochs

ONLY_SAMPLES = [f"callbacks.{name}=null" for name in WATCHING if name != "sample_grid"]
PLUGIN = ["plugins=[painter]", "~model", "+model.name=painter", "~evaluation"]
PAINTER = [*IMAGES, *TRAINING, *ONLY_SAMPLES, *PLUGIN]


def _paint(folder, *overrides):
    return train(folder, *PAINTER, *overrides)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    named = ["callbacks.sample_grid.every=null", "callbacks.sample_grid.at=[first,2,middle,last]"]
    return _paint(tmp_path_factory.mktemp("painted"), *named, "trainer.epochs=7")


def _frames(run):
    return sorted(path.name for path in (run / "figures" / "samples").iterdir())


def _gif(run):
    """The frames of the GIF and the milliseconds that each is shown."""
    with Image.open(run / "figures" / "samples.gif") as gif:
        frames = [frame.convert("L") for frame in ImageSequence.Iterator(gif)]
        return frames, [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]


def test_epochs_are_named_by_number_and_by_word(painted):
    assert _frames(painted) == [f"epoch_000{epoch}.png" for epoch in (1, 2, 4, 7)]
    assert [image.step for image in _events(painted).Images("samples")] == [4, 8, 16, 28]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("[secnd]", "at.0='secnd': input should be a valid integer or 'first', 'middle' or 'last'"),
        ("[1,0]", "at.1=0: input should be greater than or equal to 1 or 'first', 'middle' or 'last'"),
        ("first", "at='first': input should be a valid array"),
    ],
)
def test_an_epoch_that_is_none_is_named(at, message):
    outcome = genlab("train", f"callbacks.sample_grid.at={at}")
    assert outcome.complaint() == f"callbacks.sample_grid.{message}"


def test_every_callback_that_draws_takes_epochs_by_name(here):
    known = [f"callbacks.{name}={{every: null, at: [first]}}" for name in WATCHING]
    run = train(here / "outputs", *TINY_VAE, "model.latent_dim=2", *known)
    events = _events(run)
    assert [image.step for image in events.Images("samples")] == [4]
    assert [image.step for image in events.Images("reconstructions")] == [4, 8]  # the end is always shown
    assert [h.step for h in events.Histograms("log_prob/val")] == [4]


def test_the_noise_is_the_same_at_every_epoch(painted):
    first, *others = [mpl.image.imread(painted / "figures" / "samples" / name) for name in _frames(painted)]
    assert all(np.array_equal(first, other) for other in others)
    assert len(np.unique(first)) > 10  # and it is noise


def test_the_gif_has_every_frame_in_order_and_holds_the_last(painted):
    frames, shown = _gif(painted)
    assert shown == [200, 200, 200, 2000]
    texts = [frame.crop((0, 0, frame.width, 28)).tobytes() for frame in frames]
    assert len(set(texts)) == 4
    drawn = mpl.image.imread(painted / "figures" / "samples" / "epoch_0007.png")
    assert np.allclose(np.array(frames[-1])[28:] / 255, drawn, atol=4 / 255)
    with Image.open(painted / "figures" / "samples.gif") as gif:
        assert gif.info["loop"] == 0


def test_a_resume_goes_on_with_the_frames(painted, here):
    run = _paint(here / "outputs", "trainer.epochs=2")
    assert len(_gif(run)[0]) == 2
    frames = run / "figures" / "samples"
    (frames / "epoch_0009.png").write_bytes((frames / "epoch_0002.png").read_bytes())  # of another continuation
    (frames / "epoch_0001.png").write_bytes((frames / "epoch_0001.png").read_bytes()[:90])  # of a killed run
    (frames / "epoch_0003.png").write_bytes(b"")  # of a killed run, in an epoch that is trained again
    assert genlab("train", f"resume={run}", "trainer.epochs=4").code == 0
    assert len(_gif(run)[0]) == 3  # 2, 3, 4
    with Image.open(run / "figures" / "samples_over_epochs.png") as picture:
        assert picture.width > 2 * 300


def test_one_frame_is_no_film(here):
    run = _paint(here / "one", "trainer.epochs=1")
    none = _paint(here / "none", "callbacks.sample_grid.gif=false")
    assert _frames(run) == ["epoch_0001.png"]
    assert not (run / "figures" / "samples.gif").exists()
    assert not (run / "figures" / "samples_over_epochs.png").exists()
    assert not (none / "figures" / "samples.gif").exists()
    assert (none / "figures" / "samples_over_epochs.svg").exists()


def test_stages_that_count_their_own_epochs_have_their_own_frames(here):
    run = _paint(here / "outputs", "+model.stages=2", "+trainer.stages.stage1.epochs=3")
    drawn = [("stage0", 1), ("stage0", 2), ("stage1", 1), ("stage1", 2), ("stage1", 3)]
    assert _frames(run) == [f"{stage}_epoch_000{epoch}.png" for stage, epoch in drawn]
    assert len(_gif(run)[0]) == 3


def test_a_conditional_model_has_a_row_for_each_class(painted):
    frame = mpl.image.imread(painted / "figures" / "samples" / "epoch_0001.png")
    cells, factor = np.rint(frame * 255).astype(int), 64 // 8
    size = 8 * factor + 2 * factor
    centres = cells[6 * factor :: size, 6 * factor :: size]
    assert centres.shape == (3, 10)
    for label, row in enumerate(centres):
        assert set(row // 10) == {5 * (label + 1)}
    assert len({tuple(row % 10) for row in centres}) == 1  # one noise for all rows
    assert len(set(centres[0])) > 1
    figure = (painted / "figures" / "samples_by_class.svg").read_text()
    assert "Samples by class after epoch 7" in figure


def test_an_unconditional_model_has_no_figure_by_class(here):
    run = _paint(here / "outputs", "+model.classes=null", "callbacks.sample_grid.n=4")
    assert not (run / "figures" / "samples_by_class.png").exists()
    assert mpl.image.imread(run / "figures" / "samples" / "epoch_0001.png").shape[:2] == (2 * 140 + 28,) * 2


def test_a_long_film_is_thinned_out_evenly(tmp_path):
    frames = Frames(tmp_path)
    for epoch in range(1, 12):
        frames.save(torch.full((3, 8, 8), epoch, dtype=torch.uint8), epoch, step=epoch)
    assert [frame.epoch for frame in frames.read(11, limit=4)] == [1, 4, 7, 11]
    assert [frame.epoch for frame in frames.read(10, limit=3)] == [1, 5, 10]
    assert [frame.step for frame in frames.read(2, limit=100)] == [1, 2]


def test_frames_of_another_size_are_left_out(tmp_path):
    frames = Frames(tmp_path)
    for epoch, side in enumerate((8, 16, 16), start=1):
        frames.save(torch.zeros(3, side, side, dtype=torch.uint8), epoch, step=epoch)
    assert [frame.epoch for frame in frames.read(3, limit=100)] == [2, 3]


def test_frames_in_colour_stay_so(tmp_path):
    frames = Frames(tmp_path)
    for epoch, colour in enumerate([(255, 0, 0), (0, 0, 255)], start=1):
        frames.save(torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).repeat(1, 100, 100), epoch, epoch)
    save_gif(frames.read(2, limit=100), tmp_path / "samples.gif")
    with Image.open(tmp_path / "samples.gif") as gif:
        colours = [frame.convert("RGB").getpixel((50, 80)) for frame in ImageSequence.Iterator(gif)]
    assert colours == [(255, 0, 0), (0, 0, 255)]


def test_frames_side_by_side_are_captioned_with_the_fid_of_their_epoch(painted, tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(
        "step,epoch,name,value\n4,1,fid/fashion_cnn,123.45\n4,1,fid/fashion_cnn/class_kl,2\n8,2,val/loss,1\n"
    )
    frames = Frames(painted / "figures" / "samples").read(2, limit=3)
    labels = [tick.get_text() for tick in over_epochs(frames, folder).axes[0].get_xticklabels()]
    assert labels == ["epoch 1\nFID 123 (fashion_cnn)", "epoch 2"]


# ------------------------------------------------------------------ curves


@pytest.fixture
def curves(monkeypatch, tmp_path):
    """Draws the curves of numbers at the steps 1 and 2; the panels by title."""

    def draw(*names):
        folder = RunFolder(tmp_path)
        lines = [f"{step},1,{name},{step}" for step in (1, 2) for name in names]
        folder.metrics.write_text("\n".join(["step,epoch,name,value", *lines]) + "\n")
        drawn = []
        monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
        loss_curves(folder)
        return {axes.get_title(): axes for axes in drawn[0].axes}

    return draw


def _legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_term_has_a_panel_with_its_validation(curves):
    panels = curves("train/loss", "train/kl", "val/loss", "lr")
    assert {title: _legend(axes) for title, axes in panels.items()} == {
        "loss": ["train", "val"],
        "kl": ["train"],
    }


def test_terms_that_belong_together_share_a_panel(curves):
    groups, opinions = ("generator", "discriminator"), ("d_real", "d_fake")
    terms = [*(f"{name}_{group}" for name in ("loss", "grad_norm") for group in groups), *opinions]
    panels = curves(*(f"train/{term}" for term in terms), "val/d_real", "val/d_fake", "train/gradient_penalty")
    assert {title: _legend(axes) for title, axes in panels.items()} == {
        "loss": list(groups),
        "grad_norm": list(groups),
        "D": ["D(x)", "D(G(z))", "val"],
        "gradient_penalty": ["train"],
    }
    train, val, *_ = panels["D"].get_lines()
    assert train.get_color() == val.get_color()
    assert (train.get_linestyle(), val.get_linestyle()) == ("-", "--")


def test_a_term_with_a_shared_prefix_and_no_company_is_shown_as_any_other(curves):
    panels = curves("train/loss_model", "val/loss_model")
    assert _legend(panels["loss_model"]) == ["train", "val"]


def test_the_fid_has_a_panel(curves):
    panels = curves("train/loss", "fid/fashion_cnn", "fid/inception", "fid/inception/kid", "posterior/kl_max")
    assert panels.keys() == {"loss", "FID", "kid"}
    assert _legend(panels["FID"]) == ["fashion_cnn", "inception"]
    assert _legend(panels["kid"]) == ["inception"]


# ------------------------------------------------------------------ what they show


class Codec(nn.Module):
    """Two code dimensions are the brightness of the upper and the lower half; the third does nothing."""

    def __init__(self):
        super().__init__()
        self.spec = DataSpec(1, 8, 8)

    def encode(self, x):
        upper, lower = (half.float().mean((1, 2, 3)) / 64 - 2 for half in x.split(4, dim=2))
        return torch.stack([torch.zeros_like(upper), upper, lower], dim=1)

    def decode(self, z):
        levels = ((z[:, 1:] + 2) * 64).clamp(0, 255).to(torch.uint8)
        return levels.repeat_interleave(4, 1)[:, None, :, None].expand(-1, 1, 8, 8)

    def reconstruct(self, x):
        return self.decode(self.encode(x))


class Posterior(Codec):
    def posterior(self, x):
        mean = self.encode(x)
        return DiagonalGaussian(mean, torch.zeros_like(mean))


def _data(n=40, **options):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (n, 1, 2, 1), generator=generator, dtype=torch.uint8)
    levels[:, :, 1] //= 2  # the upper half varies more
    images = levels.repeat_interleave(4, 2).expand(-1, -1, -1, 8).contiguous()
    cpu = torch.device("cpu")
    return DeviceDataset(images, torch.arange(n) % 3, cpu, cpu, **options)


def _draw(name, model, data=None, **options):
    data = data or _data()
    (callback,) = build_callbacks({name: options}, type(model), None).values()
    return callback.draw(Snapshot(model, Splits(data, data, data), None, None, "train", 1, 1, 1, {}))


def test_traversals_have_a_row_for_each_dimension_the_most_telling_first():
    axes = _draw("traversals", Posterior())["traversals"].axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [label.split()[0] for label in labels] == ["z1", "z2", "z0"]
    assert labels[2] == "z0  KL 0.00"
    assert [tick.get_text() for tick in axes.get_xticklabels()][::5] == ["−3.0", "0", "+3.0"]


def test_traversals_are_bounded_in_number():
    axes = _draw("traversals", Posterior(), max_dims=1, steps=5)["traversals"].axes[0]
    assert (len(axes.get_yticks()), len(axes.get_xticks())) == (1, 5)


def test_without_a_posterior_dimensions_are_ranked_by_variance():
    ranked = dimensions(Codec(), _data(), Codec().encode(_data().stored(slice(None))))
    assert ranked.order == [1, 2, 0]
    axes = _draw("traversals", Codec())["traversals"].axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()][::10] == ["1%", "99%"]


def test_images_differ_along_an_active_dimension_alone():
    values = torch.linspace(-2, 2, 5).expand(2, 5)
    z = moved(torch.tensor([0.1, 0.2, 0.3]), [1, 0], values)
    assert torch.equal(z[0, :, 1], values[0])
    images = Codec().decode(z.flatten(0, 1)).unflatten(0, (2, 5))
    assert len(images[0].unique(dim=0)) == 5
    assert len(images[1].unique(dim=0)) == 1


def test_a_code_as_large_as_the_image_is_not_traversed():
    class Identity(Codec):
        def encode(self, x):
            return x.flatten(1).float()

    assert _draw("traversals", Identity()) == {}


@pytest.mark.parametrize("name", ["traversals", "interpolation", "latent_map", "reconstructions", "posterior"])
def test_a_model_that_can_not_is_left_alone(name):
    assert _draw(name, nn.Module()) == {}


@pytest.mark.parametrize("name", ["traversals", "interpolation", "latent_map", "reconstructions", "posterior"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_are_enough(name, count):
    for figure in _draw(name, Posterior(), _data(count)).values():
        assert as_image(figure).float().std() > 1


def test_interpolations_begin_and_end_with_the_images():
    axes = _draw("interpolation", Codec(), num_pairs=2, steps=3)["interpolation"].axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["image A", "0", "0.5", "1", "image B"]
    pixels = axes.get_images()[0].get_array()
    first, last = pixels[5, 5], pixels[5, -5]
    assert first.tolist() == [_data().stored(slice(None))[0, 0, 0, 0].item()] * 3
    assert last.tolist() == [_data().stored(slice(None))[1, 0, 0, 0].item()] * 3


def test_a_map_has_a_panel_for_each_factor_that_varies():
    factors = torch.stack([torch.zeros(40), torch.arange(40) % 4, torch.arange(40)], 1).long()
    data = _data(factors=factors, factor_names=("colour", "shape", "x"))
    figure = _draw("latent_map", Codec(), data)["latent_map"]
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["shape", "x"]  # the bars of colours
    assert "principal component 1, 87%" in figure.axes[0].get_xlabel()


def test_principal_components_are_the_directions_of_largest_variance():
    z = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 3.0, 1.0]) + 5
    points, labels = _plane(z)
    assert torch.allclose(points.var(0), torch.tensor([9.0, 1.0]), rtol=0.2)
    assert labels[0].startswith("principal component 1, 89%")


# ------------------------------------------------------------------ drawing


def test_every_pixel_of_an_image_is_a_whole_number_of_pixels(tmp_path):
    images = torch.zeros(2, 3, 1, 28, 28, dtype=torch.uint8)
    images[..., ::2] = 255
    figure = mosaic(images, ["a", "b"], ["1", "2", "3"], "Title", gap=4)
    line = as_image(figure)[0, -20]
    (dark,) = (line < 128).nonzero(as_tuple=True)
    runs = (dark.diff() > 1).nonzero().flatten()
    assert set(runs.diff().tolist()) == {3}


def test_the_bars_keep_their_index_and_the_largest_come_first():
    kl = torch.tensor([0.0, 2.0, 1.0])
    axes = kl_bars(kl, kl > 0, 0.01, "Title").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "0"]
    assert [bar.get_height() for bar in axes.patches] == [2, 1, 0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]


@pytest.mark.parametrize("count", [1, 65, 300])
def test_many_bars_have_room_for_their_labels(count):
    figure = kl_bars(torch.rand(count), torch.ones(count, dtype=torch.bool), 0.01, "Title")
    as_image(figure)
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


def test_a_map_without_labels_is_drawn_in_one_colour():
    assert as_image(code_map(torch.rand(5, 2), ("z0", "z1"), {}, "Title")).float().std() > 1


@pytest.mark.parametrize(("value", "text"), [(-1.0, "−1.0"), (-1e-9, "0"), (0.25, "+0.2"), (0.0, "0")])
def test_numbers_of_labels_have_a_sign(value, text):
    assert signed(value, 1) == text
