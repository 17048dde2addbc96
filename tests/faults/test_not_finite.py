"""NaN in any loss term of any model ends the run with the term's name, and no checkpoint is poisoned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_every_model import OVERRIDES, SPEC, SPECS

from genlab import checkpoint
from genlab.assemble import model_builder
from genlab.config import conf_dir, option_files, parse
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import TrainingError
from genlab.hardware import HardwareConfig, select
from genlab.models.base import Model
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, Update

STEPS = 5
"""In an epoch of the tests here: a critic steps five times for each step of its generator."""


@dataclass(frozen=True)
class Term:
    """A loss term in the first step of a stage's second epoch in which its group is stepped."""

    stage: str
    group: str
    name: str
    at: int


def _model(name: str) -> Model:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        quick = OVERRIDES.get(name.removesuffix("_small"), [])
        composed = compose("train", [f"model={name}", *quick, "run_name=test"])
    torch.manual_seed(0)
    return model_builder(OmegaConf.to_container(composed.model))(SPECS.get(name, SPEC))


def _trainer(model: Model, folder: Path) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3 * STEPS, *model.spec.shape), generator=generator, dtype=torch.uint8)
    hardware = select(HardwareConfig(device="cpu", threads=1))
    data = DeviceDataset(images, torch.arange(3 * STEPS) % 3, hardware.device, hardware.device)
    splits = Splits(data, data.part(torch.arange(0)), data.part(torch.arange(0)))
    settings = {"epochs": 2, "batch_size": 3, "log_every": 100, "monitor": None, "optimizer": {"lr": 1e-4}}
    config = parse(TrainerConfig, settings, "trainer")
    run = RunFolder(folder)
    run.folder("checkpoints")
    return Trainer(model, splits, config, hardware, run, None, {}, seed=0)


class Epochs:
    """A training whose terms are noted, with the checkpoint after the first epoch of each stage."""

    def __init__(self, trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
        self.trainer, self.model = trainer, trainer.model
        self.terms: dict[Term, None] = {}
        self.states: dict[str, bytes] = {}
        self.poison: Term | None = None
        self._updates, self._save = self.model.updates, trainer._save
        patch.setattr(self.model, "updates", self._watched)
        patch.setattr(trainer, "_save", self._kept)
        trainer.fit()
        patch.setattr(trainer, "_save", self._save)

    def _kept(self) -> None:
        self._save()
        if self.trainer.epoch == 1:
            self.states[self.trainer.stage.name] = self.trainer.folder.last.read_bytes()

    def _watched(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        for update in self._updates(batch, stage, step):
            if step >= STEPS:
                for name in ("", *update.logs):
                    known = {(term.stage, term.group, term.name) for term in self.terms}
                    if (stage, update.group, name) not in known:
                        self.terms[Term(stage, update.group, name, step)] = None
            yield self._poisoned(update) if self._due(stage, update.group, step) else update

    def _due(self, *where: object) -> bool:
        poison = self.poison
        return poison is not None and where == (poison.stage, poison.group, poison.at)

    def _poisoned(self, update: Update) -> Update:
        assert self.poison is not None
        name = self.poison.name
        if not name:
            return replace(update, loss=update.loss * torch.nan)
        return replace(update, logs={**update.logs, name: update.logs[name] * torch.nan})

    def resumed(self, poison: Term) -> str:
        """Go on from the checkpoint before ``poison``; what ended it."""
        self.poison = poison
        self.trainer.folder.last.write_bytes(self.states[poison.stage])
        self.trainer.restore(checkpoint.load(self.trainer.folder.last))
        with pytest.raises(TrainingError) as ended:
            self.trainer.fit()
        return str(ended.value)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("gan", "vae") else pytest.mark.slow)
        for name in option_files("model", [conf_dir()])
    ],
)
def test_a_term_that_is_not_finite_is_named_and_the_checkpoint_before_it_is_kept(name, tmp_path, monkeypatch):
    trainer = _trainer(_model(name), tmp_path)
    epochs = Epochs(trainer, monkeypatch)
    groups = {(stage.name, group) for stage in trainer.model.stages() for group in stage.groups}
    assert {(term.stage, term.group) for term in epochs.terms} == groups
    before = 0
    for stage in trainer.model.stages():
        for term in [term for term in epochs.terms if term.stage == stage.name]:
            alone = "" if len(stage.groups) == 1 else f"_{term.group}"
            message = epochs.resumed(term)
            where = f"the term '{term.name or f'loss{alone}'}' is nan at step {before + term.at} "
            assert message.startswith(f"{where}(group '{term.group}'); lower trainer.optimizer.lr"), message
            kept = trainer.folder.last.read_bytes()
            assert kept == epochs.states[stage.name]
        saved = checkpoint.load(trainer.folder.last)
        assert all(values.isfinite().all() for values in saved["model"].values())
        before += 2 * STEPS


@pytest.mark.parametrize("checkpoint_every", [None, 6])
def test_weights_that_overflow_in_the_last_step_are_not_saved(checkpoint_every, tmp_path):
    """Every term of that step is finite: what it makes of the weights no loss has seen yet."""
    trainer = _trainer(_model("realnvp"), tmp_path)
    trainer.config = replace(trainer.config, checkpoint_every=checkpoint_every)
    last = STEPS + 1 if checkpoint_every else 2 * STEPS

    def overflow(*arguments: object) -> None:
        if trainer.stage_step == last - 1:
            with torch.no_grad():
                trainer.model.get_parameter("bijection.parts.2.bias").fill_(torch.inf)

    group = trainer.iteration.groups["model"]
    group.optimizer.register_step_post_hook(overflow)
    with pytest.raises(TrainingError, match=rf"'bijection\.parts\.2\.bias' is not finite after step {last};"):
        trainer.fit()
    saved = checkpoint.load(trainer.folder.last)
    assert saved["step"] == STEPS
    assert all(values.isfinite().all() for values in saved["model"].values())
