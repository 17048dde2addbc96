"""What makes a run faster leaves its loss curve alone: of every family, with every setting on and off."""

import shutil
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir, parse
from genlab.hardware import HardwareConfig, compile_model, select
from genlab.iteration import Iteration
from genlab.nets import linear
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec

SPEC = DataSpec(1, 12, 12, num_classes=3)
FAMILIES = {
    "vae": ["model.encoder.hidden_dim=128", "model.decoder.hidden_dim=128"],
    "iwae": ["model.encoder.hidden_dim=128", "model.decoder.hidden_dim=128"],
    "vq_vae": [],
    "sc_vae": [],
    "realnvp": ["model.num_flows=4", "model.net.hidden_dim=128"],
    "glow": ["model.num_flows=1"],
    "residual_flow": ["model.blocks=[1,1]", "model.hidden_channels=16"],
    "gan": ["model/generator=mlp", "model/discriminator=mlp"],
    "wgan_gp": ["model/generator=mlp", "model/discriminator=mlp", "model.n_critic=1"],
    "ddpm_small": [],
    "flow_matching_small": [],
}
STEPS, SEEDS = 21, 3


def _images():
    """Bright discs of any place and size: something to learn in twenty steps."""
    generator = torch.Generator().manual_seed(0)
    centre = 3 + 6 * torch.rand(64, 2, 1, 1, generator=generator)
    radius = 2 + 2 * torch.rand(64, 1, 1, generator=generator)
    axis = torch.arange(12.0)
    distance = ((axis.view(1, -1, 1) - centre[:, 0]) ** 2 + (axis.view(1, 1, -1) - centre[:, 1]) ** 2).sqrt()
    return ((radius - distance).sigmoid() * 255).to(torch.uint8).unsqueeze(1)


def _final_losses(name, seed, **settings):
    """The mean loss of each group over the last third of a short training."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"model={name}", *FAMILIES[name], "run_name=test"])
    torch.manual_seed(seed)
    model = model_builder(OmegaConf.to_container(composed.model))(SPEC)
    hardware = select(HardwareConfig(device="cpu", **{"channels_last": False} | settings))
    hardware.prepare(model)
    config = parse(TrainerConfig, {"batch_size": 16, "optimizer": {"lr": 1e-3}}, "trainer")
    stage = model.stages()[0]
    iteration = Iteration(model, stage, config, config, hardware, None, STEPS, STEPS)
    compile_model(model.compiled(), settings.get("compile", "none"))
    torch.manual_seed(100 + seed)
    images = _images()
    model.initialize(Batch(images, torch.arange(64) % 3))
    rows = []
    for step in range(STEPS):
        index = torch.randint(64, (16,), generator=torch.Generator().manual_seed(1000 * seed + step))
        found = iteration(Batch(images[index], index % 3), step)
        rows.append([next(v.item() for k, v in terms.items() if k.startswith("loss")) for _, terms in found])
    return torch.tensor(rows[-STEPS // 3 :]).mean(0)


@cache
def _of_seeds(name):
    return torch.stack([_final_losses(name, seed) for seed in range(SEEDS)])


def _assert_within_the_spread_of_seeds(name, losses):
    plain = _of_seeds(name)
    spread = plain.max(0).values - plain.min(0).values
    assert ((losses - plain[0]).abs() < spread).all(), (losses, plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("settings", [{"channels_last": True}, {"precision": "bf16"}], ids=str)
def test_layout_and_precision_leave_the_loss_within_the_spread_of_seeds(name, settings):
    _assert_within_the_spread_of_seeds(name, _final_losses(name, 0, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_library_of_matrix_products_leaves_the_loss_within_the_spread_of_seeds(name, monkeypatch):
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", not linear._ONEDNN_IS_FASTER)
    _assert_within_the_spread_of_seeds(name, _final_losses(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "realnvp", "gan", "ddpm_small"])
def test_compilation_leaves_the_loss_within_the_spread_of_seeds(name):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler here")
    _assert_within_the_spread_of_seeds(name, _final_losses(name, 0, compile="default"))
