"""Write docs/CONFIGURATION.md from the configuration's classes: python scripts/configuration_reference.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from described import meanings, members, plain, takes, written
from pydantic_core import PydanticUndefined

from genlab.data import DatasetConfig
from genlab.hardware import HardwareConfig
from genlab.registry import CALLBACKS, EVALUATIONS, MODELS, SCORES
from genlab.trainer_config import TrainerConfig
from genlab.verbs import EvalConfig, SampleConfig, TrainConfig

PAGE, CONF = (Path(__file__).parents[1] / name for name in ("docs/CONFIGURATION.md", "conf"))
Source = tuple[str, type, str, str]  # heading, class, file of the values, what their keys there begin with


def sources() -> Iterator[Source]:
    yield "dataset", DatasetConfig, "train.yaml", "dataset."
    yield "trainer", TrainerConfig, "trainer/default.yaml", ""
    yield "hardware", HardwareConfig, "hardware/auto.yaml", ""
    for verb, cls in {"train": TrainConfig, "eval": EvalConfig, "sample": SampleConfig}.items():
        yield f"genlab {verb}", cls, f"{verb}.yaml", ""
    for group, registry in {"model": MODELS, "evaluation": EVALUATIONS}.items():
        for name in sorted(registry.names(), key="comparison".__eq__):  # its parts are the other evaluations
            yield f"{group} {name}", registry[name].Config, f"{group}/{name}.yaml", ""
    for name in CALLBACKS.names():
        file = next(f for f in (f"callbacks/{name}.yaml", "callbacks/default.yaml") if (CONF / f).exists())
        yield f"callback {name}", CALLBACKS[name].Config, file, f"{name}."
    for name in SCORES.names():
        yield f"score {name}", SCORES[name].Config, "evaluation/ood.yaml", f"options.{name}."


def part(cls: type, field: str, parent: Source) -> Source:
    """A class that a field of another may be of, with the first YAML that has values for it."""
    fields = cls.__pydantic_fields__
    tags = [tag for key in ("name", "kind") if key in fields for tag in get_args(fields[key].annotation)]
    group = CONF / Path(parent[2]).parts[0].removesuffix(".yaml").replace("train", "dataset")
    nested = f"{field}."
    files = [(f, key) for at, key in ((group / field, ""), (group, nested)) for f in sorted(at.glob("*.yaml"))]
    for file, key in [(parent[2], parent[3] + nested), *files]:
        entries = written(CONF / file, key)
        if entries and entries.keys() <= fields.keys() and {*tags} <= {value for value, _ in entries.values()}:
            return " ".join([field, *tags]), cls, str(file), key
    return " ".join([field, *tags]), cls, parent[2], parent[3] + nested


def tables(source: Source, seen: dict[type, str]) -> Iterator[str]:
    """The table of a class, and those of its parts that no other has brought."""
    title, cls, file, key = source
    if cls in seen:
        return
    seen[cls] = title
    entries = written(CONF / file, key)
    told = meanings(cls, {name: comment for name, (_, comment) in entries.items()})
    rows, below = [], []
    for name, field in cls.__pydantic_fields__.items():
        parts = [part(c, name, source) for c in members(field.annotation, field.metadata)]
        below += [line for one in parts for line in tables(one, seen)]
        links = [f"[{seen[c].split()[-1]}](#{seen[c].replace(' ', '-')})" for _, c, _, _ in parts]
        kind = ", ".join(links) or takes(field.annotation, field.metadata)
        default = entries.get(name, ("", ""))[0] or field.default
        shown = "" if default is PydanticUndefined or (links and default is not None) else f"`{default}`"
        meaning = told.get(name) or ("a part, with settings of its own" if links else "")
        if name not in ("name", "kind") or len(get_args(field.annotation)) != 1:
            assert meaning, f"{cls.__name__}.{name} has no description: write one under it"
            rows.append(f"| `{name}` | {kind} | {shown.replace('None', 'null')} | {meaning} |")
    yield from [f"\n### {title}\n", f"{plain((cls.__doc__ or '').split(chr(10) * 2)[0])}.\n"]
    yield from ["| key | takes | default | meaning |", "|---|---|---|---|", *rows, *below] if rows else below


def page() -> str:
    seen: dict[type, str] = {}
    lines = [line for source in sources() for line in tables(source, seen)]
    return PAGE.read_text().partition("\n### ")[0] + "\n".join(lines) + "\n"  # the introduction is kept


if __name__ == "__main__":
    PAGE.write_text(page())
