"""The figure of a diffusion's variational bound, term by term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from genlab.report.figures import blank, save, styled


def draw_step_terms(
    terms: Mapping[str, Tensor], strata: Sequence[tuple[int, int]], title: str, path: Path
) -> None:
    """What each step costs, by set: ``L_0`` and ``L_T`` as points, the steps between as a curve.

    ``terms`` are summands of the bound in bits/dim, ``(K + 1,)``: of each of the ``strata``, then ``L_T``.
    """
    between, last = strata[1:], strata[-1][1]
    middles = [(low * high) ** 0.5 for low, high in between]
    with styled():
        figure = blank(7, 4)
        axes = figure.subplots()
        for i, (name, values) in enumerate(terms.items()):
            first, *parts, prior = values.tolist()
            total = sum(values.tolist())
            steps = [part / (high - low + 1) for part, (low, high) in zip(parts, between, strict=True)]
            axes.plot(middles, steps, color=f"C{i}", label=f"{name}: {total:.3g} bits/dim in all")
            axes.plot(1, first, "o", color=f"C{i}", markersize=6 - 2 * i)
            axes.plot(last, prior, "^", color=f"C{i}", markersize=6 - 2 * i)
        axes.plot([], [], "o", color="grey", label="$L_0$, the first step")
        axes.plot([], [], "^", color="grey", label="$L_T$, the end")
        axes.set(xscale="log", yscale="log", xlabel="step t", ylabel="bits/dim per step", title=title)
        axes.legend(frameon=False)
        save(figure, path)
