"""What an SC-VAE promises of its codes, its dictionary and its two stages."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from staged import striped, train_stage

from genlab.assemble import build_evaluation, model_builder
from genlab.callbacks.base import Snapshot
from genlab.callbacks.dictionary_atoms import DictionaryAtoms, DictionaryAtomsConfig, HasDictionary
from genlab.config import conf_dir, parse
from genlab.errors import ConfigError
from genlab.run_folder import RunFolder
from genlab.types import Batch, DataSpec, Decodes, Encodes, HasLikelihood, Reconstructs, Samples
from genlab.verbs import TrainConfig

SPEC = DataSpec(1, 8, 8)
SMALL = [
    "model=sc_vae",
    "model.feature_dim=6",
    "model.num_atoms=20",
    "model.encoder.hidden_dim=32",
    "model.decoder.hidden_dim=32",
]


def _compose(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*SMALL, *overrides, "run_name=test"])
    return OmegaConf.to_container(composed, resolve=True)


def _model(*overrides):
    torch.manual_seed(0)
    return model_builder(_compose(*overrides)["model"])(SPEC)


@pytest.fixture
def model():
    return _model()


@pytest.fixture
def batch():
    return Batch(striped(SPEC))


def test_it_has_no_likelihood_of_pixels_and_all_else(model):
    assert not isinstance(model, HasLikelihood)
    for protocol in (Samples, Reconstructs, Encodes, Decodes, HasDictionary):
        assert isinstance(model, protocol)


def test_shapes_and_types(model, batch):
    model.eval()
    codes = model.encode(batch.x)
    assert codes.shape == (64, 20)
    assert torch.equal(model.decode(codes), model.reconstruct(batch.x))
    for images, count in ((model.atoms(), 20), (model.sample(3), 3), (model.reconstruct(batch.x), 64)):
        assert (images.shape, images.dtype) == ((count, 1, 8, 8), torch.uint8)


def test_the_loss_is_the_sum_that_is_documented(model, batch):
    model.eval()
    torch.manual_seed(1)
    (update,) = model.updates(batch, "autoencoder", 0)
    logs, config = update.logs, model.config
    lasso = 0.5 * logs["feature_error"] + config.alpha * logs["l1"]
    torch.testing.assert_close(update.loss, logs["reconstruction"] + config.lasso_weight * lasso)
    torch.testing.assert_close(logs["active_atoms"], 20 * (1 - logs["sparsity"]))
    assert logs["active_atoms"] <= logs["used_atoms"] <= 20


def test_training_reconstructs_and_atoms_stay_of_unit_norm(model, batch):
    before = model.validate(batch, "autoencoder")
    train_stage(model, batch, "autoencoder", 150)
    model.eval()
    after = model.validate(batch, "autoencoder")
    assert after["reconstruction"] < before["reconstruction"] - 30
    assert 0 < after["sparsity"] < 1
    torch.testing.assert_close(model.dictionary().norm(dim=0), torch.ones(20), rtol=0, atol=1e-6)
    error = (model.reconstruct(batch.x).float() - batch.x.float()).square().mean()
    assert error < 0.6 * batch.x.float().var()


def test_features_are_standardised_over_the_batch(model, batch):
    features = model.features(model.pixels.expected(batch.x), learning=True)
    torch.testing.assert_close(features.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(6), rtol=0, atol=1e-2)


def test_a_stage_leaves_the_parameters_and_statistics_of_the_other_alone(model, batch):
    groups = {stage.name: next(iter(stage.groups.values())) for stage in model.stages()}
    assert {p for g in groups.values() for p in g} == set(model.parameters())
    for stage, other in (("autoencoder", "prior"), ("prior", "autoencoder")):
        buffers = [b.clone() for b in model.buffers()]
        kept, moved = [p.clone() for p in groups[other]], [p.clone() for p in groups[stage]]
        train_stage(model, batch, stage, 2)
        assert all(map(torch.equal, kept, groups[other]))
        assert not any(map(torch.equal, moved, groups[stage]))
        same = all(map(torch.equal, buffers, model.buffers()))
        assert same == (stage == "prior")


def test_the_prior_learns_the_density_of_features(batch):
    model = _model()
    train_stage(model, batch, "autoencoder", 50)
    before = model.validate(batch, "prior")["loss"]
    train_stage(model, batch, "prior", 60)
    assert model.validate(batch, "prior")["loss"] < before


@pytest.mark.parametrize("prior", ["flow", "mixture"])
def test_samples_repeat_with_their_generator(prior):
    model = _model(f"model/prior={prior}").eval()
    first, second = (model.sample(4, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_atoms_are_drawn(model, tmp_path):
    snapshot = Snapshot(model, None, RunFolder(tmp_path), None, "prior", 1, 1, 1, {})
    DictionaryAtoms(DictionaryAtomsConfig(n=9)).on_train_end(snapshot)
    assert (tmp_path / "figures" / "dictionary_atoms.png").stat().st_size > 0


def test_labels_are_refused(model):
    with pytest.raises(ConfigError, match="unconditional"):
        model.sample(2, torch.zeros(2, dtype=torch.long))


def test_validation_and_looking_move_nothing(model, batch):
    model.eval()
    state = copy.deepcopy(model.state_dict())
    for stage in model.stages():
        model.validate(batch, stage.name)
    model.reconstruct(batch.x), model.atoms(), model.sample(2)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_copy_and_a_checkpoint_say_the_same(model, batch):
    train_stage(model, batch, "autoencoder", 3)
    other = _model()
    other.load_state_dict(model.state_dict())
    for same in (copy.deepcopy(model), other):
        assert torch.equal(same.eval().encode(batch.x), model.eval().encode(batch.x))


def test_the_learned_matrices_get_gradients(batch):
    model = _model("model.lista.matrices=learned")
    train_stage(model, batch, "autoencoder", 1)
    (group,) = model.stages()[0].groups.values()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in group)


def test_its_yaml_brings_an_evaluation_that_the_command_line_can_replace():
    assert _compose()["evaluation"]["name"] == "reconstruction"
    assert _compose("evaluation=likelihood")["evaluation"]["name"] == "likelihood"
    assert "evaluation" not in _compose("~evaluation")
    settings = parse(TrainConfig, _compose("evaluation=likelihood"))
    with pytest.raises(ConfigError, match="needs a likelihood, and SCVAE has none"):
        build_evaluation(settings.evaluation, model_builder(settings.model).func, settings.dataset)


def test_a_prior_that_needs_a_posterior_is_refused():
    with pytest.raises(ConfigError, match=r"unknown model\.prior\.name 'vampprior'"):
        _model("model/prior=vampprior")
