"""Every YAML file composes, and its keys are those of the class that it configures."""

import functools

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import build_callbacks, build_evaluation, model_builder
from genlab.config import conf_dir, option_files, parse
from genlab.data import DatasetConfig
from genlab.registry import CALLBACKS, EVALUATIONS, MODELS, SCORES
from genlab.verbs import TrainConfig

GROUPS = [
    "model",
    *("model/net", "model/schedule", "model/conditioning"),
    "dataset",
    *("trainer", "trainer/schedule"),
    *("hardware", "callbacks", "evaluation"),
]
FITTING = {
    "evaluation=disentanglement": ["dataset=dsprites_rendered"],
    "model/net=unet": ["model=ddpm"],
    "model/net=unet_small": ["model=ddpm"],
    "model/schedule": ["model=ddpm"],
    "model/conditioning": ["model=ddpm"],
}
"""What an option, or all of a group, can't be composed without."""
OPTIONS = [f"{group}={name}" for group in [*GROUPS, "experiment"] for name in option_files(group, [conf_dir()])]


def _compose(*overrides: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*overrides, "run_name=test"])
    return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)


def test_there_is_something_to_compose():
    assert {"model=realnvp", "dataset=mnist", "hardware=cpu", "evaluation=ood"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_option_has_the_keys_of_its_class(option):
    group, _, _ = option.partition("=")
    values = _compose(*FITTING.get(option, FITTING.get(group, [])), option)
    settings = parse(TrainConfig, values)
    model = model_builder(settings.model).func
    build_callbacks(settings.callbacks, model, settings.dataset)
    build_evaluation(settings.evaluation, model, settings.dataset)


def test_every_key_of_the_configuration_is_written_in_yaml():
    """So that any of them can be overridden without a plus, and ``--cfg job`` shows it."""
    settings = parse(TrainConfig, _compose())
    parts = {
        "model": (MODELS[settings.model["name"]].Config, settings.model),
        "evaluation": (EVALUATIONS[settings.evaluation["name"]].Config, settings.evaluation),
        **{
            f"callbacks.{name}": (CALLBACKS[name].Config, options)
            for name, options in settings.callbacks.items()
            if options is not None
        },
        "dataset": (DatasetConfig, _compose()["dataset"]),
        **{name: (type(getattr(settings, name)), _compose()[name]) for name in ("trainer", "hardware")},
    }
    missing = {
        f"{where}.{key}" for where, (cls, v) in parts.items() for key in cls.__pydantic_fields__.keys() - v
    }
    assert missing == set()


def test_every_option_of_every_score_is_written_in_yaml():
    written = _compose("evaluation=ood")["evaluation"]["options"]
    fields = {name: SCORES[name].Config.__pydantic_fields__ for name in SCORES.names()}
    assert {name: list(values) for name, values in written.items()} == {
        name: list(options) for name, options in fields.items() if options
    }
    for name, options in written.items():
        assert parse(SCORES[name].Config, options) == SCORES[name].Config()  # and the defaults agree


@pytest.mark.parametrize("name", MODELS.names())
def test_every_registered_model_has_a_yaml(name):
    assert name in _names_in_yaml() or not MODELS[name].__module__.startswith("genlab.")


@functools.cache
def _names_in_yaml() -> set[str]:
    return {_compose(f"model={option}")["model"]["name"] for option in option_files("model", [conf_dir()])}


@pytest.mark.parametrize("name", EVALUATIONS.names())
def test_every_registered_evaluation_has_a_yaml(name):
    assert name in option_files("evaluation", [conf_dir()])
