"""A flow of the features of a frozen classifier: a density to tell images apart by, not to draw them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from genlab.config import config
from genlab.errors import CheckpointError
from genlab.extractors.base import Extractor, Features, load_extractor
from genlab.models.base import Model
from genlab.nets.code_flow import CodeFlow, CodeFlowConfig
from genlab.registry import EXTRACTORS, MODELS
from genlab.types import Batch, DataSpec, Update


@config
class FeatureFlowConfig(CodeFlowConfig):
    """Settings of :class:`FeatureFlow`: those of the flow, and the extractor by name.

    ``weights`` is a file for the extractor; ``None`` for the weights that belong to it.
    """

    name: Literal["feature_flow"] = "feature_flow"
    extractor: str = "fashion_cnn"
    weights: str | None = None

    def __post_init__(self) -> None:
        """The extractor is a registered one: ``auto`` would need the name of the images' set."""
        EXTRACTORS[self.extractor]


@MODELS.register("feature_flow")
class FeatureFlow(Model):
    """``p(h(x))`` of the features ``h`` of a frozen network, by a RealNVP.

    What a classifier has learnt to see is in its features, and little else: what they tell apart decides
    which images of another kind are unlikely. ``code_log_prob`` is in the features' own units, it
    is no density of pixels (there is no ``log_prob``), and features have no way back to images.

    Raises:
        ConfigError: images that the extractor doesn't take, or weights that can't be had.

    References:
        Kirichenko et al. 2020, "Why normalizing flows fail to detect out-of-distribution data" (flows of
        image embeddings).
    """

    Config = FeatureFlowConfig

    def __init__(self, config: FeatureFlowConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config = config
        extractor = load_extractor(config.extractor, spec, dataset="", weights=config.weights)
        # In a tuple it is no submodule: no parameter of the model, in no checkpoint, and eval() for good.
        self._frozen = (extractor,)
        self._checksum = bytes.fromhex(extractor.checksum())
        self.flow = CodeFlow(config, extractor.num_features)
        self.protocol = f"{self.flow.protocol}, of features of {config.extractor}"

    @property
    def extractor(self) -> Extractor:
        """The frozen network, on the model's device."""
        return self._frozen[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves the model to a device moves the extractor too."""
        self.extractor._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def get_extra_state(self) -> Tensor:
        """In place of the extractor's weights a checkpoint has their SHA-256, uint8 ``(32,)``."""
        return torch.tensor(list(self._checksum), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raises :class:`CheckpointError` where the flow is one of the features of other weights."""
        if bytes(state.tolist()) != self._checksum:
            raise CheckpointError(
                f"the flow was trained on features of other weights than extractor '{self.config.extractor}' "
                "has; set model.weights to the file that it was trained with"
            )

    # ------------------------------------------------------------------ training

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Standardise features and normalise each ActNorm on the first batch."""
        self.flow.initialize(self.encode(batch.x))

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One: the negative log-density of features, in nats per image."""
        yield Update("model", *self.flow.fit(self.encode(batch.x)))

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations of a stage are alike."""
        return stage

    def compiled(self) -> Sequence[nn.Module]:
        """The flow; the extractor runs as everywhere."""
        return [self.flow]

    # ------------------------------------------------------------------ codes

    def code_log_prob(self, x: Tensor) -> Tensor:
        """Nats per feature vector ``(B,)`` of uint8 images."""
        return self.flow.log_prob(self.encode(x))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of uint8 images."""
        features: Features = self.extractor(x)
        return features.values
