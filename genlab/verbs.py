"""What ``genlab train|eval|sample`` do with a composed configuration."""

from __future__ import annotations

import inspect
import logging
import platform
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

import genlab
from genlab import checkpoint, hardware
from genlab.assemble import (
    Weights,
    build_callbacks,
    build_evaluation,
    fetch_sets,
    load_run,
    load_runs,
    load_splits,
    load_trained,
    model_builder,
    on_device,
)
from genlab.config import Count, FolderName, Index, Positive, Seed, config, parse
from genlab.data import DatasetConfig, data_spec, load_images
from genlab.data.device import Splits
from genlab.distributed import Processes
from genlab.errors import ConfigError
from genlab.files import naming, whole
from genlab.hardware import Hardware, HardwareConfig
from genlab.logger import RunLogger
from genlab.metrics.base import Subject
from genlab.models.base import Model
from genlab.progress import tracked
from genlab.registry import import_plugins
from genlab.report.figures import save_grid
from genlab.results import command, draw_curves, draw_report, measure, reported
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Samples

log = logging.getLogger(__name__)


@config
class TrainConfig:
    """The whole configuration of ``genlab train``; ``resume`` is the folder of a run to continue.

    ``objective`` names the final metrics that a sweeper is to optimise.
    """

    model: dict[str, Any]
    """The group ``model``: a ``name`` and the settings of that class."""
    dataset: DatasetConfig
    trainer: TrainerConfig
    hardware: HardwareConfig
    callbacks: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    """By name, the settings of each; ``null`` leaves one out."""
    evaluation: dict[str, Any] | None = None
    """What is measured when training ends; ``null``: nothing."""
    seed: Seed = 0
    output_dir: str = "outputs"
    """Runs and sweeps make their folders in it."""
    run_name: FolderName
    """The name of the folder that holds runs of this kind, and of tables."""
    plugins: tuple[str, ...] = ()
    objective: str | tuple[str, ...] = "val/loss"
    resume: str | None = None


@config
class _RunConfig:
    """What ``eval`` and ``sample`` take of a run."""

    model: dict[str, Any]
    """That of the run; what holds for a trained model, a sampler say, may be changed."""
    dataset: DatasetConfig
    hardware: HardwareConfig
    run: str
    run_name: FolderName
    """That of the run."""
    weights: Weights = "best"
    plugins: tuple[str, ...] = ()
    """Those of the run, or others."""


@config
class EvalConfig(_RunConfig):
    """The whole configuration of ``genlab eval``."""

    evaluation: dict[str, Any]
    """What is measured; by default what the run measured at its end."""
    ensemble: tuple[str, ...] = ()
    several: Literal["auto", "ensemble", "compare"] = "auto"


@config
class SampleConfig(_RunConfig):
    """The whole configuration of ``genlab sample``."""

    n: Count = 25
    labels: tuple[Index, ...] | None = None
    seed: Seed = 0
    temperature: Positive | None = None
    format: Literal["png", "npz"] = "png"
    output: str | None = None
    batch_size: Count = 500


# --------------------------------------------------------------------------------------- train


def train(values: Mapping[str, Any], path: Path, conf: Sequence[Path]) -> dict[str, float]:
    """Train a model in the folder ``path``, or go on with the run that is there.

    Args:
        values: the composed configuration, plain.
        path: the run's folder.
        conf: folders of YAML groups, searched in order for datasets by name.

    Returns:
        The final metrics by name.
    """
    import_plugins(values.get("plugins", ()))
    settings = parse(TrainConfig, values)
    build = model_builder(settings.model)
    callbacks = build_callbacks(settings.callbacks, build.func, settings.dataset)
    evaluation = build_evaluation(settings.evaluation, build.func, settings.dataset)
    device = hardware.select(settings.hardware)
    processes = device.processes
    if not processes.first:
        evaluation = None  # the first one measures alone
    spec = data_spec(settings.dataset)
    torch.manual_seed(settings.seed)
    model = build(spec)
    stages = settings.trainer.by_stage(model.stages())  # before anything is fetched
    for stage in stages.values():
        processes.check_batch(stage.batch_size)
    with processes.first_alone():
        others = fetch_sets(evaluation, conf, spec, settings.dataset)
        runs = load_runs(evaluation, spec, device)
        data = load_splits(settings.dataset, device)
    for stage in stages.values():
        data.train.num_batches(stage.batch_size)

    device.prepare(model)
    folder = RunFolder(path)
    build_trainer = partial(Trainer, model, data, settings.trainer, device, folder, seed=settings.seed)
    if not processes.first:
        return _train_along(build_trainer, processes)
    with folder.lock(), naming(folder.path):
        resumed = processes.from_first(_open(folder, values))
        step = None if settings.resume is None else (resumed or {"step": 0})["step"]
        with closing(RunLogger(folder, step)) as logger:
            logger.begin(values)
            trainer = build_trainer(logger=logger, callbacks=callbacks)
            if resumed is not None:
                trainer.restore(resumed)
            if settings.resume is not None:
                folder.replace_config(values)
            _announce(settings, trainer)
            with reported(folder):
                trainer.fit()
                processes.leave()
                draw_curves(folder)
                final = tuple(f"{source}/" for source in ("val", *callbacks))
                metrics = {name: value for name, value in trainer.metrics.items() if name.startswith(final)}
                if evaluation is not None:
                    of, _ = load_run(model, folder, "best" if len(data.val) else "last")
                    subject = _subject(model, settings.run_name, settings.dataset, data, others, device, runs)
                    metrics |= measure(evaluation, subject, folder, logger, trainer.step, of).metrics
                logger.finish(metrics, trainer.step)
                folder.update_summary(_summary(settings, trainer, metrics))
    log.info("done: %s", folder.path)
    return metrics


def _train_along(build_trainer: Callable[..., Trainer], processes: Processes) -> dict[str, float]:
    """What every process but the first does: it trains its share, and writes nothing."""
    trainer = build_trainer(logger=None, callbacks={})
    resumed = processes.from_first(None)
    if resumed is not None:
        trainer.restore(resumed)
    trainer.fit()
    processes.leave()
    return {}


def _open(folder: RunFolder, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Begin a run by saving its configuration; of a resumed one, the checkpoint to continue from."""
    if values.get("resume") is None:
        folder.create(values)
        return None
    _check_dataset(folder.load_config()["dataset"], values["dataset"])
    paths = folder.checkpoints()
    if not paths:
        log.warning("%s has no checkpoint yet: starting from the beginning", folder.path)
        return None
    return checkpoint.load_latest(paths)


def _check_dataset(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A resumed run keeps its images and their split; only where they are found may change."""
    for key, value in saved.items():
        if key not in ("root", "sources") and value != given.get(key):
            raise ConfigError(
                f"dataset.{key}={given.get(key)!r}: the run was trained with {value!r}, and a resumed run "
                "keeps its dataset"
            )


def _announce(settings: TrainConfig, trainer: Trainer) -> None:
    parameters = sum(p.numel() for p in trainer.model.parameters())
    sizes = ", ".join(f"{len(getattr(trainer.data, split)):,} {split}" for split in ("train", "val", "test"))
    log.info("%s", trainer.folder.path)
    log.info(
        "%s with %s parameters on %s (%s), %s",
        settings.model["name"],
        f"{parameters:,}",
        settings.dataset.label,
        sizes,
        trainer.hardware.name,
    )
    if trainer.processes.size > 1:
        log.info(
            "%d processes share every batch; what is computed over a batch, by batch norm for instance, is "
            "computed over the share of each",
            trainer.processes.size,
        )
    if trainer.step:
        log.info("continuing at step %d, epoch %d", trainer.step, trainer.epoch)


def _summary(settings: TrainConfig, trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "run_name": settings.run_name,
        "seed": settings.seed,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "epochs": trainer.epoch,
        "train_seconds": round(trainer.elapsed, 2),
        "hardware": trainer.hardware.name,
        "command": command(),
        "versions": {
            "genlab": genlab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "metrics": dict(metrics),
    }


# --------------------------------------------------------------------------------------- eval


def evaluate(values: Mapping[str, Any], path: Path, conf: Sequence[Path]) -> dict[str, float]:
    """Measure the trained model of the run in ``path``; arguments and result as of :func:`train`."""
    import_plugins(values.get("plugins", ()))
    settings = parse(EvalConfig, values)
    folder = RunFolder(path)
    build = model_builder(settings.model)
    evaluation = build_evaluation(settings.evaluation, build.func, settings.dataset)
    if evaluation is None:
        raise ConfigError("evaluation=null: the run measured nothing at its end; name one, evaluation=fid say")
    if settings.ensemble and not evaluation.takes_ensemble:
        raise ConfigError(
            f"evaluation={evaluation.config.name} takes one run, and {1 + len(settings.ensemble)} are named"
        )
    device = hardware.select(settings.hardware)
    spec = data_spec(settings.dataset)
    model = build(spec)
    step, epoch = load_run(model, folder, settings.weights)
    others = fetch_sets(evaluation, conf, spec, settings.dataset)
    runs = load_runs(evaluation, spec, device)
    ensemble = [load_trained(name, "run", spec, device, settings.weights) for name in settings.ensemble]
    device.prepare(model)
    hardware.compile_model(model.compiled(), device.config.compile)
    data = load_splits(settings.dataset, device)
    subject = _subject(model, settings.run_name, settings.dataset, data, others, device, runs, ensemble)
    with naming(folder.path), closing(RunLogger(folder)) as logger:
        metrics = dict(measure(evaluation, subject, folder, logger, step, step).metrics)
        logger.results(step, epoch, metrics)
    draw_report(folder)
    return metrics


def _subject(
    model: Model,
    name: str,
    dataset: DatasetConfig,
    data: Splits,
    others: Mapping[str, DatasetConfig],
    device: Hardware,
    runs: Mapping[str, Model],
    ensemble: Sequence[Model] = (),
) -> Subject:
    sets = {other: on_device(load_images(c, "test"), device) for other, c in others.items()}
    return Subject(model, name, dataset.label, data, sets, device, ensemble, runs)


# --------------------------------------------------------------------------------------- sample


def sample(values: Mapping[str, Any], path: Path, conf: Sequence[Path]) -> dict[str, float]:
    """Draw images from the trained model of the run in ``path``."""
    import_plugins(values.get("plugins", ()))
    settings = parse(SampleConfig, values)
    build = model_builder(settings.model)
    if not hasattr(build.func, "sample"):
        raise ConfigError(f"{build.func.__name__} does not sample")
    options = {} if settings.temperature is None else {"temperature": settings.temperature}
    for option in options.keys() - inspect.signature(build.func.sample).parameters.keys():
        raise ConfigError(f"{build.func.__name__} takes no {option}; leave {option}=null")
    device = hardware.select(settings.hardware)
    folder = RunFolder(path)
    model = build(data_spec(settings.dataset))
    labels = _labels(model, settings)
    load_run(model, folder, settings.weights)
    device.prepare(model)
    hardware.compile_model(model.compiled(), device.config.compile)
    images = _draw(model, settings, labels, options, device)
    target = Path(settings.output) if settings.output else folder.folder("samples") / _file_name(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    if settings.format == "png":
        save_grid(images, target, columns=None if labels is None else settings.n)
    else:
        arrays: dict[str, Any] = {"images": images.numpy()}
        if labels is not None:
            arrays["labels"] = labels.numpy()
        with whole(target) as part, part.open("wb") as file:  # a file, lest numpy add an ending of its own
            np.savez_compressed(file, **arrays)
    log.info("%d images: %s", len(images), target)
    return {}


def _labels(model: Model, settings: SampleConfig) -> Tensor | None:
    """The class of every image, int64; ``None`` where the model is to choose.

    Raises:
        ConfigError: the model takes none, or not one of them.
    """
    if not settings.labels:
        return None
    if model.num_classes is None:
        raise ConfigError(f"{type(model).__name__} is unconditional: leave labels=null")
    for label in settings.labels:
        if label >= model.num_classes:
            known = f"the {model.num_classes} classes 0 to {model.num_classes - 1}"
            raise ConfigError(f"labels: {label} is none of {known} of the model")
    return torch.tensor(settings.labels).repeat_interleave(settings.n)


def _draw(
    model: Model, settings: SampleConfig, labels: Tensor | None, options: Mapping[str, Any], device: Hardware
) -> Tensor:
    assert isinstance(model, Samples)
    generator = torch.Generator(device.device).manual_seed(settings.seed)
    total = settings.n if labels is None else len(labels)
    parts = []
    with device.isolated(model, settings.seed), device.autocast():
        size = min(settings.batch_size, model.max_batch)
        for start in tracked(range(0, total, size), "sampling"):
            n = min(size, total - start)
            y = None if labels is None else labels[start : start + n].to(device.device)
            parts.append(model.sample(n, y, generator, **options).cpu())
    return torch.cat(parts)


def _file_name(settings: SampleConfig) -> str:
    """Of the seed, the number and the labels; many labels are told apart by a checksum."""
    labels = ""
    if settings.labels:
        labels = "_labels" + "-".join(map(str, settings.labels))
        if len(labels) > 40:
            labels = f"_{len(settings.labels)}labels-{zlib.crc32(labels.encode()):08x}"
    return f"seed{settings.seed}_n{settings.n}{labels}.{settings.format}"
