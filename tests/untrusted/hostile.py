"""Files as somebody would make them who wants a program to fail."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlab import checkpoint
from genlab.data import load_images
from genlab.errors import GenlabError

MIB = 1 << 20


def npy(shape: object, descr: object = "|u1", content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An ``.npy`` file with such a header, whatever follows it."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(118) + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header + content


def npz(path: Path, compress: bool = False, **members: bytes) -> Path:
    """An ``.npz`` file of these members."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(f"{name}.npy", content)
    return path


def zeros(start: bytes, num_bytes: int, end: bytes = b"") -> bytes:
    """``start``, so many zeros and ``end``, deflated by zlib without ever being in memory."""
    deflater = zlib.compressobj(9)
    parts = [deflater.compress(start)]
    parts += [deflater.compress(bytes(MIB)) for _ in range(num_bytes // MIB)]
    return b"".join([*parts, deflater.compress(end), deflater.flush()])


def gzipped_zeros(start: bytes, num_bytes: int) -> bytes:
    """The same as a gzip file."""
    file = io.BytesIO()
    with gzip.open(file, "wb", 9) as zipped:
        zipped.write(start)
        for _ in range(num_bytes // MIB):
            zipped.write(bytes(MIB))
    return file.getvalue()


def mat_element(name: bytes, shape: tuple[int, ...], kind: int, promised: int, flags: int = 9) -> bytes:
    """A matrix of a MATLAB file up to where its values begin, of which it promises so many."""

    def part(number: int, content: bytes) -> bytes:
        return struct.pack("<II", number, len(content)) + content + bytes(-len(content) % 8)

    dims = part(5, struct.pack(f"<{len(shape)}i", *shape))
    start = part(6, struct.pack("<II", flags, 0)) + dims + part(1, name) + struct.pack("<II", kind, promised)
    return struct.pack("<II", 14, len(start) + promised) + start


def mat(*elements: bytes) -> bytes:
    """A MATLAB file of these elements."""
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def mat_bomb(num_bytes: int) -> bytes:
    """A compressed matrix that promises images, and has them: all black."""
    images = num_bytes // 3072
    start = mat_element(b"X", (32, 32, 3, images), 2, images * 3072)
    content = zeros(start, num_bytes)
    return mat(struct.pack("<II", 15, len(content)) + content)


def tgz_bomb(path: Path, num_bytes: int) -> Path:
    """A tar archive whose first header says that the next name is so many bytes long."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, num_bytes
    path.write_bytes(gzipped_zeros(info.tobuf(tarfile.GNU_FORMAT), num_bytes))
    return path


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A grey PNG that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def repacked(path: Path, out: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint with its records changed by ``change(name, content)``, sealed as a genuine one is."""
    file = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(file, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename.rpartition("/")[2], old.read(info)))
    out.write_bytes(sealed(file.getvalue()))
    return out


def sealed(archive: bytes) -> bytes:
    """A zip archive with the checksum of a genuine checkpoint: anybody can compute it."""
    import hashlib

    body = archive[:-2] + struct.pack("<H", checkpoint._COMMENT_SIZE)
    return body + checkpoint._LABEL + hashlib.sha256(body).hexdigest().encode()


def one_line(error: GenlabError) -> str:
    """What is said of an error; fails where a terminal would do more with it than print a line."""
    line = str(error)
    assert line.isprintable(), repr(line)
    return line


def judged(config: Any, split: str = "train") -> str | tuple[int, ...]:
    """The one line that a set ends in, or the shape of its images where they are as they should be.

    Fails with whatever else is raised, and where what is loaded is no set.
    """
    try:
        loaded = load_images(config, split)
    except GenlabError as error:
        return one_line(error)
    images = loaded.images if isinstance(loaded.images, torch.Tensor) else loaded.images.unpack()
    assert images.dtype == torch.uint8
    assert images.ndim == 4
    assert len(images) > 0
    if loaded.labels is not None:
        assert loaded.labels.shape == (len(images),)
        assert loaded.labels.dtype == torch.int64
        assert int(loaded.labels.min()) >= 0
    return tuple(images.shape)


def digits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Images of 8x8 pixels that compress as real ones do: uint8 ``(n, 8, 8)``."""
    return rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) * rng.integers(0, 2, (n, 8, 8), dtype=np.uint8)
