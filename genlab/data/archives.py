"""Files out of a downloaded ``.tar``, ``.tgz`` or ``.zip``, wherever its member names may point."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from genlab.data.fetch import MAX_BYTES, UnavailableError

if TYPE_CHECKING:
    from genlab.data.store import Store


def unpack(archive: Path, store: Store, folder: str | None = None) -> None:
    """Put the plain files of ``archive`` (only those in its ``folder``) into the store, flat.

    Only the last part of a member's name is used and links are left out, so that no archive writes
    outside the store. ``MAX_BYTES`` bound all members together.

    Raises:
        UnavailableError: the archive is broken or too large, or a file in it is not what it should be.
    """
    room = MAX_BYTES
    try:
        for path, file in _members(archive):
            if path.name in ("", "..") or (folder and path.parent != PurePosixPath(folder)):
                continue
            with store.slot(path.name) as part, part.open("xb") as out:
                while block := file.read(1 << 20):
                    room -= out.write(block)
                    if room < 0:
                        raise UnavailableError(f"{archive.name} holds more than {MAX_BYTES} bytes")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise UnavailableError(f"{archive.name} is corrupt ({error})") from error


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as content:
                        yield PurePosixPath(info.filename), content
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and (file := tar.extractfile(member)):
                yield PurePosixPath(member.name), file
