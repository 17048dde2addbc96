"""What holds for every flow on pixels, with the settings of its YAML."""

import pytest
import torch
from flows import log_det_of_images, perturbed
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from genlab.assemble import model_builder
from genlab.config import conf_dir, option_files
from genlab.errors import ConfigError
from genlab.models.flow import Flow
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec


def _values(name, *overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"model={name}", "run_name=test", *overrides])
    return OmegaConf.to_container(composed.model)


FLOWS = [
    name for name in option_files("model", [conf_dir()]) if issubclass(MODELS[_values(name)["name"]], Flow)
]
EXACT = [name for name in FLOWS if MODELS[_values(name)["name"]].likelihood == "exact"]
"""The others' log-determinants are estimates, and are tested as such beside them."""
FEWER_SCALES = {"glow": ["model.num_scales=1"], "realnvp_multiscale": ["model.num_scales=2"]}
"""Where images of 4x4 have no room for as many."""
IMAGES = torch.randint(0, 256, (64, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _flow(name, height, width, *overrides) -> Flow:
    """Away from where training begins, where couplings do nothing."""
    torch.manual_seed(0)
    model = model_builder(_values(name, *overrides))(DataSpec(1, height, width))
    model.initialize(Batch(IMAGES[..., :height, :width]))
    return perturbed(model, 0.02).eval()


def test_there_are_flows():
    assert {"realnvp", "realnvp_multiscale", "glow", "spline_flow", "residual_flow"} <= set(FLOWS)


@pytest.mark.parametrize("name", FLOWS)
def test_the_inverse_error_is_small_in_float32(name):
    flow = _flow(name, 28, 28)
    y = torch.rand(4, 1, 28, 28).logit(eps=1e-6)
    with torch.no_grad():
        z, log_det = flow.bijection(y)
        error = (flow.bijection.inverse(z) - y).abs().max()
    assert log_det.abs().min() > 1
    assert error < 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    flow = _flow(name, 4, 4, *FEWER_SCALES.get(name, [])).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64) * 0.9 + 0.05
    z, terms = flow(x)
    assert torch.allclose(terms["log_det"], log_det_of_images(flow, x), rtol=0, atol=1e-8)
    normal = torch.distributions.Normal(0, 1)
    assert torch.allclose(terms["log_prior"], normal.log_prob(z).flatten(1).sum(1))


@pytest.mark.parametrize("name", FLOWS)
def test_images_come_back_whole(name):
    flow = _flow(name, 8, 8)
    images = IMAGES[:8, :, :8, :8]
    assert torch.equal(flow.reconstruct(images), images)
    assert torch.equal(flow.decode(flow.encode(images)), images)


@pytest.mark.parametrize("name", FLOWS)
def test_the_loss_falls(name):
    """Even rows repeat the odd ones: half of the bits can be saved."""
    torch.manual_seed(0)
    flow = model_builder(_values(name))(DataSpec(1, 8, 8))
    rows = torch.randint(100, 150, (32, 1, 4, 8))
    batch = Batch(rows.repeat_interleave(2, dim=2).to(torch.uint8))
    flow.initialize(batch)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    losses = []
    for step in range(20):
        (update,) = flow.updates(batch, "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        losses.append(update.loss.item())
    assert losses[-1] < losses[0] - 10


@pytest.mark.parametrize(
    ("name", "size", "num_scales", "said"),
    [
        ("glow", 28, 3, "have room for 2; take model.num_scales=2 or another dataset.image_size, 32 for"),
        ("glow", 27, 1, "27x27 grey have room for none; take another dataset.image_size, 28 for"),
        (
            "realnvp_multiscale",
            28,
            4,
            "have room for 3; take model.num_scales=3 or another dataset.image_size, 32 for",
        ),
        ("realnvp_multiscale", 1, 1, "1x1 grey have room for none; take another dataset.image_size, 2 for"),
    ],
)
def test_too_many_scales_are_refused_with_the_way_out(name, size, num_scales, said):
    with pytest.raises(ConfigError, match=said):
        model_builder(_values(name, f"model.num_scales={num_scales}"))(DataSpec(1, size, size))
