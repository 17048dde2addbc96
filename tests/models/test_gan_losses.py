"""What each player minimises in training, and what validation says of it."""

import copy

import pytest
import torch
from players import NETS, SMALL, build, images, largest, of_nets, small_trainer

from genlab.config import conf_dir, option_files
from genlab.errors import ConfigError
from genlab.likelihood import to_unit

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
