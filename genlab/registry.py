"""Name -> class, filled by decorators, with "did you mean" for a name that is not there."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import pydantic
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from genlab.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=type[Any])


class Registry(Generic[T]):
    """The classes of one kind, by the name that their YAML gives.

    Modules of ``package`` are imported on the first look-up, so that a new file there is found
    without being listed anywhere; modules elsewhere register when :func:`import_plugins` loads them.
    Every class but an extractor's has a ``Config`` dataclass beside it as its attribute ``Config``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator. Raises :class:`ConfigError` where another class has the name."""

        def add(cls: T) -> T:
            other = self._classes.get(name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"two classes register the {self.kind} '{name}': "
                    f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
                )
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._classes:
            raise ConfigError(f"unknown {self.kind} '{name}'{did_you_mean(name, self._classes)}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._classes)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")


MODELS: Registry[type[Any]] = Registry("model", "genlab.models")
CALLBACKS: Registry[type[Any]] = Registry("callback", "genlab.callbacks")
EVALUATIONS: Registry[type[Any]] = Registry("evaluation", "genlab.metrics")
EXTRACTORS: Registry[type[Any]] = Registry("extractor", "genlab.extractors")
SCORES: Registry[type[Any]] = Registry("score", "genlab.ood")


class Choice:
    """The configuration classes that a setting may be of, told apart by the literal in their field ``key``.

    It annotates the type that they have in common, and a plugin adds a class of its own:

    >>> from genlab.config import config
    >>> @config
    ... class Plain:
    ...     name: typing.Literal["plain"] = "plain"
    >>> losses = Choice("loss", "name", Plain)
    >>> @losses.register
    ... @config
    ... class Mine:
    ...     name: typing.Literal["mine"] = "mine"
    ...     weight: float = 1.0
    >>> pydantic.TypeAdapter(Annotated[Any, losses]).validate_python({"name": "mine", "weight": 2.0})
    Mine(name='mine', weight=2.0)
    """

    def __init__(self, kind: str, key: str, *classes: type[Any]) -> None:
        self.kind, self._key = kind, key
        self._classes = {self._tag(cls): cls for cls in classes}

    def register(self, cls: T) -> T:
        """Class decorator. Raises :class:`ConfigError` where another class has the name."""
        tag = self._tag(cls)
        if (other := self._classes.get(tag, cls)).__module__ != cls.__module__:
            raise ConfigError(
                f"two classes register the {self.kind} '{tag}': {other.__module__} and {cls.__module__}"
            )
        self._classes[tag] = cls
        return cls

    @property
    def union(self) -> Any:
        """The classes as one type."""
        return typing.Union[tuple(self._classes.values())]  # noqa: UP007 (a tuple)

    def _tag(self, cls: type[Any]) -> str:
        (tag,) = typing.get_args(cls.__pydantic_fields__[self._key].annotation)
        return str(tag)

    def _validate(self, value: Any) -> Any:
        if type(value) in self._classes.values():
            return value
        chosen: Any = Annotated[self.union, pydantic.Discriminator(self._key)]
        return pydantic.TypeAdapter[Any](chosen).validate_json(json.dumps(value), strict=True)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Looked up anew for every value, as plugins are imported after the classes that hold it."""
        return core_schema.no_info_plain_validator_function(self._validate)


def import_plugins(modules: Iterable[str]) -> None:
    """Import the user's modules, from the Python path or the current folder, so that they register.

    Raises:
        ConfigError: a module that is not there or fails to import.
    """
    for name in modules:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"plugins: module '{name}' fails to import: {error}") from error
