"""Help, version, completion and most typos: what answers before torch is imported."""

import pytest
from harness import finish, genlab, python

import genlab as package
from genlab.cli import VERBS
from genlab.config import conf_dir, option_files

GROUPS = {
    "train": [
        "model",
        "model/net",
        "dataset",
        "trainer",
        "trainer/schedule",
        "hardware",
        "callbacks",
        "evaluation",
    ],
    "eval": ["evaluation", "hardware"],
    "sample": ["hardware"],
}


def _described(text: str) -> dict[str, str]:
    """Indented ``name  description`` lines of a help text."""
    lines = [line.strip().partition("  ") for line in text.splitlines() if line.startswith("  ")]
    return {name: description.strip() for name, _, description in lines}


def test_overview_has_one_line_for_each_verb_model_dataset_and_experiment():
    outcome = genlab("--help")
    described = _described(outcome.out)
    options = [name for g in ("model", "dataset", "experiment") for name in option_files(g, [conf_dir()])]
    assert outcome.code == 0
    assert [name for name in [*VERBS, *options] if not described.get(name)] == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_its_groups_with_a_line_for_each_option_and_an_example(verb):
    outcome = genlab(verb, "--help")
    described = _described(outcome.out)
    options = [name for group in GROUPS[verb] for name in option_files(group, [conf_dir()])]
    assert outcome.code == 0
    assert [group for group in GROUPS[verb] if f"{group}=...:" not in outcome.out] == []
    assert [name for name in options if not described.get(name)] == []
    assert f"example: genlab {verb} " in outcome.out


@pytest.mark.parametrize("verb", ["train", "eval", "sample"])
def test_the_example_of_a_verb_composes(verb, finished):
    line = next(line for line in genlab(verb, "--help").out.splitlines() if line.startswith("example: "))
    arguments = line.removeprefix("example: genlab ").replace("run=latest", f"run={finished}").split()
    assert genlab(*arguments, "--cfg", "job").code == 0


def test_version():
    assert genlab("--version").out == f"genlab {package.__version__}\n"


def test_no_arguments_give_the_overview():
    assert genlab().out == genlab("--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["trian"],
        ["train", "--help"],
        ["train", "--cfg", "job"],
        ["train", "model=relnvp"],
        ["train", "trainer.epoch=3"],
        ["eval", "run=nowhere"],
        ["-sc", "query=bash"],
    ],
    ids=" ".join,
)
def test_no_torch_is_imported_for(arguments):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from genlab.cli import main\n"
        "main()"
    )
    outcome = finish(python("-c", code, *arguments, env={"COMP_LINE": "genlab train model=re"}))
    assert outcome.err.splitlines()[-1] == "False"


def _completions(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    outcome = genlab("-sc", "query=bash")
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out.split()


@pytest.mark.parametrize("line", ["genlab ", "genlab tr"])
def test_tab_completes_verbs(line, monkeypatch):
    assert _completions(monkeypatch, line) == list(VERBS)


def test_tab_completes_models(monkeypatch):
    assert _completions(monkeypatch, "genlab train model=re") == [
        f"model={name}" for name in option_files("model", [conf_dir()]) if name.startswith("re")
    ]


def test_tab_completes_keys(monkeypatch):
    assert "trainer.epochs=" in _completions(monkeypatch, "genlab train trainer.ep")


def test_tab_completes_evaluations_without_a_run(monkeypatch):
    assert "evaluation=ood" in _completions(monkeypatch, "genlab eval evaluation=")
