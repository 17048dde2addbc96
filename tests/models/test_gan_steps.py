"""Who steps when and what it moves, clipping and averages; and that it learns."""

import pytest
import torch
from players import SMALL, build, images, largest, moved, parameters, small_trainer

from genlab.types import Batch, DataSpec

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
