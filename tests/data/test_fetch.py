"""Downloads, and what servers do to them; files under their final names are whole."""

from __future__ import annotations

import hashlib
import http.server
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from genlab.data import fetch
from genlab.data.fetch import UnavailableError, download, replacing, run

CONTENT = b"a dataset" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/silent":
            time.sleep(1)
            return
        if self.path not in ("/good", "/short", "/wrong"):
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"/good": CONTENT, "/short": CONTENT[:100], "/wrong": CONTENT[::-1]}[self.path])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_good_download_says_what_it_does(server, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="genlab.data")
    download(f"{server}/good", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert f"downloading {server}/good" in caplog.text


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "Not Found"),
        ("short", "broke off after 100 of 9000 bytes"),
        ("wrong", f"wrong checksum .* not {MD5}"),
        ("silent", "timed out"),
    ],
)
def test_a_bad_download_leaves_nothing(server, tmp_path, monkeypatch, path, reason):
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.2)
    with (
        pytest.raises(UnavailableError, match=f"{server}/{path}: .*{reason}"),
        replacing(tmp_path / "f") as part,
    ):
        download(f"{server}/{path}", part, MD5)
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_such_host(tmp_path):
    with pytest.raises(UnavailableError, match="Connection refused"):
        download("http://127.0.0.1:9/x", tmp_path / "a", MD5)
    with pytest.raises(UnavailableError, match=r"http://no-such-host\.invalid/x: "):
        download("http://no-such-host.invalid/x", tmp_path / "b", MD5)


def test_a_download_without_end_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    with pytest.raises(UnavailableError, match="more than 100 bytes"):
        download(f"{server}/good", tmp_path / "file", MD5)


def test_progress_is_a_bar_on_a_terminal(server, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with fetch.progress("fetching it", 10) as advance:
        advance(5)
    assert "fetching it" in sys.stderr.getvalue()


def test_a_killed_process_leaves_no_file_under_the_final_name(tmp_path):
    script = f"""
import time
from pathlib import Path
from genlab.data.fetch import replacing
with replacing(Path({str(tmp_path / "file")!r})) as part:
    part.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "file").exists()


def test_two_processes_at_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert path.read_bytes() == b"1"  # the outer block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_commands_fail_in_one_line(tmp_path, monkeypatch):
    shell = ["sh", "-c"]
    assert run([*shell, "echo fine >&2"], tmp_path, "running") == "fine\n"
    with pytest.raises(UnavailableError, match=r"sh: E: no such package see above$"):
        run([*shell, "printf 'E: no such package\\nsee above\\n' >&2; exit 3"], tmp_path, "running")
    with pytest.raises(UnavailableError, match="sh: exit 3"):
        run([*shell, "exit 3"], tmp_path, "running")
    with pytest.raises(UnavailableError, match="no-such-program is not on this machine"):
        run(["no-such-program"], tmp_path, "running")
    monkeypatch.setattr(fetch, "COMMAND_SECONDS", 0.1)
    with pytest.raises(UnavailableError, match=r"sh took longer than 0\.1 s"):
        run([*shell, "sleep 5"], tmp_path, "running")


def test_zip_members_stay_in_the_store(cache, tmp_path):
    from small_sets import small_idx

    from genlab.data.archives import unpack
    from genlab.data.store import Store

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for name in ("gzip/fine", "../../evil", "/abs", ".."):
            zipped.writestr(name, name)
    unpack(tmp_path / "a.zip", Store(small_idx()))
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == [
        Path("a.zip"),
        *(Path("cache/genlab/small") / name for name in ("abs", "evil", "fine")),
    ]
    (tmp_path / "a.zip").write_bytes(b"junk")
    with pytest.raises(UnavailableError, match=r"a\.zip is corrupt"):
        unpack(tmp_path / "a.zip", Store(small_idx()))
