"""The page in Markdown of the JSON that the benchmark writes."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

from peers.table import spread, table

BEGIN, END = "<!-- tables: scripts/bench.py --table -->", "<!-- end of tables -->"
TASKS = {
    "epoch": "epochs of {images:,} images, end to end",
    "step": "bare steps on one batch",
    "sample": "steps of DDIM, {images} images",
    "distance": "statistics and distance",
    "score": "arithmetic alone",
}


def page(results: list[dict[str, Any]]) -> str:
    return "\n\n".join(section(result) for result in results)


def section(result: dict[str, Any]) -> str:
    """Of one machine."""
    m = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    lines = [
        f"## {m['device']}, {m['threads']} of {m['cores']} threads",
        f"{m['date']}, torch {m['torch']}, Python {m['python']}, genlab {m['genlab']}, {packages}.",
        f"Options: {result['options']}. Images: {result['images']}.",
    ]
    for family in result["families"].values():
        for task, rows in family["tasks"].items():
            what = TASKS[task].format(images=rows[0]["images"])
            lines += [f"### {family['title']}: {what}", table(rows, family, task)]
        lines += [f"Left out: {name} ({why})." for name, why in family["missing"].items()]
        lines += limits(family["rates"])
    if result["start_up"]:
        low, middle, high = spread(result["start_up"])
        count = len(result["start_up"])
        lines.append(f"### Start-up\n\n{middle:.2f} s ({low:.2f} to {high:.2f}, {count} processes).")
    return "\n\n".join(lines)


def limits(rates: dict[str, list[float]]) -> list[str]:
    """What the device reached between the rounds."""
    if not rates:
        return []
    found = [f"{name} {median(each) / 1e9:,.0f} GFLOP/s" for name, each in rates.items() if name != "copy"]
    return [
        f"Limits, measured between rounds: {', '.join(found)}; copy {median(rates['copy']) / 1e9:.1f} GB/s."
    ]


def fill(path: Path, text: str) -> None:
    """Put ``text`` between the marks of a document."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    filled, found = pattern.subn(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", path.read_text())
    if not found:
        raise SystemExit(f"{path} has no place for tables: put {BEGIN} and {END} into it")
    path.write_text(filled)
