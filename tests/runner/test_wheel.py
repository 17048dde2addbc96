"""The wheel carries everything: it is installed by itself and used far from the checkout."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from harness import CHECKOUT, QUIET

pytestmark = pytest.mark.slow


def _call(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The bin folder of an environment that has the wheel, and this one's packages but genlab."""
    dist, venv = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("venv") / "venv"
    _call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", dist, CHECKOUT, cwd=dist)
    (wheel,) = dist.glob("*.whl")
    _call(sys.executable, "-m", "venv", venv, cwd=dist)
    _call(venv / "bin" / "pip", "install", "--no-deps", "--no-index", wheel, cwd=dist)
    (site,) = venv.glob("lib/python*/site-packages")
    # As a plain path: the .pth files there, an editable genlab's among them, are not followed.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def test_genlab_and_its_yaml_come_from_the_wheel(installed, tmp_path):
    code = "import genlab; from genlab.config import conf_dir; print(genlab.__file__); print(conf_dir())"
    package, conf = map(Path, _call(installed / "python", "-c", code, cwd=tmp_path).split())
    assert package.is_relative_to(installed.parent)
    assert conf == package.parent / "conf"


def test_the_wheel_has_every_yaml_file_and_the_mark_of_types(installed):
    (conf,) = installed.parent.glob("lib/python*/site-packages/genlab/conf")
    files = {path.relative_to(CHECKOUT / "conf") for path in (CHECKOUT / "conf").rglob("*.yaml")}
    assert {path.relative_to(conf) for path in conf.rglob("*.yaml")} == files
    assert (conf.parent / "py.typed").exists()
    weights = {path.name for path in (conf.parent / "extractors").rglob("*.safetensors")}
    assert weights == {"fashion_cnn.safetensors", "mnist_cnn.safetensors"}
    assert not (conf.parent.parent / "tests").exists()


def test_the_installed_command_helps_and_trains_and_samples(installed, tmp_path):
    assert "realnvp" in _call(installed / "genlab", "--help", cwd=tmp_path)
    trained = _call(installed / "genlab", "train", *QUIET, "trainer.max_steps=2", cwd=tmp_path)
    assert "done:" in trained
    assert len(list(tmp_path.glob("outputs/*/*/report.html"))) == 1
    assert "seed0_n25.png" in _call(installed / "genlab", "sample", cwd=tmp_path)
