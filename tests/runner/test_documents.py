"""Every command that the documents show can be given; tests/docs runs most of them."""

import re
import shlex

import pytest
from harness import CHECKOUT, genlab

DOCUMENTS = [
    "README.md",
    *sorted(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "docs").glob("*.md")),
]
COMMAND = re.compile(r"genlab (?:train|eval|sample) [^`\n#|]*")


LINK = re.compile(r"\]\(([^)#:]+)\)")


def _commands() -> list[str]:
    texts = [(CHECKOUT / name).read_text() for name in DOCUMENTS]
    return sorted({command.strip(" ,;)") for text in texts for command in COMMAND.findall(text)})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_points_to_is_there(document):
    page = CHECKOUT / document
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


def test_every_statement_of_the_theory_is_on_the_page_of_the_course():
    page = (CHECKOUT / "docs" / "COURSEWORK.md").read_text()
    assert {
        path.name for path in (CHECKOUT / "tests" / "theory").glob("test_*.py") if path.name not in page
    } == set()


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A run of ``model=ddpm`` as far as its settings go."""
    folder = tmp_path_factory.mktemp("diffusion")
    (folder / "config.yaml").write_text(genlab("train", "model=ddpm", "--cfg", "job", "--resolve").out)
    return folder


@pytest.mark.parametrize("command", _commands())
def test_the_command_composes(command, finished, diffusion, monkeypatch):
    monkeypatch.chdir(CHECKOUT / "examples")  # where --config-dir conf is
    run = diffusion if re.search(r"(eval|sample) .* model\.(sampler|likelihood)", command) else finished
    command = re.sub(r"\b(run|resume)=[^\s]+", rf"\1={run}", command)
    arguments = shlex.split(command)[1:]
    if arguments[0] != "train" and not any(a.startswith("run=") for a in arguments):
        arguments.append(f"run={run}")
    if "-m" in arguments:  # the first job of a sweep stands for all, but for what a search draws
        drawn = ("-m", *(a for a in arguments if "interval(" in a))
        arguments = [re.sub(r",[\w.,]+$", "", a) for a in arguments if a not in drawn]
    flags = [] if {"--cfg", "--help"} & set(arguments) else ["--cfg", "job"]
    outcome = genlab(*arguments, *flags)
    assert (outcome.code, outcome.err) == (0, "")
