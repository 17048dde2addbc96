"""What traversals, interpolations and maps of codes show."""

import itertools

import pytest
import torch
from torch import nn

from genlab.assemble import build_callbacks
from genlab.callbacks.base import Snapshot
from genlab.callbacks.codes import dimensions
from genlab.callbacks.latent_map import _plane
from genlab.callbacks.traversals import moved
from genlab.data.device import DeviceDataset, Splits
from genlab.nets.gaussian import DiagonalGaussian
from genlab.report.figures import as_image
from genlab.report.latent import code_map, kl_bars
from genlab.report.mosaic import mosaic, signed
from genlab.types import DataSpec

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


def test_without_validation_test_images_are_held_out():
    train, none, test = _data(3), _data(0), _data(2)
    assert Snapshot(None, Splits(train, none, test), None, None, "train", 1, 1, 1, {}).held_out is test
    assert Snapshot(None, Splits(train, test, none), None, None, "train", 1, 1, 1, {}).held_out is test


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
