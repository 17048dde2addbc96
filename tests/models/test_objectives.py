"""What the objectives of a VAE minimise: free bits, beta, capacity, warm-up, against a model that is known."""

import pytest
import torch
from linear_gaussian import CODES, PIXELS, LinearGaussian, gradients, images, one_update

from genlab.nets.priors import MixtureConfig
from genlab.objectives import (
    BetaTCVAEConfig,
    CapacityConfig,
    CyclicalWarmup,
    ELBOConfig,
    FactorVAEConfig,
    IWAEConfig,
    LinearWarmup,
)
from genlab.types import Batch

# --------------------------------------------------------------------------------------- ELBO with extras


def free_bits_model(free_bits, beta=1.0):
    """The decoder ignores the code; the KL of dimension 0 is near 0.005, that of dimension 1 near 2."""
    model = LinearGaussian(ELBOConfig(free_bits=free_bits), beta=beta)
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.encoder.weight.mul_(0.1)
        model.encoder.bias.copy_(torch.tensor([0.1, 2.0]))
        model.q_log_var.zero_()
    return model


def test_free_bits_take_the_gradient_below_the_threshold_and_leave_it_above():
    with_bits, without = (gradients(free_bits_model(bits), images(), 1, of="encoder") for bits in (0.5, 0.0))
    weight, bias = with_bits[0, : CODES * PIXELS].view(CODES, PIXELS), with_bits[0, CODES * PIXELS :]
    assert (weight[0] == 0).all()
    assert bias[0] == 0
    assert without.abs().min() > 0
    assert torch.equal(weight[1], without[0, PIXELS : 2 * PIXELS])
    assert torch.equal(bias[1], without[0, -1])


def test_free_bits_are_the_least_that_a_dimension_costs():
    update = one_update(free_bits_model(5.0, beta=3.0), images())
    assert torch.allclose(update.loss, update.logs["reconstruction"] + 3 * CODES * 5.0)
    assert update.logs["kl"] < 5  # what is logged is the KL itself


def test_free_bits_of_a_kl_that_is_no_sum_are_counted_as_a_whole():
    model = LinearGaussian(ELBOConfig(free_bits=50.0), prior=MixtureConfig(num_components=3))
    update = one_update(model, images())
    assert torch.allclose(update.loss, update.logs["reconstruction"] + CODES * 50.0)


def test_without_free_bits_the_loss_is_the_negative_elbo_also_where_an_estimate_of_the_kl_is_negative():
    """Cut off at zero, a Monte Carlo KL would be biased upwards, most of all near the prior."""
    model, kls = LinearGaussian(ELBOConfig(), prior=MixtureConfig(num_components=3)), []
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.q_log_var.zero_()
    for seed in range(20):
        torch.manual_seed(seed)
        update = one_update(model, images(1))
        assert torch.allclose(update.loss, update.logs["nelbo"])
        kls.append(update.logs["kl"].item())
    assert min(kls) < 0


def test_beta_weighs_the_kl_alone():
    update = one_update(LinearGaussian(ELBOConfig(), beta=4.0), images())
    assert torch.allclose(update.loss, update.logs["reconstruction"] + 4 * update.logs["kl"])


def test_the_capacity_objective_holds_the_kl_at_a_capacity_that_rises():
    model, x = LinearGaussian(CapacityConfig(max_capacity=8.0, steps=100), beta=3.0), images()
    for step, capacity in ((0, 0.0), (50, 4.0), (100, 8.0), (1000, 8.0)):
        update = one_update(model, x, step)
        assert update.logs["capacity"].item() == capacity
        deviation = (update.logs["kl"] - capacity).abs()
        assert torch.allclose(update.loss, update.logs["reconstruction"] + 3 * deviation)
    model.eval()
    assert one_update(model, x, 0).logs["capacity"].item() == 8.0


# --------------------------------------------------------------------------------------- warm-up


def test_the_linear_warmup_rises_to_one_at_its_last_step_and_stays():
    weights = [LinearWarmup(steps=10).weight(step) for step in range(15)]
    assert weights[9] < 1
    assert weights[10:] == [1.0] * 5
    increments = torch.tensor(weights[:11]).diff()
    assert torch.allclose(increments, increments[0])
    assert 0 < weights[0] < 0.1
    assert LinearWarmup().weight(0) == 1.0


def test_the_cyclical_warmup_repeats_itself_and_is_full_after_its_ramp():
    warmup = CyclicalWarmup(period=20, ramp=0.5)
    weights = [warmup.weight(step) for step in range(60)]
    assert weights[:20] == weights[20:40] == weights[40:]
    assert weights[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert weights[9:20] == [1.0] * 11


@pytest.mark.parametrize("warmup", [LinearWarmup(steps=999), CyclicalWarmup(period=1000, ramp=1.0)])
def test_the_penalty_is_let_in_by_degrees_in_training_and_whole_in_validation(warmup):
    model, x = LinearGaussian(ELBOConfig(), beta=2.0, warmup=warmup), images()
    (update,) = model.updates(Batch(x), "train", 0)
    assert update.logs["kl_weight"].item() == pytest.approx(2 / 1000)
    assert torch.allclose(update.loss, update.logs["reconstruction"] + 0.002 * update.logs["kl"])
    model.eval()
    terms = model.validate(Batch(x), "train")
    assert terms["kl_weight"].item() == 2
    assert torch.allclose(terms["loss"], terms["reconstruction"] + 2 * terms["kl"])


# --------------------------------------------------------------------------------------- small cases


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(
    "objective",
    [ELBOConfig(), CapacityConfig(), BetaTCVAEConfig(), FactorVAEConfig(), IWAEConfig(num_samples=1)],
    ids=lambda config: config.name,
)
def test_one_image_one_dimension_and_no_penalty_give_finite_gradients(objective, beta):
    model = LinearGaussian(objective, codes=1, prior=MixtureConfig(num_components=2), beta=beta)
    (stage,) = model.stages()
    for update in model.updates(Batch(images(1)), "train", 0):
        group = stage.groups[update.group]
        assert all(g.isfinite().all() for g in torch.autograd.grad(update.loss, group))
