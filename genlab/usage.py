"""What ``--help`` says, read from the YAML groups; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genlab.config import conf_dir, option_files

VERBS = {
    "train": "train a model; `resume=<run>` continues one",
    "eval": "measure a trained model: likelihood, FID, OOD detection and more; `run=[a,b]` compares several",
    "sample": "draw images from a trained model",
}
FLAGS = [
    *("-h", "--help", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp"),
    *("--config-name", "-cn", "--config-dir", "-cd", "--info", "-i"),
]
"""What Hydra's own parser takes behind a verb, but for ``--experimental-rerun``, which unpickles a file."""
_EXAMPLES = {
    "train": "genlab train model=realnvp dataset=fashion_mnist trainer.epochs=5",
    "eval": "genlab eval run=latest evaluation=ood evaluation.datasets=[mnist_10k,noise]",
    "sample": "genlab sample run=latest n=25 seed=0 temperature=0.7",
}
GROUPS = ["model", "dataset", "trainer", "hardware", "callbacks", "evaluation"]
"""The YAML groups that make up a run."""
_GROUPS = {
    "train": [*GROUPS, "experiment"],
    "eval": ["evaluation", "hardware"],
    "sample": ["hardware"],
}


def folders(arguments: Sequence[str]) -> list[Path]:
    """Where YAML groups are looked for: ``--config-dir`` first, then genlab's own."""
    own = [conf_dir()]
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            value = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            return [Path(value), *own]
    return own


def _options(group: str, where: Sequence[Path]) -> list[tuple[str, str]]:
    """Names of a group and the first comment in each file."""
    return [(name, _first_comment(path)) for name, path in option_files(group, where).items()]


def _nested(where: Sequence[Path]) -> list[str]:
    """The groups within groups, ``model/prior`` for instance."""
    found = {f"{path.parent.name}/{path.name}" for root in where for path in root.glob("*/*") if path.is_dir()}
    return sorted(name for name in found if name.partition("/")[0] in GROUPS)


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") and "@package" not in line:
                return line.removeprefix("#").strip()
    return ""


def _listing(title: str, entries: Sequence[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in entries), default=0)
    return "\n".join([f"{title}:", *(f"  {name:<{width}}  {text}".rstrip() for name, text in entries)])


def overview(where: Sequence[Path]) -> str:
    """``genlab --help``: verbs, models, datasets, experiments with one line each."""
    parts = [
        "genlab runs experiments with deep generative models on small images.",
        "usage: genlab VERB [key=value ...] [--multirun] [--cfg job] [--config-dir DIR]",
        _listing("verbs", list(VERBS.items())),
        _listing("models (model=...)", _options("model", where)),
        _listing("datasets (dataset=...)", _options("dataset", where)),
        _listing("experiments (experiment=...)", _options("experiment", where)),
        "Each verb explains itself: genlab train --help",
    ]
    return "\n\n".join(parts)


def verb_help(verb: str, where: Sequence[Path]) -> str:
    """``genlab VERB --help``: its groups and their options, and an example."""
    groups = [_listing(f"{group}=...", _options(group, where)) for group in _GROUPS[verb]]
    nested = [_listing(f"{group}=...", _options(group, where)) for group in _nested(where) if verb == "train"]
    parts = [
        f"genlab {verb}: {VERBS[verb]}",
        f"example: {_EXAMPLES[verb]}",
        *groups,
        *nested,
        _listing(
            "and",
            [
                ("key=value", "any key of the configuration; a,b,c with -m runs one job for each"),
                ("--cfg job", "print the composed configuration and stop"),
                ("-m, --multirun", "a sweep"),
                ("--config-dir DIR", "a folder of your own YAML groups"),
                ("-sc install=bash", 'tab completion: eval "$(genlab -sc install=bash)"'),
            ],
        ),
    ]
    return "\n\n".join(parts)
