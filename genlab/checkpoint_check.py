"""What is known of a checkpoint before torch reads it: that it holds tensors and plain values, of what size.

``weights_only`` keeps code out, but not sizes: it makes a ``bytearray`` of any length, and unzips a record to
whatever that unzips to.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from genlab.errors import CheckpointError

_PICKLE = "data.pkl"
_CLASSES = re.compile(
    r"collections OrderedDict|torch (\w+Storage|Size|device)|torch._utils _rebuild_(tensor_v2|parameter)"
)
"""What tensors and plain values are made of; ``weights_only`` holds it against a list of its own."""
_BY_NAME = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
_MOST_OBJECTS = 10_000_000


class ForeignObjectError(ValueError):
    """A checkpoint asks for something that no tensor or plain value needs."""


def check(data: bytes) -> None:
    """Look through a checkpoint's archive and pickle; nothing is built from them.

    Raises:
        ForeignObjectError: it asks for other objects than tensors and plain values.
        ValueError: a record claims more bytes than the file has.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        records = zipped.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("it is compressed, which torch's are not")
        if sum(record.file_size for record in records) > len(data):
            raise ValueError("its records claim more bytes than it has")
        pickles = [record for record in records if record.filename.rpartition("/")[2] == _PICKLE]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} files {_PICKLE}")
        _check_pickle(zipped.read(pickles[0]))


def check_state(state: Mapping[str, Any]) -> None:
    """Raises :class:`ValueError` where a counter of a run's state is no counter."""
    for name in ("step", "epoch", "batch", "stage_index", "stage_step"):
        if name in state and (type(state[name]) is not int or not 0 <= state[name] < 2**63):
            raise ValueError(f"its {name} is {str(state[name])[:40]}")


@contextmanager
def of_a_run() -> Iterator[None]:
    """Whatever a checkpoint raises that has other content than a run's, as one line; also a decorator.

    Raises:
        CheckpointError: a part is missing, or of another kind than it should be.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the checkpoint doesn't hold what a run saves ({reason[:200]})") from None


def _check_pickle(content: bytes) -> None:
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if operation.name in _BY_NAME and not _CLASSES.fullmatch(str(argument)):
            raise ForeignObjectError(f"it asks for {argument}")
        if count == _MOST_OBJECTS:
            raise ValueError(f"more than {_MOST_OBJECTS} objects")
