"""The benchmark compares like with like: every contestant at toy size, as far as its package is here."""

import functools
import itertools
import json
import sys
import tempfile
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import CHECKOUT
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.append(str(CHECKOUT / "scripts"))
import bench
from peers import document, serve, startup
from peers.contest import Setting
from peers.families import FAMILIES
from peers.options import parser
from peers.rounds import compete, silence
from peers.table import table
from peers.worker import Worker

CPU = torch.device("cpu")
TOY = {
    "vae": {"images": 70, "batch": 32, "steps": 1, "hidden": 16, "latent": 2},
    "realnvp": {"images": 70, "batch": 32, "steps": 1, "couplings": 4, "hidden": 16},
    "gan": {"images": 20, "batch": 8, "steps": 1},
    "ddpm": {"images": 5, "batch": 2, "steps": 1, "dim": 8, "multipliers": (1, 2), "sampling_steps": 2},
    "fid": {"images": 200, "features": 16},
    "mig": {"images": 2000, "steps": 1},
}
SIZES = {name: replace(FAMILIES[name].size, **toy) for name, toy in TOY.items()}
NOISE = ("dataset=noise", "dataset.format.num_images=100")
HARDWARE = ("hardware=cpu", "hardware.threads=1")
ROWS = {"genlab": HARDWARE, "genlab bf16": (*HARDWARE, "hardware.precision=bf16")}
ALL = [
    (family, name)
    for family, size in SIZES.items()
    for name in FAMILIES[family].entries(Setting(torch.empty(0), (), CPU, ROWS, Path()), size)
]
TRAINED = [case for case in ALL if case[0] not in ("fid", "mig")]
SPREAD = {"vae": 1.1, "realnvp": 4.0, "gan": 1.5, "ddpm": 1.7, "fid": 1.0001, "mig": 1.0001}
"""By how much first losses may differ, as networks start from other weights; other units differ by more."""


class Ran:
    """A contestant that has done each of its tasks once, and what it was seen to do."""

    def __init__(self, contestant):
        self.contestant, self.values = contestant, {}
        self.updates, self.batches, self.types = {}, set(), set()
        for name, task in contestant.tasks.items():
            with silence(), self.watched() as count:
                self.values[name] = task.run()
            self.updates[name] = count[0]

    @contextmanager
    def watched(self):
        count = [0]

        def stepped(*_):
            count[0] += 1

        def passed(module, inputs, output):
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() > 1:
                self.batches.add(len(inputs[0]))
                self.types.add(output.dtype)

        hooks = register_optimizer_step_post_hook(stepped), register_module_forward_hook(passed)
        try:
            yield count
        finally:
            for hook in hooks:
                hook.remove()


@functools.cache
def ran(family, name):
    images = torch.randint(0, 256, (100, 1, 28, 28), dtype=torch.uint8)
    setting = Setting(images, NOISE, CPU, ROWS, Path(tempfile.mkdtemp()))
    torch.manual_seed(0)
    try:
        return Ran(FAMILIES[family].entries(setting, SIZES[family])[name]())
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")


@pytest.mark.parametrize(("family", "name"), ALL)
def test_a_contestant_does_as_much_as_genlab(family, name):
    found, ours = ran(family, name), ran(family, "genlab")
    work = {task: (t.steps, t.images) for task, t in found.contestant.tasks.items()}
    assert work == {task: (t.steps, t.images) for task, t in ours.contestant.tasks.items()}
    assert found.updates == ours.updates
    if "own" not in name:
        assert found.contestant.parameters == ours.contestant.parameters


@pytest.mark.parametrize(("family", "name"), TRAINED)
def test_every_update_is_of_a_whole_batch_and_an_epoch_of_all_of_them(family, name):
    size, found = SIZES[family], ran(family, name)
    players = 2 if family == "gan" else 1
    steps = size.images // size.batch
    assert found.updates["epoch"] == players * steps
    assert found.updates["step"] == players * size.steps
    assert found.batches == {size.batch}
    assert found.contestant.tasks["epoch"].images == steps * size.batch


@pytest.mark.parametrize(("family", "name"), ALL)
def test_losses_are_of_the_same_kind(family, name):
    task = "step" if "step" in ran(family, "genlab").values else next(iter(ran(family, "genlab").values))
    theirs, ours = ran(family, name).values[task], ran(family, "genlab").values[task]
    assert 1 / SPREAD[family] < theirs / ours < SPREAD[family]


@pytest.mark.parametrize(("family", "name"), TRAINED)
def test_a_row_has_the_precision_that_it_names(family, name):
    assert (torch.bfloat16 in ran(family, name).types) == ("bf16" in name)


def test_operations_are_counted_from_the_layers():
    size = SIZES["vae"]
    layers = [784, size.hidden, size.hidden, 2 * size.latent], [size.latent, size.hidden, size.hidden, 784]
    products = [a * b for widths in layers for a, b in itertools.pairwise(widths)]
    # Forward, gradient of the weights, gradient of the input; images need none.
    expected = 2 * size.batch * (3 * sum(products) - products[0])
    assert ran("vae", "genlab").contestant.operations() == expected


# --------------------------------------------------------------------------------------- rounds and tables


class Player:
    """Takes part, and tells of its turns."""

    parameters = 7

    def __init__(self, name, task, calls):
        self.name, self.tasks, self.calls = name, {task: (2, 8)}, calls

    def timed(self, task):
        assert task in self.tasks
        self.calls.append(self.name)
        return 0.5, 1.5


def test_those_who_have_the_task_take_turns_after_a_warm_up():
    calls = []
    players = [Player("a", "step", calls), Player("b", "step", calls), Player("c", "sample", calls)]
    rows = compete(players, "step", 2, lambda: calls.append("-"))
    assert "".join(calls) == "ab" + "ab-" + "ab-"
    assert [(r["name"], r["parameters"], r["steps"], r["images"], r["value"]) for r in rows] == [
        ("a", 7, 2, 8, 1.5),
        ("b", 7, 2, 8, 1.5),
    ]
    assert [row["seconds"] for row in rows] == [[0.5, 0.5], [0.5, 0.5]]


def _row(name, *seconds):
    return {"name": name, "parameters": 10, "steps": 4, "images": 40, "seconds": list(seconds), "value": 0.0}


def test_a_lead_is_the_median_of_the_ratios_of_each_round_and_the_limit_that_of_the_precision():
    rates = {"fp32": [1e9], "fp32 by oneDNN": [2e9, 4e9], "bf16": [8e9], "copy": [1e9]}
    family = {"operations": 1e8, "rates": rates, "memory": {"peer": 5e6}}
    rows = [_row("genlab", 1.0, 2.0, 1.0), _row("genlab bf16", 0.5, 0.5, 0.5), _row("peer", 4.0, 2.0, 2.0)]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table(rows, family, "step").splitlines()
    ]
    assert lines[0] == [
        "",
        "parameters",
        "ms/step",
        "images/s",
        "genlab is faster by",
        "genlab bf16 is faster by",
        "of the limit",
        "peak MB",
    ]
    assert lines[2] == ["genlab", "10", "250.00", "40", "", "2.00 (2.00 to 4.00)", "13%", ""]
    assert lines[3] == ["genlab bf16", "10", "125.00", "80", "0.50 (0.25 to 0.50)", "", "10%", ""]
    assert lines[4] == ["peer", "10", "500.00", "20", "2.00 (1.00 to 4.00)", "4.00 (4.00 to 8.00)", "7%", "5"]


def _bench(*arguments):
    bench.main(parser.parse_args(["--dataset", "noise", "--threads", "1", *map(str, arguments)]))


def test_the_command_writes_json_and_the_tables_of_a_document(here, capsys):
    path, page = here / "mig.json", here / "page.md"
    _bench("--families", "mig", "--images", 500, "--rounds", 2, "--out", path)
    printed = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert {len(row["seconds"]) for row in result["families"]["mig"]["tasks"]["score"]} == {2}
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    for _ in range(2):
        _bench("--table", path, "--document", page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count(printed.strip()) == 1
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no place for tables"):
        _bench("--table", path, "--document", page)


def test_a_peer_that_is_not_installed_is_left_out_and_named(here, capsys, monkeypatch):
    (here / "disent.py").write_text("raise ImportError('no disent here')")
    monkeypatch.syspath_prepend(here)  # which processes are told of
    _bench("--families", "mig", "--images", 500, "--rounds", 1)
    printed = capsys.readouterr().out
    assert "Left out: disent (no disent here)" in printed
    assert "| genlab |" in printed


def _worker(name="genlab", *arguments):
    options = ["--dataset", "noise", "--threads", "1", *arguments]
    return Worker(name, "mig", parser.parse_args(options))


def test_a_worker_is_a_process_that_waits_for_its_turns():
    with closing(_worker("genlab", "--images", "500")) as found:
        assert found.tasks == {"score": (10, 0)}
        for _ in range(2):
            seconds, value = found.timed("score")
            assert seconds > 0
            assert 0 < value < 1
        assert found.ask(serve.OPERATIONS) == 0


def test_a_worker_that_fails_says_so(capfd):
    found = _worker("genlab", "--images", "500")
    with pytest.raises(RuntimeError, match="genlab: its process ended"):
        found.timed("no such task")
    assert "KeyError" in capfd.readouterr().err


@pytest.mark.slow
def test_start_up_is_timed_to_the_first_step(here):
    overrides = (
        "model=vae",
        *NOISE,
        "dataset.num_val=0",
        "trainer.batch_size=32",
        "trainer.monitor=null",
        *HARDWARE,
    )
    assert 0.5 < startup.first_step(overrides, here) < startup.PATIENCE
    with pytest.raises(RuntimeError, match="unknown model 'va'"):
        startup.first_step(("model=va",), here)


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    ballast = torch.ones(1_500_000_000, dtype=torch.uint8)  # of the parent, and no affair of the child
    held = []
    for count in "10000", "500000":
        with closing(_worker("genlab", "--images", count)) as found:
            found.timed("score")
            held.append(found.ask(serve.MEMORY))
    assert 1e8 < held[0] < len(ballast)
    assert held[0] < held[1] - 5e7
