"""Several processes end together: stopped, failed, or one of them gone."""

import os
import time
from collections.abc import Iterator

import torch
from critics import Critics, Stopped, learned
from team import together

from genlab import checkpoint
from genlab.distributed import Agreement, PeerError, Processes
from genlab.errors import TrainingError
from genlab.types import Batch, Update


def _second() -> bool:
    return os.environ.get("RANK") == "1"


class Infinite(Critics):
    """Has a term that is not finite in the second process, in its eighth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        for update in super().updates(batch, stage, step):
            bad = step == 7 and self.training and _second()
            yield Update(update.group, update.loss, {"real": self.mean.sum() * (torch.nan if bad else 1)})


class Broken(Critics):
    """Raises in the second process, in its sixth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        if step == 5 and _second():
            raise ZeroDivisionError("of mine")
        yield from super().updates(batch, stage, step)


def test_a_signal_to_one_process_stops_all_of_them_at_one_step(here):
    ends = together(2, learned, here, Stopped)
    assert [end.code for end in ends] == [143, 143]
    assert (here / "checkpoints" / "last.pt").exists()


def test_a_term_that_is_not_finite_in_one_process_ends_all_with_one_message(here):
    ends = together(2, learned, here, Infinite)
    messages = {str(end.error) for end in ends}
    assert [type(end.error) for end in ends] == [TrainingError, TrainingError]
    (message,) = messages
    assert "'real' is nan at step 7 (group 'critic')" in message
    assert checkpoint.load(here / "checkpoints" / "last.pt")["step"] == 4


def test_no_process_waits_for_one_that_is_gone(here):
    start = time.monotonic()
    first, second = together(2, learned, here, Broken)
    assert isinstance(second.error, ZeroDivisionError)
    assert isinstance(first.error, PeerError)
    assert "another process of this run is gone" in str(first.error)
    assert time.monotonic() - start < 20


def test_the_first_process_decides_when_to_stop(here):
    ends = together(2, learned, here, Critics, {"epochs": 5}, 31, True)
    assert [end.result["step"] for end in ends] == [8, 8]
    assert ends[0].result["metrics"]["patience/epochs"] == 2


def test_what_is_agreed_on_is_settled_about_once_a_second():
    class Counted(Processes):
        asked = 0

        def greatest(self, values):
            Counted.asked += 1
            return list(values)

    agreement = Agreement(Counted(0, 2))
    start = time.perf_counter()
    settled = [agreement.settled(15 if i >= 500 else 0) for i in range(2000)]
    assert time.perf_counter() - start < 1
    assert Counted.asked <= 12
    assert not any(settled[:500])
    assert set(settled) == {0, 15}
    assert agreement.settled(0, now=True) == 0
