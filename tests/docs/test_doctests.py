"""The examples in docstrings are true."""

import ast
import doctest
import importlib

import pytest
import torch
from harness import CHECKOUT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGE = CHECKOUT / "genlab"
MODULES = sorted(
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
MATHEMATICS = [
    *("likelihood", "adversarial"),
    *(f"diffusion/{name}" for name in ("schedules", "process", "ode")),
    *(f"fidelity/{name}" for name in ("distances", "prdc", "classes")),
    *(f"disentanglement/{name}" for name in ("histograms", "sap", "dci", "score")),
    *(f"nets/{name}" for name in ("gaussian", "splines", "masks")),
]
"""Files of formulas, each of whose functions can be shown by a small known truth."""
BY_OTHERS = {
    "kernel_distance": "is torchmetrics', tested against another implementation",
    "mutual_information": "has an example as a method's part",
    "accuracies": "is what sap_score shows",
    "dci": "grows forests; its parts have examples",
    "mean_over_factors": "is a mean",
    "active": "is a comparison",
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    module = importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        failed, attempted = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=FLAGS)
    assert attempted > 0
    assert failed == 0, "see the captured output"


@pytest.mark.parametrize("name", MATHEMATICS)
def test_every_public_function_of_a_file_of_formulas_has_an_example(name):
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = {f.name: ast.get_docstring(f) or "" for f in functions if not f.name.startswith("_")}
    assert {f for f, text in public.items() if ">>> " not in text} - BY_OTHERS.keys() == set()
