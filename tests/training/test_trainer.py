"""The loop: groups step in turn, stages in order, frozen parameters stay, precision is a choice."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from genlab.config import parse
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import CheckpointError
from genlab.hardware import HardwareConfig, select
from genlab.iteration import Group
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec, Stage, Update


class Duel(Model):
    """Two players and a bystander: ``d`` counts steps, ``g`` copies what it sees of ``d``."""

    def __init__(self) -> None:
        super().__init__(DataSpec(1, 2, 2))
        self.d, self.g = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.later = nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    def stages(self) -> list[Stage]:
        return [Stage("duel", {"d": [self.d], "g": [self.g]}), Stage("after", {"later": [self.later]})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        if stage == "after":
            yield Update("later", -self.later.sum(), {})
            return
        # The loss of d also depends on g, which must not move for it.
        yield Update("d", -(self.d + 5 * self.g).sum(), {"d": self.d.sum()})
        self.seen.append(self.d.item())
        if step % 2 == 1:
            yield Update("g", -(self.g + 5 * self.d).sum(), {"g": self.g.sum()})


def _trainer(tmp_path, model: Model, **settings) -> Trainer:
    images = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    hardware = select(HardwareConfig(device="cpu"))
    data = DeviceDataset(images, None, hardware.device, hardware.device)
    empty = DeviceDataset(images[:0], None, hardware.device, hardware.device)
    folder = RunFolder(tmp_path)
    folder.folder("checkpoints")
    sgd = {"name": "SGD", "lr": 1.0}
    config = parse(TrainerConfig, {"epochs": 2, "batch_size": 2, "optimizer": sgd} | settings, "trainer")
    return Trainer(model, Splits(data, empty, empty), config, hardware, folder, RunLogger(folder), {}, seed=0)


def test_each_update_is_stepped_before_the_next_is_asked_for(tmp_path):
    model = Duel()
    _trainer(tmp_path, model).fit()
    assert model.seen == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_loss_moves_its_own_group_alone(tmp_path):
    model = Duel()
    _trainer(tmp_path, model).fit()
    assert model.d.item() == 8
    assert model.g.item() == 4  # every second step


def test_stages_follow_each_other_with_their_own_settings(tmp_path):
    model = Duel()
    stages = {"after": {"epochs": 1, "optimizer": {"lr": 0.5}}}
    _trainer(tmp_path, model, stages=stages, groups={"g": {"optimizer": {"lr": 0.25}}}).fit()
    assert model.later.item() == 4 * 0.5
    assert model.g.item() == 4 * 0.25
    assert not model.d.requires_grad  # frozen while the last stage runs


def test_gradients_are_clipped_and_their_norm_is_logged_as_it_was(tmp_path):
    model = Duel()
    trainer = _trainer(tmp_path, model, clip_grad_norm=0.5)
    trainer.fit()
    assert model.d.item() == pytest.approx(8 * 0.5, rel=1e-4)
    assert trainer.metrics["train/grad_norm_d"] == 1.0


def test_max_steps_ends_a_stage_in_the_middle_of_an_epoch(tmp_path):
    trainer = _trainer(tmp_path, Duel(), max_steps=3)
    trainer.fit()
    assert trainer.step == 6  # three in each of two stages


def test_bfloat16_computes_the_network_in_it_and_the_likelihood_in_float32():
    from genlab.models.realnvp import RealNVP, RealNVPConfig
    from genlab.nets.mlp import MLPConfig

    torch.manual_seed(0)
    flow = RealNVP(RealNVPConfig(net=MLPConfig(hidden_dim=16)), DataSpec(1, 8, 8))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = torch.rand(16, 1, 8, 8)
    _, exact = flow(x)
    with select(HardwareConfig(device="cpu", precision="bf16")).autocast():
        _, rough = flow(x)
    assert rough["log_det"].dtype == torch.float32
    assert torch.allclose(exact["log_det"], rough["log_det"], rtol=1e-2)
    assert not torch.equal(exact["log_det"], rough["log_det"])


def test_the_layout_of_images_is_picked_for_the_processor_unless_it_is_said():
    for asked, picked in {"auto": True, True: True, False: False}.items():
        hardware = select(HardwareConfig(device="cpu", channels_last=asked))
        conv = nn.Conv2d(3, 4, 2)
        hardware.prepare(conv)
        assert (conv.weight.stride(1) == 1) == picked
        assert ("channels_last" in hardware.name) == picked


@pytest.mark.parametrize(("name", "options"), [("Adam", {}), ("AdamW", {}), ("SGD", {"momentum": 0.9})])
def test_a_run_goes_on_in_another_layout_as_in_its_own(name, options):
    optimizer = {"name": name, "lr": 0.01, "options": options}
    config = parse(TrainerConfig, {"optimizer": optimizer}, "trainer")

    def group(conv):
        parameters = list(conv.parameters())
        return Group("model", parameters, config, config.optimizer.build(parameters))

    def train(conv, group):
        for _ in range(3):
            group.optimizer.zero_grad()
            conv(images).square().sum().backward()
            group.optimizer.step()

    torch.manual_seed(0)
    images, first = torch.randn(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    before = group(first)
    train(first, before)
    ends = []
    for layout in torch.contiguous_format, torch.channels_last:
        conv = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        conv.load_state_dict(first.state_dict())
        after = group(conv)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        train(conv, after)
        ends.append(conv.weight.detach())
    assert ends[0].stride() != ends[1].stride()
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 2), ()])
@pytest.mark.parametrize(("name", "key"), [("Adam", "exp_avg"), ("SGD", "momentum_buffer")])
def test_moments_of_another_shape_are_refused_before_a_fused_kernel_writes_beyond_them(name, key, shape):
    options = {"momentum": 0.9} if name == "SGD" else {}
    config = parse(TrainerConfig, {"optimizer": {"name": name, "options": options}}, "trainer")
    (parameter,) = parameters = [nn.Parameter(torch.zeros(4, 5))]
    group = Group("model", parameters, config, config.optimizer.build(parameters))
    parameter.sum().backward()
    group.optimizer.step()
    state = copy.deepcopy(group.state_dict())
    state["state"]["state"][0][key] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=f"the optimizer's '{key}' has shape"):
        group.load_state_dict(state)
