"""Files out of a downloaded ``.tar``, ``.tgz`` or ``.zip``, wherever its member names may point."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from genlab.data.fetch import MAX_BYTES, UnavailableError

if TYPE_CHECKING:
    from genlab.data.store import Store

MAX_MEMBERS = 10_000
"""Of any archive; those of the sets here have some 25."""
_BETWEEN = 1 << 20
"""The most bytes of headers between two files of a tar archive."""


def unpack(archive: Path, store: Store, folder: str | None = None) -> None:
    """Put the plain files of ``archive`` (only those in its ``folder``) into the store, flat.

    Only the last part of a member's name is used and links are left out, so that no archive writes
    outside the store. ``MAX_BYTES`` bound all members together.

    Raises:
        UnavailableError: the archive is broken or too large, or a file in it is not what it should be.
    """
    room = MAX_BYTES
    try:
        for count, (path, file) in enumerate(_members(archive)):
            if count == MAX_MEMBERS:
                raise UnavailableError(f"{archive.name} holds more than {MAX_MEMBERS} files")
            if path.name in ("", "..") or (folder and path.parent != PurePosixPath(folder)):
                continue
            with store.slot(path.name) as part, part.open("xb") as out:
                while block := file.read(1 << 20):
                    room -= out.write(block)
                    if room < 0:
                        raise UnavailableError(f"{archive.name} holds more than {MAX_BYTES} bytes")
    except (UnavailableError, OSError) as error:
        if isinstance(error, gzip.BadGzipFile):
            raise UnavailableError(f"{archive.name} is corrupt ({error})") from error
        raise
    except Exception as error:  # broken archives raise anything
        raise UnavailableError(f"{archive.name} is corrupt ({error})") from error


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as member:
                        yield PurePosixPath(info.filename), member
        return
    with gzip.open(archive) as file:
        plain = _Bounded(file)
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            while entry := tar.next():
                plain.room = entry.size + _BETWEEN
                if entry.isreg() and (content := tar.extractfile(entry)) is not None:
                    yield PurePosixPath(entry.name), content


class _Bounded(io.RawIOBase):
    """A file of which ``room`` bytes more may be read: tarfile takes headers of any size that they state."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self.room = file, _BETWEEN

    def read(self, size: int = -1) -> bytes:
        self.room -= size
        if size < 0 or self.room < 0:
            raise tarfile.ReadError("headers without end")
        return self._file.read(size)
