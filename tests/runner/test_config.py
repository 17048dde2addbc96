"""Checked settings: strict about types, and one line about what doesn't fit."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from genlab.config import Count, Fraction, Positive, config, load_option, option_files, parse
from genlab.errors import ConfigError


@config
class Small:
    kind: Literal["small"] = "small"
    width: Count = 1


@config
class Large:
    kind: Literal["large"] = "large"
    depth: Count = 1


@config
class Settings:
    name: str
    steps: Count = 1
    rate: Positive = 0.5
    share: Fraction = 0.5
    sizes: tuple[Count, ...] = ()
    deep: bool = False
    limit: Count | None = None
    part: Annotated[Small | Large, Field(discriminator="kind")] = Field(default_factory=Small)

    def __post_init__(self) -> None:
        if self.deep and self.steps < 10:
            raise ValueError("steps: deep ones take at least 10")


def test_values_become_a_frozen_instance():
    settings = parse(Settings, {"name": "a", "steps": 3, "part": {"kind": "large", "depth": 2}})
    assert (settings.steps, settings.part) == (3, Large(depth=2))
    with pytest.raises(AttributeError):
        settings.steps = 4


@pytest.mark.parametrize(
    ("values", "key", "parsed"),
    [
        ({"rate": 2}, "rate", 2.0),
        ({"rate": 1e-3}, "rate", 1e-3),
        ({"sizes": [9, 16]}, "sizes", (9, 16)),
        ({"limit": None}, "limit", None),
        ({"share": 1}, "share", 1.0),
        ({"share": 0}, "share", 0.0),
    ],
    ids=str,
)
def test_what_means_the_same_is_taken(values, key, parsed):
    settings = parse(Settings, {"name": "a", **values})
    assert getattr(settings, key) == parsed
    assert type(getattr(settings, key)) is type(parsed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "unknown key 'x.stepz'; did you mean 'steps'?"),
        ({"part": {"kind": "small", "widht": 3}}, "unknown key 'x.part.widht'; did you mean 'width'?"),
        ({"part": {"kind": "large", "width": 3}}, "unknown key 'x.part.width'; did you mean 'depth'?"),
        ({"part": {"kind": "smal"}}, "unknown x.part.kind 'smal'; did you mean 'small'?"),
        ({"part": {"width": 3}}, "x.part"),
        ({"part": {"kind": "small", "width": 0}}, "x.part.width=0: input should be greater than or equal to 1"),
        ({"name": None}, "x.name=None: input should be a valid string"),
        ({"name": 3}, "x.name=3: input should be a valid string"),
        ({"steps": "3"}, "x.steps='3': input should be a valid integer"),
        ({"steps": True}, "x.steps=True: input should be a valid integer"),
        ({"steps": 1.5}, "x.steps=1.5: input should be a valid integer"),
        ({"steps": None}, "x.steps=None: input should be a valid integer"),
        ({"steps": 0}, "x.steps=0: input should be greater than or equal to 1"),
        ({"rate": 0.0}, "x.rate=0.0: input should be greater than 0"),
        ({"rate": True}, "x.rate=True: input should be a valid number"),
        ({"rate": "1e-3"}, "x.rate='1e-3': input should be a valid number"),
        ({"rate": float("nan")}, "x.rate=nan"),
        ({"rate": float("inf")}, "x.rate=inf"),
        ({"share": 1.01}, "x.share=1.01: input should be less than or equal to 1"),
        ({"share": -0.01}, "x.share=-0.01: input should be greater than or equal to 0"),
        ({"sizes": [9, 0]}, "x.sizes.1=0: input should be greater than or equal to 1"),
        ({"sizes": 9}, "x.sizes=9: input should be a valid"),
        ({"deep": 1}, "x.deep=1: input should be a valid boolean"),
        ({"deep": "true"}, "x.deep='true': input should be a valid boolean"),
        ({"deep": True}, "x: steps: deep ones take at least 10"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_in_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        parse(Settings, {"name": "a", **values}, "x")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"^key 'x\.name' is missing$"):
        parse(Settings, {}, "x")


def test_further_mistakes_are_counted():
    with pytest.raises(ConfigError, match=r"\(and 2 more\)$"):
        parse(Settings, {"name": "a", "steps": 0, "rate": 0, "share": 2})


def test_ranges_hold_without_yaml_too():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Settings(name="a", steps=0)


def test_an_earlier_folder_hides_a_later(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder / "dataset").mkdir(parents=True)
        (tmp_path / folder / "dataset" / "both.yaml").write_text(f"name: {folder}\n")
    folders = [tmp_path / "first", tmp_path / "second"]
    (tmp_path / "second" / "dataset" / "other.yaml").touch()
    assert list(option_files("dataset", folders)) == ["both", "other"]
    assert load_option("dataset", "both", folders) == {"name": "first"}


def test_an_unknown_option_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown dataset 'boht'; known: none"):
        load_option("dataset", "boht", [tmp_path])
