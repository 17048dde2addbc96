"""A disk that is full or read-only: one line that names what can't be written, and nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from children import run, undisturbed
from harness import QUIET, Outcome
from soundness import assert_same_end, assert_sound

TRAIN = ["train", *QUIET, "trainer.epochs=3", "callbacks.sample_grid={n: 4, figures: [4]}"]
SIZE = 4 * 2**20


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(here):
    """A file system of its own, of 4 MB."""
    folder = here / "disk"
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)):
        pytest.skip("a disk to fill needs the right to mount one (root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"), *TRAIN)


def _fill(disk: Path, room: int) -> Path:
    """A file that leaves ``room`` bytes of the disk, in whole pages."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - room))
    return filler


def _what_had_no_room(outcome: Outcome, disk: Path) -> str:
    """The file, as the one line names it that a command ends with; pictures alone are only warned of."""
    line = outcome.complaint() if outcome.code else outcome.out
    found = re.search(r"no room to write (\S+): No space left on device; free some, or set output_dir", line)
    assert found, outcome
    assert outcome.code == 1 or ": not written: " in line
    return os.path.relpath(found[1], disk / "run")


def _train_in(room: int, disk: Path, whole: Path) -> str:
    """Train with so much room, then go on with enough; the file that was too much."""
    folder, filler = disk / "run", _fill(disk, room)
    named = _what_had_no_room(run(*TRAIN, f"hydra.run.dir={folder}"), disk)
    if folder.exists():
        assert_sound(folder)
    filler.unlink()
    begun = (folder / "config.yaml").exists()
    resumed = run(*(["train", f"resume={folder}"] if begun else [*TRAIN, f"hydra.run.dir={folder}"]))
    assert (resumed.code, resumed.err) == (0, "")
    assert_same_end(folder, whole)
    return named


@pytest.mark.slow
def test_a_training_that_fills_the_disk_goes_on_with_more_room(disk, whole):
    assert _train_in(300_000, disk, whole).startswith("checkpoints/")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_fills_the_disk_is_named(disk, whole):
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    named = set()
    for part in range(12):
        named.add(_train_in(part * size // 12, disk, whole))
        shutil.rmtree(disk / "run")
    assert {path.split("/")[0] for path in named} >= {"checkpoints", "figures"}, named


@pytest.mark.parametrize("verb", ["eval", "sample"])
def test_what_looks_at_a_run_on_a_full_disk_leaves_it_as_it_is(verb, disk, whole):
    folder = Path(shutil.copytree(whole, disk / "run"))
    shutil.rmtree(folder / "evaluation")
    filler = _fill(disk, 0)
    _what_had_no_room(run(verb, f"run={folder}"), disk)
    assert_sound(folder)
    filler.unlink()
    assert run(verb, f"run={folder}").code == 0
    assert_sound(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        [*TRAIN, "output_dir=DISK"],
        ["train", "resume=DISK/run", "trainer.epochs=4"],
        ["eval", "run=DISK/run"],
        ["sample", "run=DISK/run"],
    ],
    ids=["train", "resume", "eval", "sample"],
)
def test_a_disk_that_can_only_be_read_is_named(arguments, disk, whole, here):
    shutil.copytree(whole, disk / "run")
    assert _mount("-o", "remount,ro", str(disk))
    outcome = run(*(argument.replace("DISK", str(disk)) for argument in arguments))
    complaint = outcome.complaint()
    assert complaint.startswith(f"can't write {disk}/")
    assert "Read-only file system" in complaint
    assert outcome.code == 2
    assert _mount("-o", "remount,rw", str(disk))
    assert_same_end(disk / "run", whole)


def test_samples_of_a_run_that_can_only_be_read_go_elsewhere(disk, whole, here):
    shutil.copytree(whole, disk / "run")
    assert _mount("-o", "remount,ro", str(disk))
    assert run("sample", f"run={disk}/run", f"output={here}/samples.png").code == 0
    assert (here / "samples.png").exists()
