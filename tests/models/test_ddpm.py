"""DDPM: what each loss moves, what is refused, and that its likelihood is the bound of its own network."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from genlab.config import parse
from genlab.diffusion.schedules import LinearSchedule
from genlab.errors import ConfigError
from genlab.likelihood import bits_per_dim
from genlab.models.ddpm import DDPM, DDPMConfig
from genlab.types import Batch, DataSpec, HasBound, HasStepTerms

SPEC = DataSpec(1, 4, 4, num_classes=3)
VALUES = {
    "net": {
        "channels": 8,
        "multipliers": [1],
        "num_blocks": 1,
        "attention": [],
        "num_groups": 4,
        "dropout": 0.0,
    },
    "schedule": {"name": "linear", "num_steps": 50},
    "samplers": {"ancestral": {}, "ddim": {}, "dpm_solver": {}},
    "ode": {},
}
TARGETS, LOSSES, VARIANCES = ("eps", "x0", "v"), ("simple", "bound", "hybrid"), ("small", "large", "learned")


def settings(**values):
    return parse(DDPMConfig, VALUES | values, "model")


def is_allowed(loss, variance):
    return {"simple": variance != "learned", "bound": True, "hybrid": variance == "learned"}[loss]


def build(spec=SPEC, **values):
    torch.manual_seed(0)
    return DDPM(settings(**values), spec)


def images(n, spec=SPEC):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)


class Planes(nn.Module):
    """A network that says the same of every image, and keeps what it was called with."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values).view(-1, 1, 1))
        self.calls = []

    def forward(self, x, time, y):
        self.calls.append((x, time, y))
        return self.values.expand(len(x), -1, *x.shape[-2:])


# --------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("loss", "variance"), list(itertools.product(LOSSES, VARIANCES)))
def test_a_variance_is_learned_from_the_bound_and_from_nothing_else(loss, variance):
    if is_allowed(loss, variance):
        assert settings(loss=loss, variance=variance).variance == variance
        return
    with pytest.raises(ConfigError) as caught:
        settings(loss=loss, variance=variance)
    assert str(caught.value) == (
        f"model: variance={variance} with loss={loss}: a learned variance goes with loss=hybrid or bound, and "
        "loss=hybrid with variance=learned"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bound_steps": 1}, "model.bound_steps=1: input should be greater than or equal to 2"),
        ({"bound_weight": 0.0}, "model.bound_weight=0.0: input should be greater than 0"),
        ({"target": "noise"}, "model.target='noise'"),
        ({"likelihood": "exact"}, "model.likelihood='exact'"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(values, words):
    with pytest.raises(ConfigError) as caught:
        settings(**values)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_the_score_is_named_for_what_it_is():
    bound, ode = build(likelihood="bound", variance="small", bound_steps=10), build(likelihood="ode")
    assert (bound.likelihood, ode.likelihood) == ("bound", "unbiased")
    assert "10 of 50 steps for each image, small variance" in bound.protocol
    assert "all 50 steps" in build(bound_steps=None).protocol
    assert "all 50 steps" in build(bound_steps=1000).protocol
    assert "probability-flow ODE" in ode.protocol
    assert "variance" not in ode.protocol
    assert isinstance(bound, HasStepTerms)
    assert not isinstance(bound, HasBound)


# --------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("loss", "variance", "target"),
    [c for c in itertools.product(LOSSES, VARIANCES, TARGETS) if is_allowed(c[0], c[1])],
)
def test_every_loss_falls(loss, variance, target):
    model = build(loss=loss, variance=variance, target=target)
    flat = torch.tensor([20, 90, 160, 240], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    batch = Batch(flat.repeat(8, 1, 1, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)

    def held_out():
        torch.manual_seed(1)  # the same steps and noise before and after
        return model.eval().validate(Batch(batch.x.repeat(8, 1, 1, 1)), "train")["loss"].item()

    before = held_out()
    model.train()
    for step in range(40):
        (update,) = model.updates(batch, "train", step)
        assert update.loss.isfinite()
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    assert held_out() < 0.9 * before


@pytest.mark.parametrize("target", TARGETS)
def test_the_simple_loss_is_the_squared_error_of_the_target(target):
    """Of a network that says 0 it is the target's square: 1 for noise, that of the image for the image."""
    model = build(target=target)
    model.unet = Planes(0.0)
    x = torch.full((5000, 1, 4, 4), 192, dtype=torch.uint8)  # 0.50390625 on the signed axis
    torch.manual_seed(0)
    (update,) = model.updates(Batch(x), "train", 0)
    alpha_bar = model.process.log_alpha_bar[1:].exp()
    square = 0.50390625**2
    wanted = {"eps": 1.0, "x0": square, "v": (alpha_bar + (1 - alpha_bar) * square).mean().item()}[target]
    assert update.logs["mse"].item() == pytest.approx(wanted, rel=0.02)
    assert update.loss.item() == pytest.approx(16 * update.logs["mse"].item(), rel=1e-5)


def test_every_step_is_trained_and_the_network_sees_its_share_of_the_chain():
    model = build()
    model.unet = Planes(0.0)
    list(model.updates(Batch(images(5000)), "train", 0))
    ((_, time, y),) = model.unet.calls
    assert y is None
    assert torch.allclose(time.unique(), torch.arange(1, 51) / 50)


@pytest.mark.parametrize("target", TARGETS)
def test_the_bound_in_the_hybrid_loss_moves_the_variance_alone(target):
    model = build(loss="hybrid", variance="learned", target=target, bound_weight=0.5)
    model.unet = Planes(0.3, -0.2)
    (update,) = model.updates(Batch(images(64)), "train", 0)

    def gradient(loss):
        return torch.autograd.grad(loss, model.unet.values, retain_graph=True)[0].flatten()

    bound, simple, loss = (
        gradient(term) for term in (update.logs["bound"], update.logs["simple"], update.loss)
    )
    assert bound[0] == 0
    assert bound[1] != 0
    assert simple[0] != 0
    assert simple[1] == 0
    assert torch.allclose(loss, simple + 0.5 * bound)


def test_the_bound_by_itself_moves_the_prediction_too():
    model = build(loss="bound", variance="learned")
    model.unet = Planes(0.3, -0.2)
    (update,) = model.updates(Batch(images(64)), "train", 0)
    assert torch.equal(update.loss, update.logs["bound"])
    (gradient,) = torch.autograd.grad(update.loss, model.unet.values)
    assert (gradient != 0).all()


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_bound_that_is_trained_is_the_one_that_is_scored(variance):
    """But for L_T, which nothing moves; where clipping, which training leaves out, is left out of both."""
    model = build(loss="bound", variance=variance, clip=False, bound_steps=None)
    model.unet = Planes(*([0.1, 0.4] if variance == "learned" else [0.1]))
    x = images(1).expand(20_000, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        trained = torch.stack([u.loss for _ in range(50) for u in model.updates(Batch(x[:2000]), "train", 0)])
    scored = model.step_terms(x[:2000])
    known = scored[:, :-1].sum(1)
    error = (trained.var() / len(trained) + known.var() / len(known)).sqrt()
    assert abs(trained.mean() - known.mean()) < 4 * error
    assert error < 0.02 * known.mean()


def test_a_learned_variance_begins_in_the_middle_and_may_reach_both_ends():
    model = build(loss="hybrid", variance="learned")
    x_t, t = torch.randn(50, 1, 4, 4), torch.arange(1, 51)
    small, large = (model.process.reverse_log_variance(t - 1, t, kind) for kind in ("small", "large"))
    for said, share in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        model.unet = Planes(0.2, said)
        fraction = model.denoise(x_t, t).fraction
        found = model.process.reverse_log_variance(t - 1, t, "learned", fraction)
        wanted = (small + share * (large - small)).expand_as(found)
        assert torch.allclose(found, wanted, rtol=1e-5)
    fresh = build(loss="hybrid", variance="learned")
    assert torch.equal(fresh.denoise(x_t, t).fraction, torch.full((50, 1, 4, 4), 0.5))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_what_is_denoised_is_what_was_learned(target, variance):
    """The target itself, given as the network's output, is read as the image and the noise that made it."""
    model = build(target=target, loss="bound", variance=variance)
    x0, eps, t = torch.rand(50, 1, 4, 4) * 2 - 1, torch.randn(50, 1, 4, 4), torch.arange(1, 51)
    target_planes = model.process.target(target, x0, t, eps)
    rest = torch.zeros_like(target_planes)
    output = torch.cat([target_planes, rest], 1) if variance == "learned" else target_planes
    model.network = lambda x, time, y: output
    seen = model.denoise(model.process.diffuse(x0, t, eps), t)
    assert torch.allclose(seen.x0, x0, atol=1e-3)
    assert torch.allclose(seen.eps, eps, atol=1e-3)


def test_labels_are_dropped_in_training_and_not_in_validation():
    model = build(conditioning={"label_dropout": 0.3, "guidance": 2.0})
    model.unet = Planes(0.0)
    batch = Batch(images(3000), torch.arange(3000) % 3)
    model.train()
    list(model.updates(batch, "train", 0))
    model.eval()
    model.validate(batch, "train")
    (_, _, trained), (_, _, validated) = model.unet.calls
    dropped = (trained != batch.y).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 3000) ** 0.5)
    assert (trained[trained != batch.y] == 3).all()
    assert torch.equal(validated, batch.y)


# --------------------------------------------------------------------------------------- likelihood


def test_the_score_is_minus_the_sum_of_the_terms_and_knows_no_labels():
    model = build(conditioning={}, bound_steps=7)
    model.unet = Planes(0.1)
    x, y = images(5), torch.arange(5) % 3
    torch.manual_seed(0)
    terms = model.step_terms(x)
    torch.manual_seed(0)
    scores = model.log_prob(x, y)
    assert terms.shape == (5, 8)
    assert len(model.strata) == 7
    assert not any(values.requires_grad for values in (terms, scores))
    assert torch.equal(scores, -terms.sum(1))
    assert all((y == model.no_label).all() for _, _, y in model.unet.calls)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_of_an_untrained_model_is_known(variance):
    """It says that there is no noise: eq. 12 of Ho et al. with the square of a standard normal."""
    model = build(schedule={"name": "linear"}, variance=variance, clip=False, bound_steps=None)
    x = torch.full((100, 1, 4, 4), 128, dtype=torch.uint8)
    assert (model.network(torch.randn(2, 1, 4, 4), torch.rand(2), None) == 0).all()
    model.unet = Planes(0.0)  # which is faster
    torch.manual_seed(0)
    terms = model.step_terms(x).double()
    betas = LinearSchedule().betas()
    alpha_bar = (1 - betas).cumprod(0)
    beta, now, before = betas[1:], alpha_bar[1:], alpha_bar[:-1]
    posterior = (1 - before) / (1 - now) * beta
    reverse = posterior if variance == "small" else beta
    ratio = posterior / reverse
    known = beta**2 / (2 * reverse * (1 - beta) * (1 - now)) + 0.5 * (ratio - 1 - ratio.log())
    diffusion = terms[:, 1:-1].sum(1)
    assert abs(diffusion.mean() - 16 * known.sum()) < 4 * diffusion.std() / 10


@pytest.mark.parametrize("variance", VARIANCES)
def test_no_model_says_less_than_eight_bits_of_uniform_noise(variance):
    """And a fresh one, which has the range of images right, doesn't say much more."""
    model = build(schedule={"name": "linear"}, loss="bound", variance=variance)
    model.unet = Planes(*([0.0, 0.0] if variance == "learned" else [0.0]))
    torch.manual_seed(0)
    bits = bits_per_dim(model.log_prob(images(500)), 16)
    error = bits.std() / 500**0.5
    assert 8 - 4 * error < bits.mean() < 10


def test_clipping_is_part_of_what_is_scored():
    """An image at the edge of its range is foreseen better by a model that knows the range."""
    clipped, free = build(bound_steps=None), build(bound_steps=None, clip=False)
    x = torch.full((50, 1, 4, 4), 255, dtype=torch.uint8)
    for model in (clipped, free):
        model.unet = Planes(0.0)
    assert clipped.log_prob(x).mean() > free.log_prob(x).mean() + 1


def test_a_channel_more_is_a_plane_more():
    spec = replace(SPEC, channels=3)
    model = build(spec=spec, loss="hybrid", variance="learned")
    (update,) = model.updates(Batch(images(8, spec)), "train", 0)
    assert update.loss.isfinite()
    assert model.denoise(torch.randn(2, 3, 4, 4), torch.tensor([1, 50])).fraction.shape == (2, 3, 4, 4)
    assert model.log_prob(images(2, spec)).shape == (2,)
