"""The adversarial model: its networks, who steps when and sees what, labels, scales, clipping and averages."""

import copy
import functools

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from genlab.assemble import model_builder
from genlab.config import conf_dir, load_option, option_files, parse
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import ConfigError
from genlab.hardware import HardwareConfig, select
from genlab.likelihood import to_unit
from genlab.logger import RunLogger
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec, Samples

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


# --------------------------------------------------------------------------------------- networks

DCGAN_GENERATOR = [
    (nn.ConvTranspose2d, 100, 128, 7, 1, 0),
    (nn.BatchNorm2d, 128),
    (nn.ReLU,),
    (nn.ConvTranspose2d, 128, 64, 4, 2, 1),
    (nn.BatchNorm2d, 64),
    (nn.ReLU,),
    (nn.ConvTranspose2d, 64, 1, 4, 2, 1),
    (nn.Sigmoid,),
]
DCGAN_DISCRIMINATOR = [
    (nn.Conv2d, 1, 64, 4, 2, 1),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 64, 128, 4, 2, 1),
    (nn.BatchNorm2d, 128),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 128, 256, 4, 2, 1),
    (nn.BatchNorm2d, 256),
    (nn.LeakyReLU, 0.2),
    (nn.Conv2d, 256, 512, 3, 1, 0),
    (nn.BatchNorm2d, 512),
    (nn.LeakyReLU, 0.2),
    (nn.Linear, 512, 1),
]


def described(net):
    """Its layers in the order of their calls, but for those that only reshape."""
    rows = []
    for layer in net.modules():
        match layer:
            case nn.Conv2d() | nn.ConvTranspose2d():
                sizes = []
                for value in (layer.kernel_size, layer.stride, layer.padding):
                    assert value[0] == value[1]
                    sizes.append(value[0])
                kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
                rows.append((kind, layer.in_channels, layer.out_channels, *sizes))
            case nn.Linear():
                rows.append((nn.Linear, layer.in_features, layer.out_features))
            case nn.BatchNorm2d():
                rows.append((nn.BatchNorm2d, layer.num_features))
            case nn.LeakyReLU():
                rows.append((nn.LeakyReLU, layer.negative_slope))
            case nn.ReLU() | nn.Sigmoid():
                rows.append((type(layer),))
            case _:
                assert not list(layer.parameters(recurse=False)), layer
    return rows


def sizes_after_convolutions(net, *inputs):
    """``(planes, height, width)`` in the order of the calls."""
    seen = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    net(*inputs)
    return seen


def test_the_networks_for_28x28_images_are_those_of_the_table():
    model = build(spec=DataSpec(1, 28, 28, 10))
    assert described(model.generator) == DCGAN_GENERATOR
    assert described(model.discriminator) == DCGAN_DISCRIMINATOR
    assert sizes_after_convolutions(model.generator, noise(model, 2)) == [
        (128, 7, 7),
        (64, 14, 14),
        (1, 28, 28),
    ]
    assert sizes_after_convolutions(model.discriminator, torch.rand(2, 1, 28, 28)) == [
        (64, 14, 14),
        (128, 7, 7),
        (256, 3, 3),
        (512, 1, 1),
        (1,),
    ]


def test_the_networks_for_28x28_images_have_as_many_parameters_as_the_table_says():
    """Kernels, two for each normalised plane, biases where there is no norm."""
    model = build(spec=DataSpec(1, 28, 28, 10))
    generator = 100 * 128 * 49 + 2 * 128 + 128 * 64 * 16 + 2 * 64 + (64 * 16 + 1)
    discriminator = (
        (64 * 16 + 64)
        + (64 * 128 * 16 + 2 * 128)
        + (128 * 256 * 16 + 2 * 256)
        + (256 * 512 * 9 + 2 * 512)
        + (512 + 1)
    )
    assert sum(p.numel() for p in model.generator.parameters()) == generator
    assert sum(p.numel() for p in model.discriminator.parameters()) == discriminator
    assert sum(p.numel() for p in model.parameters()) == generator + discriminator


def test_kernels_start_as_dcgan_has_them():
    """From N(0, 0.02), of which so many draws tell the deviation to a few per cent."""
    model = build(spec=DataSpec(1, 28, 28))
    for net in (model.generator, model.discriminator):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 32), (2, 9, 13)], ids=str)
@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
@pytest.mark.parametrize("net", NETS)
def test_every_generator_gives_images_of_any_size_on_its_scale(net, output, size):
    model = of_nets(net, "mlp", f"model.generator.output={output}", spec=DataSpec(*size))
    with torch.no_grad():
        made = model.generate(50 * noise(model, 4), None)  # far out, where it saturates
    assert made.shape == (4, *size)
    assert made.min() >= (-1 if output == "tanh" else 0)
    assert made.max() <= 1
    if output == "tanh":
        assert made.min() < 0
    sample = model.eval().sample(2)
    assert (sample.shape, sample.dtype) == ((2, *size), torch.uint8)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 32), (2, 9, 13)], ids=str)
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "spectral"])
@pytest.mark.parametrize("net", NETS)
def test_every_discriminator_gives_one_number_for_an_image_of_any_size(net, norm, size):
    model = of_nets("mlp", net, f"model.discriminator.norm={norm}", spec=DataSpec(*size))
    with torch.no_grad():
        values = model.eval().discriminator(torch.rand(4, *size))
    assert (values.shape, values.dtype) == ((4,), torch.float32)
    assert values.isfinite().all()
    assert values.std() > 0


@pytest.mark.parametrize("discriminator", NETS)
@pytest.mark.parametrize("generator", NETS)
def test_every_pair_of_networks_plays(generator, discriminator):
    model, batch = of_nets(generator, discriminator), images()
    model.initialize(batch)
    assert isinstance(model, Samples)
    assert [u.group for u in model.updates(batch, "train", 0)] == ["discriminator", "generator"]
    assert model.eval().sample(3).shape == (3, *SPEC.shape)


@pytest.mark.parametrize(
    ("net", "size"), [("dcgan", (1, 7, 28)), ("dcgan", (3, 9, 5)), ("resnet", (1, 4, 4))], ids=str
)
def test_images_too_small_for_the_discriminator_are_refused_in_one_line(net, size):
    with pytest.raises(ConfigError, match=r"model\.discriminator\.channels: 3 halvings are too many") as error:
        of_nets("mlp", net, spec=DataSpec(*size))
    assert f"{size[1]}x{size[2]}" in str(error.value)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------- losses in the model


@pytest.mark.parametrize("loss", option_files("model/loss", [conf_dir()]))
def test_every_loss_is_what_the_model_minimises(loss):
    """Of the values that the two groups of images get; logs are the discriminator's opinions."""
    model, batch = build(*SMALL, f"model/loss={loss}"), images()
    model.initialize(batch)
    made = []
    model.generator.register_forward_hook(lambda _, __, out: made.append(out.detach()))
    model.eval()  # in which the weights stay within their bounds by themselves
    updates = list(model.updates(batch, "train", 0))
    with torch.no_grad():
        on_real, on_fake = model.discriminator(2 * to_unit(batch.x) - 1), model.discriminator(made[0])
    first, second = updates
    penalty = model.loss.gradient_penalty * first.logs.get("gradient_penalty", torch.zeros(()))
    assert torch.allclose(first.loss, model.loss.discriminator(on_real, on_fake) + penalty, atol=1e-6)
    assert torch.allclose(second.loss, model.loss.generator(on_fake), atol=1e-6)
    assert len(made) == 1  # both see the same images
    assert torch.allclose(first.logs["d_real"], model.loss.opinion(on_real).mean(), atol=1e-6)
    assert torch.allclose(first.logs["d_fake"], model.loss.opinion(on_fake).mean(), atol=1e-6)
    classifier = hasattr(model.loss, "label_smoothing")
    assert torch.equal(model.loss.opinion(on_real), on_real.sigmoid() if classifier else on_real)


@pytest.mark.parametrize("penalty", ["r1", "gradient_penalty"])
def test_a_penalty_comes_on_top_with_its_weight(penalty):
    losses = []
    for weight in (0.0, 3.0):
        model = build(*SMALL, f"model.loss.{penalty}={weight}")
        torch.manual_seed(1)
        losses.append(next(model.updates(images(), "train", 0)))
    plain, penalised = losses
    assert penalty not in plain.logs
    assert penalised.logs[penalty] > 0
    assert torch.allclose(penalised.loss, plain.loss + 3 * penalised.logs[penalty])


@pytest.mark.parametrize("net", NETS)
def test_bfloat16_networks_give_float32_losses_penalties_and_gradients(net):
    model = of_nets(
        net, net, "model.discriminator.norm=layer", "model/loss=wasserstein_gp", "model.loss.r1=1.0"
    )
    (stage,) = model.stages()
    updates = model.updates(images(), "train", 0)
    for group in stage.groups:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as the trainer: the backward pass is outside
            update = next(updates)
        assert all(term.dtype == torch.float32 for term in update.terms(alone=False).values())
        gradients = torch.autograd.grad(update.loss, stage.groups[group])
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model/loss=wasserstein", "model.loss.weight_clip=null"], "a Wasserstein critic has to be constrain"),
        (["model/loss=wasserstein_gp"], r"batch norm mixes.*norm=layer, spectral or none"),
        (["model.loss.r1=1.0"], "batch norm mixes"),
    ],
)
def test_what_can_not_work_is_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(*overrides)
    assert str(error.value).startswith("model.loss: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model/loss=wasserstein"],
        ["model/loss=wasserstein", "model.loss.weight_clip=null", "model.discriminator.norm=spectral"],
        ["model/loss=wasserstein_gp", "model.discriminator.norm=layer"],
    ],
)
def test_any_one_constraint_makes_a_wasserstein_critic(overrides):
    build(*overrides)


# --------------------------------------------------------------------------------------- who steps, seeing what


@pytest.mark.parametrize("conditioning", ["null", "concat", "projection"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_loss_reaches_its_own_group_alone(norm, conditioning):
    model = build(*SMALL, f"model.discriminator.norm={norm}", f"model.conditioning={conditioning}")
    (stage,) = model.stages()
    groups = stage.groups
    assert set(groups["discriminator"]) == set(model.discriminator.parameters())
    assert set(groups["discriminator"]) | set(groups["generator"]) == set(model.parameters())
    assert not set(groups["discriminator"]) & set(groups["generator"])
    first, second = model.updates(images(), "train", 0)
    first.loss.backward()  # of all that it depends on: generated images are detached
    assert all(p.grad is not None for p in groups["discriminator"])
    assert all(p.grad is None for p in groups["generator"])
    model.zero_grad()
    second.loss.backward(inputs=groups["generator"])
    assert all(p.grad is not None for p in groups["generator"])
    assert all(p.grad is None for p in groups["discriminator"])


def test_the_generator_steps_at_every_n_critic_th_batch():
    model = build(*SMALL, "model.n_critic=3")
    steps = [[update.group[0] for update in model.updates(images(), "train", step)] for step in range(7)]
    assert ["".join(groups) for groups in steps] == ["d", "d", "dg", "d", "d", "dg", "d"]


def test_the_generator_sees_the_discriminator_that_has_stepped():
    model = build(*SMALL, "model/loss=hinge")
    updates = model.updates(images(), "train", 0)
    next(updates)
    with torch.no_grad():
        model.discriminator.head.weight.zero_()
        model.discriminator.head.bias.fill_(7.0)
    assert next(updates).loss == -7


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


def watch(model):
    """What every update moves once it is stepped, ``(step, group, parts)``; to be filled by training."""
    seen, updates = [], model.updates

    def watching(batch, stage, step):
        inner = updates(batch, stage, step)
        while (update := next(inner, None)) is not None:  # the model clips when it is asked for the next
            before = parameters(model)
            yield update
            seen.append((step, update.group, moved(before, parameters(model))))

    model.updates = watching
    return seen


@pytest.mark.parametrize("conditioning", ["null", "concat"])
def test_in_training_each_player_moves_in_its_own_turn(conditioning, tmp_path):
    model = build(*SMALL, "model.n_critic=2", f"model.conditioning={conditioning}")
    seen = watch(model)
    small_trainer(tmp_path, model).fit()
    own = {"discriminator"}, {"generator"} | ({"label"} if conditioning != "null" else set())
    turns = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    assert seen == [(step, ("discriminator", "generator")[who], own[who]) for step, who in turns]


# --------------------------------------------------------------------------------------- clipping and averages


def largest(net):
    return max(p.abs().max().item() for p in net.parameters())


def test_the_critics_weights_are_in_range_from_the_start_and_after_every_step(tmp_path):
    bound = 0.05
    model = build(*SMALL, "model/loss=wasserstein", f"model.loss.weight_clip={bound}", "model.n_critic=2")
    assert largest(model.discriminator) > bound
    model.initialize(images())
    assert largest(model.discriminator) == pytest.approx(bound)
    updates, ranges = model.updates, []

    def watching(batch, stage, step):
        ranges.append((step, "start", largest(model.discriminator)))
        for update in updates(batch, stage, step):
            ranges.append((step, update.group, largest(model.discriminator)))
            yield update
        ranges.append((step, "end", largest(model.discriminator)))

    model.updates = watching
    small_trainer(tmp_path, model).fit()
    assert len(ranges) == 4 * 3 + 2
    assert all(value <= bound * (1 + 1e-6) for _, _, value in ranges)
    assert largest(model.discriminator) == pytest.approx(bound)  # a rate of 0.5 would have led out of it
    assert largest(model.generator) > bound


def test_without_a_bound_nothing_is_clipped(tmp_path):
    model = build(*SMALL)
    before = parameters(model)
    model.initialize(images())
    assert moved(before, parameters(model)) == set()


@pytest.mark.parametrize("norm", ["none", "spectral", "batch"])
def test_averages_of_the_generator_alone_are_the_recursion_and_the_discriminator_is_the_live_one(
    norm, tmp_path
):
    model = build(
        *SMALL,
        "model/loss=wasserstein",
        "model.loss.weight_clip=0.05",
        f"model.discriminator.norm={norm}",
        "model.generator.hidden_dims=[6,6]",
        "model.generator.batch_norm=true",
        "model.conditioning=concat",
        "model.n_critic=2",
    )
    model.initialize(images())
    averages, updates = parameters(model), model.updates

    def watching(batch, stage, step):
        # The trainer averages once the iteration is over: what the last update left is what it takes.
        for update in updates(batch, stage, step):
            yield update
            if update.group == "generator":
                decay = min(0.5, (1 + step) / (10 + step))
                for name, value in model.named_parameters():
                    averages[name] = decay * averages[name] + (1 - decay) * value.detach()

    model.updates = watching
    trainer = small_trainer(tmp_path, model, groups={"generator": {"ema_decay": 0.5}}, epochs=2)
    trainer.fit()
    with trainer._looking() as averaged:
        live = model.state_dict()
        for name, value in averaged.state_dict().items():
            if name.startswith("discriminator") or name not in averages:
                assert torch.equal(value, live[name])  # also running statistics, and spectral vectors
            else:
                assert torch.allclose(value, averages[name], atol=1e-6)
    assert moved(parameters(averaged), parameters(model)) == {"generator", "label"}


@pytest.mark.parametrize("decay", [None, 0.0])
def test_without_a_decay_there_are_no_averages(decay, tmp_path):
    groups = {"generator": {"ema_decay": decay}}
    assert small_trainer(tmp_path, build(*SMALL), groups=groups).ema is None


# --------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("conditioning", ["null", "concat", "projection"])
@pytest.mark.parametrize("norm", ["none", "layer", "spectral", "batch"])
@pytest.mark.parametrize("net", NETS)
def test_images_get_the_values_that_they_get_without_the_others(net, norm, conditioning):
    """In ``eval()``, in which spectral norm's power iteration and batch norm's statistics rest."""
    overrides = [f"model.discriminator.norm={norm}", f"model.conditioning={conditioning}"]
    model, batch = of_nets("mlp", net, *overrides), images()
    y = None if conditioning == "null" else batch.y
    real = 2 * to_unit(batch.x) - 1
    made = []
    model.generator.register_forward_hook(lambda _, __, out: made.append(out))
    with torch.no_grad():
        logs = next(model.eval().updates(batch, "train", 0)).logs
        on_real, on_fake = (model.loss.opinion(model.discriminator(x, y)).mean() for x in (real, made[0]))
    assert torch.allclose(logs["d_real"], on_real, atol=1e-5)
    assert torch.allclose(logs["d_fake"], on_fake, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("net", NETS)
def test_in_training_values_of_real_images_do_not_depend_on_the_generated_ones(net, norm):
    model = of_nets("mlp", net, f"model.discriminator.norm={norm}", *SMALL[5:] * (net == "mlp"))
    batch, on_real, on_fake = images(), [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        logs = next(model.updates(batch, "train", 0)).logs
        on_real.append(logs["d_real"])
        on_fake.append(logs["d_fake"])
    assert torch.allclose(*on_real, atol=1e-6)
    assert not torch.equal(*on_fake)


@pytest.mark.parametrize("net", NETS)
def test_batch_norm_mixes_the_images_of_a_batch_and_no_other_norm_does(net):
    """The claim by which real and generated images go together or apart."""
    for norm in ("none", "layer", "spectral", "batch"):
        model = of_nets("mlp", net, f"model.discriminator.norm={norm}", *SMALL[5:] * (net == "mlp"))
        critic, x = model.discriminator, torch.rand(4, *SPEC.shape)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x)[0], x)
        assert critic.mixes_images == bool(gradient[1:].abs().max() > 0)


# --------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("conditioning", ["concat", "projection"])
def test_both_players_see_labels(conditioning, net):
    model = of_nets(net, net, f"model.conditioning={conditioning}").eval()
    z, y = noise(model), torch.arange(6) % 3
    with torch.no_grad():
        x = model.generate(z, y)
        other = model.generate(z, (y + 1) % 3)
        assert ((x - other).flatten(1).abs().amax(1) > 0).all()  # of every image
        values, others = model.discriminator(x, y), model.discriminator(x, (y + 1) % 3)
        assert (values != others).all()
        # And of each image its own.
        one = model.discriminator(x[2:3], y[2:3])
        assert torch.allclose(values[2], one[0], atol=1e-5)


@pytest.mark.parametrize("conditioning", ["concat", "projection"])
def test_in_training_real_and_generated_images_have_the_labels_of_the_batch(conditioning):
    model, batch = build(*SMALL, f"model.conditioning={conditioning}"), images()
    of_generator, of_discriminator = [], []
    model.label.register_forward_hook(lambda _, labels, __: of_generator.append(labels[0]))
    model.discriminator.label.register_forward_hook(lambda _, labels, __: of_discriminator.append(labels[0]))
    list(model.updates(batch, "train", 0))
    assert [labels.tolist() for labels in of_generator] == [batch.y.tolist()]
    judged, misled = of_discriminator
    assert judged.tolist() == 2 * batch.y.tolist()
    assert misled.tolist() == batch.y.tolist()


@pytest.mark.parametrize("penalty", ["r1", "gradient_penalty"])
def test_penalties_see_the_labels_of_the_batch_too(penalty):
    model = build(*SMALL, "model.conditioning=projection", f"model.loss.{penalty}=1.0")
    batch, seen = images(), []
    model.discriminator.label.register_forward_hook(lambda _, labels, __: seen.append(labels[0].tolist()))
    next(model.updates(batch, "train", 0))
    assert seen == [2 * batch.y.tolist(), batch.y.tolist()]


def test_samples_are_of_the_classes_asked_for():
    model = build(*SMALL, "model.conditioning=concat").eval()

    def sample(y, seed=0):
        return model.sample(6, y, torch.Generator().manual_seed(seed))

    y = torch.tensor([0, 1, 2, 2, 1, 0])
    mixed = sample(y)
    assert (mixed.shape, mixed.dtype) == ((6, *SPEC.shape), torch.uint8)
    for label in range(3):  # the noise is the same: an image differs where its label does
        same = (sample(torch.full((6,), label)) == mixed).flatten(1).all(1)
        assert torch.equal(same, y == label)


def test_samples_without_labels_are_of_any_class_and_the_generators_own():
    model, seen = build(*SMALL, "model.conditioning=concat").eval(), []
    model.label.register_forward_hook(lambda _, labels, __: seen.append(labels[0]))
    state = torch.get_rng_state()
    first, again, other = (model.sample(60, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    # 20 of each on average, with a standard deviation of 3.7.
    assert torch.bincount(seen[0], minlength=3).min() > 3
    assert torch.bincount(seen[0]).tolist() == torch.bincount(seen[0], minlength=3).tolist()


def test_labels_are_refused_by_a_model_that_knows_none():
    with pytest.raises(ConfigError, match="unconditional"):
        build(*SMALL).sample(2, torch.zeros(2, dtype=torch.int64))


def test_an_unconditional_model_needs_no_labels():
    model = build(*SMALL, spec=DataSpec(1, 8, 8))
    assert model.num_classes is None
    assert len(list(model.updates(Batch(images().x), "train", 0))) == 2


def test_conditioning_without_labels_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"model\.conditioning: the dataset has no labels") as error:
        build(*SMALL, "model.conditioning=concat", spec=DataSpec(1, 8, 8))
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------- scales


class Levels(nn.Module):
    """A generator whose image holds every level once, as exactly as float32 has it."""

    def __init__(self, signed):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.levels = to_unit(torch.arange(256, dtype=torch.uint8)) * (2 if signed else 1) - int(signed)

    def forward(self, z):
        return self.levels.view(1, 1, 16, 16).expand(len(z), -1, -1, -1)


@pytest.mark.parametrize(("output", "black"), [("sigmoid", 0.0), ("tanh", -1.0)])
def test_real_images_are_brought_to_the_generators_scale_and_samples_back(output, black):
    model = build(*SMALL, f"model.generator.output={output}", spec=DataSpec(1, 16, 16))
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    seen = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.generator = Levels(signed=output == "tanh")
    next(model.updates(Batch(x), "train", 0))
    real, fake = seen[0]
    assert (real.min(), real.max()) == (black, 1.0)
    assert torch.allclose(real.flatten().diff(), torch.tensor((1 - black) / 255), atol=1e-6)
    assert torch.allclose(real, fake, atol=1e-6)
    assert torch.equal(model.sample(1), x)


# --------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("net", NETS)
def test_with_batch_norm_there_is_nothing_to_validate(net):
    model = of_nets("mlp", net, "model.discriminator.norm=batch").eval()
    assert model.validate(images(), "train") == {}


@pytest.mark.parametrize("norm", ["none", "layer", "spectral"])
@pytest.mark.parametrize("net", NETS)
def test_validation_has_all_terms_and_moves_nothing(net, norm):
    overrides = ["model/loss=wasserstein_gp", f"model.discriminator.norm={norm}", "model.n_critic=3"]
    clipped = ["model.loss.r1=1.0", "model.loss.weight_clip=0.001", "model.conditioning=projection"]
    trained, model = (of_nets("dcgan", net, *overrides, *clipped) for _ in range(2))
    training = {term for update in trained.updates(images(), "train", 2) for term in update.terms(alone=False)}
    model.eval()
    assert largest(model.discriminator) > 0.001
    before = copy.deepcopy(model.state_dict())
    terms = model.validate(images(), "train")
    assert set(terms) == training
    assert {"loss_discriminator", "loss_generator", "d_real", "d_fake", "gradient_penalty", "r1"} == training
    assert all(term.isfinite() and not term.requires_grad for term in terms.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_validation_in_training_changes_nothing_in_it(tmp_path):
    ends = []
    for val in (0, 3):
        model = build(
            *SMALL, "model/loss=wasserstein_gp", "model.discriminator.norm=spectral", "model.n_critic=2"
        )
        trainer = small_trainer(tmp_path / str(val), model, val=val, epochs=2)
        trainer.fit()
        ends.append(model.state_dict())
        assert ("val/loss_generator" in trainer.metrics) == bool(val)
    without, with_validation = ends
    assert all(torch.equal(value, with_validation[name]) for name, value in without.items())


# --------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("conditioning", ["null", "concat"])
def test_it_learns_to_draw_two_images(conditioning):
    """Half of the images are dark, half are bright; it begins in the middle, 100 levels away from both.

    Without labels the generator is continuous in its noise and bridges the two: other seeds and sizes left 80
    to 90 % within 30 levels of either. With labels there is nothing to bridge.
    """
    spec, dark, bright = DataSpec(1, 4, 4, num_classes=2), 27, 227
    model = build(
        *SMALL,
        "model.generator.hidden_dims=[16]",
        "model.discriminator.hidden_dims=[16]",
        "model.loss.r1=1.0",
        f"model.conditioning={conditioning}",
        spec=spec,
    )
    y = torch.arange(64) % 2
    x = torch.tensor([dark, bright], dtype=torch.uint8)[y].view(-1, 1, 1, 1).expand(-1, *spec.shape)
    (stage,) = model.stages()
    adam = {name: torch.optim.Adam(group, 5e-3, betas=(0.5, 0.99)) for name, group in stage.groups.items()}

    def errors(labels):
        """Mean distances to either image."""
        samples = model.sample(200, labels, torch.Generator().manual_seed(0)).float()
        return torch.stack([(samples - level).abs().mean((1, 2, 3)) for level in (dark, bright)])

    labels = None if conditioning == "null" else torch.arange(200) % 2
    assert errors(labels).min() > 50
    for step in range(200):
        for update in model.updates(Batch(x, y), "train", step):
            adam[update.group].zero_grad()
            update.loss.backward(inputs=stage.groups[update.group])
            adam[update.group].step()
    nearest, which = errors(labels).min(0)
    assert (nearest < 30).float().mean() > (0.7 if labels is None else 0.9)
    assert 0.3 < which.float().mean() < 0.7
    if labels is not None:
        assert torch.equal(which, labels)
