"""The settings of a dataset: the YAML files in ``conf/dataset``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from genlab.config import Count, Fraction, Index, Seed, config
from genlab.data.formats import DspritesRendered, Format, Made
from genlab.data.images import SPLITS
from genlab.data.sources import Source

Binarization = Literal["static"]


@config
class DatasetConfig:
    """One set of images: how its files are read, and where they come from."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Also the name of its folder in the cache."""
    format: Format
    sources: tuple[Source, ...] = ()
    """Tried in this order."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of files' content (unzipped), by the file's name (without ``.gz``)."""
    root: str | None = None
    """The user's folder or file: all there is for ``npz`` and ``folder``, looked at first for others."""
    image_size: Count | None = None
    """Crop to the central square and resize to this many pixels a side; ``None`` leaves images be."""
    grayscale: bool = False
    """Turn RGB into its luma."""
    binarization: Binarization | None = None
    """``static``: draw every pixel once, white with probability ``x / 255``, by a fixed seed."""
    mutation_rate: Fraction = 0.0
    """Share of the pixels of training images that are replaced by any level, once, by a fixed seed."""
    limit: Count | None = None
    """Keep only the first so many images of train, and of test."""
    num_val: Index = 5000
    """Training images held out for validation."""
    split_seed: Seed = 0
    """Which training images those are."""

    def __post_init__(self) -> None:
        """Refuse what would be without effect."""
        files = {name for split in SPLITS for name in self.format.files(split)}
        if bool(files) != bool(self.sources):
            need = "needs" if files else "takes no"
            raise ValueError(f"format '{self.format.kind}' {need} sources")
        if unknown := sorted(set(self.checksums) - files):
            raise ValueError(f"checksums: '{unknown[0]}' is no file of this set")
        if self.root is not None and isinstance(self.format, Made | DspritesRendered):
            raise ValueError(f"root: '{self.format.kind}' makes its images and reads none")

    @property
    def label(self) -> str:
        """What results call the set: binarised or mutated images are another set than the grey ones."""
        kinds = [self.binarization, f"mutated{self.mutation_rate:g}" if self.mutation_rate else None]
        return "-".join([self.name, *(kind for kind in kinds if kind)])

    @property
    def factor_names(self) -> tuple[str, ...]:
        """The known factors of variation of the images; none for most sets."""
        return getattr(self.format, "factor_names", ())
