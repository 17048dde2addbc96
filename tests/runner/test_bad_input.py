"""Whatever is wrong ends in one line on stderr that names it, before or after the work began."""

import errno
import os
import subprocess

import numpy as np
import pytest
import torch
import yaml
from harness import (
    MODEL,
    QUIET,
    TINY,
    TRAINING,
    UNMEASURED,
    UNWATCHED,
    genlab,
    only_run,
    spawn,
    state,
    train,
)

OWN = ["dataset=npz", "dataset.num_val=0", *MODEL, *TRAINING, *UNWATCHED, *UNMEASURED]
SABOTAGE = [*QUIET, "plugins=[saboteur]", "model.name=saboteur"]


def _write(path, shape, dtype="uint8"):
    values = np.random.default_rng(0).integers(0, 256, shape)
    np.savez(path, images=values.astype(dtype))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train", "model=relnvp"], "unknown model 'relnvp'; did you mean 'realnvp'?"),
        (["train", "dataset=fashion_mnst"], "unknown dataset 'fashion_mnst'; did you mean 'fashion_mnist'?"),
        (["train", "experiment=realnvp_fashion_od"], "did you mean 'realnvp_fashion_ood'?"),
        (["train", "trainer/schedule=cosin"], "unknown trainer/schedule 'cosin'; did you mean"),
        (["train", "trainr=default"], "unknown key 'trainr'; did you mean 'trainer'?"),
        (["train", "trainer.epoch=3"], "unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        (["train", "+trainer.epoch=3"], "unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        (["train", "+model.net.hiden_dim=8"], "unknown key 'model.net.hiden_dim'; did you mean 'hidden_dim'?"),
        (["train", "+callbacks.grid.every=1"], "unknown callback 'grid'"),
        (["train", "+trainer.stages.prior.epochs=2"], "unknown key 'trainer.stages.prior'"),
        (["train", "~dataset.name"], "key 'dataset.name' is missing"),
        (["train", "trainer.epochs=many"], "trainer.epochs='many': input should be a valid integer"),
        (["train", "trainer.epochs=2.5"], "trainer.epochs=2.5: input should be a valid integer"),
        (["train", "trainer.epochs=true"], "trainer.epochs=True: input should be a valid integer"),
        (["train", "trainer.epochs=0"], "trainer.epochs=0: input should be greater than or equal to 1"),
        (["train", "trainer.optimizer.lr=-1"], "trainer.optimizer.lr=-1: input should be greater than 0"),
        (["train", "trainer.optimizer.name=Adma"], "unknown optimizer 'Adma'; did you mean"),
        (["train", "model.num_flows=3"], "model.num_flows=3: input should be greater than or equal to 4"),
        (["train", "model.net.name=mpl"], "unknown model.net.name 'mpl'; did you mean 'mlp'?"),
        (["train", "seed=-1"], "seed=-1: input should be greater than or equal to 0"),
        (["train", "plugins=[nowhere]"], "plugins: module 'nowhere' fails to import"),
        (["train", "hardware.device=gpu"], "hardware.device='gpu' is no device; take auto, cpu"),
        (["train", "trainer.epochs=[1"], "'trainer.epochs=[1' is no override"),
        (["train", "seed=${nowhere}"], "'nowhere'"),
        (["train", "--config-dir", "nowhere"], "nowhere"),
        (["train", "resume=nowhere"], "resume=nowhere is no run"),
        (["eval", "run=nowhere"], "run=nowhere is no run"),
        (["sample", "run=/etc/passwd"], "run=/etc/passwd is no run"),
        (["eval"], "run=latest: there is no run under"),
        (["train", "--colour"], "--colour"),
        (
            ["train", *TINY, "trainer.batch_size=65"],
            "trainer.batch_size=65 is larger than the 64 training images",
        ),
        (["train", *TINY, "dataset.num_val=96"], "dataset.num_val=96 leaves none of the 96 training images"),
        (["train", *TINY, "trainer.monitor=los"], "unknown trainer.monitor 'los'; did you mean 'loss'?"),
        (
            ["train", *TINY, "evaluation=ood", "evaluation.datasets=[nois]"],
            "unknown dataset 'nois'; did you mean",
        ),
        (
            ["train", *TINY, "evaluation=ood", "evaluation.datasets=[]"],
            "evaluation.datasets=[]: tuple should have at least 1 item",
        ),
        (
            ["train", *TINY, "evaluation=ood", "evaluation.datasets=[noise,cifar10]"],
            "dataset cifar10 has 32x32 RGB images and the model takes 8x8 grey; evaluation.resize=true",
        ),
        (["train", *TINY, "dataset.num_val=0", "evaluation.splits=[val]"], "num_val"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_bad_input_is_named_in_one_line(arguments, message):
    outcome = genlab(*arguments)
    assert message in outcome.complaint()
    assert outcome.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_absent_cuda_is_named():
    outcome = genlab("train", *TINY, "hardware=cuda")
    assert "no CUDA device here" in outcome.complaint()
    assert outcome.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "trainer.epoch=3"],
        pytest.param(["train", *QUIET, "trainer.optimizer.lr=1e30"], marks=pytest.mark.slow),
    ],
    ids=["config", "training"],
)
def test_nothing_else_reaches_stderr(arguments):
    outcome = spawn(*arguments)
    assert outcome.complaint()
    assert outcome.code in (1, 2)


# ------------------------------------------------------------------ the user's own data


def test_npz_that_is_cut_short(here):
    _write(here / "own.npz", (60, 8, 8))
    (here / "own.npz").write_bytes((here / "own.npz").read_bytes()[:1000])
    outcome = genlab("train", *OWN, "dataset.root=own.npz")
    assert "own.npz is corrupt" in outcome.complaint()
    assert outcome.code == 2


def test_npz_with_flipped_bits(here):
    _write(here / "own.npz", (60, 8, 8))
    data = bytearray((here / "own.npz").read_bytes())
    data[2000] ^= 1
    (here / "own.npz").write_bytes(data)
    outcome = genlab("train", *OWN, "dataset.root=own.npz")
    assert "own.npz: 'images' is corrupt" in outcome.complaint()
    assert outcome.code == 2


def test_images_of_odd_size_for_a_convolutional_model(here):
    _write(here / "own.npz", (60, 7, 7))
    small = [o for o in OWN if not o.startswith("model.")]
    outcome = genlab("train", "model=realnvp_conv", *small, "dataset.root=own.npz")
    assert "need an even height and width, and the images are 7x7 grey" in outcome.complaint()
    assert outcome.code == 2


def test_a_run_is_not_evaluated_on_images_of_another_shape(here, run):
    (here / "mine" / "dataset").mkdir(parents=True)
    (here / "mine" / "dataset" / "rgb.yaml").write_text(
        yaml.dump({"name": "rgb", "format": {"kind": "npz"}, "root": str(here / "rgb.npz")})
    )
    _write(here / "rgb.npz", (60, 8, 8, 3))
    ood = ["evaluation=ood", "evaluation.datasets=[rgb]"]
    outcome = genlab("eval", "--config-dir", "mine", f"run={run}", *ood)
    assert "dataset rgb has 8x8 RGB images and the model takes 8x8 grey" in outcome.complaint()
    assert outcome.code == 2


def test_a_set_that_can_not_be_had_ends_the_run_before_any_work(here):
    (here / "mine" / "dataset").mkdir(parents=True)
    (here / "mine" / "dataset" / "lost.yaml").write_text(
        yaml.dump(
            {
                "name": "lost",
                "format": {"kind": "idx", "height": 8, "width": 8, "num_classes": 10},
                "sources": [{"kind": "local", "folder": "Lost/raw"}],
            }
        )
    )
    ood = ["evaluation=ood", "evaluation.datasets=[noise,lost]", "--config-dir", "mine"]
    outcome = genlab("train", *TINY, *ood)
    assert "lost" in outcome.complaint()
    assert outcome.code == 2
    assert list(here.glob("outputs/**/*.csv")) == []


# ------------------------------------------------------------------ failures on the way


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("not_finite", "the term 'log_det' is nan at step 5 (group 'model')"),
        ("cuda_memory", "out of memory; lower trainer.batch_size"),
        ("memory", "out of memory; lower trainer.batch_size"),
        ("disk", "no room to write metrics.csv: No space left on device"),
        ("bug", "unexpected ZeroDivisionError: of mine"),
    ],
)
def test_a_failure_in_the_second_epoch_is_named_and_keeps_the_first(deed, message, here):
    outcome = genlab("train", *SABOTAGE, f"+model.deed={deed}", "+model.at=5")
    assert message in outcome.complaint()
    assert outcome.code == 1
    saved = state(only_run(here / "outputs"))
    assert (saved["epoch"], saved["step"]) == (1, 4)


def test_a_diverging_loss_is_named(here):
    outcome = genlab("train", *QUIET, "trainer.optimizer.lr=1e30")
    assert "the term 'loss' is nan at step 1 (group 'model')" in outcome.complaint()
    assert outcome.code == 1


def test_a_model_too_large_for_the_memory_is_named():
    outcome = genlab("train", *TINY, "model.net.hidden_dim=1000000000")
    assert "out of memory" in outcome.complaint()
    assert outcome.code == 1


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(here, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:  # the first epoch's best and last are written, each with its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcome = genlab("train", *QUIET)
    assert "no room to write" in outcome.complaint()
    assert outcome.code == 1
    run = only_run(here / "outputs")
    assert state(run)["epoch"] == 1
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def small_disk(here):
    """A file system of its own that a few checkpoints fill."""
    disk = here / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a full disk needs the right to mount one (root)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named(small_disk):
    outcome = spawn("train", *QUIET, "model.net.hidden_dim=64", f"output_dir={small_disk}")
    assert "No space left on device" in outcome.complaint()
    assert outcome.code == 1


@pytest.mark.parametrize("output_dir", ["file/inside", "/proc/nowhere"])
def test_a_folder_that_can_not_be_written(output_dir, here):
    (here / "file").touch()
    outcome = genlab("train", *TINY, f"output_dir={output_dir}")
    assert f"can't write {output_dir}" in outcome.complaint()
    assert outcome.code == 2


def test_a_run_that_never_began_is_not_the_latest(here):
    trained = genlab("train", *QUIET)
    assert trained.code == 0
    run = only_run(here / "outputs")
    assert genlab("train", *QUIET, "trainer.batch_size=65").code == 2
    assert str(run) in genlab("sample").out


def test_sampling_to_a_folder_is_refused(run, here):
    outcome = genlab("sample", f"run={run}", f"output={here}")
    assert str(here) in outcome.complaint()
    assert outcome.code == 2


def test_a_checkpoint_of_another_model_is_told_in_a_short_line(run):
    outcome = genlab("sample", f"run={run}", "model.num_flows=6")
    complaint = outcome.complaint()
    assert "doesn't fit the model" in complaint
    assert len(complaint) < 500
    assert outcome.code == 2


def test_a_refused_run_leaves_the_users_folder_where_it_is(here, monkeypatch):
    folder = here / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert genlab("train", *QUIET, "model.num_flows=0", "hydra.run.dir=run").code == 2
    assert list(folder.iterdir()) == []


def test_an_evaluation_of_a_run_that_measured_nothing_has_to_be_named(here):
    run = train(here / "outputs", *TINY, *UNWATCHED, "~evaluation")
    outcome = genlab("eval", f"run={run}")
    assert outcome.complaint().startswith("evaluation=null: the run measured nothing at its end; name one")
    assert outcome.code == 2
