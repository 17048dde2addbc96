"""Results as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich
from rich import box
from rich.console import Console
from rich.table import Table

from genlab.metrics.base import Result
from genlab.progress import is_hushed

_TIGHT: Any = {"pad_edge": False, "show_edge": False, "collapse_padding": True}
"""Eight columns of figures fit a terminal of 80 characters."""


def print_table(result: Result) -> None:
    """Print the rows of ``result`` under its title, its further tables, and its notes; nothing in a sweep."""
    if is_hushed():
        return
    print_rows(result.title, result.rows)
    for table in result.further:
        if table.printed:
            print_rows(table.title, table.rows)
    _print_notes(result.notes)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> None:
    """Print ``rows`` (values by column) under ``title``, and ``notes`` below them."""
    _console().print(_table(title, rows, wrap=not fits(rows)))
    _print_notes(notes)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        _console().print(note, markup=False, highlight=False, soft_wrap=True)


def fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a table of ``rows`` is narrow enough to be printed whole."""
    console = _console()
    unbounded = console.options.update(width=10_000)  # else what is measured is the console
    return console.measure(_table("", rows), options=unbounded).maximum <= console.width


def _table(title: str, rows: Sequence[Mapping[str, Any]], wrap: bool = False) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, **_TIGHT)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not wrap)
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    return table


def _console() -> Console:
    console = rich.get_console()
    if console.is_terminal:
        return console
    return Console(width=160)  # where nobody looks through a window there is no width to keep to


def cell(value: Any) -> str:
    """``value`` as a table shows it: rounded to what tells two results apart."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"
