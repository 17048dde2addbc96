"""From checked settings to the parts of a run: model, data, callbacks, evaluation, weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from genlab import checkpoint
from genlab.callbacks.base import Callback
from genlab.checkpoint_check import of_a_run
from genlab.config import load_option, parse
from genlab.data import DatasetConfig, Images, data_spec, ensure_available, load_images
from genlab.data.device import DeviceDataset, Splits, hold_out
from genlab.data.formats import Made
from genlab.errors import CheckpointError, ConfigError, DataError
from genlab.hardware import Hardware
from genlab.metrics.base import Evaluation
from genlab.models.base import Model
from genlab.registry import CALLBACKS, EVALUATIONS, MODELS, Registry
from genlab.run_folder import RunFolder, find
from genlab.trainer import load_weights
from genlab.types import DataSpec

_WEIGHTS = re.compile(r"best|last|(\w+-)?epoch-[1-9]\d*")


def _of_known_name(weights: str) -> str:
    if not _WEIGHTS.fullmatch(weights):
        raise ValueError(f"'{weights}' is neither best nor last nor an epoch, epoch-12 for instance")
    return weights


Weights = Annotated[str, AfterValidator(_of_known_name)]
"""``best`` by validation, ``last``, or those of an epoch that ``trainer.keep`` has kept: ``epoch-12``."""


def _component(registry: Registry[type[Any]], values: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """The registered class that ``values`` name, and its checked configuration."""
    if not isinstance(values.get("name"), str):
        raise ConfigError(f"key '{where}.name' is missing; known: {', '.join(registry.names())}")
    cls = registry[values["name"]]
    return cls, parse(cls.Config, values, where)


def model_builder(values: Mapping[str, Any]) -> partial[Model]:
    """The model's class, checked and bound to its configuration; called with the shape of the images."""
    cls, settings = _component(MODELS, values, "model")
    build: partial[Model] = partial(cls, settings)
    return build


def build_callbacks(
    values: Mapping[str, Mapping[str, Any] | None], model: Callable[..., Model], dataset: DatasetConfig
) -> dict[str, Callback]:
    """The callbacks by name, checked against the class of the model; those set to ``null`` are left out."""
    assert isinstance(model, type)
    callbacks: dict[str, Callback] = {}
    for name, options in values.items():
        if options is not None:
            cls = CALLBACKS[name]
            callbacks[name] = cls(parse(cls.Config, options, f"callbacks.{name}"))
            callbacks[name].check(model, dataset)
    return callbacks


def build_evaluation(
    values: Mapping[str, Any] | None, model: Callable[..., Model], dataset: DatasetConfig
) -> Evaluation | None:
    """The evaluation, checked against the class of the model; ``None`` where none is wanted."""
    if not values:
        return None
    cls, settings = _component(EVALUATIONS, values, "evaluation")
    evaluation: Evaluation = cls(settings)
    assert isinstance(model, type)
    evaluation.check(model, dataset)
    return evaluation


def fetch_sets(
    evaluation: Evaluation | None, conf: Sequence[Path], spec: DataSpec, own: DatasetConfig
) -> dict[str, DatasetConfig]:
    """Have the sets that the evaluation names at hand before any work, binarised as the model's own is.

    The model's ``own`` is not among them, so that one list serves models of different sets.

    Raises:
        ConfigError: no other set is named.
        DataError: one is not to be had, or has images of another shape.
    """
    if evaluation is None or not evaluation.datasets():
        return {}
    others = {}
    for name in evaluation.datasets():
        if name != own.name:
            other = parse(DatasetConfig, load_option("dataset", name, conf), f"dataset {name}")
            others[name] = replace(_fitted(other, spec, evaluation.resize), binarization=own.binarization)
    if not others:
        raise ConfigError(f"evaluation.datasets: {own.name} is the model's own set; name another")
    for other in others.values():
        ensure_available(other, splits=("test",))
    return others


def _fitted(dataset: DatasetConfig, spec: DataSpec, resize: bool) -> DatasetConfig:
    """``dataset`` with images of the model's shape: made so, brought to it, or refused."""
    if isinstance(dataset.format, Made):
        shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
        return replace(dataset, format=replace(dataset.format, **shape))
    if resize:
        dataset = replace(dataset, image_size=spec.height, grayscale=spec.channels == 1)
    other = data_spec(dataset)
    if other.shape != spec.shape:
        hint = "" if resize else "; evaluation.resize=true brings them to the model's"
        raise DataError(f"dataset {dataset.name} has {other} images and the model takes {spec}{hint}")
    return dataset


def load_splits(dataset: DatasetConfig, device: Hardware) -> Splits:
    """The training, validation and test images, on the device where they fit."""
    learned = on_device(load_images(dataset, "train"), device)
    train, val = hold_out(len(learned), dataset.num_val, dataset.split_seed)
    test = on_device(load_images(dataset, "test"), device)
    return Splits(learned.part(train), learned.part(val), test, dataset.label)


def on_device(images: Images, device: Hardware) -> DeviceDataset:
    """``images`` where ``device`` can gather batches of them."""
    where = device.data_device(images.images.nbytes)
    return DeviceDataset(
        images.images, images.labels, device.device, where, images.factors, images.factor_names
    )


def load_trained(name: str, key: str, spec: DataSpec, device: Hardware, weights: Weights = "best") -> Model:
    """The trained model of the run ``name``, ready on ``device``; ``key`` is the setting that named it.

    Raises:
        CheckpointError: there is no such run, or no checkpoint in it.
        ConfigError: it is a model of other images.
    """
    folder = find(name, Path(), key)
    values = folder.load_config()
    build = model_builder(values["model"])
    other = data_spec(parse(DatasetConfig, values["dataset"], "dataset"))
    if other.shape != spec.shape:
        raise ConfigError(f"{key}={name}: a model of {other} images, and these are {spec}")
    model = build(other)
    load_run(model, folder, weights)
    device.prepare(model)
    return model.eval()


def load_runs(evaluation: Evaluation | None, spec: DataSpec, device: Hardware) -> dict[str, Model]:
    """The trained models of further runs that the evaluation names."""
    named = {} if evaluation is None else evaluation.runs()
    return {key: load_trained(name, key, spec, device) for key, name in named.items()}


@of_a_run()
def load_run(model: Model, folder: RunFolder, weights: Weights) -> tuple[int, int]:
    """Fill ``model`` with the weights of a run, averaged ones where it has them; returns their step and epoch.

    Raises:
        CheckpointError: nothing was saved yet, these weights were not kept, or nothing can be read.
    """
    paths = folder.checkpoints(weights)
    if not paths and (kept := folder.checkpoint_names()):
        raise CheckpointError(f"{folder.path} has no weights '{weights}'; it has {', '.join(kept)}")
    if not paths:
        raise CheckpointError(
            f"{folder.path} has no checkpoint yet; continue it with: genlab train resume={folder.path}"
        )
    state = checkpoint.load_latest(paths)
    load_weights(model, state["ema"] or state["model"])
    return state["step"], state["epoch"]
