"""The charts of TensorBoard's tab CUSTOM SCALARS, made from the tags that a run really logs."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHARED = {"loss": "losses", "grad_norm": "gradient norms", "lr": "learning rates", "d": "D(x) and D(G(z))"}
"""Titles of the charts that terms share which differ in their end: of several groups, of a discriminator."""
_CATEGORIES = {
    "loss": "Loss",
    "bits_per_dim": "Loss",
    "lr": "Optimisation",
    "grad_norm": "Optimisation",
    "images_per_second": "Speed",
}
_TERMS = "Terms"
_ORDER = ("Loss", _TERMS, "Optimisation", "Speed")

Layout = dict[str, dict[str, list[str | list[str]]]]
"""Charts by category and title, as ``SummaryWriter.add_custom_scalars`` takes them; tags are patterns."""


def layout(tags: Iterable[str]) -> Layout:
    """A chart for each term of training and validation together, in categories; callbacks have their own.

    Nothing here knows a model: what a VAE logs comes out as its KL and its reconstruction, what a GAN logs as
    both losses and as D(x) beside D(G(z)). TensorBoard joins the layouts of several runs, category by category.

    >>> tags = ["train/loss", "train/d_real", "train/d_fake", "val/loss", "fid/inception"]
    >>> for category, charts in layout(tags).items():
    ...     print(category, charts)
    Loss {'loss': ['Multiline', ['train/loss$', 'val/loss$']]}
    Terms {'D(x) and D(G(z))': ['Multiline', ['train/d_fake$', 'train/d_real$']]}
    fid {'inception': ['Multiline', ['fid/inception$']]}
    """
    charts: dict[tuple[str, str], dict[str, str]] = {}
    for tag in sorted(tags):
        category, chart, term = _place(tag)
        charts.setdefault((category, chart), {})[tag] = term
    found: Layout = {}
    for (category, chart), terms in sorted(charts.items(), key=lambda item: (_rank(item[0][0]), item[0])):
        title = _SHARED[chart] if len(set(terms.values())) > 1 else next(iter(terms.values()))
        patterns = [f"{re.escape(tag)}$" for tag in terms]  # TensorBoard matches at the beginning
        found.setdefault(category, {})[title] = ["Multiline", patterns]
    return found


def _place(tag: str) -> tuple[str, str, str]:
    """The category of a tag, the chart in it, and the term that it is of, whichever the split."""
    source, slash, term = tag.partition("/")
    if slash and source not in ("train", "val"):
        return source, term, term
    term = term if slash else tag
    chart = next((name for name in _SHARED if term == name or term.startswith(f"{name}_")), term)
    return _CATEGORIES.get(chart, _TERMS), chart, term


def _rank(category: str) -> int:
    return _ORDER.index(category) if category in _ORDER else len(_ORDER)
