"""The one loop that trains every model."""

from __future__ import annotations

import logging
import math
import textwrap
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from genlab import checkpoint, torchrun
from genlab.callbacks.base import Callback, Snapshot
from genlab.checkpoint_check import of_a_run
from genlab.data.device import Splits
from genlab.distributed import Agreement
from genlab.errors import CheckpointError, ConfigError, TrainingError, did_you_mean
from genlab.hardware import Hardware, compile_model
from genlab.iteration import Iteration
from genlab.logger import RunLogger
from genlab.meter import Meter
from genlab.models.base import Model
from genlab.optim import EMA
from genlab.progress import Progress
from genlab.run_folder import RunFolder
from genlab.signals import Interruption, interruption
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch

log = logging.getLogger(__name__)


class Trainer:
    """Trains ``model`` on ``data`` and keeps everything that a resume needs in ``folder``.

    Of several processes, each has a trainer, and takes its share of every batch. The first one's looks, draws,
    writes and decides; the others train along.

    Args:
        model: on the device already.
        data: the splits on the device.
        config: epochs, batches, optimizers.
        hardware: device, precision and processes.
        folder: where checkpoints go.
        logger: where numbers and pictures go; ``None`` in processes that don't write.
        callbacks: by name; none in processes that don't write.
        seed: of the order of the images; the model draws from torch's own generator.
    """

    def __init__(
        self,
        model: Model,
        data: Splits,
        config: TrainerConfig,
        hardware: Hardware,
        folder: RunFolder,
        logger: RunLogger | None,
        callbacks: Mapping[str, Callback],
        seed: int,
    ) -> None:
        self.model, self.data, self.config, self.hardware = model, data, config, hardware
        self.processes = hardware.processes
        self.folder, self.logger, self.callbacks, self.seed = folder, logger, callbacks, seed
        self.ema = EMA(model) if config.averages else None
        compile_model(model.compiled(), hardware.config.compile)
        self.meter = Meter(self.processes)
        self.stage_configs = config.by_stage(model.stages())
        self.step, self.elapsed = 0, 0.0
        self.best: float | None = None
        self.metrics: dict[str, float] = {}
        self._enter(0)

    # ------------------------------------------------------------------ the loop, top to bottom

    def fit(self) -> None:
        """Train to the end of the last stage.

        Raises:
            TrainingError: a loss term is not finite, or another process is gone.
            SystemExit: SIGINT (130) or SIGTERM (143) came; the state is saved.
        """
        if self.step == 0:
            self._initialize()
        with interruption() as interrupted:
            self._train_stage(interrupted)
            for index in range(self.stage_index + 1, len(self.model.stages())):
                self._enter(index)
                for callback in self.callbacks.values():
                    callback.on_stage_start(self.stage.name)
                self._train_stage(interrupted)
        self._call("on_train_end")

    def _initialize(self) -> None:
        # On the whole batch, and with the same random numbers in every process: as one alone begins.
        self.model.initialize(next(self._batches(epoch=0, share=(0, 1))))
        self.processes.copy_from_first(self.model)
        if self.ema is not None:
            self.ema.reset(self.model)
        if not self.processes.first:
            torch.manual_seed(self.processes.seed(self.seed))  # from here on, noise of its own

    def _enter(self, index: int) -> None:
        """Stand at the beginning of a stage."""
        self.stage_index, self.stage = index, self.model.stages()[index]
        self.epoch = self.batch = self.stage_step = 0
        self.best = None
        self.stage_config = self.stage_configs[self.stage.name]
        self.processes.check_batch(self.stage_config.batch_size)
        self.steps_per_epoch = self.data.train.num_batches(self.stage_config.batch_size)
        self.total_steps = self.stage_config.epochs * self.steps_per_epoch
        self.total_steps = min(self.total_steps, self.stage_config.max_steps or self.total_steps)
        self.iteration = Iteration(
            self.model,
            self.stage,
            self.config,
            self.stage_config,
            self.hardware,
            self.ema,
            self.total_steps,
            self.steps_per_epoch,
        )

    def _train_stage(self, interrupted: Interruption) -> None:
        self._agreement = Agreement(self.processes)
        with Progress(self.stage.name, self.total_steps, self.stage_step) as progress:
            while self.stage_step < self.total_steps and not self._stopped():
                self._train_epoch(progress, interrupted)

    def _train_epoch(self, progress: Progress, interrupted: Interruption) -> None:
        self.model.train()
        self._start_window()
        for batch in self._batches(self.epoch, self.batch):
            for group, terms in self.iteration(batch, self.stage_step):
                self.meter.add(group, self.step, terms)
            self.step, self.stage_step, self.batch = self.step + 1, self.stage_step + 1, self.batch + 1
            if self.stage_step % self.config.log_every == 0:
                self._log_window(progress)
            if self.batch == self.steps_per_epoch or self.stage_step == self.total_steps:
                break  # what an epoch ends with comes before it is saved or left
            self._leave_if_told(interrupted)
            if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self._save()
        self._log_window(progress)
        self._check()
        self.epoch, self.batch = self.epoch + 1, 0
        self.processes.average_buffers(self.model)
        self._validate()
        self._call("on_epoch_end")
        self._save()
        self._keep_epoch()
        progress.epoch(self.epoch, self.stage_config.epochs, self.metrics)
        self._leave_if_told(interrupted, now=True)

    def _batches(self, epoch: int, start: int = 0, share: tuple[int, int] | None = None) -> Iterator[Batch]:
        # Another order for every seed, stage and epoch, and one that can be taken up at any batch.
        seed = (self.seed * 1_000_003 + self.stage_index * 100_003 + epoch) % 2**63
        return self.data.train.epoch(self.stage_config.batch_size, seed, start, share or self._share)

    @property
    def _share(self) -> tuple[int, int]:
        """The place of this process among all."""
        return self.processes.rank, self.processes.size

    # ------------------------------------------------------------------ looking

    def _start_window(self) -> None:
        self._window_start, self._window_step = time.perf_counter(), self.step

    def _log_window(self, progress: Progress) -> None:
        """Read the meter, the one place where the host waits for the device."""
        if self.meter.empty:
            return
        means = self.meter.read()
        seconds = time.perf_counter() - self._window_start
        self.elapsed += seconds
        rate = (self.step - self._window_step) * self.stage_config.batch_size / seconds
        self._record({f"train/{name}": value for name, value in means.items()})
        self._record(
            {self.iteration.tag("lr", name): group.lr for name, group in self.iteration.groups.items()}
        )
        self._record({"images_per_second": rate})
        progress.update(self.stage_step, means, rate)
        self._start_window()

    def _record(self, values: Mapping[str, float]) -> None:
        self.metrics.update(values)
        if self.logger is not None:
            self.logger.scalars(self.step, self.epoch, values)

    def _validate(self) -> None:
        if not len(self.data.val):
            return
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.hardware.device))
        with self._looking() as model:
            for batch in self.data.val.in_order(self.stage_config.batch_size, turn=self._share):
                with self.hardware.autocast():
                    terms = model.validate(batch, self.stage.name)
                for name, term in terms.items():
                    sums[name] += term.float() * len(batch.x)
        means: dict[str, float] = defaultdict(float)
        for part in self.processes.gather({name: total.item() for name, total in sums.items()}):
            for name, total in part.items():
                means[f"val/{name}"] += total / len(self.data.val)
        self._record(means)
        self._keep_best()

    def _keep_best(self) -> None:
        if self.config.monitor is None:
            return
        name = f"val/{self.config.monitor}"
        if name not in self.metrics:
            known = [key.removeprefix("val/") for key in self.metrics if key.startswith("val/")]
            none = "; the model has no terms of validation, so it can only be null"
            hint = did_you_mean(self.config.monitor, known) if known else none
            raise ConfigError(f"unknown trainer.monitor '{self.config.monitor}'{hint}")
        value = self.metrics[name]
        if not math.isfinite(value):
            log.warning("%s is %s after epoch %d", name, value, self.epoch)
            return
        if self.best is None or value < self.best:
            self.best = value
            if self.processes.first:
                checkpoint.save(self.folder.best, self._weights())

    @contextmanager
    def _looking(self) -> Iterator[Model]:
        """The weights to look at, in ``eval()`` and with random state set aside: looking moves nothing."""
        model = self.model
        if self.ema is not None:
            self.ema.copy_buffers(self.model)
            averaged = self.ema.model
            assert isinstance(averaged, Model)
            model = averaged
        with self.hardware.isolated(model, seed=self.processes.seed(self.seed)):
            yield model

    def _call(self, event: str) -> None:
        """Call the callbacks, in the first process; the others wait when they ask what came of it."""
        for name, callback in self.callbacks.items():
            with self._looking() as model:
                assert self.logger is not None
                snapshot = Snapshot(
                    model,
                    self.data,
                    self.folder,
                    self.logger,
                    self.stage.name,
                    self.epoch,
                    math.ceil(self.total_steps / self.steps_per_epoch),
                    self.step,
                    self.metrics,
                )
                found = getattr(callback, event)(snapshot) or {}
            self._record({f"{name}/{key}": value for key, value in found.items()})

    def _stopped(self) -> bool:
        return self.processes.from_first(any(callback.should_stop for callback in self.callbacks.values()))

    # ------------------------------------------------------------------ saving

    def _weights(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.model.state_dict(),
            "stage": self.stage.name,
            "epoch": self.epoch,
            "step": self.step,
        }

    def _check(self) -> None:
        """Lest what has gone wrong replace what was good. A last step may overflow whose terms are finite."""
        self.meter.check()
        if get_total_norm([p.detach() for p in self.model.parameters()], math.inf).isfinite():
            return
        name = next(name for name, p in self.model.named_parameters() if not p.isfinite().all())
        raise TrainingError(
            f"the parameter '{name}' is not finite after step {self.step}; lower trainer.optimizer.lr or set "
            "trainer.clip_grad_norm; the last good checkpoint, if there is one, is kept"
        )

    def _save(self) -> None:
        self._check()
        self.processes.average_buffers(self.model)
        random = self.processes.gather(self.hardware.random_state())
        if not self.processes.first:
            return
        state = {
            **self._weights(),
            "stage_index": self.stage_index,
            "batch": self.batch,
            "stage_step": self.stage_step,
            "optimizers": {name: group.state_dict() for name, group in self.iteration.groups.items()},
            "callbacks": {name: callback.state_dict() for name, callback in self.callbacks.items()},
            "random": random,
            "best": self.best,
            "elapsed": self.elapsed,
            "metrics": self.metrics,
            "meter": self.meter.state_dict(),
            "logged": self.folder.logged_so_far(),
        }
        checkpoint.save(self.folder.last, state, keep=self.folder.previous)

    def _keep_epoch(self) -> None:
        """Keep the weights of this epoch, and drop what is older than the ``trainer.keep`` last ones."""
        if not self.config.keep or not self.processes.first:
            return
        stage = self.stage.name if len(self.model.stages()) > 1 else None
        checkpoint.save(self.folder.of_epoch(self.epoch, stage), self._weights())
        for old in self.folder.up_to_epoch(self.epoch, stage)[: -self.config.keep]:
            old.unlink(missing_ok=True)

    def _leave_if_told(self, interrupted: Interruption, now: bool = False) -> None:
        """Save and end where a signal came to any process; ``now``: don't put the question off."""
        number = self._agreement.settled(interrupted.signal or 0, now)
        if not number:
            return
        interrupted.signal = number
        self._save()
        self.processes.wait()  # lest an end before the first process has saved be taken for a failure
        program = torchrun.program()
        log.info("stopped at step %d; continue with: %s train resume=%s", self.step, program, self.folder.path)
        raise SystemExit(interrupted.exit_code)

    @of_a_run()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint that this class saved, with as many processes or others.

        Raises:
            CheckpointError: it is of another model or configuration.
        """
        load_weights(self.model, state["model"])
        if self.ema is not None and state["ema"] is not None:
            load_weights(self.ema.model, state["ema"])
        for name, callback in self.callbacks.items():
            callback.load_state_dict(state["callbacks"].get(name, {}))
        if self.config.monitor is None and self.processes.first:
            self.folder.best.unlink(missing_ok=True)  # of a monitor that this run had before
        self._enter(state["stage_index"])
        for name in ("epoch", "batch", "step", "stage_step", "best", "elapsed"):
            setattr(self, name, state[name])
        for name, group in self.iteration.groups.items():
            group.load_state_dict(state["optimizers"][name])
        self.metrics = dict(state["metrics"])
        if self.logger is not None:
            self.logger.chart(self.metrics)
        self.meter.load_state_dict(state["meter"], self.hardware.device)
        self._restore_random(state["random"])
        if self.logger is not None and "logged" in state and not self._logged(state["logged"]):
            log.warning("%s: rows up to step %d are lost or altered", self.folder.metrics, self.step)

    def _logged(self, so_far: tuple[int, str] | None) -> bool:
        """Whether ``metrics.csv`` begins with what was logged when a checkpoint was saved."""
        return so_far is not None and self.folder.logged_so_far(so_far[0]) == so_far

    def _restore_random(self, states: Any) -> None:
        """Where each process was; one more than there were begins where no other is."""
        states = states if isinstance(states, list) else [states]  # one process once saved its own alone
        rank = self.processes.rank
        if rank < len(states):
            self.hardware.set_random_state(states[rank])
        else:
            torch.manual_seed(self.processes.seed(self.seed, self.step))


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Fill ``model`` from a checkpoint.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition("\n")[2] or str(error), 160, placeholder=" ...")
        raise CheckpointError(f"the checkpoint doesn't fit the model: {reason}") from None
