"""What every model is: parameters in groups, updates by name."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from genlab.errors import ConfigError
from genlab.types import Batch, DataSpec, Stage, Update

_MAX_NUMBERS = 2**20  # in a batch of images: a plane of float32 for each is 4 MB, 64 of them 256 MB


class Model(nn.Module):
    """A generative model of images of one :class:`~genlab.types.DataSpec`.

    A subclass registers a name, has a ``Config`` beside it, is built as ``cls(config, spec)``, and yields
    its losses from :meth:`updates`. What else it offers (``sample``, ``log_prob``, ``reconstruct``,
    ``encode``: the protocols of :mod:`genlab.types`) decides what can be measured of it.
    """

    protocol: str = ""
    """How its likelihood is obtained, in words; printed beside every number."""
    num_classes: int | None = None
    """Classes that it draws on demand; ``None`` of an unconditional model."""
    levels: int = 256
    """Values of a pixel on the scale of its likelihood; of any but 256 there are no bits per dimension."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def max_batch(self) -> int:
        """Images that are drawn or scored at once, whatever batch was asked for: so memory stays bounded."""
        return max(1, _MAX_NUMBERS // self.spec.dim)

    @property
    def device(self) -> torch.device:
        """Where its parameters or buffers are; the CPU where it has none."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((values.device for values in tensors), torch.device("cpu"))

    def stages(self) -> Sequence[Stage]:
        """The phases of training in order; by default one, ``"train"``, of one group, ``"model"``."""
        return [Stage("train", {"model": list(self.parameters())})]

    def parameters_outside(self, part: nn.Module) -> list[Parameter]:
        """All parameters but those of ``part``."""
        inside = set(part.parameters())
        return [p for p in self.parameters() if p not in inside]

    def labels_to_draw(self, n: int, y: Tensor | None, generator: Generator | None = None) -> Tensor | None:
        """The classes ``(n,)`` of ``n`` samples: ``y``, or any where a conditional model was given none.

        Raises:
            ConfigError: labels for an unconditional model.
        """
        if self.num_classes is None and y is not None:
            raise ConfigError(f"{type(self).__name__} is unconditional: it takes no labels")
        if self.num_classes is None or y is not None:
            return y
        return torch.randint(self.num_classes, (n,), device=self.device, generator=generator)

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """The optimizer steps of one iteration, one :class:`~genlab.types.Update` each.

        The trainer steps the group of each update before it asks for the next, so that a later loss sees
        the earlier step. ``step`` counts iterations from 0.
        """
        raise NotImplementedError

    def validate(self, batch: Batch, stage: str) -> Mapping[str, Tensor]:
        """The loss terms on held-out data; by default those of :meth:`updates`, without a step.

        None where a model has nothing to say of them: then ``trainer.monitor`` has to be ``null``.
        """
        groups = next(s.groups for s in self.stages() if s.name == stage)
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            for update in self.updates(batch, stage, step=0):
                terms.update(update.terms(alone=len(groups) == 1))
        return terms

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data (ActNorm, say) from the first batch; called once, before training."""

    def graph_key(self, stage: str, step: int) -> Hashable:
        """What of an iteration at ``step`` is not on the device: those of equal keys share a CUDA graph.

        ``None``, as here, where an iteration can't be recorded: one that waits for the host in its middle, or
        whose :meth:`updates` depend on the step in an unknown way.
        """
        return None

    def compiled(self) -> Sequence[nn.Module]:
        """The modules whose ``forward`` holds the arithmetic, for ``hardware.compile``."""
        return [self]


class UnconditionalModel(Model):
    """A model that draws images and knows no labels."""

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """``n`` images, uint8 ``(n, C, H, W)``; what ``temperature`` scales is the model's."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """``n`` images, uint8 ``(n, C, H, W)``, as :meth:`draw` gives them.

        Raises:
            ConfigError: labels were given.
        """
        self.labels_to_draw(n, y)
        return self.draw(n, generator, temperature)
