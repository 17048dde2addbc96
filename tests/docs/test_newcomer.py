"""README's own commands, in a fresh copy with an empty home: from nothing to a report with pictures.

It installs from a package index and fetches FashionMNIST; about eight minutes on two cores.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from harness import CHECKOUT
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

README = (CHECKOUT / "README.md").read_text()
_START = README.partition("\n## Start\n")[2]
FIRST, LOOK = re.findall(r"```sh\n(.*?)```", _START, re.DOTALL)[:2]
UNREACHABLE = re.compile(
    r"No matching distribution|Could not fetch URL|Failed to establish|NewConnectionError|no source has"
)
SERVER = re.compile(r"tensorboard --logdir \S+")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home):
    """The user's variables without what points to a genlab, data or packages; pip's own settings stay."""
    ours = Path(sys.executable).parent
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != ours)
    if shutil.which("python3", path=path) is None:
        pytest.skip("there is no python3 but the one that runs these tests")
    hidden = ("PYTHON", "VIRTUAL_ENV", "GENLAB", "XDG_", "HYDRA")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=False
    ).stdout.strip()
    settings = [p for p in (".config/pip/pip.conf", ".pip/pip.conf") if (Path.home() / p).exists()]
    pip = {"PIP_CONFIG_FILE": str(Path.home() / settings[0])} if settings else {}
    pip |= {"PIP_CACHE_DIR": cache} if cache else {}
    return kept | pip | {"HOME": str(home), "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files of the repository, and nothing that work in it has left."""
    folder = tmp_path_factory.mktemp("copy") / "genlab"
    left = shutil.ignore_patterns(".git", ".venv", "outputs", "dist", "__pycache__", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(CHECKOUT, folder, ignore=left))


@pytest.fixture(scope="module")
def shell(environment, copy):
    """Runs a script of bash in the copy; its output. What can't be reached skips the test."""

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", script], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode and UNREACHABLE.search(done.stdout + done.stderr):
            pytest.skip(f"packages or images can't be reached: {done.stderr[-300:]}")
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def trained(shell, copy):
    """What the first command printed, and the folder of its run."""
    out = shell(FIRST)
    (config,) = copy.glob("outputs/*/*/config.yaml")
    return out, config.parent


@pytest.fixture(scope="module")
def looked(shell, trained):
    """What the commands print that look at it, but for the server."""
    return shell(SERVER.sub("true", LOOK))


def is_drawn(path: Path) -> bool:
    """Whether a picture is large enough to be seen and is not of one colour."""
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return min(pixels.shape) >= 80 and pixels.std() > 5


def test_the_first_command_ends_in_a_table(trained):
    out, _ = trained
    assert "bits/dim" in out
    assert "done: " in out


def test_the_folder_holds_what_readme_says(trained):
    _, run = trained
    for name in ("config.yaml", "metrics.csv", "summary.json", "report.html", "checkpoints/last.pt"):
        assert (run / name).stat().st_size > 0
    assert list(run.glob("tensorboard/events.*"))


def test_every_picture_shows_something(trained, looked):
    _, run = trained
    pictures = [*run.glob("figures/*.png"), *run.glob("samples/*.png")]
    assert {"loss_curves.png", "samples_25.png", "ood_roc.png", "seed0_n25.png"} <= {p.name for p in pictures}
    assert [p.name for p in pictures if not is_drawn(p)] == []


def test_samples_differ_from_each_other(trained, looked):
    _, run = trained
    pixels = np.asarray(Image.open(run / "samples" / "seed0_n25.png").convert("L"), dtype=float)
    side = min(pixels.shape) // 5
    cells = {
        pixels[i * side : (i + 1) * side, j * side : (j + 1) * side].tobytes()
        for i in range(5)
        for j in range(5)
    }
    assert len(cells) == 25


def test_the_report_stands_alone_and_has_pictures(trained):
    page = (trained[1] / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']https?://", page)
    assert "data:image" in page or "<svg" in page


def test_looking_prints_a_table_of_scores(looked):
    for words in ("log_likelihood", "noise", "AUROC"):
        assert words in looked


def test_tensorboard_serves_the_runs(trained, environment, copy):
    (command,) = SERVER.findall(LOOK)
    server = subprocess.Popen(
        ["bash", "-c", f". .venv/bin/activate; exec {command} --port 0"],
        cwd=copy,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = (re.search(r"at (http://\S+)", line) for line in server.stderr)
        address = next(match[1] for match in said if match)
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
