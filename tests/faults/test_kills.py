"""kill -9 in training, evaluation and sampling: at random times, before operations on files, inside writes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import KilledWriting, Operation, Watch, run, start
from harness import QUIET
from soundness import assert_same_end, assert_sound, names

from genlab.data.fetch import replacing
from genlab.logger import RunLogger
from genlab.run_folder import RunFolder

TRAIN = [
    "train",
    *QUIET,
    "trainer.epochs=3",
    "trainer.checkpoint_every=3",
    "trainer.ema_decay=0.9",
    "callbacks.sample_grid={n: 4, figures: [4]}",
    "hydra.run.dir=run",
]
"""Three epochs of four steps: figures, averaged weights, checkpoints in the middle of an epoch."""
DIED = (-signal.SIGKILL, -signal.SIGXFSZ)


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing disturbed: how long it took and what it did to files."""

    folder: Path
    seconds: float
    operations: list[Operation]


def _undisturbed(folder: Path, *arguments: object) -> Undisturbed:
    begin = time.monotonic()
    outcome = run(*arguments, fault=Watch(folder, Path("journal")))
    assert (outcome.code, outcome.err) == (0, "")
    return Undisturbed(folder, time.monotonic() - begin, Operation.read(Path("journal")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        run("--version")  # the server starts with the first command
        return _undisturbed(Path.cwd() / "run", *TRAIN)


@dataclass
class Attempts:
    """Attempts at a command, each under a fault, with what a killed one left as the next one's beginning.

    ``command`` gives the arguments, which a resume has other than a beginning; ``at_end`` looks at what an
    attempt left that came to its end, and makes room for a new beginning.
    """

    command: Callable[[], list[str]]
    folder: Path
    at_end: Callable[[], None]
    kills: int = 0
    ends: int = 0

    def attempt(self, fault: object, seconds: float | None = None) -> bool:
        """Try once; whether it was killed."""
        child = start(*self.command(), fault=fault)
        if seconds is not None:
            child.kill(seconds)
        outcome = child.finish()
        assert outcome.err == ""
        assert outcome.code in (0, *DIED), outcome
        if outcome.code:
            self.kills += 1
            if self.folder.exists():
                assert_sound(self.folder)
        else:
            self.ends += 1
            self.at_end()
        return outcome.code != 0

    def finish(self) -> None:
        """Without a fault."""
        assert not self.attempt(None)
        print(f"{self.kills} killed, {self.ends} to the end")  # shown by pytest -rP

    def at_every_operation(self, undisturbed: Undisturbed, draw: random.Random) -> None:
        """Killed once before each kind of operation on each file, at any of its occurrences."""
        for fatal in _chosen(undisturbed, draw):
            at = draw.randrange(undisturbed.operations.count(fatal))
            journal = self.folder.parent / "journal"
            if not self.attempt(Watch(self.folder, journal, fatal, at)):  # what is resumed may do it less often
                self.attempt(Watch(self.folder, journal, fatal))

    def at_random_times(self, count: int, undisturbed: Undisturbed, draw: random.Random) -> None:
        """Killed so many times."""
        until = self.kills + count
        while self.kills < until:
            self.attempt(None, draw.uniform(0, undisturbed.seconds))

    def inside_writes(self, count: int, undisturbed: Undisturbed, draw: random.Random) -> None:
        """Killed so many times, each in the write in which a file grows beyond a size that is drawn."""
        sizes = [path.stat().st_size for path in undisturbed.folder.rglob("*") if path.is_file()]
        until = self.kills + count
        while self.kills < until:
            self.attempt(KilledWriting(draw.randint(0, draw.choice(sizes))))


def _chosen(undisturbed: Undisturbed, draw: random.Random) -> list[Operation]:
    """What is done to files, but of each picture one thing: all pictures are written in one way."""
    same = defaultdict(list)
    for operation in dict.fromkeys(undisturbed.operations):
        picture = operation.name.startswith("figures/")
        same[operation.name.removesuffix(".part") if picture else operation].append(operation)
    return [draw.choice(operations) for operations in same.values()]


def _training(here: Path, whole: Undisturbed) -> Attempts:
    folder = here / "run"

    def command() -> list[str]:
        return ["train", f"resume={folder}"] if (folder / "config.yaml").exists() else TRAIN

    def at_end() -> None:
        assert_same_end(folder, whole.folder)
        shutil.rmtree(folder)

    return Attempts(command, folder, at_end)


def _end_of_training(here: Path, whole: Undisturbed) -> Attempts:
    """What comes after the last step: pictures, evaluation, summary."""
    folder = Path(shutil.copytree(whole.folder, here / "run"))
    command = ["train", f"resume={folder}"]
    return Attempts(lambda: command, folder, lambda: assert_same_end(folder, whole.folder))


def _repeated(here: Path, whole: Undisturbed, result: str, *arguments: str) -> tuple[Attempts, Undisturbed]:
    """A command that looks at a finished run and writes ``result``, and what it does undisturbed."""
    folder = Path(shutil.copytree(whole.folder, here / "run"))
    command = [*arguments, f"run={folder}"]
    undisturbed = _undisturbed(folder, *command)
    expected, files = (folder / result).read_bytes(), names(folder)

    def at_end() -> None:
        assert (folder / result).read_bytes() == expected
        assert names(folder) == files
        assert_sound(folder)
        (folder / result).unlink()

    return Attempts(lambda: command, folder, at_end), undisturbed


def test_a_training_killed_a_few_times_comes_to_the_same_end(here, whole):
    attempts = _training(here, whole)
    for operation, at in (
        (Operation("fsync", ".config.yaml.part"), 0),
        (Operation("rename", "checkpoints/last.pt"), 2),
        (Operation("fsync", "evaluation"), 0),
    ):
        assert attempts.attempt(Watch(attempts.folder, here / "journal", operation, at))
    attempts.finish()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_killed_before_any_operation_on_files_comes_to_the_same_end(here, whole):
    attempts = _training(here, whole)
    attempts.at_every_operation(whole, random.Random(0))
    attempts.finish()
    assert attempts.kills == len(_chosen(whole, random.Random(0)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_killed_at_random_times_comes_to_the_same_end(here, whole):
    attempts = _training(here, whole)
    attempts.at_random_times(12, whole, random.Random(1))
    attempts.finish()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("begin", [_training, _end_of_training])
def test_a_training_killed_inside_a_write_comes_to_the_same_end(begin, here, whole):
    attempts = begin(here, whole)
    attempts.inside_writes(8, whole, random.Random(2))
    attempts.finish()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("result", "arguments"),
    [
        ("evaluation/likelihood.json", ["eval"]),
        ("samples/seed0_n9.png", ["sample", "n=9"]),
        ("samples/seed0_n9.npz", ["sample", "n=9", "format=npz"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_evaluation_or_sampling_that_was_killed_is_repeated_with_the_same_result(
    result, arguments, here, whole
):
    attempts, undisturbed = _repeated(here, whole, result, *arguments)
    draw = random.Random(3)
    attempts.at_every_operation(undisturbed, draw)
    attempts.at_random_times(5, undisturbed, draw)
    attempts.inside_writes(5, undisturbed, draw)
    attempts.finish()


def test_a_row_that_was_torn_is_not_gone_on_in(here):
    """A resume drops it, but an evaluation adds its numbers to what is there."""
    folder = RunFolder(here)
    folder.metrics.write_text("step,epoch,name,value\r\n8,2,val/loss,361.57\r\n9,2,train/lo")
    with closing(RunLogger(folder)) as logger:
        logger.results(8, 2, {"likelihood/test/bits_per_dim": 8.07})
    assert folder.logged() == [
        ["8", "2", "val/loss", "361.57"],
        ["8", "2", "likelihood/test/bits_per_dim", "8.07"],
    ]


def test_what_killed_writers_left_in_the_cache_goes_with_time(here):
    """Their names are unique, so that each of them leaves a file of its own."""
    old, nested, new = ".features.pt.1.part", "..features.pt.1.part.part", ".features.pt.2.part"
    for name in (old, nested, new):
        (here / name).touch()
    for name in (old, nested):
        os.utime(here / name, (0, 0))
    with replacing(here / "features.pt") as part:
        part.touch()
    assert {path.name for path in here.iterdir()} == {"features.pt", new}
