"""Schedules against torch's, optimizers by name, the moving average."""

import pytest
import torch
from torch import nn

from genlab.config import parse
from genlab.errors import ConfigError
from genlab.optim import EMA, Constant, Cosine, OneCycle, OptimizerConfig, StepDecay


def _torch_factors(make, steps: int, every: int = 1) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for step in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return factors


def test_one_cycle_is_torchs():
    expected = _torch_factors(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=100, cycle_momentum=False), 100
    )
    factors = [OneCycle().factor(step, 100, 10) for step in range(100)]
    # torch reaches its peak one step earlier, at 0.3 * 100 - 1.
    assert factors[0] == pytest.approx(expected[0])
    assert factors[-1] == pytest.approx(expected[-1], rel=1e-3)
    assert max(abs(a - b) for a, b in zip(factors, expected, strict=True)) < 0.06


def test_cosine_is_torchs():
    expected = _torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50), 50)
    assert [Cosine().factor(step, 50, 10) for step in range(50)] == pytest.approx(expected)


def test_step_decay_is_torchs():
    expected = _torch_factors(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.2), 100, every=10)
    factors = [StepDecay(step_size=2, gamma=0.2).factor(step, 100, 10) for step in range(100)]
    assert factors == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [Constant(warmup_steps=4), Cosine(warmup_steps=4)])
def test_warm_up_rises_linearly_to_one(schedule):
    assert [schedule.factor(s, 100, 10) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), StepDecay(), OneCycle()], ids=lambda s: s.name)
def test_every_schedule_survives_a_single_step(schedule):
    assert 0 <= schedule.factor(0, 1, 1) <= 1


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "RAdam"])
def test_optimizers_of_torch_step(name):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = OptimizerConfig(name=name, lr=0.1).build([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "Adamm"}, "unknown optimizer 'Adamm'; did you mean 'Adam'"),
        ({"name": "LBFGS"}, "unknown optimizer 'LBFGS'"),
        ({"options": {"betaz": [0.9, 0.99]}}, "Adam has no option 'betaz'; did you mean 'betas'"),
        ({"lr": 0.0}, "greater than 0"),
    ],
)
def test_bad_optimizers_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(OptimizerConfig, values, "trainer.optimizer")


def test_torchs_own_refusal_is_one_line():
    with pytest.raises(ConfigError, match=r"torch\.optim\.Adam: Invalid beta"):
        OptimizerConfig(options={"betas": [2.0, 0.9]}).build([nn.Parameter(torch.ones(1))])


def test_the_moving_average_is_the_recursion_written_out():
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(model)
    expected = model.weight.item()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(1.0)
        ema.update(list(model.parameters()), 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.item()
    assert ema.model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_parameters_that_stepped_are_averaged():
    model = nn.Linear(1, 1)
    ema = EMA(model)
    bias = model.bias.item()
    with torch.no_grad():
        model.bias.add_(1.0)
    ema.update([model.weight], 0.5, step=0)
    assert ema.model.bias.item() == bias


def test_weight_decay_leaves_vectors_alone():
    linear = nn.Linear(3, 3)
    optimizer = OptimizerConfig(name="SGD", lr=0.1, weight_decay=0.5).build(linear.parameters())
    weight, bias = linear.weight.clone(), linear.bias.clone()
    for parameter in linear.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(linear.weight, 0.95 * weight)
    assert torch.equal(linear.bias, bias)
