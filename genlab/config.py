"""Composed YAML -> checked, frozen dataclasses.

A class that takes settings has a ``Config`` made by :func:`config`: field types and ranges (as
``typing.Annotated`` bounds) are the whole declaration. :func:`parse` fills one from a mapping, with the
strictness of JSON (no ``"3"`` for 3, no ``true`` for 1), and turns what doesn't fit into one line that names
the key, what it got and what it takes.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from annotated_types import Ge, Gt, Le, Lt
from omegaconf import OmegaConf
from pydantic_core import ErrorDetails

from genlab import plain_yaml
from genlab.errors import ConfigError, did_you_mean
from genlab.registry import Choice

T = TypeVar("T")

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
Index = Annotated[int, Ge(0)]
"""A whole number of at least 0."""
Positive = Annotated[float, Gt(0)]
"""A number above 0."""
NonNegative = Annotated[float, Ge(0)]
"""A number of at least 0."""
Fraction = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""
ProperFraction = Annotated[float, Ge(0), Lt(1)]
"""A number from 0 to below 1."""
OpenFraction = Annotated[float, Gt(0), Lt(1)]
"""A number above 0 and below 1."""
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""A seed of a random number generator."""


def _inside(name: str) -> str:
    """``name``, which is to become a folder's, if it stays below the folder that it is put in."""
    if not name.isprintable() or not name.strip() or name.startswith(("/", "~")) or ".." in name.split("/"):
        raise ValueError(f"{name!r} is no name of a folder below another")
    return name


FolderName = Annotated[str, pydantic.AfterValidator(_inside)]
"""The name of a folder inside another, ``a/b`` for instance: it leads nowhere else, and can be printed."""
OmegaConf.register_new_resolver("inside", _inside, replace=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass whose field types and ranges are enforced.

    >>> @config
    ... class Config:
    ...     num_flows: Count = 8
    >>> Config(num_flows=4)
    Config(num_flows=4)
    """
    settings = pydantic.ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=settings)
    made: type[T] = make(cls)  # type: ignore[assignment]
    return made


def quoted(path: Path) -> str:
    """``path`` as a value of an override: nothing in it has a meaning to Hydra.

    Raises:
        ConfigError: Hydra would fill something in, more often than can be escaped.
    """
    if "${" in str(path):
        raise ConfigError(f"{path}: Hydra fills in what follows '${{'; rename that folder")
    escaped = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), str(path))
    return f"'{escaped}'"


def parse(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of ``cls`` from plain values, ``where`` naming their place in the whole (``"model"``).

    Raises:
        ConfigError: an unknown or missing key, a wrong type, a value out of range.

    >>> @config
    ... class Config:
    ...     num_flows: Count = 8
    >>> parse(Config, {"num_flow": 4}, "model")
    Traceback (most recent call last):
    genlab.errors.ConfigError: unknown key 'model.num_flow'; did you mean 'num_flows'?
    >>> parse(Config, {"num_flows": "many"}, "model")
    Traceback (most recent call last):
    genlab.errors.ConfigError: model.num_flows='many': input should be a valid integer
    """
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where or 'the configuration'} is more than plain values: {error}") from None
    try:
        made: T = pydantic.TypeAdapter(cls).validate_json(text, strict=True)
        return made
    except pydantic.ValidationError as error:
        problems: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            path, line = _explain(cls, detail, values, where)
            problems.setdefault(path, []).append(line)
        (first, *others), *rest = problems.values()
        # Of a value that may be of several types there is a line for each of them.
        alternatives = "".join(f" or {line.rpartition('should be ')[2]}" for line in others)
        more = f" (and {len(rest)} more)" if rest else ""
        raise ConfigError(first + alternatives + more) from None


def _explain(cls: type, detail: ErrorDetails, values: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The key that doesn't fit, and one line about it."""
    keys = [where] if where else []
    parent: Any = cls
    node: Any = cls
    here: Any = values
    for part in detail["loc"]:
        missing = part == detail["loc"][-1] and detail["type"].startswith("missing")
        if not (missing or _holds(here, part)):
            node = _member(node, str(part))  # the tag of a union, which is no key of the user's
            continue
        keys.append(str(part))
        parent, node = node, _fields(node).get(str(part))
        here = here[part] if _holds(here, part) else here
    path = ".".join(keys)
    return path, _line(path, detail, _fields(parent))


def _line(path: str, detail: ErrorDetails, known: Iterable[str]) -> str:
    """What is wrong with the key ``path``, which stands among the ``known`` ones."""
    match detail["type"]:
        case "unexpected_keyword_argument":
            return f"unknown key '{path}'{did_you_mean(path.rpartition('.')[2], known)}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"key '{path}' is missing"
        case "union_tag_invalid":
            tags = [tag.strip("' ") for tag in detail["ctx"]["expected_tags"].split(",")]
            key = detail["ctx"]["discriminator"].strip("'")
            return f"unknown {path}.{key} '{detail['ctx']['tag']}'{did_you_mean(detail['ctx']['tag'], tags)}"
        case "value_error":
            return f"{path}: {detail['ctx']['error']}" if path else str(detail["ctx"]["error"])
    return f"{path}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _holds(values: Any, key: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(key, int) and key < len(values)
    return isinstance(values, Mapping) and key in values


def _fields(node: Any) -> dict[str, Any]:
    """Field name -> type of a config class; empty for anything else."""
    fields = getattr(node, "__pydantic_fields__", {}).items()
    unions = {name: m.union for name, field in fields for m in field.metadata if isinstance(m, Choice)}
    return {name: field.annotation for name, field in fields} | unions


def _member(union: Any, tag: str) -> Any:
    """The member of a union of config classes that carries ``tag`` in one of its literals."""
    for member in typing.get_args(union):
        if any(tag in typing.get_args(hint) for hint in _fields(member).values()):
            return member
    return None


def conf_dir() -> Path:
    """The folder of genlab's own YAML groups: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def option_files(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The YAML files of a group by name, a file in an earlier folder hiding one of its name in a later."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_option(group: str, name: str, folders: Iterable[Path]) -> dict[str, Any]:
    """The plain values of ``group/name.yaml``, for a set that is named in another setting.

    Raises:
        ConfigError: there is no such file.
    """
    files = option_files(group, folders)
    if name not in files:
        raise ConfigError(f"unknown {group} '{name}'{did_you_mean(name, files)}")
    values = plain_yaml.read(files[name])
    if not isinstance(values, dict):
        raise ConfigError(f"{files[name]} is no mapping of keys to values")
    return {str(key): value for key, value in values.items()}
