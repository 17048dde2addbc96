"""Arrays in ``.npz`` files, opened where their values begin; nothing is unpickled.

What a header promises is held against what the file can hold before anything is allocated for it.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy

from genlab.data.fetch import DEFLATE_RATIO

_VERSIONS = {(1, 0): ("<H", npy.read_array_header_1_0), (2, 0): ("<I", npy.read_array_header_2_0)}
"""How long the header says it is, and what reads it."""
_HEADER_BYTES = 10_000
"""The longest header that numpy takes."""


@dataclass(frozen=True)
class Array:
    """An array of a file, opened where its values begin."""

    values: IO[bytes]
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype


@contextmanager
def open_array(zipped: zipfile.ZipFile, name: str) -> Iterator[Array]:
    """The array that the member ``name`` holds.

    Raises:
        ValueError: its header is broken, or promises what its file doesn't have.
        KeyError: there is no such member.
    """
    info = zipped.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed by another method than numpy's")
    # Of `start_dir` bytes before the archive's directory, none can stand for more than this many.
    if info.file_size > DEFLATE_RATIO * min(info.compress_size, zipped.start_dir):
        raise ValueError(f"{info.file_size} bytes promised by {info.compress_size}")
    with zipped.open(info) as file:
        shape, is_fortran, dtype = _header(file)
        room = info.file_size - file.tell()
        if any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"shape {shape}")
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize != room:
            raise ValueError(f"shape {shape} in {room} bytes")
        yield Array(file, shape, is_fortran, dtype)


def exactly(file: IO[bytes], count: int) -> bytes:
    """The next ``count`` bytes. Raises :class:`ValueError` where there are fewer."""
    content = file.read(count)
    if len(content) != count:
        raise ValueError(f"{count - len(content)} bytes are missing")
    return content


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type, read up to where the values begin."""
    magic = exactly(file, npy.MAGIC_LEN)
    version = npy.read_magic(io.BytesIO(magic))
    if version not in _VERSIONS:
        raise ValueError(f"version {version} of the npy format")
    length_format, read = _VERSIONS[version]
    length = exactly(file, struct.calcsize(length_format))
    (size,) = struct.unpack(length_format, length)
    if size > _HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes")
    header: tuple[tuple[int, ...], bool, np.dtype] = read(io.BytesIO(length + exactly(file, size)))
    return header
