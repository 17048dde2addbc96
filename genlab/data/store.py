"""Where the files of one dataset are found, brought to, and verified."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genlab.data.fetch import DEFLATE_RATIO, MAX_BYTES, UnavailableError, log, reason_of, replacing
from genlab.data.mirrors import file_md5s
from genlab.data.sources import Source, Torchvision, Url
from genlab.errors import ConfigError, DataError
from genlab.own import user_cache

if TYPE_CHECKING:
    from genlab.data.config import DatasetConfig


class Store:
    """The files of ``config``'s dataset: what a format reads from, and what a source writes to.

    A file goes by the name of its content: ``train-images-idx3-ubyte`` may be stored with ``.gz``.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config

    @cached_property
    def folder(self) -> Path:
        """The dataset's folder in the cache; it need not exist yet."""
        return cache_folder() / self.config.name

    @cached_property
    def roots(self) -> list[Path]:
        """Where sets may be, the first to prefer: ``dataset.root``, ``$GENLAB_DATA``, the user's cache."""
        named = [self.config.root, os.environ.get("GENLAB_DATA"), user_cache()]
        return list(dict.fromkeys(Path(root).expanduser() for root in named if root))

    def own_root(self) -> Path:
        """``dataset.root``, for a set that is nowhere else.

        Raises:
            ConfigError: it isn't set.
            DataError: there is nothing at that path.
        """
        kind = self.config.format.kind
        if not self.config.root:
            raise ConfigError(f"dataset.root is missing: set it to the {kind} data to read")
        root = Path(self.config.root).expanduser()
        if not root.exists():
            raise DataError(f"dataset.root={self.config.root}: no such file or folder")
        return root

    def content(self, name: str, promised: Callable[[bytes], int] | None = None) -> bytes:
        """The verified bytes of the file ``name``, unzipped, from the first source that has it.

        Args:
            name: of the content, without ``.gz``.
            promised: from the first bytes, how many there should be; of a file with more, one more is unzipped.

        Raises:
            DataError: no source has it; the message lists them all, each with its reason.
        """
        reasons = []
        for source in self.config.sources:
            try:
                return self._from(source, name, promised)
            except UnavailableError as error:
                reasons.append(f"{source.kind}: {error}")
            except OSError as error:
                reasons.append(f"{source.kind}: {error.filename}: {reason_of(error)}")
        raise DataError(
            f"dataset {self.config.name}: no source has {name}; put it into {self.folder}, or set "
            f"GENLAB_DATA or dataset.root to the folder that has it; tried {'; '.join(reasons)}"
        )

    def _from(self, source: Source, name: str, promised: Callable[[bytes], int] | None) -> bytes:
        reasons = []
        for path in source.paths(name, self):
            try:
                content, is_vouched = self._read(path, path.name, promised)
            except (FileNotFoundError, NotADirectoryError):
                reasons.append(f"not in {path.parent}")
                continue
            except (UnavailableError, OSError) as error:
                reasons.append(f"{path}: {reason_of(error)}")
                log.warning("%s; trying elsewhere", reasons[-1])
                continue
            if not is_vouched:
                log.warning("%s: unverified, as no checksum is known for this copy", path)
            return content
        raise UnavailableError(", ".join(dict.fromkeys(reasons)))

    @contextmanager
    def slot(self, filename: str) -> Iterator[Path]:
        """A temporary path that becomes ``filename`` in the cache once written and verified.

        Raises:
            UnavailableError: the file that was written is not the one that it should be.
        """
        with replacing(self.folder / filename) as part:
            yield part
            try:
                self._read(part, filename)
            except UnavailableError as error:
                raise UnavailableError(f"{filename}: {error}") from error

    def admit(self, path: Path) -> None:
        """Move a file of the workshop to its slot. Raises as :meth:`slot` does."""
        with self.slot(path.name) as part:
            path.rename(part)

    @contextmanager
    def workshop(self) -> Iterator[Path]:
        """A temporary folder on the cache's disk, where files arrive and are unwrapped."""
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder()) as work:
            yield Path(work)

    def _read(
        self, path: Path, filename: str, promised: Callable[[bytes], int] | None = None
    ) -> tuple[bytes, bool]:
        """The content of ``path``, to be called ``filename``, and whether a checksum vouches for it.

        The sha256 of the content where the dataset's YAML knows it, so that a re-compressed copy is as
        good as the original; otherwise a source's md5 of the stored file.

        Raises:
            UnavailableError: it is corrupt, or another file.
            OSError: it can't be read.
        """
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        with path.open("rb") as file:
            stored = _read_limited(file, path.stat().st_size)
        content = _gunzip(stored, promised) if stored.startswith(b"\x1f\x8b") else stored
        if sha256 := self.config.checksums.get(filename.removesuffix(".gz")):
            _match("sha256", hashlib.sha256(content).hexdigest(), sha256)
            return content, True
        md5 = self._known_md5(filename)
        actual = hashlib.md5(stored, usedforsecurity=False).hexdigest()
        if md5 and not filename.endswith(".gz"):
            _match("md5", actual, md5)
        return content, md5 == actual  # a .gz may be another compression of the right content

    def _known_md5(self, filename: str) -> str | None:
        tables = (_md5s(source) for source in self.config.sources)
        return next((table[filename] for table in tables if filename in table), None)


def cache_folder() -> Path:
    """Where fetched data goes: ``$GENLAB_DATA`` if it can be written to, otherwise the user's cache."""
    named = Path(os.environ.get("GENLAB_DATA", "")).expanduser()
    return named if named != Path() and os.access(named, os.W_OK) else user_cache()


def _md5s(source: Source) -> Mapping[str, str]:
    if isinstance(source, Torchvision):
        return file_md5s(source.dataset)
    return source.md5s if isinstance(source, Url) else {}


def _gunzip(stored: bytes, promised: Callable[[bytes], int] | None) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(stored)) as file:
            most = DEFLATE_RATIO * len(stored)
            return _read_limited(file, min(most, promised(file.peek(64))) if promised else most)
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise UnavailableError(f"truncated or corrupt gzip file ({error})") from error


def _read_limited(file: IO[bytes] | gzip.GzipFile, size: int) -> bytes:
    """All of a file that has at most ``size`` bytes: room for as many is made before they are read."""
    content = file.read(min(size, MAX_BYTES) + 1)
    if len(content) > MAX_BYTES:
        raise UnavailableError(f"more than {MAX_BYTES} bytes")
    return content


def _match(kind: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise UnavailableError(f"corrupt, or another file ({kind} {actual[:12]}..., not {expected[:12]}...)")
