"""Every score with every model: said to be impossible, or done."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from ood_view import noise, view

from genlab.assemble import model_builder
from genlab.config import conf_dir, load_option, option_files, parse
from genlab.data import DatasetConfig
from genlab.ood.base import density_of
from genlab.ood.likelihood_regret import LikelihoodRegretConfig
from genlab.ood.typicality import TypicalityConfig
from genlab.registry import MODELS, SCORES
from genlab.types import Batch, DataSpec

SPEC, IMAGES = DataSpec(1, 8, 8, num_classes=3), 2
SHAPES = {"feature_flow": DataSpec(1, 28, 28, num_classes=3)}  # those that its extractor takes
OVERRIDES = {"ddpm": ["model.bound_steps=2"], "flow_matching": ["model.ode.num_steps=2"]}
"""For a quick density, of the small variants too."""
OPTIONS = {
    "typicality": TypicalityConfig(batch_sizes=(2,)),
    "likelihood_regret": LikelihoodRegretConfig(steps=2),
}


@pytest.fixture(scope="module")
def dataset():
    return parse(DatasetConfig, load_option("dataset", "fashion_mnist", [conf_dir()]))


def score(name):
    cls = SCORES[name]
    return cls(OPTIONS.get(name, cls.Config()))


def build(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        quick = OVERRIDES.get(name.removesuffix("_small"), [])
        composed = compose("train", [f"model={name}", *quick, "run_name=test"])
    torch.manual_seed(0)
    model = model_builder(OmegaConf.to_container(composed.model))(SHAPES.get(name, SPEC))
    model.initialize(Batch(noise(12, model.spec.shape), torch.arange(12) % 3))
    return model.eval()


@pytest.mark.parametrize("name", SCORES.names())
def test_an_obstacle_is_a_reason_or_none(name, dataset):
    for model in MODELS.names():
        reason = score(name).obstacle(MODELS[model], dataset)
        assert reason is None or MODELS[model].__name__ in reason


@pytest.mark.parametrize("name", option_files("model", [conf_dir()]))
def test_a_model_has_the_scores_that_nothing_is_said_against(name, dataset):
    model, labels = build(name), torch.arange(IMAGES) % 3
    train, seen = (
        view(noise(IMAGES, model.spec.shape, seed), model, model, background=model, labels=labels)
        for seed in (1, 2)
    )
    done = set()
    for name in SCORES.names():
        one = score(name)
        if one.obstacle(type(model), dataset) or one.missing(seen):
            continue
        one.fit(train)
        for row, values in one(seen).items():
            assert row not in done
            assert values.shape == (IMAGES // (2 if row.endswith("_of_2") else 1),)
            assert values.dtype == torch.float64
            assert values.isfinite().all()
            done.add(row)
    assert ("code_waic" in done) == (density_of(type(model)) == "codes")
    assert ("waic" in done) == (density_of(type(model)) == "pixels")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "realnvp",
            {"local_intrinsic_dimension", "latent_norm", "fisher_score", "gradient_norm", "input_complexity"},
        ),
        ("vae", {"likelihood_regret", "latent_norm", "reconstruction_error", "fisher_score", "gradient_norm"}),
        ("vq_vae", {"reconstruction_error"}),
        ("sc_vae", {"reconstruction_error"}),
        ("gan", set()),
    ],
)
def test_what_a_model_can_be_asked(model, expected, dataset):
    built = build(model)
    seen = view(noise(IMAGES), built, built, background=built)
    common = {"log_likelihood", "typicality", "likelihood_ratio", "waic"} if density_of(type(built)) else set()
    found = {
        name
        for name in SCORES.names()
        if not score(name).obstacle(type(built), dataset) and not score(name).missing(seen)
    }
    assert found >= expected | common
    assert found <= expected | common | {"input_complexity"} | (
        {"fisher_score", "gradient_norm"} if common else set()
    )
