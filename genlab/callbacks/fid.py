"""The quality of samples over epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.data import DatasetConfig, data_spec
from genlab.errors import ConfigError
from genlab.extractors.base import Features
from genlab.fidelity.quality import Measure, Quality, QualityConfig, load
from genlab.models.base import Model
from genlab.registry import CALLBACKS
from genlab.report.figures import as_image, save
from genlab.report.quality import class_bars, fid_curve
from genlab.types import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class FIDConfig(EpochsConfig, QualityConfig):
    """Epochs to measure after, and what; real images are those of the test split."""

    every: Count | None = None
    at: tuple[Count | Literal["first", "middle", "last"], ...] = ("first", "middle", "last")
    most: Count | None = None
    measures: tuple[Measure, ...] = ("fid", "classes")


@CALLBACKS.register("fid")
class FID(Callback):
    """Measures samples against the test images; nothing of a model that does not sample.

    FID is logged as ``fid/<extractor>``, other measures as ``fid/<extractor>/<measure>``. Its curve and the
    classes of the newest samples go to TensorBoard whenever they are measured, to ``figures/`` at the end.
    """

    Config = FIDConfig
    config: FIDConfig

    def __init__(self, config: FIDConfig) -> None:
        super().__init__(config)
        self._quality: Quality | None = None
        self._real: Features | None = None
        self._history: list[dict[str, Any]] = []
        self._classes: dict[str, list[float]] = {}

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The extractor must suit the images."""
        if not hasattr(model, "sample"):
            return
        spec = data_spec(dataset)
        try:
            load(self.config, spec, dataset.label)
        except ConfigError as error:
            raise ConfigError(f"callbacks.fid: {error}; callbacks.fid=null leaves it out") from None

    def on_epoch_end(self, snapshot: Snapshot) -> Mapping[str, float] | None:
        """Measure, and show the figures."""
        due = self.config.due(snapshot.epoch, snapshot.num_epochs)
        if not due or not isinstance(snapshot.model, Samples):
            return None
        values = self._measure(snapshot)
        for name, figure in self._draw().items():
            snapshot.logger.images(name, as_image(figure), snapshot.step)
        return {_tag(name): value for name, value in values.items()}

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Write the figures."""
        for name, figure in self._draw().items():
            save(figure, snapshot.folder.folder("figures") / name)

    def state_dict(self) -> dict[str, Any]:
        """All that has been measured."""
        return {"history": self._history, "classes": self._classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what had been measured."""
        if state:
            self._history, self._classes = list(state["history"]), dict(state["classes"])

    def _measure(self, snapshot: Snapshot) -> dict[str, float]:
        """Measure the model, and note it down."""
        test = snapshot.data.test
        if self._quality is None:
            self._quality = Quality(self.config, snapshot.model.spec, snapshot.data.name, test.device)
        # First of all, so that nothing that is done once only comes between the seed and the samples.
        fake, labels = self._quality.samples(snapshot.model)
        if self._real is None:
            self._real = self._quality.real(test, self.config.max_images)
        values = self._quality.measure(self._real, fake, labels)
        entry = {"stage": snapshot.stage, "epoch": snapshot.epoch, "step": snapshot.step}
        self._history.append(
            {**entry, "values": values, "samples": len(fake.values), "real": len(self._real.values)}
        )
        self._classes = self._quality.class_shares(**{"samples": fake, "test images": self._real})
        return values

    def _draw(self) -> dict[str, Figure]:
        """``fid`` and ``classes``, where there is something to see in them."""
        figures: dict[str, Figure] = {}
        curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
        title = ""
        for entry in self._history:
            for name, value in entry["values"].items():
                measure, _, extractor = name.partition("/")
                if measure == "fid":
                    curves[entry["stage"]].append((entry["epoch"], value))
                    counts = f"{entry['samples']:,} samples against {entry['real']:,} test images"
                    title = f"{counts}, in features of {extractor}"
        if curves:
            figures["fid"] = fid_curve(curves, title)
        if self._classes:
            last = self._history[-1]
            title = f"Classes after epoch {last['epoch']}: {last['samples']:,} samples"
            figures["classes"] = class_bars(self._classes, title)
        return figures


def _tag(name: str) -> str:
    """The name among those of the callback, FID's being the extractor's alone.

    >>> _tag("fid/inception"), _tag("class_kl/inception")
    ('inception', 'inception/class_kl')
    """
    measure, _, extractor = name.partition("/")
    return extractor if measure == "fid" else f"{extractor}/{measure}"
