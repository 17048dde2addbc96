"""Samples over epochs: which are drawn, their film, and how a resumed run goes on with it."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from event_files import read_events
from harness import IMAGES, TRAINING, WATCHING, genlab, train
from PIL import Image, ImageSequence

from genlab.report.animation import Frames, over_epochs, save_gif
from genlab.run_folder import RunFolder

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
    assert [image.step for image in read_events(painted).Images("samples")] == [4, 8, 16, 28]


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
