"""Latent-space RealNVP: a density of codes, two stages that leave each other alone, images of every size."""

import copy
import itertools
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from staged import striped, train_stage

from genlab.assemble import model_builder
from genlab.config import conf_dir, parse
from genlab.errors import ConfigError
from genlab.models.latent_realnvp import LatentRealNVP
from genlab.nets.bijections import ActNorm
from genlab.nets.code_flow import CodeFlow, CodeFlowConfig, Standardise
from genlab.nets.mlp import MLPConfig
from genlab.types import (
    Batch,
    DataSpec,
    Decodes,
    Encodes,
    HasCodeLikelihood,
    HasLikelihood,
    Reconstructs,
    Samples,
)
from genlab.verbs import TrainConfig

SPEC = DataSpec(1, 8, 8)
SMALL = [
    "model=latent_realnvp",
    "model/encoder=mlp",
    "model/decoder=mlp",
    "model.latent_dim=4",
    "model.num_flows=4",
    "model.net={hidden_dim:16,activation:tanh}",
    "model.encoder.hidden_dim=32",
    "model.decoder.hidden_dim=32",
]


def _compose(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*overrides, "run_name=test"])
    return OmegaConf.to_container(composed, resolve=True)


def _model(*overrides, spec=SPEC):
    torch.manual_seed(0)
    return model_builder(_compose(*SMALL, *overrides)["model"])(spec)


def _shaken(module, scale=0.2):
    """Away from the identity that a flow begins as."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


@pytest.fixture
def model():
    """Neither its flow the identity nor its codes of zero mean and unit variance."""
    made = _model()
    _shaken(made.flow)
    made.flow.standardise.initialize(made.encode(striped(SPEC)))
    return made.eval()


@pytest.fixture
def batch():
    return Batch(striped(SPEC))


def _by_hand(flow, codes):
    """``log N(f(h)) + log |det df/dh|`` by autograd's Jacobian, in float64."""
    flow, densities = copy.deepcopy(flow).double(), []
    for code in codes.double():
        z, _ = flow.bijection(code[None])
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], code)
        base = -0.5 * z.square().sum() - 0.5 * len(code) * math.log(2 * math.pi)
        densities.append((base + torch.linalg.slogdet(jacobian)[1]).item())
    return torch.tensor(densities, dtype=torch.float64)


# ------------------------------------------------------------------ the density


def test_it_has_a_density_of_codes_and_none_of_pixels(model):
    for protocol in (HasCodeLikelihood, Samples, Reconstructs, Encodes, Decodes):
        assert isinstance(model, protocol)
    assert not isinstance(model, HasLikelihood)
    assert not hasattr(LatentRealNVP, "log_prob")
    assert not hasattr(model, "log_prob")


def test_the_density_of_codes_is_a_change_of_variables_by_hand(model, batch):
    x = batch.x[:5]
    expected = _by_hand(model.flow, model.encode(x))
    assert (model.flow.standardise.scale - 1).abs().min() > 0.05  # the units of codes are their own
    torch.testing.assert_close(model.code_log_prob(x).double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.flow.double().log_prob(model.encode(x).double()), expected)


def test_the_density_of_codes_integrates_to_one():
    """On two coordinates, over a fine grid of codes in their own units."""
    torch.manual_seed(0)
    config = CodeFlowConfig(num_flows=4, net=MLPConfig(hidden_dim=8, activation="tanh"))
    flow = _shaken(CodeFlow(config, 2), 0.1).double()
    flow.standardise.initialize(torch.tensor([3.0, -1.0]) + torch.randn(99, 2).double() * 0.4)
    side = torch.linspace(-12, 12, 481, dtype=torch.float64)
    codes = flow.standardise.mean + flow.standardise.scale * torch.cartesian_prod(side, side)
    area = (side[1] - side[0]) ** 2 * flow.standardise.scale.prod()
    with torch.no_grad():
        assert (flow.log_prob(codes).exp().sum() * area).item() == pytest.approx(1, abs=1e-4)


def test_the_loss_of_the_flow_is_the_density_of_noisy_codes(model, batch):
    torch.manual_seed(3)
    (update,) = model.updates(batch, "flow", 0)
    torch.manual_seed(3)
    codes = model.encode(batch.x)
    noise = model.flow.noise * codes.std(0, correction=0) * torch.randn_like(codes)
    log_prob = model.flow.log_prob(codes + noise).mean()
    assert model.flow.noise > 0
    torch.testing.assert_close(update.loss, -log_prob)
    assert update.logs.keys() == {"code_log_prob", "log_det", "log_prior"}
    torch.testing.assert_close(update.logs["code_log_prob"], log_prob)
    torch.testing.assert_close(update.logs["log_det"] + update.logs["log_prior"], log_prob)


def test_the_density_does_not_depend_on_the_units_of_the_autoencoder():
    """Codes of twice the size have half the density in every dimension, and the flow is the same."""
    torch.manual_seed(0)
    config = CodeFlowConfig(num_flows=4, net=MLPConfig(hidden_dim=8))
    flow, codes = _shaken(CodeFlow(config, 3)), torch.randn(50, 3)
    flow.standardise.initialize(codes)
    narrow = flow.log_prob(codes)
    flow.standardise.initialize(2 * codes)
    torch.testing.assert_close(flow.log_prob(2 * codes), narrow - 3 * math.log(2))


def test_noise_bounds_the_density_of_codes_on_a_line():
    """Two equal coordinates have no density: without noise the loss falls without end, with it, it can't."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(256, 1, generator=generator).expand(-1, 2).contiguous()
    losses = {}
    for noise in (0.0, 0.1):
        torch.manual_seed(0)
        flow = CodeFlow(CodeFlowConfig(num_flows=2, noise=noise, net=MLPConfig(hidden_dim=16)), 2)
        flow.initialize(codes)
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
        for _ in range(150):
            loss, _ = flow.fit(codes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[noise] = loss.item()
    # The entropy of (h, h) with noise of 0.1 on both: that of variances 2 + 0.01 and 0.01.
    entropy = 0.5 * math.log(2.01) + math.log(0.1) + 1 + math.log(2 * math.pi)
    assert losses[0.1] == pytest.approx(entropy, abs=0.15)
    assert losses[0.0] < entropy - 0.5


def test_the_score_of_an_image_is_without_chance(model, batch):
    assert torch.equal(model.code_log_prob(batch.x), model.code_log_prob(batch.x))


def test_statistics_are_tracked_and_undone():
    standardise = Standardise(3).double()
    x = torch.tensor([5.0, -2.0, 0.0]) + torch.randn(4000, 3).double() * torch.tensor([3.0, 0.5, 1.0])
    for _ in range(200):
        standardise.track(x)
    y, log_det = standardise(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.std(0), torch.ones(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(standardise.inverse(y), x)
    torch.testing.assert_close(log_det, -x.std(0).log().sum().expand(4000), rtol=0, atol=1e-3)


def test_a_coordinate_that_never_changes_is_not_blown_up():
    standardise = Standardise(2)
    y = standardise.initialize(torch.stack([torch.randn(100), torch.full((100,), 7.0)], 1))
    assert y.abs().max() < 5
    assert standardise(torch.tensor([[0.0, 7.1]]))[0].abs().max() < 3
    assert Standardise(2).initialize(torch.ones(5, 2)).eq(0).all()


# ------------------------------------------------------------------ training


def test_each_stage_moves_its_own_and_nothing_of_the_other(batch):
    model = _model()
    groups = {stage.name: next(iter(stage.groups.values())) for stage in model.stages()}
    assert list(groups) == ["autoencoder", "flow"]
    assert {p for g in groups.values() for p in g} == set(model.parameters())
    assert not set(groups["autoencoder"]) & set(groups["flow"])
    for stage, other in (("autoencoder", "flow"), ("flow", "autoencoder")):
        buffers = [b.clone() for b in model.buffers()]
        kept, moved = [p.clone() for p in groups[other]], [p.clone() for p in groups[stage]]
        train_stage(model.train(), batch, stage, 2)
        assert all(map(torch.equal, kept, groups[other]))
        assert not any(map(torch.equal, moved, groups[stage]))
        assert all(map(torch.equal, buffers, model.buffers())) == (stage == "flow")


def test_training_reconstructs_and_the_flow_then_finds_its_codes_likelier(batch):
    model = _model().train()
    before = model.validate(batch, "autoencoder")
    train_stage(model, batch, "autoencoder", 200)
    after = model.validate(batch, "autoencoder")
    assert before.keys() == {"loss", "reconstruction"}
    assert after["reconstruction"] < before["reconstruction"] - 30
    density = model.validate(batch, "flow")["code_log_prob"]
    train_stage(model, batch, "flow", 100)
    assert model.validate(batch, "flow")["code_log_prob"] > density + 0.5
    error = (model.reconstruct(batch.x).float() - batch.x.float()).square().mean()
    assert error < 0.6 * batch.x.float().var()


def test_the_flow_begins_where_its_actnorms_would_be_initialised(batch):
    """The statistics of the first stage leave them nothing to do."""
    model = _model().train()
    train_stage(model, batch, "autoencoder", 60)
    train_stage(model, batch, "autoencoder", 60, lr=1e-5)  # as schedules end
    model.eval()
    y, _ = model.flow.standardise(model.encode(batch.x))
    assert y.mean(0).abs().max() < 0.3
    assert (y.std(0).log()).abs().max() < 0.3
    for part in model.flow.bijection.parts:
        if isinstance(part, ActNorm):
            y = part(y)[0]
            assert y.mean(0).abs().max() < 0.3


def test_validation_and_looking_move_nothing(model, batch):
    state = copy.deepcopy(model.state_dict())
    for stage in model.stages():
        model.validate(Batch(batch.x[:9]), stage.name)  # of other statistics than all of them
    model.reconstruct(batch.x), model.sample(2), model.code_log_prob(batch.x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_under_bf16_codes_and_densities_stay_in_float32(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        codes, scores = model.encode(batch.x), model.code_log_prob(batch.x)
    assert codes.dtype == scores.dtype == torch.float32
    assert (scores - model.code_log_prob(batch.x)).abs().mean() < 1


# ------------------------------------------------------------------ images and codes


def test_samples_are_the_decoded_codes_of_the_base_noise(model):
    images = model.sample(6, generator=torch.Generator().manual_seed(5), temperature=0.7)
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    codes = model.flow.bijection.inverse(0.7 * noise)
    assert torch.equal(images, model.decode(codes))
    torch.testing.assert_close(model.flow.bijection(codes)[0], 0.7 * noise, rtol=0, atol=1e-4)
    mode = model.sample(3, temperature=1e-12)
    assert torch.equal(mode[0], mode[1])


def test_reconstructions_are_the_images_of_codes(model, batch):
    codes = model.encode(batch.x)
    assert codes.shape == (64, 4)
    assert torch.equal(model.encode(batch.x), codes)
    assert torch.equal(model.decode(codes), model.reconstruct(batch.x))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic_mixture", "categorical"])
def test_every_likelihood_of_pixels_fits(likelihood, batch):
    model = _model(f"model/likelihood={likelihood}")
    for stage in model.stages():
        assert train_stage(model, batch, stage.name, 1).loss.isfinite()
    assert model.sample(2).dtype == torch.uint8


@pytest.mark.parametrize(
    ("spec", "net"),
    list(itertools.product([DataSpec(1, 1, 1), DataSpec(3, 1, 2), DataSpec(1, 5, 7)], ["mlp", "conv"])),
    ids=str,
)
def test_every_size_of_image_works_or_is_refused_in_one_line(spec, net):
    torch.manual_seed(0)
    overrides = ["model=latent_realnvp", f"model/encoder={net}", f"model/decoder={net}", "model.latent_dim=3"]
    build = model_builder(_compose(*overrides)["model"])
    if net == "conv" and spec.height < 4:
        with pytest.raises(ConfigError, match="2 strided convolutions are too many"):
            build(spec)
        return
    model = build(spec)
    x = torch.randint(0, 256, (4, *spec.shape), dtype=torch.uint8)
    for stage in model.stages():
        assert train_stage(model, Batch(x), stage.name, 1).loss.isfinite()
    assert model.code_log_prob(x).shape == (4,)
    assert model.sample(2).shape == model.reconstruct(x)[:2].shape == (2, *spec.shape)


def test_labels_are_refused(model):
    with pytest.raises(ConfigError, match="unconditional"):
        model.sample(2, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.latent_dim=1", "model.latent_dim=1: input should be greater than or equal to 2"),
        ("model.num_flows=1", "model.num_flows=1: input should be greater than or equal to 2"),
        ("model.noise=-1", "model.noise=-1: input should be greater than or equal to 0"),
        ("model.permutation=checkerboard", "model.permutation='checkerboard': input should be 'random' or"),
        ("model/net=resnet", "model.net"),
    ],
)
def test_what_codes_do_not_have_is_refused(override, complaint):
    with pytest.raises(ConfigError) as error:
        _model(*([override] if "net" not in override else ["model.net.name=resnet"]))
    assert str(error.value).startswith(complaint)


def test_the_loss_of_each_stage_decides_which_checkpoint_is_best(batch):
    settings = parse(TrainConfig, _compose(*SMALL))
    model = _model()
    for name, stage in settings.trainer.by_stage(model.stages()).items():
        assert stage.monitor in model.validate(batch, name)
    assert settings.trainer.by_stage(model.stages())["flow"].ema_decay
    assert not settings.trainer.by_stage(model.stages())["autoencoder"].ema_decay
