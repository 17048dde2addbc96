"""What a run writes while it runs: TensorBoard events and ``metrics.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from genlab.files import write_atomic
from genlab.run_folder import RunFolder

_HEADER = ["step", "epoch", "name", "value"]


class RunLogger:
    """Numbers go to both places, pictures to TensorBoard.

    ``metrics.csv`` is long: one row for each number, ``step, epoch, name, value``.

    Args:
        folder: the run's.
        resume_step: where a resumed run goes on; what was logged after it is dropped.
    """

    def __init__(self, folder: RunFolder, resume_step: int | None = None) -> None:
        if resume_step is not None and folder.metrics.exists():
            _drop_after(folder, resume_step)
        purge = None if resume_step is None else resume_step + 1
        self.tensorboard = SummaryWriter(str(folder.folder("tensorboard")), purge_step=purge)
        self._file = folder.metrics.open("a", newline="")
        self._csv = csv.writer(self._file)
        if self._file.tell() == 0:
            self._csv.writerow(_HEADER)

    def scalars(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log numbers by their names, ``train/loss`` for instance."""
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)
            self._csv.writerow([step, epoch, name, f"{value:.8g}"])
        self._file.flush()

    def images(self, name: str, grid: Tensor, step: int) -> None:
        """Log a grid, uint8 ``(C, H, W)``."""
        self.tensorboard.add_image(name, grid, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Log the distribution of ``values``."""
        self.tensorboard.add_histogram(name, values.detach().float().cpu(), step)

    def text(self, name: str, text: str) -> None:
        """Log a text, shown in a fixed-width font."""
        self.tensorboard.add_text(name, "    " + text.replace("\n", "\n    "))

    def hparams(self, values: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Log the settings in ``values``, a run's configuration, with the final metrics; in this run itself."""
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, step)
        writer = self.tensorboard.file_writer
        assert writer is not None
        for summary in hparams(_compared(values), dict(metrics)):
            writer.add_summary(summary)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self.tensorboard.close()


def _drop_after(folder: RunFolder, step: int) -> None:
    rows = [row for row in csv.DictReader(io.StringIO(folder.metrics.read_text())) if row["value"]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _HEADER)
    writer.writeheader()
    writer.writerows(row for row in rows if int(row["step"]) <= step)
    write_atomic(folder.metrics, text.getvalue().encode())


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that runs are compared by, flat, as TensorBoard takes them."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        elif node is not None:
            flat[prefix] = node if isinstance(node, bool | int | float | str) else str(node)

    for group in ("model", "trainer"):
        visit(group, values[group])
    return flat | {"dataset": values["dataset"]["name"], "seed": values["seed"]}
