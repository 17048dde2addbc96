"""Schedules end in noise, and those that don't are refused."""

import math

import pytest
import torch

from genlab.config import parse
from genlab.diffusion.process import Process
from genlab.diffusion.schedules import CosineSchedule, LinearSchedule, leftover
from genlab.errors import ConfigError
from genlab.models.ddpm import DDPMConfig

SCHEDULES = [
    LinearSchedule(),
    LinearSchedule(num_steps=21),
    LinearSchedule(num_steps=100),
    LinearSchedule(num_steps=4000),
    CosineSchedule(),
    CosineSchedule(num_steps=2),
    CosineSchedule(num_steps=50),
    CosineSchedule(num_steps=4000),
]


@pytest.fixture(params=SCHEDULES, ids=lambda schedule: f"{schedule.name}-{schedule.num_steps}")
def schedule(request):
    return request.param


def test_betas_are_as_many_as_steps_and_end_in_standard_normal_noise(schedule):
    betas = schedule.betas()
    assert (betas.shape, betas.dtype) == ((schedule.num_steps,), torch.float64)
    assert ((betas > 0) & (betas < 1)).all()
    alpha_bar = (1 - betas).prod()
    white = torch.distributions.Normal(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
    noise = torch.distributions.Normal(torch.zeros_like(alpha_bar), torch.ones_like(alpha_bar))
    bits = torch.distributions.kl_divergence(white, noise).item() / math.log(2)
    assert leftover(betas) == pytest.approx(bits, rel=1e-6, abs=1e-14)
    assert bits < 1e-3


def test_a_linear_schedule_is_that_of_ho_et_al():
    betas = LinearSchedule().betas()
    assert betas[0].item() == pytest.approx(1e-4, rel=1e-12)
    assert betas[-1].item() == pytest.approx(0.02, rel=1e-12)
    assert torch.allclose(betas.diff(), betas.diff()[0].expand(999), rtol=1e-9)


def test_fewer_linear_steps_add_as_much_noise():
    """The sum of betas is minus the logarithm of alpha_bar but for second order."""
    whole = LinearSchedule().betas().sum()
    assert torch.allclose(LinearSchedule(num_steps=250).betas().sum(), whole)


def test_a_cosine_schedule_follows_the_squared_cosine_until_it_is_cut_off():
    schedule = CosineSchedule(num_steps=100, offset=0.01, max_beta=0.7)
    betas, time = schedule.betas(), torch.arange(101, dtype=torch.float64) / 100
    wanted = torch.cos((time + 0.01) / 1.01 * math.pi / 2) ** 2
    free = betas < 0.7
    assert torch.allclose((1 - betas).cumprod(0)[free], (wanted / wanted[0])[1:][free], rtol=1e-10)
    # Near its zero the cosine is a line: the last betas are 1, 1 - 1/4, 1 - 4/9 and so on; two are cut.
    assert free.tolist() == [True] * 98 + [False] * 2
    assert torch.equal(betas[~free], torch.full((2,), 0.7, dtype=torch.float64))


def test_its_process_in_float32_ends_in_noise_too(schedule):
    process = Process(schedule.betas()).float()
    last = torch.tensor([schedule.num_steps])
    assert process.alpha(last).item() ** 2 < 2e-3 * math.log(2)
    assert process.sigma(last).item() == pytest.approx(1, abs=1e-3)


def _refused(schedule):
    samplers = {"ancestral": {}, "ddim": {}, "dpm_solver": {}}
    values = {"net": {}, "schedule": schedule, "samplers": samplers, "ode": {}}
    with pytest.raises(ConfigError) as caught:
        parse(DDPMConfig, values, "model")
    line = str(caught.value)
    assert "\n" not in line
    assert "model.schedule" in line
    return line


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"name": "linear", "beta_end": 0.002}, "it knows 0.31 bits/dim"),
        ({"name": "cosine", "max_beta": 0.001}, "it knows 0.373 bits/dim"),
        ({"name": "linear", "num_steps": 5}, "a beta of 4 is not within (0, 1); take more steps"),
        ({"name": "linear", "num_steps": 20}, "a beta of 1 is not within (0, 1)"),
        ({"name": "linear", "num_steps": 1}, "num_steps=1"),
        ({"name": "linear", "beta_start": 0.0}, "beta_start=0.0"),
        ({"name": "cosine", "max_beta": 1.0}, "max_beta=1.0"),
        ({"name": "cosine", "max_beta": 0.0}, "max_beta=0.0"),
        ({"name": "cosine", "offset": -0.1}, "offset=-0.1"),
        ({"name": "cosines"}, "did you mean 'cosine'?"),
    ],
)
def test_what_is_no_diffusion_to_noise_is_refused_in_one_line(schedule, words):
    assert words in _refused(schedule)


def test_what_an_end_may_know_is_a_thousandth_of_a_bit():
    """At which beta_end that is can be had from the closed form: both sides of it are tried."""
    betas = [0.008 + 1e-5 * i for i in range(600)]
    knows = [leftover(torch.linspace(1e-4, end, 1000, dtype=torch.float64)) for end in betas]
    first = next(i for i, bits in enumerate(knows) if bits <= 1e-3)
    assert first > 0
    LinearSchedule(beta_end=betas[first])
    with pytest.raises(ValueError, match=r"knows 0\.001 bits/dim"):
        LinearSchedule(beta_end=betas[first - 1])
