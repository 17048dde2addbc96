"""Mirrors on this machine that fail or lie in every way: the next source is asked, no part is left."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_sets import idx_bytes, small_idx

from genlab.data import fetch, load_images
from genlab.errors import DataError

IMAGES = idx_bytes(np.arange(12 * 30, dtype=np.uint16).astype(np.uint8).reshape(12, 6, 5))
FILES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": idx_bytes(np.zeros(12, np.uint8)),
}
MD5S = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
OK = b"HTTP/1.1 200 OK\r\n"


def whole(content: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(content) + content


def slowly(pieces: Iterator[bytes] | list[bytes], pause: float) -> Iterator[bytes]:
    for piece in pieces:
        time.sleep(pause)
        yield piece


def lasting(piece: bytes, seconds: float) -> Iterator[bytes]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield piece


def chunk(content: bytes) -> bytes:
    return b"%x\r\n" % len(content) + content + b"\r\n"


LIES: dict[str, tuple[Callable[[bytes], Iterator[bytes] | list[bytes]], str]] = {
    "wrong bytes": (lambda c: [whole(c[::-1])], "wrong checksum"),
    "html": (lambda c: [whole(b"<!DOCTYPE html><h1>Sign in</h1>")], "wrong checksum"),
    "nothing": (lambda c: [whole(b"")], "wrong checksum"),
    "no answer": (lambda c: [], "Remote end closed connection"),
    "silence": (lambda c: slowly([b""], 3), "timed out"),
    "404": (lambda c: [b"HTTP/1.1 404 Not Found\r\n\r\n"], "Not Found"),
    "500": (lambda c: [b"HTTP/1.1 500 Oh\x1b[31m\x07 no\r\n\r\n"], "Oh"),
    "long reason": (lambda c: [b"HTTP/1.1 500 " + b"x " * 30_000 + b"\r\n\r\n"], r"x \.\.\."),
    "cut short": (lambda c: [whole(c)[:-100]], "broke off after"),
    "length too small": (lambda c: [OK + b"Content-Length: 10\r\n\r\n" + c], "wrong checksum"),
    "length too large": (lambda c: [OK + b"Content-Length: 99999\r\n\r\n" + c], "broke off after"),
    "length that fits nothing": (
        lambda c: [OK + b"Content-Length: 99999999999\r\n\r\n" + c],
        "more than 2000000 bytes",
    ),
    "length that is none": (lambda c: [OK + b"Content-Length: -1e9\r\n\r\n" + c[:10]], "wrong checksum"),
    "without end": (
        lambda c: itertools.chain([OK + b"\r\n"], itertools.repeat(bytes(65536))),
        "more than 2000000 bytes",
    ),
    "zipped without end": (
        lambda c: itertools.chain(
            [OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(c)], itertools.repeat(bytes(65536))
        ),
        "more than 2000000 bytes",
    ),
    "trickle": (
        lambda c: itertools.chain([OK + b"Content-Length: 999\r\n\r\n"], slowly([b"x"] * 999, 0.05)),
        "slower than",
    ),
    "trickling headers": (lambda c: slowly([b"H"] + [b"T"] * 500, 0.05), "no answer within"),
    "headers without end": (
        lambda c: itertools.chain([OK], itertools.repeat(b"X: y\r\n")),
        "got more than 100 headers",
    ),
    "a header without end": (
        lambda c: itertools.chain([OK, b"X: "], itertools.repeat(b"y" * 65536)),
        "header line",
    ),
    "to be continued": (
        lambda c: lasting(b"HTTP/1.1 100 Continue\r\n\r\n", 8),
        "no answer within",
    ),
    "another protocol": (lambda c: [b"SSH-2.0-OpenSSH_9.9\r\n"], "SSH-2.0"),
    "round and round": (
        lambda c: [b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"],
        "redirect error .* infinite loop",
    ),
    "on and on": (lambda c: [b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n\r\n" % time.time_ns()], "infinite loop"),
    "to a file": (lambda c: [b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"], "is not allowed"),
    "nowhere": (lambda c: [b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\n\r\n"], "Invalid IPv6 URL"),
    "broken chunks": (lambda c: [OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + c], "IncompleteRead"),
    "half a chunk": (
        lambda c: [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(c)[:-50]],
        "IncompleteRead|wrong",
    ),
}


class _Mirror(socketserver.ThreadingTCPServer):
    """A server that answers ``/lie/file`` with that lie about that file, and ``/good/file`` with the file."""

    daemon_threads, allow_reuse_address = True, True


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        number, _, name = path.strip("/").partition("/")
        lies = list(LIES.values())
        answer = lies[int(number)][0] if number.isdigit() and int(number) < len(lies) else lambda c: [whole(c)]
        if not name:  # where a redirect leads
            answer = lies[list(LIES).index("on and on" if number.isdigit() else "round and round")][0]
        try:
            for piece in answer(FILES.get(name, b"")):
                self.wfile.write(piece)
        except OSError:
            pass  # the client has had enough


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(fetch, "STALL_SECONDS", 1)
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 2)
    monkeypatch.setattr(fetch, "MAX_BYTES", 2_000_000)
    with _Mirror(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def source(address: str) -> dict[str, object]:
    return {"kind": "url", "url": address, "md5s": MD5S}


def assert_clean(cache: Path, whole: int) -> None:
    """Nothing is in the cache but so many whole files."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) == whole
    assert all(path.read_bytes() == FILES[path.name] for path in files)
    assert not [path for path in cache.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("lie", LIES)
def test_a_mirror_that_lies_is_passed_over(cache, mirror, lie):
    number = list(LIES).index(lie)
    config = small_idx(sources=[source(f"{mirror}/{number}"), source(f"{mirror}/good")])
    loaded = load_images(config, "train")
    assert loaded.images[:, 0].numpy().tobytes() == IMAGES[16:]
    assert_clean(cache, 2)


@pytest.mark.parametrize("lie", LIES)
def test_the_error_of_the_last_resort_names_the_lie(cache, mirror, lie):
    number = list(LIES).index(lie)
    with pytest.raises(DataError, match=LIES[lie][1]) as caught:
        load_images(small_idx(sources=[source(f"{mirror}/{number}")]), "train")
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    assert f"{mirror}/{number}/train-images-idx3-ubyte" in line
    assert_clean(cache, 0)


def test_the_error_of_the_last_resort_lists_every_source(cache, mirror):
    quick = [
        name for name in LIES if name not in ("silence", "trickle", "trickling headers", "to be continued")
    ]
    numbers = [list(LIES).index(name) for name in quick]
    with pytest.raises(DataError) as caught:
        load_images(small_idx(sources=[source(f"{mirror}/{number}") for number in numbers]), "train")
    assert all(f"{mirror}/{number}/" in str(caught.value) for number in numbers)
    assert_clean(cache, 0)


def test_a_port_that_nobody_listens_to_is_passed_over(cache, mirror):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = small_idx(sources=[source(f"http://127.0.0.1:{port}"), source(f"{mirror}/good")])
    assert len(load_images(config, "train")) == 12
    assert_clean(cache, 2)


def test_a_slow_mirror_that_is_fast_enough_is_waited_for(cache, mirror, monkeypatch):
    monkeypatch.setattr(fetch, "SLOWEST", 100)
    pieces = [IMAGES[i : i + 20] for i in range(0, len(IMAGES), 20)]
    slow = itertools.chain([OK + b"Content-Length: %d\r\n\r\n" % len(IMAGES)], slowly(pieces, 0.05))
    monkeypatch.setitem(LIES, "trickle", (lambda c: slow if c == IMAGES else [whole(c)], ""))
    number = list(LIES).index("trickle")
    assert len(load_images(small_idx(sources=[source(f"{mirror}/{number}")]), "train")) == 12
