"""What the players see of a batch: images that are judged apart, their labels, one scale."""

import pytest
import torch
from players import NETS, SMALL, SPEC, build, images, noise, of_nets
from torch import nn

from genlab.errors import ConfigError
from genlab.likelihood import to_unit
from genlab.types import Batch, DataSpec

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
