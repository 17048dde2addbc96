"""Bits of every file of a run flipped at random: each is noticed, or makes no difference."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness import QUIET, differences, genlab, rows, train

from genlab import checkpoint
from genlab.data.device import DeviceDataset
from genlab.errors import CheckpointError, ConfigError
from genlab.extractors import base, classifier
from genlab.fidelity.features import real_features
from genlab.logger import RunLogger
from genlab.run_folder import RunFolder
from genlab.types import DataSpec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(tmp_path_factory.mktemp("finished"), *QUIET)


@pytest.fixture
def folder(finished, here):
    """A run to be broken."""
    return RunFolder(Path(shutil.copytree(finished, here / "run")))


def _flipped(path: Path, count: int, seed: int = 0) -> Iterator[int]:
    """``path`` with one bit flipped, ``count`` times; the number of the byte."""
    draw, data = random.Random(seed), path.read_bytes()
    for _ in range(count):
        broken, at = bytearray(data), draw.randrange(len(data))
        broken[at] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        yield at
    path.write_bytes(data)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of since the last call."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_a_checkpoint_is_not_read_but_the_next_one(name, folder, caplog):
    paths = folder.checkpoints("best" if name == "best" else "last")
    broken = getattr(folder, name)
    others = {path: checkpoint.load(path) for path in paths if path != broken}
    for _ in _flipped(broken, 150):
        state = checkpoint.load_latest(paths)
        instead = next(path for path in paths if path != broken)
        assert list(differences(state, others[instead])) == []
        expected = [] if paths.index(broken) > paths.index(instead) else [f"falling back to {instead.name}"]
        assert [w.rpartition("; ")[2] for w in _warnings(caplog)] == expected
        with pytest.raises(CheckpointError, match=rf"{name}\.pt (has been altered|is cut short)"):
            checkpoint.load(broken)


@pytest.mark.slow
def test_the_configuration_is_refused_or_the_same(folder):
    saved, refusals = folder.load_config(), []
    for _ in _flipped(folder.config, 300):
        try:
            same = folder.load_config() == saved
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            assert same
    assert all(str(folder.config) in refusal for refusal in refusals)
    assert len(refusals) > 200  # it is not that nothing is looked at


def test_the_summary_is_left_aside_or_the_same(folder, caplog):
    saved, refused = folder.load_summary(), 0
    for _ in _flipped(folder.summary, 200):
        found = folder.load_summary()
        warned = _warnings(caplog)
        refused += found == {}
        same = saved.items() <= found.items() and not warned
        assert same or (found == {} and "has been altered" in warned[0])
    assert refused > 150


def test_logged_numbers_that_are_not_the_same_are_told_of_and_the_others_kept(folder):
    size, digest = checkpoint.load(folder.last)["logged"]
    logged, noticed = folder.logged(), 0
    data = folder.metrics.read_bytes()
    assert len(data) == size
    for _ in _flipped(folder.metrics, 200):
        RunLogger(folder, resume_step=8).close()
        kept = folder.logged()
        assert len([row for row in kept if row in logged]) >= len(logged) - 2
        noticed += (same := folder.logged_so_far(size) == (size, digest)) is False
        assert kept == logged or not same
    assert noticed > 150


@pytest.mark.slow
@pytest.mark.parametrize("at", [40, 700])
def test_a_run_with_altered_numbers_goes_on_with_a_warning(at, folder):
    data = bytearray(folder.metrics.read_bytes())
    data[at] ^= 0x10
    folder.metrics.write_bytes(data)
    outcome = genlab("train", f"resume={folder.path}", "trainer.epochs=3")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{folder.metrics}: rows up to step 8 are lost or altered" in outcome.out
    assert {row[0] for row in rows(folder.path)} >= {str(step) for step in range(9, 13)}


@pytest.mark.parametrize("verb", [["train", "resume"], ["eval", "run"], ["sample", "run"]], ids=lambda v: v[0])
def test_an_altered_configuration_ends_a_command_in_one_line(verb, folder):
    text = folder.config.read_text()
    folder.config.write_text(text.replace("seed: 0", "seed: 1"))
    outcome = genlab(verb[0], f"{verb[1]}={folder.path}")
    assert f"{folder.config} has been altered: its checksum doesn't match" in outcome.complaint()
    assert outcome.code == 2
    folder.config.write_text("".join(text.replace("seed: 0", "seed: 1").splitlines(keepends=True)[:-1]))
    assert genlab("sample", f"run={folder.path}").code == 0  # the way out that the message names


# ------------------------------------------------------------------ features and their networks

SPEC = DataSpec(1, 28, 28, 10)


@pytest.fixture
def extractor():
    return base.load_extractor("fashion_cnn", SPEC, "fashion_mnist", None)


@pytest.mark.slow
def test_cached_features_are_computed_anew_or_the_same(extractor, here, caplog):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, *SPEC.shape), generator=generator, dtype=torch.uint8)
    data = DeviceDataset(images, None, torch.device("cpu"), torch.device("cpu"))
    features = real_features(extractor, data, None, 8)
    (path,) = (here / "cache").rglob("*.pt")
    for _ in _flipped(path, 100):
        found = real_features(extractor, data, None, 8)
        assert torch.equal(found.values, features.values)
        assert torch.equal(found.logits, features.logits)
        assert "cached features" in _warnings(caplog)[0]


@pytest.mark.slow
def test_weights_that_ship_are_refused_once_altered(here, monkeypatch):
    shipped = Path(classifier.__file__).parent / "weights"
    copy = Path(shutil.copytree(shipped, here / "weights"))
    monkeypatch.setattr(classifier, "WEIGHTS", copy)
    for name in ("fashion_cnn", "mnist_cnn"):
        base.load_extractor(name, SPEC, "", None)
        for _ in _flipped(copy / f"{name}.safetensors", 40):
            with pytest.raises(ConfigError, match=rf"{name}\.safetensors: (altered|no safetensors file)"):
                base.load_extractor(name, SPEC, "", None)
