"""What each figure of a run shows, in words and numbers; beside the figures in ``captions.md``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from genlab.files import write_atomic
from genlab.report.figures import DPI
from genlab.report.run import Point, Run
from genlab.report.table import cell

SECTIONS = ("Samples", "Loss curves", "Evaluations", "What the model has learned", "Further figures")
"""Of a report, in order."""
_CSS = 96  # pixels per inch of a page


@dataclass(frozen=True)
class Figure:
    """A figure of a run: ``name.png`` among its figures, and ``name.svg`` where matplotlib drew it.

    ``width`` is in pixels of a page, on which its text is of the size that it was drawn with.
    """

    path: Path
    section: str
    caption: str
    width: int
    rank: int

    @property
    def name(self) -> str:
        """That of its files."""
        return self.path.stem

    @property
    def files(self) -> list[Path]:
        """The files that there are of it."""
        return [path for path in (self.path, self.path.with_suffix(".svg")) if path.is_file()]


def figures(run: Run) -> list[Figure]:
    """The figures of ``run`` in the order of a report; of grids of samples the one of 25, else the largest."""
    found = [_figure(path, run) for path in (run.folder.path / "figures").glob("*.png")]
    found = [figure for figure in found if figure.width]
    grids = [figure for figure in found if figure.name.startswith("samples_") and figure.name[8:].isdigit()]
    best = max(grids, key=lambda figure: (figure.name == "samples_25", int(figure.name[8:])), default=None)
    kept = [figure for figure in found if figure not in grids or figure is best]
    return sorted(kept, key=lambda figure: (SECTIONS.index(figure.section), figure.rank, figure.name))


def write_captions(run: Run, shown: Sequence[Figure]) -> None:
    """Write ``figures/captions.md``: the captions as they can stand under the figures elsewhere."""
    if not shown:
        return
    about = _about(run)
    parts = [f"# Figures of {_plain(run.name)}"]
    for figure in shown:
        files = ", ".join(f"[{path.suffix[1:].upper()}]({path.name})" for path in figure.files)
        parts.append(f"## {figure.name}\n\n![{figure.name}]({figure.path.name})\n\n")
        parts[-1] += f"{_plain(figure.caption)} {_plain(about)} ({files})"
    write_atomic(run.folder.path / "figures" / "captions.md", ("\n\n".join(parts) + "\n").encode())


def _about(run: Run) -> str:
    model, dataset = run.setting("model", "name"), run.setting("dataset", "name")
    epochs = run.summary.get("epochs")
    of = f"{model} on {dataset}" if model and dataset else run.name
    return f"Run {run.name}: {of}" + (f", {epochs} epochs." if epochs else ".")


def _plain(text: str) -> str:
    """``text`` as Markdown shows it, without HTML and on one line."""
    return " ".join(text.replace("<", "&lt;").split())


# --------------------------------------------------------------------------------------- one figure


def _figure(path: Path, run: Run) -> Figure:
    unknown = ("Further figures", f"{path.stem.replace('_', ' ').capitalize()}.", None)
    rank, (section, words, numbers) = next(
        ((i, kind) for i, (name, kind) in enumerate(_KINDS.items()) if re.fullmatch(name, path.stem)),
        (len(_KINDS), unknown),
    )
    title, width = _drawn(path)
    said = [words, title, *(numbers(run, path.stem) if numbers else ())]
    return Figure(path, section, " ".join(text for text in said if text), width, rank)


def _drawn(path: Path) -> tuple[str, int]:
    """The title that a figure was drawn under, which has the numbers of that moment, and its width."""
    try:
        with Image.open(path) as image:
            title = " ".join(str(image.info.get("Title", "")).split())
            return title if not title or title.endswith(".") else f"{title}.", round(image.width * _CSS / DPI)
    except (OSError, SyntaxError, ValueError):  # a PNG that a killed run left half written
        return "", 0


def _losses(run: Run, name: str) -> Iterator[str]:
    """Where training and validation ended, and the best of validation."""
    for loss in ("loss", "loss_generator", "loss_discriminator"):
        ends = {
            split: points[-1].value
            for split in ("train", "val")
            if (points := run.curves.get(f"{split}/{loss}", ()))
        }
        if ends:
            label = loss.replace("_", " of the ")
            yield f"At the end the {label} is " + ", ".join(f"{cell(v)} ({k})" for k, v in ends.items()) + "."
    val: Sequence[Point] = run.curves.get("val/loss", ())
    if len(val) > 1:
        best = min(val, key=lambda point: point.value)
        yield f"Validation was best after epoch {best.epoch}: {cell(best.value)}."


def _log_probs(run: Run, name: str) -> Iterator[str]:
    metrics = run.evaluations.get("likelihood", {}).get("metrics", {})
    means = {key.split("/")[1]: value for key, value in metrics.items() if key.endswith("/log_prob")}
    if means:
        yield "Means: " + ", ".join(f"{split} {cell(value)}" for split, value in means.items()) + " nats."


def _auroc(run: Run, name: str) -> Iterator[str]:
    """The AUROCs of the figure's score."""
    rows: list[Mapping[str, Any]] = [row for row in run.tables() if {"score", "set", "AUROC"} <= row.keys()]
    own = [row for row in rows if name == f"ood_{row['score']}"]
    if own:
        values = ", ".join(f"{row['set']} {row['AUROC']:.3f}" for row in own)
        yield f"AUROC against {values}, of {own[0]['images']:,} images of each set."


_Numbers = Callable[[Run, str], Iterator[str]]
_LEARNED = "What the model has learned"
_KINDS: dict[str, tuple[str, str, _Numbers | None]] = {
    "loss_curves": (
        "Loss curves",
        "Every logged term against the training step; validation beside training where there is any.",
        _losses,
    ),
    "fid": ("Loss curves", "Distance of samples to test images over training (lower is better).", None),
    r"samples_\d+": ("Samples", "Samples of the final weights, none left out.", None),
    "samples_by_class": ("Samples", "Samples of each class, of the same noise in every row.", None),
    "samples_over_epochs": ("Samples", "How samples of the same noise change in training.", None),
    "reconstructions": (_LEARNED, "Images in the upper, reconstructions in the lower rows.", None),
    "interpolation": (_LEARNED, "Between two held-out images, along a line between their codes.", None),
    "traversals": (_LEARNED, "One latent dimension after the other, with all others held.", None),
    "latent_map": (_LEARNED, "Where codes lie, coloured by what the images are of.", None),
    "latent_grid": (_LEARNED, "What the decoder draws all over the latent plane.", None),
    "kl_per_dim": (_LEARNED, "What each latent dimension tells of the image.", None),
    "dictionary_atoms": (_LEARNED, "The atoms of the learned dictionary.", None),
    "sampling_steps": (_LEARNED, "From noise to samples, step by step.", None),
    "denoising": (_LEARNED, "What the model makes of held-out images under noise.", None),
    "likelihood_steps": ("Evaluations", "What each step of the chain adds to the bound.", None),
    "likelihood": ("Evaluations", "Distribution of log p(x) over images.", _log_probs),
    "classes": ("Evaluations", "Classes of samples and of real images, as the classifier sees them.", None),
    "reconstruction": ("Evaluations", "Distribution of the squared error over images.", None),
    "disentanglement": ("Evaluations", "What each latent dimension tells of each factor.", None),
    "ood_roc": ("Evaluations", "ROC curves: the model's own test images against each other set.", None),
    "ood_extremes": ("Evaluations", "The most and the least typical images of each set.", None),
    "ood_.*": ("Evaluations", "Distribution of a score over the images of each set.", _auroc),
}
"""By what the names of figures match: their section, what they show, and the numbers that belong to them."""
