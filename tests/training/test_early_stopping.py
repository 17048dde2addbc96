"""Patience."""

import pytest

from genlab.callbacks.base import Snapshot
from genlab.callbacks.early_stopping import EarlyStopping, EarlyStoppingConfig
from genlab.errors import ConfigError


def _watch(callback: EarlyStopping, values: list[float]) -> list[bool]:
    stops = []
    for epoch, value in enumerate(values, start=1):
        callback.on_epoch_end(
            Snapshot(None, None, None, None, "train", epoch, epoch, epoch, {"val/loss": value})
        )
        stops.append(callback.should_stop)
    return stops


def test_it_stops_when_patience_is_at_its_end():
    callback = EarlyStopping(EarlyStoppingConfig(patience=2))
    assert _watch(callback, [3.0, 2.0, 2.5, 1.9, 1.9, 2.0]) == [False] * 5 + [True]


def test_a_fall_by_less_than_min_delta_does_not_count():
    callback = EarlyStopping(EarlyStoppingConfig(patience=2, min_delta=0.5))
    assert _watch(callback, [3.0, 2.8, 2.6])[-1]


def test_it_goes_on_waiting_after_a_resume():
    first, second = (EarlyStopping(EarlyStoppingConfig(patience=2)) for _ in range(2))
    _watch(first, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    assert _watch(second, [2.0]) == [True]


def test_another_stage_starts_anew():
    callback = EarlyStopping(EarlyStoppingConfig(patience=1))
    assert _watch(callback, [1.0, 2.0])[-1]
    callback.on_stage_start("flow")
    assert not callback.should_stop
    assert _watch(callback, [5.0]) == [False]


def test_an_unknown_monitor_is_named():
    callback = EarlyStopping(EarlyStoppingConfig(monitor="val/los"))
    with pytest.raises(ConfigError, match="'val/los'; did you mean 'val/loss'"):
        _watch(callback, [1.0])
