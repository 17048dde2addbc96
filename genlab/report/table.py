"""Results as a table on the terminal."""

from __future__ import annotations

from typing import Any

import rich
from rich import box
from rich.console import Console
from rich.table import Table

from genlab.metrics.base import Result

_TIGHT: Any = {"pad_edge": False, "show_edge": False, "collapse_padding": True}
"""Eight columns of figures fit a terminal of 80 characters."""


def print_table(result: Result) -> None:
    """Print the rows of ``result`` under its title, and its notes."""
    columns = list(dict.fromkeys(key for row in result.rows for key in row))
    table = Table(title=result.title, title_justify="left", box=box.SIMPLE_HEAD, **_TIGHT)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in result.rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = rich.get_console()
    if not console.is_terminal:
        console = Console(width=160)  # where nobody looks through a window there is no width to keep to
    console.print(table)
    for note in result.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return str(value)
