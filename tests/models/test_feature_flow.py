"""A flow of a frozen classifier's features: the classifier stays as it is, and outside of checkpoints."""

import copy
import io
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from genlab.config import parse
from genlab.errors import CheckpointError, ConfigError
from genlab.extractors import classifier
from genlab.extractors.base import load_extractor
from genlab.models.feature_flow import FeatureFlow, FeatureFlowConfig
from genlab.nets.mlp import MLPConfig
from genlab.trainer import load_weights
from genlab.types import Batch, DataSpec, Decodes, Encodes, HasCodeLikelihood, HasLikelihood, Samples

SPEC = DataSpec(1, 28, 28, 10)
SETTINGS = {"num_flows": 2, "net": MLPConfig(hidden_dim=16, activation="tanh")}


def _model(**settings):
    torch.manual_seed(0)
    return FeatureFlow(FeatureFlowConfig(**{**SETTINGS, **settings}), SPEC)


def _images(n=16):
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(7, 2).repeat_interleave(7, 3)


@pytest.fixture
def batch():
    return Batch(_images())


@pytest.fixture
def model(batch):
    """Away from the identity, in training mode."""
    made = _model()
    made.initialize(batch)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.train()


def _step(model, batch):
    (stage,) = model.stages()
    (parameters,) = stage.groups.values()
    (update,) = model.updates(batch, stage.name, 0)
    update.loss.backward(inputs=parameters)
    torch.optim.Adam(parameters, lr=1e-3).step()
    return update


def test_it_scores_and_encodes_and_does_nothing_else(model):
    assert isinstance(model, HasCodeLikelihood)
    assert isinstance(model, Encodes)
    assert not isinstance(model, HasLikelihood | Samples | Decodes)
    assert not hasattr(FeatureFlow, "log_prob")


def test_codes_are_the_features_of_the_extractor(model, batch):
    extractor = load_extractor("fashion_cnn", SPEC, "fashion_mnist", None)
    assert torch.equal(model.encode(batch.x), extractor(batch.x).values)
    assert model.encode(batch.x).shape == (16, 128)


def test_the_density_of_features_is_a_change_of_variables_by_hand(model, batch):
    found = model.code_log_prob(batch.x[:2])
    flow = copy.deepcopy(model.flow).double()
    for features, density in zip(model.encode(batch.x[:2]).double(), found, strict=True):
        z, _ = flow.bijection(features[None])
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], features)
        base = -0.5 * z.square().sum() - 64 * math.log(2 * math.pi)
        expected = base + torch.linalg.slogdet(jacobian)[1]
        assert density.item() == pytest.approx(expected.item(), abs=2e-3)
    assert torch.equal(model.code_log_prob(batch.x[:2]), found)


def test_the_first_batch_standardises_features(batch):
    model = _model()
    model.initialize(batch)
    z = model.flow.bijection(model.encode(batch.x))[0]
    varying = model.encode(batch.x).std(0) > 0.1 * model.flow.standardise.var.sqrt().mean()
    assert z.mean().abs() < 0.1
    assert z.std().item() == pytest.approx(1, abs=0.1)
    assert varying.float().mean() > 0.9


def test_the_extractor_is_trained_by_nothing_and_moves_by_nothing(model, batch):
    before = copy.deepcopy(model.extractor.state_dict())
    features = model.encode(batch.x)
    owned = {p for stage in model.stages() for group in stage.groups.values() for p in group}
    assert owned == set(model.flow.parameters()) == set(model.parameters())
    moved = [p.clone() for p in owned]
    model.train().requires_grad_(True)
    for _ in range(2):
        _step(model, batch)
    assert not all(map(torch.equal, moved, owned))
    assert not model.extractor.training
    assert not any(module.training for module in model.extractor.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.extractor.parameters())
    after = model.extractor.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(model.encode(batch.x), features)


def test_the_loss_is_the_density_of_noisy_features(model, batch):
    torch.manual_seed(3)
    (update,) = model.updates(batch, "train", 0)
    torch.manual_seed(3)
    features = model.encode(batch.x)
    noise = 0.05 * model.flow.standardise.scale * torch.randn_like(features)
    torch.testing.assert_close(update.loss, -model.flow.log_prob(features + noise).mean())
    assert update.logs.keys() == {"code_log_prob", "log_det", "log_prior"}


def test_the_extractor_goes_where_the_model_goes(model):
    assert next(model.double().extractor.parameters()).dtype == torch.float64
    meta = copy.deepcopy(model).to("meta")
    assert meta.device == next(meta.extractor.parameters()).device == torch.device("meta")
    assert next(model.extractor.parameters()).device == torch.device("cpu")


def test_checkpoints_hold_the_flow_and_a_checksum(model, batch):
    state = model.state_dict()
    assert state.keys() == {*(f"flow.{name}" for name in model.flow.state_dict()), "_extra_state"}
    assert state["_extra_state"].shape == (32,)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = _model()
    load_weights(other, torch.load(file, weights_only=True))
    assert torch.equal(other.eval().code_log_prob(batch.x), model.eval().code_log_prob(batch.x))


def test_a_flow_of_other_features_is_refused(model, tmp_path):
    weights = tmp_path / "weights.safetensors"
    shipped = classifier.__file__.replace("classifier.py", "weights/fashion_cnn.safetensors")
    tensors = load_file(shipped)
    tensors["head.bias"] += 1
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"extractor 'fashion_cnn' has; set model\.weights"):
        load_weights(_model(weights=str(weights)), model.state_dict())
    with pytest.raises(CheckpointError, match="other weights than extractor 'mnist_cnn'"):
        load_weights(_model(extractor="mnist_cnn"), model.state_dict())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"extractor": "fashion_cn"}, "unknown extractor 'fashion_cn'; did you mean 'fashion_cnn'"),
        ({"extractor": "auto"}, "unknown extractor 'auto'; known: "),
        ({"num_flows": 1}, "model.num_flows=1: input should be greater"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(settings, complaint):
    with pytest.raises(ConfigError) as error:
        parse(FeatureFlowConfig, {"net": {"name": "mlp"}, **settings}, "model")
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize("spec", [DataSpec(1, 8, 8), DataSpec(3, 28, 28)], ids=str)
def test_images_that_the_extractor_does_not_take_are_refused(spec):
    with pytest.raises(ConfigError, match=f"extractor 'fashion_cnn' takes 28x28 grey images, not {spec}"):
        FeatureFlow(FeatureFlowConfig(**SETTINGS), spec)


def test_the_flow_learns_the_density_of_features(batch):
    model = _model()
    model.initialize(batch)
    before = model.validate(batch, "train")["loss"]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    features = model.encode(batch.x)
    for _ in range(60):
        loss, _ = model.flow.fit(features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.validate(batch, "train")["loss"] < before - 20
