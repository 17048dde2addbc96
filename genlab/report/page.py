"""Pages that need no other file and no network: the one of a run, the one of a sweep or a comparison."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

import genlab


def render(template: str, **values: Any) -> str:
    """The page ``template`` with ``values``, all text among them escaped."""
    settings: Any = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        **settings,
    )
    return environment.get_template(template).render(**values, version=genlab.__version__)


def embedded(path: Path) -> str:
    """The PNG file as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
