"""What people call a metric, in what unit, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Measure:
    """A metric in words.

    ``of`` says what it was measured with or on; ``better`` is ``None`` where neither way is, or where two
    models' values do not compare. A ``detail`` is a part or a by-product of another measure.
    """

    name: str
    of: tuple[str, ...] = ()
    unit: str = ""
    better: Better | None = None
    detail: bool = False

    def label(self, remarks: Sequence[str] = ()) -> str:
        """The name with what it is of, ``remarks`` included, and its unit.

        >>> describe("fid/fashion_cnn").label(["2,000 samples"])
        'FID (fashion_cnn, 2,000 samples)'
        """
        of = ", ".join([*self.of, *remarks])
        return self.name + (f" ({of})" if of else "") + (f", {self.unit}" if self.unit else "")


_QUALITY: dict[str, tuple[str, Better | None]] = {
    "fid": ("FID", "lower"),
    "kid": ("KID", "lower"),
    "kid_std": ("standard deviation of the KID", None),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "density": ("density", "higher"),
    "coverage": ("coverage", "higher"),
    "modes": ("modes", "higher"),
    "class_kl": ("class KL", "lower"),
    "class_accuracy": ("class accuracy", "higher"),
}
_NATS = "nats per image"
_LIKELIHOOD: dict[str, tuple[str, str, Better | None]] = {
    "bits_per_dim": ("bits/dim", "", "lower"),
    "log_prob": ("log p(x)", _NATS, None),  # of 256 levels or of two: models' values do not compare
    "nelbo": ("NELBO", _NATS, None),
}
_TERMS = ("reconstruction", "kl", "diffusion", "prior")
"""What bounds are sums of."""
_RECONSTRUCTION: dict[str, tuple[str, Better]] = {
    "mse": ("MSE", "lower"),
    "psnr": ("PSNR", "higher"),
    "ssim": ("SSIM", "higher"),
}
_IWAE = re.compile(r"iwae_(\d+)")


def describe(metric: str) -> Measure:
    """The metric of that name, ``fid/fashion_cnn`` for instance; one that is unknown keeps its name."""
    match metric.split("/"):
        case ["fid", extractor, measure] if measure in _QUALITY:  # as the callback has it
            return _quality(measure, extractor)
        case [measure, extractor] if measure in _QUALITY:
            return _quality(measure, extractor)
        case ["likelihood", split, term]:
            return _likelihood(split, term) or Measure(metric)
        case ["reconstruction", split, term] if term in _RECONSTRUCTION:
            name, better = _RECONSTRUCTION[term]
            return Measure(name, (split,), "dB" if term == "psnr" else "", better)
        case ["ood", score, other, "AUROC"]:
            return Measure(f"AUROC against {other}", (score,), better="higher")
        case ["ood", name, "log_prob"]:
            return Measure("log p(x)", (name,), _NATS, detail=True)
        case ["ood", name, "code_log_prob"]:
            return Measure("log p(code)", (name,), "nats per code", detail=True)
        case ["sampling", "seconds_per_1000"]:
            return Measure("sampling of 1,000 images", unit="s", better="lower")
        case ["val", "loss"]:
            return Measure("validation loss")
    return Measure(metric)


def _quality(measure: str, extractor: str) -> Measure:
    name, better = _QUALITY[measure]
    return Measure(name, (extractor,), better=better, detail=measure == "kid_std")


def _likelihood(split: str, term: str) -> Measure | None:
    if match := _IWAE.fullmatch(term):
        return Measure(f"IWAE-{match[1]}", (split,), _NATS)
    if (part := term.removesuffix("_bits_per_dim")) in _TERMS:
        return Measure(f"{part} term", (split,), _NATS if part == term else "bits/dim", detail=True)
    if term not in _LIKELIHOOD:
        return None
    name, unit, better = _LIKELIHOOD[term]
    return Measure(name, (split,), unit, better)
