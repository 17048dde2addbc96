"""Name -> class, filled by decorators, with "did you mean" for a name that is not there."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

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
