"""Recorded iterations: what a CUDA graph would compute, played by a recorder that has no GPU.

``_record`` does what recording promises and no more: nothing is computed while it records, replaying reads the
images where they were then, and writes the terms to where they were then.
"""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir, parse
from genlab.cuda_graphs import Graphs
from genlab.hardware import HardwareConfig, select
from genlab.iteration import Iteration
from genlab.optim import EMA
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec

SPEC = DataSpec(1, 8, 8, num_classes=3)
MODELS = {
    "vae": ["model.warmup.steps=4", "model.encoder.hidden_dim=16", "model.decoder.hidden_dim=16"],
    "realnvp": ["model.num_flows=4", "model.net.hidden_dim=16"],
    "cgan": ["model.n_critic=3"],
    "ddpm_small": [],
}


class _Recorder:
    """Counts recordings and replays; a recording runs the work with the state of before each replay."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        terms = []

        def replay():
            self.replayed += 1
            for (_, kept), (_, new) in zip(terms, work(), strict=True):
                for name, value in new.items():
                    kept[name].copy_(value)

        self._shapes(work, terms)
        return replay, terms

    def _shapes(self, work, terms):
        """The terms that the work gives, without any trace of its having run."""
        saved = self.save()
        terms.extend(
            (group, {k: torch.full_like(v, torch.nan) for k, v in values.items()}) for group, values in work()
        )
        self.load(saved)


def _model(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"model={name}", *MODELS[name], "run_name=test"])
    torch.manual_seed(0)
    return model_builder(OmegaConf.to_container(composed.model))(SPEC)


def _train(name, graphs_of=None, steps=12):
    model = _model(name)
    settings = {"batch_size": 6, "ema_decay": 0.9, "schedule": {"name": "cosine"}, "clip_grad_norm": 1.0}
    config = parse(TrainerConfig, settings, "trainer")
    ema = EMA(model)
    (stage,) = model.stages()
    iteration = Iteration(model, stage, config, config, select(HardwareConfig(device="cpu")), ema, steps, steps)
    recorder = None
    if graphs_of is not None:
        recorder = graphs_of(model, iteration)
        iteration.graphs = Graphs(recorder)
    images = torch.randint(
        0, 256, (steps, 6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    model.initialize(Batch(images[0], torch.arange(6) % 3))
    rows = []
    for step in range(steps):
        terms = iteration(Batch(images[step], torch.arange(step, step + 6) % 3), step)
        rows.append(
            {f"{group}/{name}": value.item() for group, found in terms for name, value in found.items()}
        )
    return model, ema, rows, recorder


def _recorder(model, iteration):
    recorder = _Recorder()

    def save():
        optimizers = [copy.deepcopy(group.optimizer.state_dict()) for group in iteration.groups.values()]
        return copy.deepcopy(model.state_dict()), optimizers, torch.get_rng_state()

    def load(saved):
        weights, optimizers, random = saved
        model.load_state_dict(weights)
        for group, state in zip(iteration.groups.values(), optimizers, strict=True):
            group.optimizer.load_state_dict(state)
        torch.set_rng_state(random)

    recorder.save, recorder.load = save, load
    return recorder


@pytest.mark.parametrize("name", MODELS)
def test_replayed_iterations_train_as_those_that_run_one_by_one(name):
    model, ema, rows, _ = _train(name)
    twin, averaged, replayed, recorder = _train(name, _recorder)
    assert recorder.replayed >= 4  # of twelve: three of each kind come first
    for ours, theirs in zip(twin.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(averaged.model.parameters(), ema.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert replayed == rows


def test_each_kind_of_iteration_has_its_recording():
    _, _, _, recorder = _train("cgan", _recorder)
    assert recorder.recorded == 2  # with and without a step of the generator


def test_a_warm_up_is_over_before_anything_is_recorded():
    _, _, rows, recorder = _train("vae", _recorder)
    assert recorder.recorded == 1
    assert [row["model/kl_weight"] for row in rows[:5]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_what_cannot_be_recorded_goes_on_one_by_one_and_says_so(caplog):
    def refuses(model, iteration):
        def record(work):
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")

        return record

    model, _, rows, _ = _train("realnvp")
    twin, _, went_on, _ = _train("realnvp", refuses)
    assert went_on == rows
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert "no CUDA graph of this model" in caplog.text
    assert "and so on" not in caplog.text


def test_the_learning_rate_of_a_recorded_optimizer_is_filled_in_where_it_is():
    model = _model("realnvp")
    config = parse(TrainerConfig, {"batch_size": 6, "schedule": {"name": "cosine"}}, "trainer")
    (stage,) = model.stages()
    iteration = Iteration(model, stage, config, config, select(HardwareConfig(device="cpu")), None, 10, 10)
    (group,) = iteration.groups.values()
    place = torch.zeros(())
    for parameters in group.optimizer.param_groups:
        parameters["lr"] = place
    group.set_lr(5, 10, 10)
    assert place.item() == pytest.approx(config.optimizer.lr * 0.5)
    saved = {"name": "Adam", "state": copy.deepcopy(group.optimizer.state_dict())}
    group.load_state_dict(saved)  # a checkpoint brings values, not places
    assert all(parameters["lr"] is place for parameters in group.optimizer.param_groups)
    assert group.lr == pytest.approx(config.optimizer.lr * 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_recorded_iterations_train_as_others(name):
    losses = []
    for recorded in (False, True):
        model = _model(name)
        hardware = select(HardwareConfig(device="cuda", cuda_graphs=recorded))
        hardware.prepare(model)
        config = parse(TrainerConfig, {"batch_size": 6}, "trainer")
        (stage,) = model.stages()
        iteration = Iteration(model, stage, config, config, hardware, None, 40, 40)
        x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, device="cuda")
        batch = Batch(x, torch.arange(6, device="cuda") % 3)
        model.initialize(batch)
        rows = [iteration(batch, step)[0][1] for step in range(40)]
        losses.append(next(v for k, v in rows[-1].items() if k.startswith("loss")).item())
        assert iteration.graphs is None or iteration.graphs.works
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
