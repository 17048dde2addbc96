"""Scores of densities that are known."""

import math

import numpy as np
import pytest
import torch
from ood_view import Known, images, noise, view
from PIL import Image
from torch import nn

from genlab.config import parse
from genlab.errors import ConfigError
from genlab.models.base import Model
from genlab.models.flow import Flow
from genlab.models.vae import VAE
from genlab.nets.bijections import Flatten
from genlab.nets.priors import MixtureConfig, StandardNormalConfig
from genlab.ood import input_complexity
from genlab.ood.input_complexity import InputComplexity, InputComplexityConfig, complexity
from genlab.ood.latent_norm import LatentNorm
from genlab.ood.likelihood_ratio import LikelihoodRatio
from genlab.ood.reconstruction_error import ReconstructionError
from genlab.ood.typicality import Typicality, TypicalityConfig, typicality
from genlab.ood.waic import WAIC, waic
from genlab.types import DataSpec

# --------------------------------------------------------------------------------------- typicality


def test_an_image_as_likely_as_training_images_is_typical_and_both_others_are_not():
    score = Typicality(TypicalityConfig(batch_sizes=()))
    score.fit(view(images(90, 110, 100), Known()))
    assert score.entropy == 100
    (row,) = score(view(images(100, 93, 107), Known())).values()
    assert row.tolist() == [0, -7, -7]


def test_a_batch_is_scored_by_its_mean_and_the_remainder_is_left_out():
    score = Typicality(TypicalityConfig(batch_sizes=(2, 3)))
    score.fit(view(images(100), Known()))
    scores = score(view(images(100, 104, 90, 110, 250), Known()))
    assert scores["typicality_of_2"].tolist() == [-2, 0]
    assert scores["typicality_of_3"].tolist() == [-2]  # 294 / 3 = 98, two above in likelihood
    assert len(scores["typicality"]) == 5


def test_the_typicality_of_draws_from_the_model_grows_with_the_batch():
    """The mean of m log-densities of a D-dimensional normal has a variance of ``D / 2m`` around the entropy."""
    draws, dim = torch.randn(4000, 50, generator=torch.Generator().manual_seed(0)).double(), 50
    log_density = -0.5 * (draws.square() + math.log(2 * math.pi)).sum(1)
    entropy = torch.tensor(0.5 * dim * (1 + math.log(2 * math.pi)), dtype=torch.float64)
    for size in (1, 10, 40):
        expected = math.sqrt(2 / math.pi * dim / (2 * size))  # E|N(0, s^2)|
        found = -typicality(log_density, entropy, size)
        assert abs(found.mean() - expected) < 3 * found.std() / math.sqrt(len(found))


def test_a_batch_larger_than_the_set_is_refused_by_name():
    score = Typicality(TypicalityConfig(batch_sizes=(2, 10)))
    score.fit(view(images(1, 2), Known()))
    with pytest.raises(ConfigError, match=r"typicality.batch_sizes=\[2, 10\]: of set there are 2 images"):
        score(view(images(1, 2), Known()))


# --------------------------------------------------------------------------------------- ratio, ensemble


def test_the_ratio_is_the_difference_of_the_two_log_densities():
    (ratio,) = LikelihoodRatio(None)(view(images(10, 20), Known(2), background=Known(0.5))).values()
    assert ratio.tolist() == [15, 30]


class NoisyDensity(Known):
    """Draws noise, as dequantisation does."""

    def log_prob(self, x, y=None):
        return super().log_prob(x) + torch.rand(len(x))


def test_a_model_and_its_background_see_the_same_noise():
    model = NoisyDensity()
    (ratio,) = LikelihoodRatio(None)(view(images(10, 20, 30), model, background=model)).values()
    assert (ratio == 0).all()


def test_waic_is_the_mean_minus_the_unbiased_variance():
    models = Known(shift=0), Known(shift=3), Known(shift=6)
    (score,) = WAIC(None)(view(images(10, 20), *models)).values()
    assert score.tolist() == [-13 - 9, -23 - 9]
    generator = torch.Generator().manual_seed(0)
    many = 7 + 2 * torch.randn(3, 20_000, generator=generator).double()  # of a mean of 7 and a variance of 4
    found = waic(many)
    assert abs(found.mean() - (7 - 4)) < 3 * found.std() / math.sqrt(20_000)


def test_models_that_agree_have_no_variance():
    model = NoisyDensity()
    seen = view(images(10, 20), model, model)
    assert torch.equal(WAIC(None)(seen)["waic"], seen.log_density())


def test_what_is_missing_is_said_with_the_way_to_give_it():
    alone = view(images(1), Known())
    assert "evaluation.background=RUN" in LikelihoodRatio(None).missing(alone)
    assert "run=[a,b,c]" in WAIC(None).missing(alone)
    together = view(images(1), Known(), Known(), background=Known())
    assert LikelihoodRatio(None).missing(together) is None
    assert WAIC(None).missing(together) is None


# --------------------------------------------------------------------------------------- complexity


def _half_black():
    x = noise(1, (1, 28, 28))
    x[:, :, 14:] = 0
    return x


@pytest.mark.parametrize("name", input_complexity._COMPRESSORS)
def test_a_constant_is_simpler_than_half_an_image_of_noise_and_half_than_all(name):
    x = torch.cat([torch.zeros(1, 1, 28, 28, dtype=torch.uint8), _half_black(), noise(1, (1, 28, 28))])
    black, half, noisy = complexity(x, [name]).tolist()
    assert black == 0
    assert 0 < half < 0.7 * noisy
    # Noise of 256 levels has 784 bytes: nothing makes it shorter, and what is made for more adds some.
    assert 0.97 < noisy / (784 * 8 * math.log(2)) < 1.3


@pytest.mark.parametrize("name", input_complexity._COMPRESSORS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (2, 16, 16)], ids=["grey", "RGB", "two channels"])
def test_nothing_is_lost(name, shape):
    """More of the same colours takes more room: three channels of noise about three times that of one."""
    one = complexity(noise(1, (1, 16, 16)), [name])
    many = complexity(noise(1, shape), [name])
    assert many / one == pytest.approx(shape[0], rel=0.3)


@pytest.mark.parametrize("name", ["png", "webp", "jpeg2000"])
def test_a_format_gives_every_level_back(name, tmp_path):
    x = noise(1, (1, 28, 28))[0]
    path = tmp_path / "image"
    path.write_bytes(input_complexity._COMPRESSORS[name](x[0].numpy()))
    assert np.array_equal(np.asarray(Image.open(path).convert("L")), x[0].numpy())


def test_the_shortest_of_several_counts_for_each_image_by_itself(monkeypatch):
    """Headers of 100 and 1 bytes drop out; then one is best for the first image, the other for the second."""
    lengths = {"png": {0: 100, 1: 105, 2: 190}, "zlib": {0: 1, 1: 41, 2: 11}}
    for name, table in lengths.items():
        compress = lambda levels, table=table: bytes(table[int(levels[0, 0])])  # noqa: E731
        monkeypatch.setitem(input_complexity._COMPRESSORS, name, compress)
    found = complexity(images(1, 2), ["png", "zlib"])
    assert found.tolist() == pytest.approx([5 * 8 * math.log(2), 10 * 8 * math.log(2)])


def test_the_score_is_log_p_plus_complexity(monkeypatch):
    monkeypatch.setitem(input_complexity._COMPRESSORS, "zlib", lambda levels: bytes(int(levels[0, 0])))
    score = InputComplexity(InputComplexityConfig(compressors=("zlib",)))
    (found,) = score(view(images(3, 7), Known(-2))).values()
    assert found.tolist() == pytest.approx([3 * (8 * math.log(2) - 2), 7 * (8 * math.log(2) - 2)])


def test_a_compressor_that_is_not_there_is_refused_by_name(monkeypatch):
    parse_it = {"compressors": ["png", "webp"]}
    assert parse(InputComplexityConfig, parse_it).compressors == ("png", "webp")
    monkeypatch.setattr(input_complexity.features, "check", lambda feature: feature != "webp")
    with pytest.raises(ConfigError, match="this Pillow was built without webp"):
        parse(InputComplexityConfig, parse_it)
    with pytest.raises(ConfigError, match="name at least one"):
        parse(InputComplexityConfig, {"compressors": []})


def test_a_likelihood_of_two_levels_has_no_complexity_to_be_compared_with():
    binary = Known()
    binary.levels = 2
    assert "256 levels" in InputComplexity(InputComplexityConfig()).missing(view(images(1), binary))
    assert InputComplexity(InputComplexityConfig()).missing(view(images(1), Known())) is None


# --------------------------------------------------------------------------------------- codes, reconstructions


class Halved(Model):
    """Gives images back half as bright."""

    def reconstruct(self, x):
        return x // 2


def test_the_error_is_squared_and_averaged_on_the_unit_scale():
    (score,) = ReconstructionError(None)(view(images(204, 0), Halved(DataSpec(1, 2, 2)))).values()
    assert score.tolist() == pytest.approx([-(0.4**2) / 4, 0])  # 102 of 255 in one pixel of four


def test_the_norm_of_the_code_of_a_flow():
    flow = Flow(DataSpec(1, 2, 2), Flatten((1, 2, 2)), alpha=0.05)
    x = images(0, 128, 255)
    pixel = (torch.tensor([0, 128, 255]).double() + 0.5) / 256
    corner, others = (torch.logit(0.05 + 0.9 * p) for p in (pixel, torch.tensor(0.5 / 256).double()))
    expected = -(corner**2 + 3 * others**2).sqrt()
    assert torch.allclose(LatentNorm(None)(view(x, flow))["latent_norm"], expected, atol=1e-5)


def test_a_code_whose_prior_was_learned_has_no_norm_that_means_something():
    vae = VAE.__new__(VAE)
    nn.Module.__init__(vae)
    for prior, missing in ((StandardNormalConfig(), False), (MixtureConfig(num_components=2), True)):
        vae.prior = prior.build(2, DataSpec(1, 2, 2))
        assert (LatentNorm(None).missing(view(images(1), vae)) is not None) == missing
