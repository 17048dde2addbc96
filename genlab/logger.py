"""What a run writes while it runs: TensorBoard events and ``metrics.csv``."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from genlab.files import naming, write_atomic
from genlab.ood.detection import ranked
from genlab.run_folder import RunFolder
from genlab.tensorboard_layout import layout

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
        if resume_step is not None:
            _order_events(folder)
        purge = None if resume_step is None else resume_step + 1
        self.folder = folder
        self.tensorboard = SummaryWriter(str(folder.folder("tensorboard")), purge_step=purge)
        self._charted: set[str] = set()
        _end_last_row(folder)
        self._file = folder.metrics.open("a", newline="")
        self._csv = csv.writer(self._file)
        if self._file.tell() == 0:
            self._csv.writerow(_HEADER)

    def begin(self, values: Mapping[str, Any]) -> None:
        """Log ``values``, a run's configuration, as text and as the settings of TensorBoard's tab HPARAMS.

        An experiment with all settings and metrics is not described: of several runs TensorBoard would take
        the first description that it finds for all. Without one it asks every run what it has, and puts the
        settings in which runs differ before the others.
        """
        text = self.folder.config.read_text()
        self.tensorboard.add_text("config", "    " + text.replace("\n", "\n    "))
        _, start, _ = hparams(_compared(values), {})
        self._summary(start)

    def scalars(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log numbers that there are more of with time, ``train/loss`` for instance; each has its chart."""
        self.chart(values)
        self.results(step, epoch, values)

    def chart(self, names: Iterable[str]) -> None:
        """Have charts of the numbers of these names, beside those that there are."""
        if new := set(names) - self._charted:
            self._charted |= new
            self.tensorboard.add_custom_scalars(layout(self._charted))

    def results(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log numbers by their names that are measured once."""
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)
            self._csv.writerow([step, epoch, name, f"{value:.8g}"])
        with naming(self.folder.metrics):
            self._file.flush()

    def images(self, name: str, grid: Tensor, step: int) -> None:
        """Log a grid, uint8 ``(C, H, W)``."""
        self.tensorboard.add_image(name, grid, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Log the distribution of ``values``."""
        self.tensorboard.add_histogram(name, values.detach().float().cpu(), step)

    def pr_curve(self, name: str, inside: Tensor, outside: Tensor, step: int) -> None:
        """Log precision over recall of scores that should be higher ``inside``, ``(N,)`` and ``(M,)``.

        TensorBoard's thresholds lie evenly in [0, 1], and so do the ranks of the scores that it gets for them.
        """
        ranks, target = ranked(inside, outside)
        self.tensorboard.add_pr_curve(name, target, ranks, step)

    def finish(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the final ``metrics``, and that the run of :meth:`begin` has come to its end."""
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, step)
        _, _, end = hparams({}, {})
        self._summary(end)

    def _summary(self, summary: Any) -> None:
        writer = self.tensorboard.file_writer
        assert writer is not None
        writer.add_summary(summary)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self.tensorboard.close()


def _drop_after(folder: RunFolder, step: int) -> None:
    text = io.StringIO(newline="")
    rows = [row for row in folder.logged() if int(row[0]) <= step]
    csv.writer(text).writerows([_HEADER, *rows])
    write_atomic(folder.metrics, text.getvalue().encode())


def _order_events(folder: RunFolder) -> None:
    """Name the files that are there so that the one to come sorts behind them: by name TensorBoard reads them.

    A name has the time, and the clock may have been put back.
    """
    now, prefix = int(time.time()), "events.out.tfevents."
    files = sorted(folder.tensorboard.glob(f"{prefix}*"))
    late = [path for path in files if path.name.removeprefix(prefix) >= f"{now:010d}"]
    for i, path in enumerate(late):
        _, _, rest = path.name.removeprefix(prefix).partition(".")
        path.rename(path.with_name(f"{prefix}{now - len(late) + i:010d}.{rest}"))


def _end_last_row(folder: RunFolder) -> None:
    """Drop what a killed process or a full disk has left of a row, lest the next one go on in it."""
    with contextlib.suppress(FileNotFoundError), folder.metrics.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that runs are compared by, flat, as TensorBoard takes them."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        elif node is not None:
            flat[prefix] = node if isinstance(node, int | float) and not isinstance(node, bool) else _word(node)

    for group in ("model", "trainer"):
        visit(group, values[group])
    return flat | {"dataset": values["dataset"]["name"], "seed": values["seed"]}


def _word(value: Any) -> str:
    """As YAML has it: TensorBoard would take ``true`` for 1."""
    return str(value).lower() if isinstance(value, bool) else str(value)
