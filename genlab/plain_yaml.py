"""YAML that a stranger may have written: plain values, of a bounded size, that run no code.

What is looked at is the graph of a document's nodes, in which an alias costs nothing; only what is found to be
small when all aliases are written out becomes values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from genlab.errors import ConfigError

MAX_BYTES = 1_000_000
"""Of one file; the configuration of a run has some 3,000."""
MAX_NODES = 50_000
"""Keys and values of one file, with its aliases written out."""

_OF_HYDRA = re.compile(
    r"(hydra_plugins|hydra\._internal\.core_plugins)(\.[a-z_]\w*)+\.[A-Z]\w*(Launcher|Sweeper)"
)
_OF_LOGGING = re.compile(r"logging\.(\w+)|logging\.handlers\.(\w+)|genlab\.progress\.ConsoleHandler")


def read(path: Path) -> Any:
    """The plain values of a file, interpolations left as they are written.

    Raises:
        ConfigError: it is no YAML, too large, or would run code.
    """
    return parse(text_of(path), path, _check_option)


def parse_saved(text: str, path: Path) -> Any:
    """The values of a run's saved configuration, ``text``, from ``path``: composed, with nothing to fill in.

    Raises:
        ConfigError: as of :func:`read`, or it has interpolations, or keys that only Hydra has a use for.
    """
    return parse(text, path, _check_saved)


def check_folder(folder: Path) -> None:
    """Look through all YAML of a folder that Hydra is to compose from. Raises as :func:`read` does."""
    for path in sorted(folder.rglob("*.yaml")):
        if path.is_file():
            _nodes(text_of(path), path, _check_option)


def parse(text: str, path: Path, check: Callable[[str, str], str | None]) -> Any:
    """The values of ``text``; ``check`` takes each key with its value and says why they are refused, if so."""
    _nodes(text, path, check)
    try:
        return OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # of a lone number OmegaConf says no more than that it asserts
        raise _unreadable(path, error) from None


def text_of(path: Path) -> str:
    """The text of a file. Raises as :func:`read` does where it is too large, or no text."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, which no configuration is")


def _nodes(text: str, path: Path, check: Callable[[str, str], str | None]) -> None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        size = 0 if root is None else _written_out(root, {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if size > MAX_NODES:
        raise ConfigError(f"{path} has more than {MAX_NODES} values once its aliases are written out")
    for key, value in _pairs(root, ""):
        if problem := check(key, value):
            raise ConfigError(f"{path} is refused: {problem}")


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Keys and values below ``node``; ``known`` are those of nodes that were met before."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # what a node counts for inside itself: YAML may be circular
        parts = [part for item in _items(node) for part in item]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _items(node: yaml.Node) -> list[tuple[yaml.Node, ...]]:
    if isinstance(node, yaml.MappingNode):
        return list(node.value)
    return [(part,) for part in node.value] if isinstance(node, yaml.SequenceNode) else []


def _pairs(node: yaml.Node | None, key: str) -> Iterator[tuple[str, str]]:
    """All scalars with the key that they are under; a key that has no scalar, with an empty text."""
    if isinstance(node, yaml.ScalarNode):
        yield key, str(node.value)
    elif node is not None:
        yield key, ""
        for *name, value in _items(node):
            yield from _pairs(value, str(name[0].value) if name else key)


def _check_option(key: str, value: str) -> str | None:
    """What runs code when Hydra or ``logging`` set themselves up: anything but their own parts."""
    allowed = {"_target_": _OF_HYDRA, "class": _OF_LOGGING}
    if (key in allowed and not allowed[key].fullmatch(value)) or key == "()" or value.startswith("ext://"):
        return (
            f"'{key}: {value}' would run code; a YAML of genlab's names classes by `name`, from its registries"
        )
    return None


def _check_saved(key: str, value: str) -> str | None:
    if key.startswith("_") or key in ("defaults", "hydra", "()"):
        return f"the key '{key}' has a meaning to Hydra alone, and no run saves one"
    if "${" in key + value:
        return f"'{key}: {value}' is to be filled in from elsewhere, and a run saves plain values"
    return None


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} can't be read: {' '.join(str(error).split()) or type(error).__name__}")
