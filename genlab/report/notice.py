"""What to notice of a run: rules that read its numbers, each with a threshold and the reason for it.

A rule is a function of a :class:`~genlab.report.run.Run`. It gives ``None`` where the run has no numbers that
it could tell by, an empty text where all is well, and otherwise what is to be noticed, in plain sentences that
quote the numbers. Thresholds are such that a run with nothing wrong is not accused: a rule would rather say too
little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from genlab.report.measures import describe
from genlab.report.run import Point, Run
from genlab.report.table import cell

FEWEST = 4
"""Validations that a trend can be read from: of fewer, one that is off is a third of all."""
_PER_CLASS = 20
"""Samples for each class, of which chance leaves one out once in 10^8."""
_NOISES = 3.0
"""How many times the jitter of a curve a change has to be to be one."""


@dataclass(frozen=True)
class Rule:
    """``check`` under a ``name`` for people; what is ``serious`` puts the result in doubt, the rest hints."""

    name: str
    serious: bool
    check: Callable[[Run], str | None]


@dataclass(frozen=True)
class Notice:
    """What a rule has found."""

    name: str
    serious: bool
    text: str


def notices(run: Run) -> tuple[list[Notice], list[str]]:
    """What is to be noticed, the serious first, and the names of the rules that found nothing."""
    found = [(rule, rule.check(run)) for rule in RULES]
    noticed = [Notice(rule.name, rule.serious, text) for rule, text in found if text]
    return sorted(noticed, key=lambda notice: not notice.serious), [r.name for r, text in found if text == ""]


# --------------------------------------------------------------------------------------- curves


def stages(points: Sequence[Point]) -> list[list[Point]]:
    """``points`` of a curve by stage of training: epochs are counted anew in each."""
    parts: list[list[Point]] = []
    for point in points:
        if not parts or point.epoch < parts[-1][-1].epoch:
            parts.append([])
        parts[-1].append(point)
    return parts


def jitter(values: Sequence[float]) -> float:
    """The standard deviation of the noise on a curve, by its second differences: a trend has none.

    Median and not mean, so that a bend does not count.

    >>> jitter([5.0, 4.0, 3.0, 2.0, 1.0])
    0.0
    """
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return statistics.median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0


def _losses(run: Run) -> Iterator[tuple[list[Point], list[Point]]]:
    """The validation loss of each stage that has enough of it, and the training loss beside it.

    Only where one loss is minimised: those of two players say nothing by falling or rising.
    """
    trained = stages(run.curves.get("train/loss", ()))
    for val in stages(run.curves.get("val/loss", ())):
        if len(val) >= FEWEST and all(math.isfinite(point.value) for point in val):
            beside = [part for part in trained if part[0].step <= val[-1].step <= part[-1].step + 1]
            yield val, beside[-1] if beside else []


def _of_epoch(train: Sequence[Point], end: Point, val: Sequence[Point]) -> float | None:
    """The mean of a training curve over the epoch that ``end``, a point of validation, came after."""
    steps = val[-1].step - val[-2].step
    values = [point.value for point in train if end.step - steps < point.step <= end.step]
    return statistics.fmean(values) if values else None


def _at_end(run: Run, name: str) -> float | None:
    """The mean of a training curve over the last tenth of its points, of ten points at least."""
    values = [point.value for point in run.curves.get(name, ())]
    return statistics.fmean(values[-max(10, len(values) // 10) :]) if len(values) >= 10 else None


# --------------------------------------------------------------------------------------- rules


def unfinished(run: Run) -> str | None:
    """A run without its final summary, or that logged beyond it, did not come to its end."""
    if run.ended:
        return ""
    if run.error:
        return f"Training broke off after step {run.last_step:,}: {run.error}."
    way = "" if run.folder.last.exists() else " It has no checkpoint yet."
    return (
        f"Training has not come to its end: the last step that was logged is {run.last_step:,}. What follows "
        f"is of a model on its way.{way} Continue it with: genlab train resume={run.folder.path}"
    )


def not_finite(run: Run) -> str | None:
    """Any loss or metric that is infinite or no number: there is no healthy run with one."""
    logged = {name: points for name, points in run.curves.items() if name.startswith(("train/", "val/"))}
    metrics = run.summary.get("metrics", {})
    if not logged and not metrics:
        return None
    first = [
        (point.step, f"{name} was {point.value} at step {point.step:,} (epoch {point.epoch})")
        for name, points in logged.items()
        if (point := next((p for p in points if not math.isfinite(p.value)), None))
    ]
    finals = [f"{k} is {v}" for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)]
    said = [text for _, text in sorted(first)[:3]] or finals[:3]
    if not said:
        return ""
    return (
        f"Not every number is finite: {'; '.join(said)}. The model's numbers have overflowed; a lower "
        "trainer.optimizer.lr or trainer.clip_grad_norm keeps them in range."
    )


def diverged(run: Run) -> str | None:
    """Validation ends worse than after its first epoch, and training with it: what was learned is lost.

    A loss that overfits rises in validation alone, so the end of training has to be worse than its own middle
    too; warm-ups, which raise the training loss by design, are over by validation, which has full weight.
    """
    known = False
    for val, train in _losses(run):
        known = True
        values = [point.value for point in val]
        best = min(val, key=lambda point: point.value)
        rise = values[-1] - values[0]
        at_best, at_end = (_of_epoch(train, point, val) for point in (best, val[-1]))
        with_it = at_best is not None and at_end is not None and at_end > at_best
        large = rise > max(_NOISES * jitter(values), 0.01 * abs(values[0]))
        if best is not val[-1] and large and with_it:
            return (
                f"The loss diverged: validation began at {cell(values[0])}, was best after epoch {best.epoch} "
                f"({cell(best.value)}) and ended at {cell(values[-1])}, and training rose with it. Lower "
                "trainer.optimizer.lr, or set trainer.clip_grad_norm."
            )
    return "" if known else None


def overfitting(run: Run) -> str | None:
    """Validation rises for three epochs while training falls.

    The mean of the last three epochs has to be above the best by a twentieth of all that was ever gained, and
    by three times the jitter, as the best of many noisy values lies below the others by chance.
    """
    known = False
    for val, train in _losses(run):
        known = True
        values = [point.value for point in val]
        best = min(val, key=lambda point: point.value)
        after = [point for point in val if point.step > best.step]
        if len(after) < 3 or not train:
            continue
        rise = statistics.fmean(values[-3:]) - best.value
        at_best, at_end = (_of_epoch(train, point, val) for point in (best, val[-1]))
        falling = at_best is not None and at_end is not None and at_end < at_best
        if falling and rise > 0.05 * (values[0] - best.value) and rise > _NOISES * jitter(values):
            return (
                f"The model overfits: validation loss was lowest after epoch {best.epoch} ({cell(best.value)}) "
                f"and ended at {cell(values[-1])}, while training loss fell on, from {cell(at_best)} to "
                f"{cell(at_end)}. Evaluations take the weights of the best epoch where trainer.monitor names "
                "the loss. More images, a smaller model or callbacks=early_stopping help."
            )
    return "" if known else None


def still_improving(run: Run) -> str | None:
    """The last quarter of training brought more than a twentieth of all that validation gained.

    A run that has converged gains less there; three times the jitter, lest noise pass for progress.
    """
    if not run.ended:
        return None
    parts = list(_losses(run))
    if not parts:
        return None
    val, _ = parts[-1]  # stages before it are done with
    values = [point.value for point in val]
    at = val[0].step + 0.75 * (val[-1].step - val[0].step)
    before = next((a, b) for a, b in pairwise(val) if b.step >= at)
    share = (at - before[0].step) / (before[1].step - before[0].step)
    gained = before[0].value + share * (before[1].value - before[0].value) - values[-1]
    noise = jitter(values[len(values) // 2 - 1 :])
    if gained <= 0.05 * (values[0] - values[-1]) or gained <= _NOISES * noise or values[-1] > min(values):
        return ""
    return (
        f"Validation loss was still falling: the last quarter of training took it from "
        f"{cell(values[-1] + gained)} to {cell(values[-1])}. A longer run would likely end lower: genlab train "
        f"resume={run.folder.path} {_twice(run, val[-1])}"
    )


def _twice(run: Run, end: Point) -> str:
    """The override with which training takes twice as long."""
    key = "max_steps" if run.setting("trainer", "max_steps") else "epochs"
    return f"trainer.{key}={2 * int(run.setting('trainer', key) or end.epoch)}"


def posterior_collapse(run: Run) -> str | None:
    """Fewer than a tenth of the latent dimensions are active, or the KL is below half a nat in all.

    Many latent dimensions of a good VAE rest: of 50, 20 to 30 are active on MNIST (Burda et al. 2016). The KL
    bounds what a code tells of its image: to name one of ten digits takes log 10 = 2.3 nats.
    """
    active, kl = run.last("posterior/active_units"), run.last("val/kl")
    if active is None and kl is None:
        return None
    total = run.setting("model", "latent_dim")
    said = []
    if active is not None and (active == 0 or (isinstance(total, int) and active < total / 10)):
        of = f" of {total}" if isinstance(total, int) else ""
        said.append(f"{active:.0f}{of} latent dimensions are active")
    if kl is not None and kl < 0.5:
        said.append(f"the KL of the posterior to the prior is {kl:.2g} nats in all")
    if not said:
        return ""
    return (
        f"The posterior has collapsed: {' and '.join(said)}, so that the decoder draws much the same whatever "
        "the code. A longer model/warmup, model.objective.free_bits or a smaller model.beta work against it."
    )


def mode_collapse(run: Run) -> str | None:
    """Classes, or kinds of images, that samples leave out.

    Modes: a class that real images show and samples do not, given enough samples. Class KL: 0.22 nats is what
    two of ten classes left out cost, log(10 / 8). Coverage: less than half of what training images reach under
    the same count, while most samples (precision) lie among real images; else they are poor, not few of kind.
    """
    samples, real = _against_training(run)
    enough = samples.get("images", 0) >= _PER_CLASS * real.get("modes", math.inf)
    kl = samples.get("class KL") if enough else None
    if not samples and int(run.setting("callbacks", "fid", "num_samples") or 0) >= 10 * _PER_CLASS:
        kl = next((run.last(name) for name in run.curves if describe(name).name == "class KL"), None)
    if not samples and kl is None:
        return None
    said = list(_left_out(samples, real, enough))
    if kl is not None and kl > 0.22:
        said.append(f"their classes are {kl:.2f} nats from the data's (class KL)")
    if not said:
        return ""
    poor = samples.get("precision", 1.0) < 0.5 * real.get("precision", 1.0)
    cause = (
        f"few of them look real, too (precision {samples['precision']:.2f}): this may be a model on its way"
        if poor
        else "samples that look real but are few of kind are mode collapse"
    )
    return f"The samples lack variety: {'; '.join(said)}. See the grid of samples: {cause}."


def _against_training(run: Run) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What ``evaluation=fid`` found of samples, and of training images in their place."""
    rows = [row for row in run.tables() if {"measure", "samples", "training images"} <= row.keys()]
    rows = [row for row in rows if None not in row.values()]
    return tuple({row["measure"]: row[of] for row in rows} for of in ("samples", "training images"))  # type: ignore[return-value]


def _left_out(samples: Mapping[str, float], real: Mapping[str, float], enough: bool) -> Iterator[str]:
    if enough and samples["modes"] < real["modes"]:
        yield f"they show {samples['modes']:.0f} of {real['modes']:.0f} classes"
    reached = real.get("coverage", 0.0)
    if samples.get("coverage", 1.0) < reached / 2 and samples.get("precision", 0.0) > 0.5:
        yield f"coverage is {samples['coverage']:.2f} where training images reach {reached:.2f}"


def discriminator_won(run: Run) -> str | None:
    """Over the last tenth of training real images get more than 0.95 and generated ones less than 0.05.

    A balanced game stays well between; beyond that the generator's gradient is next to nothing (for minimax it
    is D(G(z)) itself). Smoothed labels lower what real images can get; margins of -1 and 1 are brought to 0 and
    1; a Wasserstein critic has no such scale.
    """
    loss = run.setting("model", "loss", "name")
    real, fake = _at_end(run, "train/d_real"), _at_end(run, "train/d_fake")
    if real is None or fake is None or loss in (None, "wasserstein"):
        return None
    top = 1 - float(run.setting("model", "loss", "label_smoothing") or 0.0)
    low, high = (fake, real) if loss != "hinge" else ((fake + 1) / 2, (real + 1) / 2)
    if not (high > 0.95 * top and low < 0.05):
        return ""
    return (
        f"The discriminator has won: at the end D(x) is {real:.3f} and D(G(z)) is {fake:.3f}, and a generator "
        "that is always found out learns next to nothing. A weaker or slower discriminator "
        "(trainer.groups.discriminator.optimizer.lr), model.loss.r1 or model/loss=wasserstein_gp keep the game "
        "open."
    )


def samples_worsened(run: Run) -> str | None:
    """FID ended at more than one and a half times its best; adversarial training moves it by a fifth."""
    curves = {n: p for n, p in run.curves.items() if n.startswith("fid/") and describe(n).name == "FID"}
    known = False
    for name, points in curves.items():
        # The first at each step: an evaluation measures the last one again, by another number of samples.
        by_step = {point.step: point for point in reversed(points)}
        every = [by_step[step] for step in sorted(by_step) if math.isfinite(by_step[step].value)]
        if len(every) < 3:
            continue
        known = True
        best = min(every, key=lambda point: point.value)
        if every[-1].value > 1.5 * best.value:
            return (
                f"Samples got worse: {name} was {cell(best.value)} after epoch {best.epoch} and "
                f"{cell(every[-1].value)} at the end."
            )
    return "" if known else None


def ood_reversed(run: Run) -> str | None:
    """An AUROC below 0.45 whose bootstrap interval lies below 0.5: chance alone gives 0.5, give or take."""
    rows = [row for row in run.tables() if {"score", "set", "AUROC", "high"} <= row.keys()]
    if not rows:
        return None
    reversed_ = [row for row in rows if row["AUROC"] < 0.45 and row["high"] < 0.5]
    if not reversed_:
        return ""
    pairs = [f"{row['score']} against {row['set']} ({row['AUROC']:.3f})" for row in reversed_]
    more = f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""
    return (
        f"AUROC is below 0.5 for {', '.join(pairs[:4])}{more}: the score takes those images for more typical "
        "than the model's own test images. For the likelihood of simpler sets that is known (Nalisnick et al. "
        "2019); evaluation.scores=all tries scores that correct it."
    )


RULES = (
    Rule("an early end", True, unfinished),
    Rule("numbers that are not finite", True, not_finite),
    Rule("divergence", True, diverged),
    Rule("overfitting", True, overfitting),
    Rule("posterior collapse", True, posterior_collapse),
    Rule("samples that lack variety", True, mode_collapse),
    Rule("a discriminator that has won", True, discriminator_won),
    Rule("samples that got worse", True, samples_worsened),
    Rule("OOD detection the wrong way round", False, ood_reversed),
    Rule("training that was still improving", False, still_improving),
)
"""In the order in which they are told."""
