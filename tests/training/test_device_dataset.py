"""Epochs as permutations, batches as gathers."""

import itertools

import pytest
import torch

from genlab.data import device
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
    assert dataset.stored(slice(None)).nbytes == images.nbytes // 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_packed_images_on_a_gpu(where):
    images = torch.randint(2, (53, 1, 5, 7), dtype=torch.uint8) * 255
    gpu, where = torch.device("cuda"), torch.device(where)
    dataset = DeviceDataset(pack([images], 53, (1, 5, 7)), None, gpu, where)
    assert dataset.data_device.type == where.type
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


# ------------------------------------------------------------------ one store, held once


@pytest.mark.parametrize("packed", [False, True])
def test_parts_are_the_images_they_name_in_the_memory_of_the_whole(packed):
    images = torch.randint(2, (53, 1, 5, 7), dtype=torch.uint8) * 255
    labels, factors = torch.arange(53), torch.arange(106).view(53, 2)
    whole = DeviceDataset(
        pack([images], 53, (1, 5, 7)) if packed else images, labels, CPU, CPU, factors, ("a", "b")
    )
    for index, part in ((i, whole.part(i)) for i in hold_out(53, 20, seed=0)):
        alone = DeviceDataset(images[index], labels[index], CPU, CPU, factors[index], ("a", "b"))
        assert len(part) == len(index) == part.num_batches(1)
        assert torch.equal(part.labels, alone.labels)
        assert torch.equal(part.factors, alone.factors)
        for ours, theirs in (
            (part.in_order(6, limit=10), alone.in_order(6, limit=10)),
            (part.epoch(5, seed=1, start=1), alone.epoch(5, seed=1, start=1)),
            ([part.batch(torch.tensor([3, 0]))], [alone.batch(torch.tensor([3, 0]))]),
        ):
            assert [(b.x.tolist(), b.y.tolist()) for b in ours] == [
                (b.x.tolist(), b.y.tolist()) for b in theirs
            ]
        assert _memory(part) == _memory(whole)
    nested = whole.part(torch.arange(10, 40)).part(torch.tensor([0, 5]))
    assert torch.equal(nested.batch(slice(0, 2)).x, images[[10, 15]])
    assert nested.labels.tolist() == [10, 15]
    assert whole.part(torch.arange(53)) is whole


def _memory(dataset) -> int:
    held = dataset._images
    return (held.bits if isinstance(held, PackedImages) else held).data_ptr()


@pytest.mark.parametrize(("batch_size", "world"), [(12, 3), (10, 4)])
def test_the_shares_of_all_processes_make_up_the_batches_in_their_order(dataset, batch_size, world):
    shares = [_labels(dataset.epoch(batch_size, 3, 2, (rank, world))) for rank in range(world)]
    joined = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == _labels(dataset.epoch(batch_size, 3, 2))
    sizes = {len(part) for share in shares for part in share}
    assert max(sizes) - min(sizes) <= 1


def test_an_order_and_its_batches_are_those_of_the_epoch(dataset):
    order = dataset.order(seed=4)
    assert [dataset.batch(part).y.tolist() for part in order.split(10)[:-1]] == _labels(
        dataset.epoch(10, seed=4)
    )


# ------------------------------------------------------------------ images of the host


@pytest.mark.parametrize("index", [torch.tensor([3, 52, 0, 3]), slice(10, 20), slice(50, 60)])
def test_what_travels_is_gathered_into_staging_memory_first(monkeypatch, index):
    images, labels = torch.randint(256, (53, 2, 3, 5), dtype=torch.uint8), torch.arange(53)
    staged, make = [], device._staging
    monkeypatch.setattr(device, "_staging", lambda *args: staged.append(make(*args)) or staged[-1])
    dataset = DeviceDataset(images, labels, torch.device("meta"), CPU)
    batch = dataset.batch(index)
    assert batch.x.device.type == batch.y.device.type == "meta"
    assert batch.x.shape == images[index].shape
    assert [torch.equal(*pair) for pair in zip(staged, (images[index], labels[index]), strict=True)] == [
        True,
        True,
    ]
    part = dataset.part(torch.arange(0, 53, 2))
    part.batch(torch.tensor([7, 1]))
    assert torch.equal(staged[2], images[[14, 2]])
    assert torch.equal(staged[3], labels[[14, 2]])


def test_staging_memory_is_pinned_for_cuda_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: asked.append(pin_memory))
    for name in ("cuda", "cuda:1", "meta"):
        device._staging((2, 3), torch.uint8, torch.device(name))
    assert asked == [True, True, False]


def test_images_that_find_no_room_on_the_device_stay_on_the_host(monkeypatch, caplog):
    to = torch.Tensor.to

    def full(self, where, *args, **options):
        if torch.device(where).type == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(self, where, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", full)
    images = torch.randint(256, (500, 1, 100, 100), dtype=torch.uint8)
    dataset = DeviceDataset(images, torch.arange(500), CPU, torch.device("meta"))
    assert dataset.data_device == CPU
    assert torch.equal(dataset.batch(torch.tensor([3, 1])).x, images[[3, 1]])
    assert "0.01 GB of images find no room on meta; held in the host's memory" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_images_of_the_host_reach_a_gpu_whole_however_many_batches_are_under_way():
    images, gpu = torch.randint(256, (2000, 1, 28, 28), dtype=torch.uint8), torch.device("cuda")
    dataset = DeviceDataset(images, torch.arange(2000), gpu, CPU).part(torch.arange(0, 2000, 2))
    batches = list(dataset.epoch(8, seed=0))  # nothing waits: buffers must not be filled anew before their copy
    for batch in batches:
        assert torch.equal(batch.x.cpu(), images[batch.y.cpu()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_batch_waits_for_nothing_on_a_gpu(where):
    images, gpu, where = (
        torch.zeros(2000, 1, 28, 28, dtype=torch.uint8),
        torch.device("cuda"),
        torch.device(where),
    )
    dataset = DeviceDataset(images, torch.arange(2000), gpu, where).part(torch.arange(1000))
    index = dataset.order(0)[:100]
    dataset.batch(index)
    try:
        torch.cuda.set_sync_debug_mode("error")
        dataset.batch(index)
    finally:
        torch.cuda.set_sync_debug_mode("default")
