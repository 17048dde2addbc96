"""The reference of the configuration is what its classes and YAML say today."""

import re
import sys

from harness import CHECKOUT

sys.path.append(str(CHECKOUT / "scripts"))
import configuration_reference


def test_the_page_is_up_to_date():
    missing = set(configuration_reference.page().splitlines()) ^ set(
        configuration_reference.PAGE.read_text().splitlines()
    )
    assert missing == set(), "run: python scripts/configuration_reference.py"


def test_the_page_shows_type_range_default_and_meaning():
    lines = configuration_reference.PAGE.read_text().splitlines()
    for line in (
        "| `latent_dim` | whole number ≥ 1 | `100` | Dimensions of the noise |",
        "| `free_bits` | number ≥ 0 | `0.0` | nats of KL that each latent dimension has for nothing |",
        "| `precision` | `fp32`, `tf32`, `bf16` | `fp32` | fp32 or tf32 (CUDA) or bf16 |",
        "| `clip_grad_norm` | number > 0, `null` | `null` | largest norm of the gradient of a group |",
    ):
        assert line in lines


def test_every_part_that_a_table_points_to_has_a_table():
    text = configuration_reference.PAGE.read_text()
    headings = {line[4:].replace(" ", "-") for line in text.splitlines() if line.startswith("### ")}
    assert set(re.findall(r"\]\(#(.*?)\)", text)) - headings == set()
