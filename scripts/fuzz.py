"""Feeds the readers of IDX, npz and configurations what atheris makes up, led by the code that it reaches.

python scripts/fuzz.py npz 300      seconds; needs the extra `fuzz`; libFuzzer's own options may follow

Whatever a reader raises but one of genlab's own errors ends the search, and the input is left in a file.
"""

import contextlib
import gzip
import io
import logging
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["genlab", "yaml", "omegaconf", "numpy.lib", "zipfile"]):
    from genlab import plain_yaml
    from genlab.config import conf_dir, parse
    from genlab.data import DatasetConfig, data_spec, load_images
    from genlab.errors import GenlabError
    from genlab.trainer_config import TrainerConfig

WORK = Path(tempfile.mkdtemp(prefix="fuzz-"))
NPZ = parse(DatasetConfig, {"name": "a", "format": {"kind": "npz"}, "root": str(WORK / "a.npz")})
IDX_FORMAT = {"kind": "idx", "height": 6, "width": 5, "num_classes": 3}
LOCAL = [{"kind": "local", "folder": "b"}]
IDX = parse(DatasetConfig, {"name": "b", "format": IDX_FORMAT, "root": str(WORK), "sources": LOCAL})


def idx(data: bytes) -> None:
    (WORK / "t10k-images-idx3-ubyte").write_bytes(data)
    (WORK / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02\0\1")
    assert load_images(IDX, "test").images.shape == (2, 1, 6, 5)


def npz(data: bytes) -> None:
    (WORK / "a.npz").write_bytes(data)
    if data.startswith(b"\x93NUMPY"):  # an array alone is put into an archive, whose checksums no chance finds
        with zipfile.ZipFile(WORK / "a.npz", "w") as zipped:
            zipped.writestr("images.npy", data)
    assert load_images(NPZ, "train").images.shape[1:] == data_spec(NPZ).shape


def config(data: bytes) -> None:
    values = plain_yaml.parse_saved(data.decode(errors="replace"), Path("config.yaml"))
    for kind, group in ((DatasetConfig, "dataset"), (TrainerConfig, "trainer")):
        with contextlib.suppress(GenlabError):
            parse(kind, values.get(group, values) if isinstance(values, dict) else values, group)


def seeds(target: str) -> list[bytes]:
    """Good inputs to begin with."""
    images, file = np.zeros((2, 6, 5), np.uint8), io.BytesIO()
    np.savez_compressed(file, images=images, labels=np.arange(2))
    whole = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()
    with zipfile.ZipFile(file) as zipped:
        arrays = [file.getvalue(), zipped.read("images.npy")]
    settings = [path.read_bytes() for path in conf_dir().glob("[dt]*/*.yaml")]
    return {"idx": [whole, gzip.compress(whole)], "npz": arrays, "config": settings}[target]


def once(data: bytes) -> None:
    with contextlib.suppress(GenlabError):
        {"idx": idx, "npz": npz, "config": config}[sys.argv[1]](data)


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    _, target, seconds, *options = sys.argv
    corpus = tempfile.mkdtemp(prefix="corpus-")
    for i, seed in enumerate(seeds(target)):
        Path(corpus, str(i)).write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *options, corpus], once)
    atheris.Fuzz()
