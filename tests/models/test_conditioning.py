"""Classes on demand: guidance, dropped labels, what labels do to samples, and how they are asked for."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir
from genlab.errors import ConfigError
from genlab.types import Batch, DataSpec

SPEC = DataSpec(1, 4, 4, num_classes=3)
MODELS = ["ddpm", "flow_matching"]
SMALL = {"channels": 8, "multipliers": [1], "num_blocks": 1, "attention": [], "num_groups": 4, "dropout": 0.0}


def composed(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = compose("train", [*overrides, "run_name=test"]).model
    return OmegaConf.to_container(values)


@pytest.fixture(scope="module", params=MODELS)
def values(request):
    """The settings of a conditional model with a small network."""
    values = composed(f"model={request.param}", "model/conditioning=classifier_free")
    values["net"] |= SMALL
    return values


def build(values, spec=SPEC, **conditioning):
    torch.manual_seed(0)
    if values["conditioning"] is not None:
        values = values | {"conditioning": values["conditioning"] | conditioning}
    return model_builder(values)(spec)


@pytest.fixture
def model(values):
    return stirred(build(values))


def stirred(model):
    """With weights that say something, where those of the start say 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def noisy(n=6):
    return torch.randn(n, *SPEC.shape), torch.rand(n), torch.arange(n) % 3


class Counter:
    """A network that keeps what it was called with."""

    def __init__(self, network):
        self.network, self.calls = network, []

    def __call__(self, x, time, y):
        self.calls.append((x, time, y))
        return self.network(x, time, y)


@pytest.fixture
def calls(model, monkeypatch):
    counter = Counter(model.unet.forward)
    monkeypatch.setattr(model.unet, "forward", counter)
    return counter.calls


# ------------------------------------------------------------------ guidance


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_goes_from_the_unlabelled_output_through_the_labelled_one(values, guidance):
    model = stirred(build(values, guidance=guidance))
    x, time, y = noisy()
    with torch.no_grad():
        labelled, unlabelled = model.network(x, time, y), model.network(x, time, None)
        guided = model.guided(x, time, y)
    assert (labelled - unlabelled).abs().min(0).values.max() > 1e-3
    torch.testing.assert_close(guided, unlabelled + guidance * (labelled - unlabelled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("guidance", "images"), [(0.0, 6), (1.0, 6), (2.0, 12)])
def test_only_guidance_costs_a_second_pass(values, monkeypatch, guidance, images):
    model = build(values, guidance=guidance)
    counter = Counter(model.unet.forward)
    monkeypatch.setattr(model.unet, "forward", counter)
    model.guided(*noisy())
    model.guided(*noisy()[:2], None)
    assert [len(x) for x, _, _ in counter.calls] == [images, 6]


def test_without_a_label_the_output_is_that_of_no_label(model, calls):
    x, time, _ = noisy()
    model.guided(x, time, None)
    assert calls[0][2].tolist() == [3] * 6


def test_a_learned_variance_is_not_guided():
    values = composed(
        "model=ddpm", "model/conditioning=classifier_free", "model.loss=hybrid", "model.variance=learned"
    )
    values["net"] |= SMALL
    model = stirred(build(values, guidance=3.0))
    x, time, y = noisy()
    with torch.no_grad():
        labelled, unlabelled, guided = (
            model.network(x, time, y),
            model.network(x, time, None),
            model.guided(x, time, y),
        )
    assert guided.shape == (6, 2, 4, 4)
    torch.testing.assert_close(guided[:, 1], labelled[:, 1])
    torch.testing.assert_close(guided[:, 0], (3 * labelled - 2 * unlabelled)[:, 0], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ labels in training


def test_labels_are_dropped_at_their_rate_and_only_in_training(values):
    model, y = build(values, label_dropout=0.2), torch.arange(20_000) % 3
    dropped = model.train().training_labels(y) == 3
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 20_000) ** 0.5)
    assert torch.equal(model.eval().training_labels(y), y)


def test_labels_that_are_kept_stay_with_their_image(values):
    model, y = build(values, label_dropout=0.5).train(), torch.arange(300) % 3
    labels = model.training_labels(y)
    assert set((labels - y)[labels < 3].tolist()) == {0}
    assert (labels < 3).any()


def test_the_loss_and_its_gradient_reach_the_label(model, calls):
    batch = Batch(torch.randint(0, 256, (6, *SPEC.shape), dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1]))
    (update,) = model.updates(batch, "train", 0)
    assert torch.equal(calls[0][2], batch.y)  # in eval(), where none is dropped
    update.loss.backward()
    assert [row.abs().sum() > 0 for row in model.unet.label.weight.grad] == [True, True, False, False]


# ------------------------------------------------------------------ samples


def test_samples_are_of_the_labels_that_were_given(model, calls):
    y = torch.tensor([2, 0, 1])
    images = model.sample(3, y, torch.Generator().manual_seed(0))
    assert (images.shape, images.dtype) == ((3, *SPEC.shape), torch.uint8)
    assert all(labels.tolist() == [2, 0, 1, 3, 3, 3] for _, _, labels in calls)


def test_without_labels_samples_are_of_any_class(model, calls):
    model.sample(50, generator=torch.Generator().manual_seed(0))
    assert set(calls[0][2][:50].tolist()) == {0, 1, 2}
    again = model.sample(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, model.sample(50, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", MODELS)
def test_an_unconditional_model_takes_no_labels(name):
    values = composed(f"model={name}")
    values["net"] |= SMALL
    model = model_builder(values)(SPEC)
    assert (model.num_classes, model.unet.label) == (None, None)
    with pytest.raises(ConfigError, match="is unconditional: it takes no labels"):
        model.sample(2, torch.tensor([0, 1]))
    batch = Batch(torch.zeros(2, *SPEC.shape, dtype=torch.uint8), torch.tensor([0, 1]))
    assert all(update.loss.isfinite() for update in model.updates(batch, "train", 0))


def test_a_dataset_without_labels_is_refused_in_one_line(values):
    with pytest.raises(ConfigError, match=r"the dataset has no labels; take model\.conditioning=null") as error:
        build(values, DataSpec(1, 4, 4))
    assert "\n" not in str(error.value)


def test_only_the_last_step_of_a_sample_is_kept(model, monkeypatch):
    """A chain of a thousand steps would fill the memory."""
    alive, most = 0, 0

    class Step:
        def __init__(self):
            nonlocal alive, most
            alive += 1
            most, self.x = max(most, alive), torch.zeros(1)

        def __del__(self):
            nonlocal alive
            alive -= 1

    monkeypatch.setattr(model, "sample_steps", lambda *_: (Step() for _ in range(50)))
    model.sample(1)
    assert most <= 2


# ------------------------------------------------------------------ what labels decide


def test_labels_decide_what_is_drawn(values):
    """Black images are of class 0 and white ones of class 1; without a label, there are some of each."""
    model = build(values, DataSpec(1, 4, 4, num_classes=2), label_dropout=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    y = torch.arange(64) % 2
    x = (255 * y).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    for step in range(200):
        (update,) = model.train().updates(Batch(x, y), "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    model.eval()

    def brightness():
        return model.sample(64, y, torch.Generator().manual_seed(0)).float().mean((1, 2, 3))

    assert ((brightness() > 127) == (y == 1)).float().mean() > 0.95
    assert brightness()[y == 0].mean() < 50
    assert brightness()[y == 1].mean() > 205
    model.conditioning = replace(model.conditioning, guidance=0.0)
    assert 0.1 < (brightness() > 127).float().mean() < 0.9


# ------------------------------------------------------------------ how they are asked for


@pytest.mark.parametrize("name", MODELS)
def test_one_word_makes_a_model_conditional(name):
    assert composed(f"model={name}").get("conditioning") is None
    asked = composed(f"model={name}", "model/conditioning=classifier_free", "model.conditioning.guidance=3.5")
    assert asked["conditioning"] == {"label_dropout": 0.1, "guidance": 3.5}
    assert model_builder(asked).args[0].conditioning.guidance == 3.5


@pytest.mark.parametrize("key", ["guidance=-1", "label_dropout=0", "label_dropout=1"])
def test_a_number_that_makes_no_sense_is_named(key):
    values = composed("model=ddpm", "model/conditioning=classifier_free", f"model.conditioning.{key}")
    with pytest.raises(ConfigError, match=f"model.conditioning.{key.partition('=')[0]}=") as error:
        model_builder(values)
    assert "\n" not in str(error.value)
