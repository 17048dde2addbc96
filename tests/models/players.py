"""The adversarial model made small, of overrides as the command line takes them, and how it is trained."""

import functools

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir, load_option, parse
from genlab.data.device import DeviceDataset, Splits
from genlab.hardware import HardwareConfig, select
from genlab.logger import RunLogger
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec

SPEC = DataSpec(1, 8, 8, num_classes=3)
NETS = ["mlp", "dcgan", "resnet"]
SMALL = [
    "model.latent_dim=4",
    "model/generator=mlp",
    "model.generator.hidden_dims=[6]",
    "model/discriminator=mlp",
    "model.discriminator.hidden_dims=[6,5]",
    "model.discriminator.dropout=0.0",
]
"""Fully connected, without chance in the discriminator."""


@functools.cache
def composed(model):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [f"model={model}", "run_name=test"])
    return OmegaConf.to_container(config.model, resolve=True)


def build(*overrides, model="gan", spec=SPEC):
    """Of overrides as the command line takes them; composing it all for each would be slow."""
    values = OmegaConf.create(composed(model))
    for override in overrides:
        key, _, value = override.partition("=")
        if key.startswith("model/"):
            values[key.removeprefix("model/")] = load_option(key, value, [conf_dir()])
        else:
            OmegaConf.update(values, key.removeprefix("model."), yaml.safe_load(value))
    torch.manual_seed(0)
    return model_builder(OmegaConf.to_container(values))(spec)


def of_nets(generator, discriminator, *overrides, spec=SPEC):
    return build(f"model/generator={generator}", f"model/discriminator={discriminator}", *overrides, spec=spec)


def images(spec=SPEC, n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)
    return Batch(x, torch.arange(n) % (spec.num_classes or 1))


def noise(model, n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, model.config.latent_dim, generator=generator)


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before, after):
    """The parts of the model that differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def largest(net):
    return max(p.abs().max().item() for p in net.parameters())


def small_trainer(path, model, val=0, **settings):
    """Four steps an epoch on two images each."""
    x = images(model.spec, 8 + val)
    hardware = select(HardwareConfig(device="cpu"))

    def on_cpu(part):
        return DeviceDataset(x.x[part], x.y[part], hardware.device, hardware.device)

    splits = Splits(on_cpu(slice(0, 8)), on_cpu(slice(8, 8 + val)), on_cpu(slice(0, 0)))
    folder = RunFolder(path)
    folder.folder("checkpoints")
    sgd = {"name": "SGD", "lr": 0.5}
    values = {"epochs": 1, "batch_size": 2, "optimizer": sgd, "monitor": None} | settings
    config = parse(TrainerConfig, values, "trainer")
    return Trainer(model, splits, config, hardware, folder, RunLogger(folder), {}, seed=0)
