"""Pieces as large as fit."""

import pytest
import torch

from genlab.memory import lowered, piece


def test_a_size_is_halved_until_there_is_room(caplog):
    tried = []

    def work(size):
        tried.append(size)
        if size > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [len(part) for part in torch.arange(50).split(size)]

    assert lowered(work, 100) == [25, 25]
    assert tried == [100, 50, 25]
    assert "out of memory: 25 at once instead of 50" in caplog.text


def test_what_has_no_room_for_one_fails_as_it_would(caplog):
    def work(size):
        raise torch.OutOfMemoryError(f"no room for {size}")

    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        lowered(work, 3)
    with pytest.raises(RuntimeError, match="another"):
        lowered(lambda size: (_ for _ in ()).throw(RuntimeError("another")), 3)


def test_pieces_fill_half_of_what_cuda_has_free_and_are_fixed_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    assert piece(torch.device("cuda"), 100, default=4) == 40
    assert piece(torch.device("cuda"), 5000, default=4) == 4
    assert piece(torch.device("cpu"), 100, default=4) == 4
