"""What docstrings and YAML say of the keys of the configuration, and what type and range a key has."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from genlab.registry import Choice

KEY = re.compile(r"^( *)(\w+):[ ]*(.*?)[ ]*(?:#[ ]*(.*))?$", re.MULTILINE)
INLINE = re.compile(r"(\w+): (\[.*?\]|[^,{}]+)")
PLAIN = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", type(None): "`null`"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@cache
def written(path: Path, start: str) -> dict[str, tuple[str, str]]:
    """Value and comment, as they are written in a YAML file, of keys that begin with ``start``, less that."""
    entries: dict[str, tuple[str, str]] = {}
    above: list[tuple[int, str]] = []
    for indent, name, value, comment in KEY.findall(path.read_text() if path.is_file() else ""):
        above = [*(a for a in above if a[0] < len(indent)), (len(indent), name)]
        dotted = ".".join(key for _, key in above)
        inline = INLINE.findall(value) if value.startswith("{") else []
        entries[dotted] = ("" if inline else value, comment)
        entries |= {f"{dotted}.{key}": (plain, "") for key, plain in inline}
    return {key.removeprefix(start): entry for key, entry in entries.items() if key.startswith(start)}


def meanings(cls: type, comments: dict[str, str]) -> dict[str, str]:
    """What each field of ``cls`` means.

    The docstring under the field says it, or else the comment in YAML, or the sentences of the class's
    docstring that name the field.
    """
    found: dict[str, str] = {}
    for base in (c for c in cls.__mro__ if hasattr(c, "__pydantic_fields__")):
        sentences = re.split(r"(?<=[.;]) ", " ".join((base.__doc__ or "").split("References:")[0].split()))
        body: Any = ast.parse(inspect.getsource(base)).body[0]
        for field, after in zip(body.body, [*body.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            name, told = field.target.id, isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            under = str(after.value.value) if told else ""
            beside = " ".join(s for s in sentences if f"``{name}``" in s)
            found[name] = found.get(name) or plain(under or comments.get(name) or beside)
    return found


def plain(docstring: str) -> str:
    """On one line, without the marks of reStructuredText, and without a stop at the end."""
    text = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", " ".join(docstring.split()))
    return text.replace("``", "`").replace(" | ", " or ").replace("|", "\\|").rstrip(".;")


def members(hint: Any, metadata: Any = ()) -> list[type]:
    """The classes of the configuration that a value of the type ``hint`` may be of."""
    hint = next((m.union for m in metadata if isinstance(m, Choice)), hint)
    if hasattr(hint, "__pydantic_fields__"):
        return [hint]
    return [cls for member in get_args(hint) for cls in members(member)]


def takes(hint: Any, metadata: Any = ()) -> str:
    """A type and its range in words."""
    if hint in PLAIN:
        limits = [
            f"{sign} {getattr(m, b):.5g}" for m in metadata for b, sign in BOUNDS.items() if hasattr(m, b)
        ]
        return " ".join([PLAIN[hint], *limits])
    if hasattr(hint, "__metadata__"):
        return takes(hint.__origin__, hint.__metadata__)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {takes(get_args(hint)[0])}"
    inside = () if hasattr(get_origin(hint), "keys") else get_args(hint)
    return ", ".join(dict.fromkeys(map(takes, inside))) or ("mapping" if hint is not Any else "any")
