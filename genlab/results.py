"""What a run leaves for people to read: evaluations, and the page of all it did, however it ended."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from collections.abc import Iterator

from genlab import torchrun
from genlab.errors import explain
from genlab.files import write_atomic
from genlab.logger import RunLogger
from genlab.metrics.base import Evaluation, Result, Subject
from genlab.report.figures import loss_curves
from genlab.report.table import print_table
from genlab.run_folder import RunFolder

log = logging.getLogger(__name__)


def measure(
    evaluation: Evaluation, subject: Subject, folder: RunFolder, logger: RunLogger, step: int, of: int
) -> Result:
    """Run ``evaluation``, print, write JSON and figures, log to TensorBoard.

    Args:
        evaluation: what to measure.
        subject: whom.
        folder: of the run.
        logger: of the run.
        step: at which to log.
        of: the step that the weights are of.
    """
    name = evaluation.config.name
    with subject.hardware.isolated(subject.model, evaluation.config.seed):
        result = evaluation.run(subject)
    print_table(result)
    report = {
        "title": result.title,
        "rows": result.rows,
        "further": [{"title": t.title, "rows": t.rows, "printed": t.printed} for t in result.further],
        "notes": result.notes,
        "metrics": result.metrics,
        "remarks": result.remarks,
        "step": of,
    }
    target = folder.folder("evaluation") / f"{name}.json"
    write_atomic(target, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    with forgiven("figures of the evaluation"):
        evaluation.draw(result, folder.folder("figures"))
    log.info("%s, figures in %s", target, folder.folder("figures"))
    evaluation.log(result, logger, step)
    return result


@contextlib.contextmanager
def forgiven(what: str) -> Iterator[None]:
    """Where something fails that no result depends on: a warning says so."""
    try:
        yield
    except Exception as error:
        log.warning("%s: not written: %s", what, explain(error))


@contextlib.contextmanager
def reported(folder: RunFolder) -> Iterator[None]:
    """Keep the command of what runs inside the block; write the report when it ends, and when it breaks off.

    Why it broke off is kept in ``error.txt``, unless a signal came.
    """
    folder.error.unlink(missing_ok=True)
    with forgiven(str(folder.commands)), folder.commands.open("a", encoding="utf-8") as file:
        file.write(" ".join(command().splitlines()) + "\n")
    try:
        yield
    except SystemExit:
        draw_report(folder)
        raise
    except Exception as error:
        with contextlib.suppress(Exception):  # the error itself is what is to be told
            folder.error.write_text(f"{explain(error)}\n", encoding="utf-8")
            draw_report(folder)
        raise
    draw_report(folder)


def draw_report(folder: RunFolder) -> None:
    """Write ``report.html`` of what is in ``folder``, and the loss curves where there are none yet."""
    from genlab.report.run_page import write_report  # Jinja and Pillow take their time

    with forgiven(str(folder.report)):
        if not (folder.path / "figures" / "loss_curves.png").exists():
            draw_curves(folder)
        write_report(folder)


def draw_curves(folder: RunFolder) -> None:
    """Draw the loss curves."""
    with forgiven("loss curves"):
        loss_curves(folder)


def command() -> str:
    """The command that runs, to be pasted into a shell."""
    return f"{torchrun.program()} {shlex.join(['train', *sys.argv[1:]])}"
