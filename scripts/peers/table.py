"""The table of one task in Markdown: a line for each contestant."""

from __future__ import annotations

from statistics import median
from typing import Any

OURS = ("genlab", "genlab bf16")
"""Rows that all others are held against."""
Row = dict[str, Any]


def table(rows: list[Row], family: dict[str, Any], task: str) -> str:
    """Columns that no contestant has anything for are left out."""
    columns = {
        "": [row["name"] for row in rows],
        "parameters": [f"{row['parameters']:,}" if row["parameters"] else "" for row in rows],
        "ms/step": [f"{1e3 * median(row['seconds']) / row['steps']:,.2f}" for row in rows],
        "images/s": [f"{row['images'] / median(row['seconds']):,.0f}" if row["images"] else "" for row in rows],
    }
    for base in rows:
        if base["name"] in OURS:
            columns[f"{base['name']} is faster by"] = [lead(row, base) for row in rows]
    if task in ("epoch", "step"):
        columns["of the limit"] = [share(row, family) for row in rows]
    columns["peak MB"] = [memory(row, family) for row in rows]
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    ruler = ["---", *["---:"] * (len(kept) - 1)]
    lines = [list(kept), ruler, *zip(*kept.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def lead(row: Row, base: Row) -> str:
    """Its seconds over ``base``'s of the same round: median (least to greatest)."""
    if row is base:
        return ""
    low, middle, high = spread([a / b for a, b in zip(row["seconds"], base["seconds"], strict=True)])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def share(row: Row, family: dict[str, Any]) -> str:
    """Operations a second over those of a matrix product of that precision, by the faster library."""
    if not (family["operations"] and family["rates"]):
        return ""
    precision = "bf16" if "bf16" in row["name"] else "fp32"
    limit = max(median(rates) for name, rates in family["rates"].items() if name.startswith(precision))
    return f"{family['operations'] * row['steps'] / median(row['seconds']) / limit:.0%}"


def memory(row: Row, family: dict[str, Any]) -> str:
    held = family["memory"].get(row["name"])
    return f"{held / 1e6:,.0f}" if held else ""
