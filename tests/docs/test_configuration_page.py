"""The reference of the configuration is what its classes and YAML say today."""

import re

from harness import CHECKOUT, finish, python

PAGE = CHECKOUT / "docs" / "CONFIGURATION.md"


def test_the_page_is_up_to_date():
    """Written in a process of its own, in which no other test has registered anything."""
    program = "import configuration_reference; print(configuration_reference.page(), end='')"
    outcome = finish(python("-c", program, cwd=CHECKOUT / "scripts"))
    assert (outcome.code, outcome.err) == (0, "")
    missing = set(outcome.out.splitlines()) ^ set(PAGE.read_text().splitlines())
    assert missing == set(), "run: python scripts/configuration_reference.py"


def test_the_page_shows_type_range_default_and_meaning():
    lines = PAGE.read_text().splitlines()
    for line in (
        "| `latent_dim` | whole number ≥ 1 | `100` | Dimensions of the noise |",
        "| `free_bits` | number ≥ 0 | `0.0` | nats of KL that each latent dimension has for nothing |",
        "| `precision` | `fp32`, `tf32`, `bf16` | `fp32` | fp32 or tf32 (CUDA) or bf16 |",
        "| `clip_grad_norm` | number > 0, `null` | `null` | largest norm of the gradient of a group |",
    ):
        assert line in lines


def test_every_part_that_a_table_points_to_has_a_table():
    text = PAGE.read_text()
    headings = {line[4:].replace(" ", "-") for line in text.splitlines() if line.startswith("### ")}
    assert set(re.findall(r"\]\(#(.*?)\)", text)) - headings == set()
