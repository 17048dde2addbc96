"""Epochs as permutations, batches as gathers."""

import pytest
import torch

from genlab.data.bits import PackedImages, pack
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


def test_packed_images_come_out_as_unpacked_ones_do():
    images = torch.randint(2, (53, 1, 5, 7), dtype=torch.uint8) * 255
    packed = DeviceDataset(pack([images], 53, (1, 5, 7)), None, CPU, CPU)
    plain = DeviceDataset(images, None, CPU, CPU)
    assert len(packed) == 53
    for index in (torch.tensor([3, 52, 0, 3]), slice(10, 20), slice(50, 60)):
        assert torch.equal(packed.batch(index).x, images[index])
        assert packed.batch(index).x.is_contiguous()
    for ours, theirs in (
        (packed.in_order(20), plain.in_order(20)),
        (packed.in_order(20, limit=30), plain.in_order(20, limit=30)),
        (packed.epoch(10, seed=1, start=2), plain.epoch(10, seed=1, start=2)),
    ):
        assert [b.x.tolist() for b in ours] == [b.x.tolist() for b in theirs]


def test_packed_images_of_the_host_travel_as_bits(monkeypatch):
    images = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    dataset = DeviceDataset(pack([images], 4, (1, 8, 8)), None, torch.device("meta"), CPU)
    unpack, seen = PackedImages.unpack, []
    monkeypatch.setattr(PackedImages, "unpack", lambda self: (seen.append(self.bits), unpack(self))[1])
    assert dataset.batch(torch.arange(2)).x.shape == (2, 1, 8, 8)
    assert [(bits.device.type, bits.shape) for bits in seen] == [("meta", (2, 8))]
    assert dataset.images.nbytes == images.nbytes // 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_packed_images_on_a_gpu(where):
    images = torch.randint(2, (53, 1, 5, 7), dtype=torch.uint8) * 255
    gpu, where = torch.device("cuda"), torch.device(where)
    dataset = DeviceDataset(pack([images], 53, (1, 5, 7)), None, gpu, where)
    assert dataset.images.bits.is_pinned() == (where.type == "cpu")
    index = torch.tensor([3, 52, 0], device=where)
    assert dataset.batch(index).x.device.type == "cuda"
    assert torch.equal(dataset.batch(index).x.cpu(), images[[3, 52, 0]])


def test_factors_are_held_beside_the_images():
    factors = torch.arange(8).view(4, 2)
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    dataset = DeviceDataset(images, None, CPU, CPU, factors, ("shape", "scale"))
    assert torch.equal(dataset.factors, factors)
    assert dataset.factor_names == ("shape", "scale")
    assert DeviceDataset(images, None, CPU, CPU).factors is None
    assert DeviceDataset(images, None, CPU, CPU).factor_names == ()


def test_held_out_images_are_a_fixed_part_of_the_training_images():
    train, val = hold_out(100, 20, seed=0)
    assert len(val) == 20
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert torch.equal(hold_out(100, 20, seed=0)[1], val)
    assert not torch.equal(hold_out(100, 20, seed=1)[1], val)


def test_something_must_be_left_to_train_on():
    with pytest.raises(ConfigError, match="leaves none of the 20 training images"):
        hold_out(20, 20, seed=0)
