"""Means over a window, and the first term that is not finite."""

import math

import pytest
import torch

from genlab.errors import TrainingError
from genlab.meter import Meter


def _add(meter: Meter, group: str, step: int, **terms: float) -> None:
    meter.add(group, step, {name: torch.tensor(value) for name, value in terms.items()})


def test_means_are_over_the_steps_of_each_group():
    meter = Meter()
    for step, value in enumerate([1.0, 2.0, 6.0]):
        _add(meter, "d", step, loss_d=value)
    _add(meter, "g", 2, loss_g=5.0)
    assert meter.read() == {"loss_d": 3.0, "loss_g": 5.0}
    assert meter.empty


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_term_that_is_not_finite_is_named_with_its_step_and_group(value):
    meter = Meter()
    _add(meter, "flow", 10, loss=1.0, log_det=1.0)
    _add(meter, "flow", 11, loss=1.0, log_det=value)
    _add(meter, "flow", 12, loss=value, log_det=value)
    with pytest.raises(TrainingError, match=rf"'log_det' is {value} at step 11 \(group 'flow'\)"):
        meter.read()


def test_a_saved_window_goes_on():
    first, second = Meter(), Meter()
    _add(first, "model", 0, loss=1.0)
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    _add(second, "model", 1, loss=3.0)
    assert second.read() == {"loss": 2.0}


def test_a_later_stage_may_have_other_terms():
    meter = Meter()
    meter.add("model", 0, {"reconstruction": torch.tensor(1.0)})
    meter.read()
    meter.add("model", 1, {"prior": torch.tensor(2.0)})
    assert meter.read() == {"prior": 2.0}
