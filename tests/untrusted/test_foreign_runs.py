"""Runs, sweeps and YAML from strangers: no code of theirs runs, nothing is read or written elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from harness import QUIET, TINY, UNMEASURED, UNWATCHED, genlab, only_run

from genlab.own import is_own, remember

VERBS = [("eval", "run"), ("sample", "run"), ("train", "resume")]
EVIL = "import pathlib; pathlib.Path('armed').touch()"


def _saved(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def _rewrite(run: Path, values: dict) -> None:
    """As a stranger would, who can compute a checksum too."""
    text = yaml.safe_dump(values, sort_keys=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (run / "config.yaml").write_text(f"{text}# sha256 of the lines above: {digest}\n")


def _at(values: dict, path: str, value: object) -> dict:
    """``values`` with one place, ``dataset.root`` for instance, changed."""
    *parents, last = path.split(".")
    node = values
    for key in parents:
        node = node[key]
    node[last] = value
    return values


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_that_was_sent_is_evaluated_and_sampled(foreign):
    assert genlab("eval", f"run={foreign}").code == 0
    assert genlab("sample", f"run={foreign}", "n=2").code == 0


@pytest.mark.parametrize(("verb", "key"), VERBS)
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("run_name", "${oc.env:SECRET}", "is to be filled in from elsewhere"),
        ("dataset.root", "https://example.org/${oc.env:SECRET}", "is to be filled in from elsewhere"),
        ("run_name", "${oc.decode:'${oc.env:SECRET}'}", "is to be filled in from elsewhere"),
        ("model", {"a": "${oc.create:{_target_: os.abort}}"}, "is to be filled in from elsewhere"),
        ("run_name", "${eval:'1+1'}", "is to be filled in from elsewhere"),
        ("model.net._target_", "os.abort", "the key '_target_' has a meaning to Hydra alone"),
        ("model.defaults", ["/dataset@hydra.callbacks: from_run"], "the key 'defaults' has a meaning"),
        ("hydra", {"callbacks": {"x": {"_target_": "os.abort"}}}, "the key 'hydra' has a meaning"),
        ("hydra", {"run": {"dir": "elsewhere"}}, "the key 'hydra' has a meaning"),
        ("run_name", "a\x1b]0;b", "is no name of a folder below another"),
        ("run_name", "../../up", "is no name of a folder below another"),
    ],
)
def test_a_saved_configuration_is_plain_values(foreign, here, monkeypatch, verb, key, place, value, message):
    monkeypatch.setenv("SECRET", "s3cr3t")
    _rewrite(foreign, _at(_saved(foreign), place, value))
    before = _contents(foreign)
    outcome = genlab(verb, f"{key}={foreign}")
    assert message in outcome.complaint()
    assert outcome.code == 2
    assert "s3cr3t" not in outcome.out + outcome.err
    assert _contents(foreign) == before
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{'*a,' * 9}*a]\n".replace("*a", f"*{p}")
         for p, c in zip("abcdefgh", "bcdefghi", strict=True)), "values once its aliases are written out"),
        ("model: &m\n  name: *m\n", "values once its aliases are written out"),
        ("a: " + "[" * 5000, "can't be read"),
        ("a: b\n" * 300_000, "is larger than 1000000 bytes"),
        ("model: !!python/object/apply:os.abort []\ndataset: {}\n", "can't be read"),
        ("model: {a: !!binary aGFsbG8=}\ndataset: {}\n", "no name|is missing|plain values"),
        ("model: [\n", "can't be read"),
        ("\x00", "can't be read"),
        ("just text", "is no configuration of a run"),
    ],
    ids=["laughs", "circle", "deep", "long", "tag", "bytes", "broken", "nul", "text"],
)  # fmt: skip
def test_bombs_and_tags_in_a_saved_configuration_end_in_one_line(foreign, text, message):
    (foreign / "config.yaml").write_text(text)
    outcome = genlab("eval", f"run={foreign}")
    assert re.search(message, outcome.complaint())
    assert outcome.code == 2


# ------------------------------------------------------------------ plugins


@pytest.mark.parametrize(("verb", "key"), VERBS)
@pytest.mark.parametrize("plugins", [["evil"], "evil"])
def test_a_module_that_a_stranger_names_is_not_imported(foreign, here, verb, key, plugins):
    (here / "evil.py").write_text(EVIL)
    _rewrite(foreign, _saved(foreign) | {"plugins": plugins})
    outcome = genlab(verb, f"{key}={foreign}")
    assert (
        "names plugins, modules whose code would run; if you trust them, add plugins=[evil]"
        in outcome.complaint()
    )
    assert outcome.code == 2
    assert not (here / "armed").exists()


def test_a_module_that_the_user_names_again_is_imported(foreign, here):
    (here / "evil.py").write_text(EVIL)
    _rewrite(foreign, _saved(foreign) | {"plugins": ["evil"]})
    assert genlab("sample", f"run={foreign}", "n=1", "plugins=[evil]").code == 0
    assert (here / "armed").exists()


def test_a_run_of_ones_own_knows_its_plugins_until_it_is_moved(here):
    (here / "harmless.py").write_text("")
    assert genlab("train", *QUIET, "trainer.epochs=1", "plugins=[harmless]").code == 0
    run = only_run(here / "outputs")
    assert genlab("sample", f"run={run}", "n=1").code == 0
    assert genlab("train", f"resume={run}", "trainer.epochs=2").code == 0
    moved = run.rename(here / "moved")
    assert "add plugins=[harmless]" in genlab("sample", f"run={moved}", "n=1").complaint()


def test_what_is_remembered_is_of_one_folder_and_of_these_words(here):
    remember(here / "a", ["x", "y"])
    assert is_own(here / "a", ["x", "y"])
    assert not is_own(here / "b", ["x", "y"])
    assert not is_own(here / "a", ["x", "z"])


# ------------------------------------------------------------------ sweeps


def _sweep(folder: Path, *command: str) -> Path:
    """A sweep's folder, with one job that has begun."""
    (folder / "0-job").mkdir(parents=True)
    record = {"number": 0, "overrides": [], "command": shlex.join(["genlab", "train", *command]), "sweep": ".."}
    (folder / "0-job" / "job.json").write_text(
        json.dumps(record | {"goal": None, "status": "failed", "error": ""})
    )
    return folder


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=os.abort",
        "hydra.launcher._target_=os.abort",
        "hydra/launcher=submitit_local",
        "plugins=[evil]",
        "--config-dir=evil",
        "-cd",
        "run_name=${oc.env:HOME}",
        "+model.x={_target_: os.abort}",
    ],
)
def test_the_command_of_a_strangers_sweep_is_not_run_where_it_names_code(here, word):
    folder = _sweep(here / "sweep", "-m", *QUIET, word)
    outcome = genlab("train", f"resume={folder}")
    assert "the sweep was begun elsewhere, by words that can run code" in outcome.complaint()
    assert word.split("'")[0] in outcome.complaint()
    assert outcome.code == 2


def test_a_strangers_sweep_of_plain_settings_goes_on(here):
    folder = _sweep(here / "sweep", "-m", *QUIET, "trainer.max_steps=1", "seed=0,1")
    outcome = genlab("train", f"resume={folder}")
    assert "the sweep was begun elsewhere" not in outcome.err
    assert len(list(folder.glob("*/checkpoints/last.pt"))) == 2


def test_a_report_is_written_nowhere_but_in_the_sweep_that_holds_the_run(foreign, here):
    other = here / "mine"
    other.mkdir()
    (other / "sweep.csv").write_text("mine")
    record = {
        "number": 0,
        "overrides": [],
        "command": "",
        "sweep": str(other),
        "goal": None,
        "status": "ok",
        "error": "",
    }
    (foreign / "job.json").write_text(json.dumps(record))
    assert genlab("train", f"resume={foreign}", "trainer.epochs=2").code == 0
    assert {path.name for path in other.iterdir()} == {"sweep.csv"}
    assert (other / "sweep.csv").read_text() == "mine"


# ------------------------------------------------------------------ folders and links


@pytest.mark.parametrize("name", ["metrics.csv", "train.log", "figures", "evaluation", "checkpoints/last.pt"])
@pytest.mark.parametrize(("verb", "key"), VERBS)
def test_a_link_out_of_a_run_is_refused(foreign, here, verb, key, name):
    mine = here / "mine"
    mine.mkdir()
    (mine / "diary").write_text("dear diary")
    link = foreign / name
    if link.is_dir():
        link.rename(foreign / "was")
    link.unlink(missing_ok=True)
    link.symlink_to(mine if link.suffix == "" else mine / "diary")
    outcome = genlab(verb, f"{key}={foreign}")
    assert f"{link} is a link that leads out of the run's folder" in outcome.complaint()
    assert outcome.code == 2
    assert _contents(mine) == {"diary": b"dear diary"}


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../up", "~/home", "a\nb", " ", "\x1b[2J"])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_the_name_of_a_run_leads_out_of_no_folder(here, name, sweep):
    quoted = f"run_name='{name}'"
    outcome = genlab("train", *sweep, *QUIET, "trainer.max_steps=1", quoted, f"output_dir={here / 'a' / 'b'}")
    assert "is no name of a folder below another" in outcome.err
    assert outcome.code != 0
    assert not list(here.glob("**/last.pt"))
    assert not (here / "a" / "up").exists()


@pytest.mark.parametrize("place", ["", "with 'quotes", "back\\slash\\", "a,b=[c]{d}"])
def test_a_run_in_a_folder_of_any_name_is_found(foreign, here, place):
    moved = foreign.rename(here / f"x{place}")
    outcome = genlab("sample", f"run={moved}", "n=1")
    assert outcome.code == 0, outcome.err
    assert list(moved.glob("samples/*.png"))


def test_a_folder_that_hydra_would_fill_in_is_refused(foreign, here):
    moved = foreign.rename(here / "a${oc.env:HOME}")
    assert "rename that folder" in genlab("sample", f"run={moved}", "n=1").complaint()


# ------------------------------------------------------------------ folders of YAML


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("experiment/x", "# @package _global_\nhydra: {callbacks: {x: {_target_: os.abort}}}\n"),
        ("experiment/x", "# @package _global_\nhydra: {callbacks: {x: {_target_: genlab.cli.main}}}\n"),
        ("hydra/launcher/x", "_target_: hydra_plugins.hydra_joblib_launcher.joblib_launcher.os.abort\n"),
        ("hydra/job_logging/x", "version: 1\nhandlers: {h: {class: os.abort}}\n"),
        ("hydra/job_logging/x", "version: 1\nhandlers: {h: {(): os.abort}}\n"),
        ("hydra/job_logging/x", "version: 1\nhandlers: {h: {class: logging.StreamHandler, stream: 'ext://os.abort'}}\n"),
        ("dataset/x", "name: &a [_target_]\n_target_: os.abort\n"),
    ],
)  # fmt: skip
def test_a_folder_of_yaml_that_would_run_code_is_refused(here, name, text):
    path = here / "conf" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for flag in (["--config-dir", "conf"], ["--config-dir=conf"], ["-cd", "conf"]):
        outcome = genlab("train", *TINY, f"{Path(name).parent}=x", *flag)
        assert "is refused: '" in outcome.complaint()
        assert outcome.code == 2


def test_a_bomb_in_a_folder_of_yaml_ends_in_one_line(here):
    (here / "conf" / "dataset").mkdir(parents=True)
    laughs = "a: &a [x]\n" + "".join(
        f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9)
    )
    (here / "conf" / "dataset" / "x.yaml").write_text(laughs)
    outcome = genlab("train", "dataset=x", "--config-dir", "conf")
    assert "values once its aliases are written out" in outcome.complaint()


def test_a_launcher_of_ones_own_in_yaml_is_taken(here):
    (here / "conf" / "hydra" / "launcher").mkdir(parents=True)
    target = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"
    (here / "conf" / "hydra" / "launcher" / "mine.yaml").write_text(target)
    small = [*TINY, *UNWATCHED, *UNMEASURED, "trainer.max_steps=1"]
    outcome = genlab("train", "-m", *small, "hydra/launcher=mine", "--config-dir", "conf")
    assert outcome.code == 0, outcome.err


def test_no_flag_unpickles_a_file(here):
    assert "unknown flag '--experimental-rerun'" in genlab("train", "--experimental-rerun=x.pickle").complaint()


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "debian", "package": "-oDPkg::x=y", "path": "usr"},
        {"kind": "debian", "package": "dataset-x", "path": "/home"},
        {"kind": "debian", "package": "dataset-x", "path": "a/../../.."},
        {"kind": "npm", "package": "--userconfig=x", "path": "data"},
        {"kind": "npm", "package": "git+ssh://host/x", "path": "data"},
        {"kind": "npm", "package": "../folder", "path": "data"},
        {"kind": "npm", "package": "x@1.0.0", "path": "/data"},
        {"kind": "url", "url": "file:///etc", "md5s": {}},
        {"kind": "local", "folder": "../../up"},
    ],
    ids=lambda source: str(list(source.values())[1]),
)
def test_a_source_names_no_option_and_no_folder_above(foreign, source):
    values = _saved(foreign)
    values["dataset"]["format"] = {"kind": "idx", "height": 8, "width": 8, "num_classes": 10}
    values["dataset"]["sources"] = [source]
    _rewrite(foreign, values)
    outcome = genlab("eval", f"run={foreign}")
    assert "dataset.sources" in outcome.complaint()
    assert outcome.code == 2


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "..", ".hidden", "a b", ""])
def test_a_dataset_whose_name_is_no_folder_of_the_cache_is_refused(name):
    outcome = genlab("train", *TINY, f"dataset.name='{name}'")
    assert "dataset.name" in outcome.complaint()


def test_hidden_settings_of_a_strangers_run_do_not_reach_sampling(foreign, here):
    _rewrite(foreign, _saved(foreign) | {"output": str(here / "mine.png"), "n": 10**9})
    assert genlab("sample", f"run={foreign}", "n=1").code == 0
    assert not (here / "mine.png").exists()
    assert [path.name for path in (foreign / "samples").iterdir()] == ["seed0_n1.png"]
