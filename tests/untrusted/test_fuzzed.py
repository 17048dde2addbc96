"""Whatever Hypothesis makes up for headers, settings, YAML and checkpoints ends in one line, or is read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness import genlab
from hostile import judged, npy, npz, one_line
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_sets import config_of, idx_bytes, small_idx

from genlab import checkpoint, plain_yaml
from genlab.assemble import model_builder
from genlab.config import parse, quoted
from genlab.data import DatasetConfig
from genlab.errors import CheckpointError, ConfigError, GenlabError
from genlab.run_folder import RunFolder
from genlab.verbs import TrainConfig

FOLDERS_LAST = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
# Found examples are no smaller for having been shrunk a minute long: headers are small already.
often = settings(
    max_examples=100, deadline=None, suppress_health_check=FOLDERS_LAST, derandomize=True, database=None
)
seldom = settings(
    max_examples=25, deadline=None, suppress_health_check=FOLDERS_LAST, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip

sides = st.one_of(st.integers(0, 12), st.sampled_from([5, 6, 12, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "null",
            "true",
            "1e3",
            ".nan",
            "${x}",
            "${oc.env:HOME}",
            "???",
            "../..",
            "/",
            "~",
            "'",
            "\\",
            "[1,",
            "{a:",
        ]
    ),
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


@often
@given(
    magic=st.sampled_from(
        [b"\0\0\x08\x03", b"\0\0\x08\x01", b"\0\0\x0d\x03", b"\x1f\x8b\x08\0", b"", b"\0\0\x08\x04"]
    ),
    shape=st.tuples(sides, sides, sides),
    room=st.one_of(st.integers(0, 400), st.just(360)),
    tail=st.binary(max_size=20),
)
def test_idx_headers(here, magic, shape, room, tail):
    folder = here / "cache" / "genlab" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x0c" + bytes(12))
    (folder / "train-images-idx3-ubyte").write_bytes(magic + struct.pack(">3I", *shape) + bytes(room) + tail)
    outcome = judged(small_idx())
    assert outcome == (12, 1, 6, 5) or isinstance(outcome, str)


def test_what_is_as_it_should_be_is_read(here):
    """Lest a mistake in the tests make all of them see nothing but errors."""
    import numpy as np

    folder = here / "cache" / "genlab" / "small"
    folder.mkdir(parents=True)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x0c" + bytes(12))
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((12, 6, 5), np.uint8)))
    assert judged(small_idx()) == (12, 1, 6, 5)


@often
@given(
    shape=st.one_of(
        st.lists(st.one_of(sides, st.integers(-4, -1), st.booleans(), st.floats()), max_size=5).map(tuple),
        texts,
    ),
    descr=st.one_of(
        st.sampled_from(["|u1", "<i8", ">i8", "<f4", "|O", "|V8", "|S3", "<U9", "|b1", "<M8[s]", "u1,O"]), plain
    ),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\x00"]),
    room=st.integers(0, 300),
    spoil=st.one_of(st.none(), st.tuples(st.integers(0, 127), st.integers(0, 255))),
    labels=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")  # of numpy and Python about what they read
def test_npy_headers(here, shape, descr, version, room, spoil, labels):
    content = bytearray(npy(shape, descr, bytes(room), version))
    if spoil is not None:
        content[spoil[0] % len(content)] = spoil[1]
    members = {"images": npy((4, 3, 3), content=bytes(36)), "labels": bytes(content)}
    path = npz(here / "a.npz", **(members if labels else {"images": bytes(content)}))
    judged(config_of({"name": "mine", "format": {"kind": "npz"}, "root": str(path)}))


def only_own_errors(read: Any) -> None:
    """Whether what ``read()`` raises, if it does, is one line that genlab means to say."""
    try:
        read()
    except GenlabError as error:
        one_line(error)


@often
@given(plain)
def test_any_values_as_a_configuration(values):
    for cls in (DatasetConfig, TrainConfig):
        only_own_errors(lambda cls=cls: parse(cls, values if isinstance(values, dict) else {"name": values}))


@often
@given(
    st.one_of(
        st.text(),
        plain.map(lambda v: yaml.safe_dump(v, allow_unicode=True)),
        st.text("[]{}:,&*!-?|>#'\"\n ax01<%@`", max_size=60),
    )
)
def test_any_text_as_yaml(text):
    only_own_errors(lambda: plain_yaml.parse_saved(text, Path("config.yaml")))


@settings(often, max_examples=40)
@given(place=st.integers(0, 10_000), value=plain, key=st.one_of(st.none(), texts))
def test_a_saved_configuration_with_one_place_changed(foreign_config, here, place, value, key):
    values = yaml.safe_load(foreign_config)
    node, names = _node(values, place)
    if key is None:
        node[names[place % len(names)]] = value
    else:
        node[key] = value
    (here / "config.yaml").write_text(yaml.safe_dump(values))

    def read() -> None:
        saved = RunFolder(here).load_config()
        parse(TrainConfig, saved)
        model_builder(saved["model"])

    only_own_errors(read)


def _node(values: Any, place: int) -> tuple[Any, list[Any]]:
    """One of the mappings inside ``values``, and its keys."""
    found, waiting = [], [values]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and node:
            found.append(node)
            waiting += node.values()
    node = found[place % len(found)]
    return node, list(node)


@pytest.fixture(scope="session")
def foreign_config(_trained: Path) -> str:
    return (_trained / "config.yaml").read_text()


@often
@given(st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1))
def test_any_path_survives_an_override(name):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    try:
        override = OverridesParser.create().parse_override(f"run={quoted(Path('/a') / name)}")
    except ConfigError:
        assert "${" in name
        return
    assert OmegaConf.create({"run": override.value()}).run == str(Path("/a") / name)


@seldom
@given(
    key=st.sampled_from(
        ["seed", "run_name", "dataset.name", "trainer.epochs", "model", "plugins", "nowhere.at.all"]
    ),
    value=texts,
)
def test_any_override(key, value):
    outcome = genlab("train", f"{key}={value}", "--cfg", "job", "--resolve")
    if outcome.code:
        assert "unexpected" not in outcome.complaint()


# ------------------------------------------------------------------ checkpoints

things = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.just({}), st.just([]), st.just(()), st.just({"a": 1}), st.just([1, 2]),
    st.just(torch.zeros(0)), st.just(torch.zeros(3)), st.just(torch.ones(2, 2, dtype=torch.int64)),
)  # fmt: skip


def _spoiled(state: dict[str, Any], place: int, thing: Any, leave_out: bool) -> dict[str, Any]:
    """The state with one of its parts, at any depth, replaced or left out."""
    node, names = _node(state, place)
    name = names[place % len(names)]
    if leave_out:
        del node[name]
    else:
        node[name] = thing
    return state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("verb", ["sample", "train"])
def test_a_checkpoint_with_one_part_spoiled(foreign, verb):
    paths = [foreign / "checkpoints" / name for name in ("best.pt", "last.pt")]
    good = paths[1].read_bytes()
    seen = set()

    @settings(seldom, max_examples=60)
    @given(place=st.integers(0, 10_000), thing=things, leave_out=st.booleans())
    def spoil(place: int, thing: Any, leave_out: bool) -> None:
        for path in foreign.glob("checkpoints/*.pt"):
            path.unlink()
        paths[1].write_bytes(good)
        checkpoint.save(paths[1], _spoiled(checkpoint.load(paths[1]), place, thing, leave_out))
        arguments = (
            [f"run={foreign}", "n=1", "weights=last"]
            if verb == "sample"
            else [f"resume={foreign}", "trainer.epochs=2"]
        )
        outcome = genlab(verb, *arguments)
        seen.add(outcome.code)
        if outcome.code:
            line = outcome.complaint()  # of an optimizer's state, only its steps tell what is wrong
            assert verb == "train" or "unexpected" not in line

    spoil()
    assert {0, 2} <= seen


@pytest.mark.parametrize("name", ["step", "epoch", "batch", "stage_index"])
@pytest.mark.parametrize("value", [-1, 2**70, "3", 1.0, None, True])
def test_a_counter_that_is_none_is_refused(here, name, value):
    checkpoint.save(here / "a.pt", {"step": 1, name: value})
    with pytest.raises(CheckpointError, match=f"can't be read: its {name} is"):
        checkpoint.load(here / "a.pt")
