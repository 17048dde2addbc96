"""Every command of these documents is run, made small."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import CHECKOUT, genlab, only_run
from PIL import Image
from small_runs import content, small

from genlab.data.store import Store

DOCUMENTS = [
    "README.md",
    *(f"docs/{name}.md" for name in ("MODELS", "EXTENDING", "COURSEWORK", "SWEEPS", "ARCHITECTURE")),
]
COMMAND = re.compile(r"genlab (?:train|eval|sample) [^`\n#|]*")
COMPOSED = {
    r"hydra/launcher=(joblib|submitit_local|ray)": "jobs in processes of their own: test_launchers.py",
    r"hydra/launcher=(slurm|ray_cluster)": "a cluster: test_launchers.py",
    r"hardware=distributed": "several processes: test_distributed.py",
    r"resume=outputs/sweeps": "what was lost of a sweep: test_sweep.py",
}
"""What is composed alone, by tests/runner/test_documents.py, and what runs it."""
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
NOT_HERE = {
    "python3 -m venv": "installs: test_newcomer.py, and whoever runs these tests",
    r"\. \.venv/bin/activate": "the same",
    "tensorboard --logdir": "serves until it is stopped",
    "torchrun ": "several processes: test_torchrun.py",
    "genlab --help": "test_help.py",
    "cd examples$": "where these tests are",
}
"""Other commands in blocks, and what runs them."""
FAST = [
    r"train model=realnvp dataset=fashion_mnist$",
    r"train --config-dir .* model=gaussian$",
    r"train dataset=(folder|npz) ",
    r"train model=vae model/prior=flow ",
    r"train resume=latest$",
    r"eval run=latest evaluation=ood evaluation.datasets=\[mnist_10k,",
    r"eval run=latest dataset=kmnist ",
    r"sample run=latest n=25 seed=0$",
    r"--help|--cfg job",
]
"""The others are slow."""
RUNS = {
    r"labels=": "model=cgan",
    r"model\.(sampler|likelihood)": "model=ddpm_small",
    r"my_models": "--config-dir conf plugins=[my_models] model=gaussian",
    r"": "model=realnvp",
}
"""By what a command of ``eval`` or ``sample`` says, the run that it is about."""


def _commands():
    texts = [(CHECKOUT / name).read_text() for name in DOCUMENTS if (CHECKOUT / name).exists()]
    found = sorted({command.strip(" ,;)") for text in texts for command in COMMAND.findall(text)})
    run = [c for c in found if not any(re.search(pattern, c) for pattern in COMPOSED)]
    return [
        pytest.param(c, marks=[] if any(re.search(pattern, c) for pattern in FAST) else [pytest.mark.slow])
        for c in run
    ]


@pytest.fixture
def workplace(examples, monkeypatch):
    """The examples' folder, with photos and arrays of the user's; sets of images that are fetched are tiny."""
    monkeypatch.setattr(Store, "content", lambda store, name, *_: content(name))
    rng = np.random.default_rng(0)
    np.savez(examples / "images.npz", images=rng.integers(0, 256, (60, 28, 28), dtype=np.uint8))
    (examples / "photos").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(examples / f"photos/{i}.png")
    return examples


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Finished runs by what trained them, filled as they are asked for."""
    return tmp_path_factory.mktemp("trained"), {}


@pytest.fixture
def run_of(workplace, trained):
    """The run that a command looks at."""
    folder, runs = trained

    def run(command: str) -> Path:
        model = next(model for pattern, model in RUNS.items() if re.search(pattern, command))
        if model not in runs:
            outputs = folder / str(len(runs))
            outcome = genlab(*small(f"genlab train {model}"), f"output_dir={outputs}")
            assert (outcome.code, outcome.err) == (0, ""), f"{outcome.err}{outcome.out[-800:]}"
            runs[model] = only_run(outputs)
        return runs[model]

    return run


@pytest.mark.parametrize("command", _commands())
def test_the_command_runs(command, run_of, workplace):
    if re.search(r"^genlab (eval|sample)|resume=", command):
        run = run_of(command)
        if "run=[" in command:
            others = [shutil.copytree(run, workplace / "others" / name) for name in "ab"]
            command = re.sub(r"\brun=\[[^ ]+", f"run=[{run},{others[0]},{others[1]}]", command)
        command = re.sub(r"\b(run|resume|evaluation\.background)=(?!\[)[^\s]+", rf"\1={run}", command)
        if " run=" not in command and "resume=" not in command:
            command += f" run={run}"
    is_shown = re.search(r"--help|--cfg", command)
    arguments = command.split()[1:] if is_shown else small(command)
    outcome = genlab(*arguments)
    assert outcome.code == 0, f"{outcome.err}{outcome.out[-800:]}"
    assert "genlab:" not in outcome.err  # Optuna tells of its study there
    if "-m" in arguments:
        (report,) = workplace.glob("outputs/sweeps/*/sweep.html")
        assert "failed" not in report.with_suffix(".md").read_text()


@pytest.mark.slow
def test_the_quickstart_from_beginning_to_end(workplace):
    page = (CHECKOUT / "docs" / "QUICKSTART.md").read_text()
    commands = [line for block in BLOCK.findall(page) for line in block.splitlines()]
    for command in commands:
        if not re.match(r"genlab (train|eval|sample) ", command):
            assert re.match("|".join(NOT_HERE), command)
            continue
        outcome = genlab(*small(command))
        assert (outcome.code, outcome.err) == (0, ""), f"{command}: {outcome.err}"
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    promised = [name for row in rows for name in re.findall(r"`([^`]+)`", row) if "/" not in name[:-1]]
    assert len(promised) > 8
    assert [name for name in promised if not (workplace / "outputs" / "vae" / name).exists()] == []
    for left in ("vae/samples/seed0_n25.png", "dims/sweep.html", "flow/report.html"):
        assert (workplace / "outputs" / left).is_file()
    assert (workplace / "samples.npz").is_file()
    assert len(list(workplace.glob("outputs/comparisons/*/comparison.html"))) == 1


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/QUICKSTART.md"])
def test_what_else_a_block_of_commands_says_is_known(document):
    lines = [line for block in BLOCK.findall((CHECKOUT / document).read_text()) for line in block.splitlines()]
    known = "|".join(["genlab (train|eval|sample) ", *NOT_HERE])
    assert [line for line in lines if not re.match(known, line)] == []
