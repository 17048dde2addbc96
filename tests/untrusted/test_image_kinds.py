"""Folders of images of every kind that PIL writes, and of files that only look like images."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hostile import png, zeros
from PIL import ExifTags, Image
from small_sets import config_of

from genlab.data import data_spec, load_images
from genlab.errors import DataError

GREY = 0x50
PLAIN = {
    "1.png": Image.new("1", (6, 4), 1),
    "L.png": Image.new("L", (6, 4), GREY),
    "LA.png": Image.new("LA", (6, 4), (GREY, 0)),
    "P.png": Image.new("RGB", (6, 4), (GREY,) * 3).convert("P", palette=Image.Palette.ADAPTIVE),
    "RGB.png": Image.new("RGB", (6, 4), (GREY,) * 3),
    "RGBA.png": Image.new("RGBA", (6, 4), (GREY, GREY, GREY, 0)),
    "RGB.bmp": Image.new("RGB", (6, 4), (GREY,) * 3),
    "L.gif": Image.new("L", (6, 4), GREY),
    "L.pgm": Image.new("L", (6, 4), GREY),
    "L.webp": Image.new("L", (6, 4), GREY),
    "L.jpg": Image.new("L", (6, 4), GREY),
    "CMYK.tif": Image.new("CMYK", (6, 4), (0, 0, 0, 255 - GREY)),
    "CMYK.jpg": Image.new("CMYK", (6, 4), (0, 0, 0, 255 - GREY)),
    "YCbCr.jpg": Image.new("YCbCr", (6, 4), (GREY, 128, 128)),
    "I;16.png": Image.fromarray(np.full((4, 6), GREY << 8 | 7, np.uint16)),
    "I;16.tif": Image.fromarray(np.full((4, 6), GREY << 8 | 7, np.uint16)),
}
UNKNOWN = {
    "I.tif": Image.new("I", (6, 4), 100_000),
    "F.tif": Image.new("F", (6, 4), 0.5),
}


def folder(root: Path, on_error: str = "raise", **changes: object):
    values = {"name": "mine", "format": {"kind": "folder", "on_error": on_error}, "root": str(root)}
    return config_of(values | changes)


def split(root: Path) -> Path:
    """Folders of that root, with one good image to test on; where the training images go."""
    for name in ("train", "test"):
        (root / name).mkdir()
    PLAIN["L.png"].save(root / "test" / "L.png")
    return root / "train"


@pytest.mark.parametrize("name", PLAIN)
def test_images_of_any_mode_become_rgb(here, name, recwarn):
    PLAIN[name].save(split(here) / name)
    loaded = load_images(folder(here), "train").images
    assert loaded.shape == (1, 3, 4, 6)
    grey = 255 if name == "1.png" else GREY
    assert (loaded.int() - grey).abs().max() <= (2 if name.endswith(("jpg", "webp")) else 0)
    assert not recwarn.list


def test_a_palette_with_transparency_keeps_its_colours(here, recwarn):
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, GREY, GREY + 1, GREY + 2])
    image.save(split(here) / "a.png", transparency=bytes([255, 0]))
    loaded = load_images(folder(here), "train").images
    assert loaded[0, :, 0, 0].tolist() == [GREY, GREY + 1, GREY + 2]
    assert not recwarn.list


@pytest.mark.parametrize("name", UNKNOWN)
def test_modes_whose_range_is_unknown_end_in_one_line_or_are_skipped(here, name, caplog):
    train = split(here)
    UNKNOWN[name].save(train / name)
    with pytest.raises(
        DataError, match=rf"{name} can't be read \(.*; remove it, or set dataset\.format\.on_error=skip"
    ):
        load_images(folder(here), "train")
    PLAIN["L.png"].save(train / "L.png")
    assert len(load_images(folder(here, "skip"), "train")) == 1
    assert "skipped 1 images that can't be read" in caplog.text


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_picture_is_taken(here, ending):
    pictures = [Image.new("L", (6, 4), value) for value in (GREY, 200, 250)]
    pictures[0].save(split(here) / f"a.{ending}", save_all=True, append_images=pictures[1:], lossless=True)
    loaded = load_images(folder(here), "train").images
    assert loaded.shape == (1, 3, 4, 6)
    assert (loaded.int() - GREY).abs().max() <= 2


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [None, 8])
def test_a_photograph_stands_upright(here, orientation, ending, size):
    """Dark above and bright below, as its EXIF data say it is to be seen."""
    upright = Image.fromarray(np.repeat([[20], [230]], [8, 8], axis=0).repeat(24, axis=1).astype(np.uint8))
    turned = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright.rotate(turned, expand=True).save(split(here) / f"a.{ending}", exif=exif, quality=95)
    (here / "test" / "L.png").unlink()
    upright.save(here / "test" / "L.png")
    config = folder(here, image_size=size)
    loaded = load_images(config, "train").images[0, 0].float()
    assert loaded.shape == ((16, 24) if size is None else (8, 8))
    assert data_spec(config).shape[1:] == tuple(loaded.shape)
    assert loaded[: len(loaded) // 2 - 1].mean() < 40
    assert loaded[len(loaded) // 2 + 1 :].mean() > 210


def broken_files() -> dict[str, bytes]:
    good = png(6, 4, zeros(bytes(28), 0))
    return {
        "empty.png": b"",
        "cut.png": png(6, 4, zeros(bytes(range(28)), 0))[:50],
        "header.png": good[:20],
        "html.png": b"<!DOCTYPE html><title>404</title>",
        "crc.png": good[:29] + b"\0\0\0\0" + good[33:],
        "nothing.png": png(0, 0, b""),
        "junk.jpg": b"\xff\xd8\xff\xe0" + bytes(100),
        "cut.gif": b"GIF89a" + struct.pack("<HH", 4, 4),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n(x) print\n%%EOF\n",
        "large.bmp": b"BM" + struct.pack("<IHHIIIIHHIIIIII", 54, 0, 0, 54, 40, 2**31 - 1, 1, 1, 24, *[0] * 6),
        "bomb.png": png(100_000, 100_000, zeros(b"", 1 << 20)),
    }


@pytest.mark.parametrize("name", broken_files())
@pytest.mark.parametrize("size", [None, 4])
def test_a_broken_image_ends_in_one_line_or_is_skipped_with_a_count(here, name, size, caplog, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: pytest.fail(f"runs {command}"))
    train = split(here)
    (train / name).write_bytes(broken_files()[name])
    PLAIN["L.png"].save(train / "L.png")
    with pytest.raises(DataError, match=rf"{name} can't be read") as caught:
        load_images(folder(here, image_size=size), "train")
    assert str(caught.value).isprintable()
    assert len(load_images(folder(here, "skip", image_size=size), "train")) == 1
    assert "skipped 1 images that can't be read, such as" in caplog.text


def test_postscript_is_no_image_whatever_its_name(here, monkeypatch):
    """PIL would hand it to Ghostscript, another program."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    (split(here) / "a.png").write_bytes(broken_files()["postscript.png"])
    with pytest.raises(DataError, match="cannot identify"):
        load_images(folder(here, image_size=4), "train")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(here):
    train = split(here)
    PLAIN["L.png"].save(train / "L.png")
    os.mkfifo(train / "pipe.png")
    (train / "folder.png").mkdir()
    (train / "lost.png").symlink_to(here / "nowhere")
    (train / "folder.png").rmdir()
    assert len(load_images(folder(here), "train")) == 1


def test_links_that_go_round_are_not_followed(here):
    cat = split(here) / "cat"
    cat.mkdir()
    PLAIN["L.png"].save(cat / "L.png")
    (cat / "again").symlink_to(here / "train")
    (here / "test" / "cat").mkdir()
    (here / "test" / "L.png").rename(here / "test" / "cat" / "L.png")
    assert len(load_images(folder(here), "train")) == 1
