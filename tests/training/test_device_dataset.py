"""Epochs as permutations, batches as gathers."""

import pytest
import torch

from genlab.data.device import DeviceDataset, hold_out
from genlab.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def dataset():
    labels = torch.arange(103)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous()
    return DeviceDataset(images, labels, CPU, CPU)


def _labels(batches) -> list[list[int]]:
    return [batch.y.tolist() for batch in batches]


def test_an_epoch_shows_every_image_once_but_for_the_remainder(dataset):
    seen = [label for batch in _labels(dataset.epoch(10, seed=0)) for label in batch]
    assert len(seen) == len(set(seen)) == 100


def test_images_and_labels_stay_together(dataset):
    for batch in dataset.epoch(10, seed=0):
        assert torch.equal(batch.x[:, 0, 0, 0].long(), batch.y)


def test_the_order_is_the_seeds(dataset):
    assert _labels(dataset.epoch(10, seed=1)) == _labels(dataset.epoch(10, seed=1))
    assert _labels(dataset.epoch(10, seed=1)) != _labels(dataset.epoch(10, seed=2))


def test_an_epoch_can_be_taken_up_in_its_middle(dataset):
    assert _labels(dataset.epoch(10, seed=3, start=4)) == _labels(dataset.epoch(10, seed=3))[4:]


def test_in_order_has_them_all_or_the_first_so_many(dataset):
    assert [i for batch in _labels(dataset.in_order(25)) for i in batch] == list(range(103))
    assert [i for batch in _labels(dataset.in_order(25, limit=30)) for i in batch] == list(range(30))


def test_a_batch_larger_than_the_set_is_refused(dataset):
    with pytest.raises(ConfigError, match="batch_size=104 is larger than the 103 training images"):
        next(dataset.epoch(104, seed=0))


def test_the_shape_is_known(dataset):
    assert dataset.spec.shape == (1, 2, 3)
    assert dataset.spec.num_classes == 103


def test_held_out_images_are_a_fixed_part_of_the_training_images():
    train, val = hold_out(100, 20, seed=0)
    assert len(val) == 20
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert torch.equal(hold_out(100, 20, seed=0)[1], val)
    assert not torch.equal(hold_out(100, 20, seed=1)[1], val)


def test_something_must_be_left_to_train_on():
    with pytest.raises(ConfigError, match="leaves none of the 20 training images"):
        hold_out(20, 20, seed=0)
