"""What holds for every registered model, whatever it is: found through the registry and conf/model."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from genlab.assemble import model_builder
from genlab.config import conf_dir, option_files
from genlab.models.gan import GAN
from genlab.types import Batch, DataSpec, Encodes, HasLikelihood, Reconstructs, Samples

SPEC = DataSpec(1, 8, 8, num_classes=3)
SPECS = {"feature_flow": DataSpec(1, 28, 28, num_classes=3)}
"""What a model's YAML takes, where it doesn't take ``SPEC``."""
DENOISING = ["model.ode.num_steps=2", "model/net=unet_small"]
OVERRIDES = {
    "ddpm": [*DENOISING, "model.bound_steps=2", "model.samplers.dpm_solver.num_steps=2"],
    "flow_matching": [*DENOISING, "model.num_steps=2"],
}
"""What makes a model quick that asks its network many times, here and in its small variants."""


@pytest.fixture(params=option_files("model", [conf_dir()]))
def model(request):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        quick = OVERRIDES.get(request.param.removesuffix("_small"), [])
        composed = compose("train", [f"model={request.param}", *quick, "run_name=test"])
    torch.manual_seed(0)
    return model_builder(OmegaConf.to_container(composed.model))(SPECS.get(request.param, SPEC))


@pytest.fixture
def batch(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, *model.spec.shape), generator=generator, dtype=torch.uint8)
    return Batch(x, torch.arange(12) % 3)


def test_every_update_moves_its_own_group_and_reaches_all_of_it(model, batch):
    model.initialize(batch)
    for stage in model.stages():
        owners = {p: name for name, group in stage.groups.items() for p in group}
        for update in model.updates(batch, stage.name, 0):
            assert update.group in stage.groups
            assert update.loss.isfinite()
            assert all(term.dim() == 0 and term.isfinite() for term in update.terms(alone=True).values())
            model.zero_grad()
            update.loss.backward(inputs=stage.groups[update.group])
            reached = {name for p, name in owners.items() if p.grad is not None}
            assert reached == {update.group}


class _HostWaits(TorchDispatchMode):
    """Notes the operators for which the host would have to wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags)
        by_numbers = function is torch.ops.aten.index.Tensor and all(
            index is None or index.dtype == torch.int64 for index in args[1]
        )
        if waits and not by_numbers:
            self.seen.add(str(function))
        return function(*args, **kwargs or {})


def test_an_iteration_that_is_recorded_as_a_cuda_graph_never_waits_for_the_host(model, batch):
    model.initialize(batch)
    for stage in model.stages():
        if model.graph_key(stage.name, 0) is None:
            continue
        with _HostWaits() as waits:
            for update in model.updates(batch, stage.name, 0):
                update.loss.backward(inputs=stage.groups[update.group])
        assert not waits.seen


def test_validation_has_the_terms_of_training(model, batch):
    for stage in model.stages():
        alone = len(stage.groups) == 1
        terms = {name for u in model.updates(batch, stage.name, 0) for name in u.terms(alone)}
        validated = set(model.validate(batch, stage.name))
        assert terms <= validated or (not validated and isinstance(model, GAN))  # with batch norm it has none


def test_capabilities_give_what_they_promise(model, batch):
    model.eval()
    if isinstance(model, Samples):
        samples = model.sample(4, generator=torch.Generator().manual_seed(0))
        assert (samples.shape, samples.dtype) == ((4, *model.spec.shape), torch.uint8)
    if isinstance(model, HasLikelihood):
        scores = model.log_prob(batch.x, batch.y)
        assert scores.shape == (12,)
        assert model.likelihood in ("exact", "unbiased", "biased", "bound")
    if isinstance(model, Reconstructs):
        assert model.reconstruct(batch.x).dtype == torch.uint8
    if isinstance(model, Encodes):
        assert model.encode(batch.x).dim() == 2


def test_weights_survive_a_round_trip(model, batch):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
