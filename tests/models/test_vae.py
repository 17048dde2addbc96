"""The VAE: every option of conf/model builds, learns and is saved, and what the model promises holds."""

import copy
import functools
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir, option_files
from genlab.errors import ConfigError
from genlab.types import Batch, DataSpec, Decodes, Encodes, HasBound, HasLikelihood, HasPosterior

GREY, RGB = DataSpec(1, 8, 8), DataSpec(3, 8, 8)
GROUPS = ("encoder", "decoder", "likelihood", "prior", "objective", "warmup")
OPTIONS = [(f"model/{g}", option) for g in GROUPS for option in option_files(f"model/{g}", [conf_dir()])]
IDS = [f"{group.removeprefix('model/')}={option}" for group, option in OPTIONS]
LIKELIHOODS = list(option_files("model/likelihood", [conf_dir()]))


@functools.cache
def composed(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", ["model=vae", "run_name=test", *overrides])
    return OmegaConf.to_container(config.model)


def build(*overrides, spec=GREY, **values):
    torch.manual_seed(0)
    return model_builder(copy.deepcopy(composed(*overrides)) | {"eval_samples": 3} | values)(spec)


def images(spec=GREY, n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)


def train_step(model, x):
    """One step of Adam in each group, in the trainer's order."""
    (stage,) = model.stages()
    optimizers = {name: torch.optim.Adam(group, 1e-3) for name, group in stage.groups.items()}
    for update in model.updates(Batch(x), stage.name, 0):
        group = stage.groups[update.group]
        optimizers[update.group].zero_grad()
        update.loss.backward(inputs=group)
        for parameter in group:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        optimizers[update.group].step()
    return update


# --------------------------------------------------------------------------------------- every variant


@pytest.mark.parametrize("option", OPTIONS, ids=IDS)
def test_every_option_learns_is_copied_and_is_saved(option):
    model = build("=".join(option))
    model.initialize(Batch(images()))
    before = copy.deepcopy(model)
    train_step(model, images())
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2  # the copy stayed behind
    before.load_state_dict(model.state_dict())
    scores = []
    for each in (model, before):
        torch.manual_seed(1)
        with torch.no_grad():
            scores.append(each.eval().log_prob(images()))
    assert torch.equal(*scores)
    assert scores[0].isfinite().all()


@pytest.mark.parametrize("objective", option_files("model/objective", [conf_dir()]))
@pytest.mark.parametrize("prior", option_files("model/prior", [conf_dir()]))
def test_every_objective_takes_every_prior_also_without_a_penalty(objective, prior):
    """With beta 0 gradients of a prior are zero, not missing."""
    train_step(build(f"model/objective={objective}", f"model/prior={prior}", beta=0.0), images())


@pytest.mark.parametrize("spec", [GREY, RGB], ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_takes_grey_and_rgb_and_single_images(likelihood, spec):
    model, x = build(f"model/likelihood={likelihood}", "model/decoder=conv", spec=spec), images(spec, 1)
    train_step(model, x)
    model.eval()
    for image in (model.reconstruct(x), model.decode(torch.zeros(1, 10)), model.sample(1)):
        assert (image.shape, image.dtype) == ((1, *spec.shape), torch.uint8)
    score = model.log_prob(x)
    assert score.shape == (1,)
    assert score < 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_single_latent_dimension_is_enough(likelihood):
    model = build(f"model/likelihood={likelihood}", "model/objective=beta_tcvae", latent_dim=1)
    train_step(model, images())
    assert model.encode(images()).shape == (6, 1)


@pytest.mark.parametrize("gradient", ["plain", "doubly_reparameterized"])
def test_one_importance_sample_is_enough(gradient):
    settings = composed("model/objective=iwae", "model/prior=flow")["objective"]
    model = build(
        "model/objective=iwae",
        "model/prior=flow",
        objective=settings | {"num_samples": 1, "gradient": gradient},
    )
    update = train_step(model, images())
    assert torch.allclose(update.logs["iwae"], -update.logs["nelbo"], rtol=1e-5)


def test_training_lowers_the_loss():
    model, x = build("model/prior=mixture"), images().where(images() > 127, torch.tensor(0, dtype=torch.uint8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for step in range(120):
        (update,) = model.updates(Batch(x), "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        losses.append(update.loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# --------------------------------------------------------------------------------------- what it promises


def test_a_vae_has_codes_images_for_them_a_posterior_and_a_bound():
    model = build()
    assert all(isinstance(model, kind) for kind in (Encodes, Decodes, HasBound, HasLikelihood, HasPosterior))


@torch.no_grad()
def test_the_code_is_the_mean_of_the_posterior_and_leaves_nothing_to_chance():
    model = build()
    assert torch.equal(model.encode(images()), model.posterior(images()).mean)
    assert torch.equal(model.reconstruct(images()), model.decode(model.encode(images())))


@torch.no_grad()
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_elbo_and_bound_of_one_sample_are_the_same_bound(likelihood):
    """A standard normal prior: only the KL is in closed form, so the two agree in expectation."""
    model = build(f"model/likelihood={likelihood}", latent_dim=2)
    x = model.observe(images(n=1)).expand(400, -1, -1, -1)
    terms = model(x)
    elbo, bound = -terms.reconstruction - terms.kl.sum(-1), model.bound_terms(x, 1).bound()
    error = math.sqrt((elbo.var() + bound.var()) / 400)
    assert abs(elbo.mean() - bound.mean()) < 4 * error + 1e-6 * bound.mean().abs()


@torch.no_grad()
def test_the_decoder_scores_several_codes_of_an_image_as_one_by_one():
    model, x = build(), (images() > 127).float()
    z = torch.randn(4, 6, 10)
    one_by_one = torch.stack([model.log_prob_given(codes, x) for codes in z])
    assert torch.allclose(model.log_prob_given(z, x), one_by_one, atol=1e-4)
    assert model.planes(z).shape == (4, 6, 1, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("sample_pixels", [True, False])
def test_samples_follow_their_generator(likelihood, sample_pixels):
    model = build(f"model/likelihood={likelihood}", sample_pixels=sample_pixels).eval()
    a, b, c = (model.sample(5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@torch.no_grad()
def test_at_temperature_zero_all_samples_are_the_image_of_the_origin():
    model = build()
    cold = model.sample(3, temperature=0.0)
    assert torch.equal(cold, model.decode(torch.zeros(3, 10)))
    with pytest.raises(ConfigError, match="unconditional"):
        model.sample(3, torch.zeros(3))


@torch.no_grad()
def test_an_untrained_categorical_decoder_has_about_eight_bits_per_dim():
    model = build("model/likelihood=categorical")
    bits = -model.log_prob(images()) / (64 * math.log(2))
    assert torch.allclose(bits, torch.full((6,), 8.0), atol=0.2)
    assert model.levels == 256


def test_a_vampprior_is_told_what_the_images_look_like():
    model = build("model/prior=vampprior")
    white = torch.full((4, *GREY.shape), 255, dtype=torch.uint8)
    model.initialize(Batch(white))
    assert model.prior.pseudo_inputs.mean() > 0.8
    assert any(p is model.prior.logits for p in model.stages()[0].groups["model"])


def test_half_precision_of_the_networks_leaves_densities_whole():
    model, x = build("model/prior=vampprior", "model/likelihood=logistic_mixture"), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (update,) = model.updates(Batch(x), "train", 0)
        score = model.log_prob(x)
    assert update.loss.dtype == score.dtype == torch.float32
    update.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_thousands_of_importance_samples_are_decoded_some_at_a_time(monkeypatch):
    model, rows = build(), []
    model.decoder.register_forward_hook(lambda module, inputs, planes: rows.append(len(planes)))
    x = model.observe(images())
    torch.manual_seed(1)
    whole = model.bound_terms(x, 50).bound()
    monkeypatch.setattr("genlab.models.vae._CHUNK", 64 * 6 * 8)  # eight codes of each of the six images
    torch.manual_seed(1)
    parts = model.bound_terms(x, 50).bound()
    assert rows == [300, *[48] * 6, 12]
    assert torch.allclose(parts, whole, atol=0.3)  # other noise, the same bound


@torch.no_grad()
def test_far_from_its_training_images_the_bound_is_finite():
    """Of an encoder that asks for a variance of e^200, more than float32 holds."""
    model = build(**{"latent_dim": 2})
    list(model.encoder.modules())[-1].bias.fill_(200.0)
    assert model.log_prob(images()).isfinite().all()
    assert model.posterior(images()).log_var.max() == 20
