"""Extractors of features: those that ship, and Inception with made-up weights in place of the published."""

from __future__ import annotations

import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genlab.config import conf_dir, load_option, parse
from genlab.data import DatasetConfig, load_images
from genlab.data.images import fixed_order
from genlab.errors import ConfigError, DataError
from genlab.extractors import classifier
from genlab.extractors.base import auto, load_extractor
from genlab.registry import EXTRACTORS
from genlab.types import DataSpec

GREY, RGB = DataSpec(1, 28, 28, 10), DataSpec(3, 32, 32, 10)
CLASSIFIERS = {"fashion_cnn": "fashion_mnist", "mnist_cnn": "mnist"}
REAL_DATA = {key: os.environ.get(key) for key in ("GENLAB_DATA", "XDG_CACHE_HOME")}


def images(n: int = 6, channels: int = 1, size: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def refusal(name: str, spec: DataSpec, weights: Path | None = None) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(ConfigError) as caught:
        load_extractor(name, spec, "any", None if weights is None else str(weights))
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def test_registered_names_are_those_of_the_classes():
    for name in EXTRACTORS.names():
        assert EXTRACTORS[name].name == name


@pytest.mark.parametrize(
    ("spec", "dataset", "name"),
    [
        (GREY, "fashion_mnist", "fashion_cnn"),
        (GREY, "mnist", "mnist_cnn"),
        (GREY, "kmnist", "mnist_cnn"),
        (RGB, "cifar10", "inception"),
        (DataSpec(1, 32, 32), "mnist", "inception"),
    ],
)
def test_auto(spec, dataset, name):
    assert auto(spec, dataset) == name


# ------------------------------------------------------------------ classifiers


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_features_and_logits(name):
    extractor = load_extractor(name, GREY, "any", None)
    assert not extractor.training
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    features = extractor(images())
    assert features.values.shape == (6, extractor.num_features) == (6, 128)
    assert features.logits.shape == (6, extractor.num_classes) == (6, 10)
    assert features.values.dtype == features.logits.dtype == torch.float32
    assert torch.allclose(extractor(images()[2:3]).values, features.values[2:3], atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_features_do_not_depend_on_the_precision_of_the_caller(name):
    extractor = load_extractor(name, GREY, "any", None)
    expected = extractor(images())
    with torch.autocast("cpu", torch.bfloat16):
        features = extractor(images())
    assert torch.equal(features.values, expected.values)
    assert torch.equal(features.logits, expected.logits)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_refuse_other_images(name):
    message = refusal(name, RGB)
    assert "takes 28x28 grey images, not 32x32 RGB" in message
    assert "extractor=inception" in message


def small_file(path: Path, seed: int, **metadata: str) -> Path:
    torch.manual_seed(seed)
    save_file(classifier.Network().state_dict(), path, metadata)
    return path


def test_weights_of_the_user(tmp_path):
    path = small_file(tmp_path / "own.safetensors", seed=0, test_accuracy="0.5")
    extractor = load_extractor("mnist_cnn", GREY, "any", str(path))
    assert extractor.test_accuracy == 0.5
    untold = load_extractor("mnist_cnn", GREY, "any", str(small_file(path, seed=0)))
    assert untold.test_accuracy is None


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    assert f"{path}: no such file" in refusal("mnist_cnn", GREY, path).lower()
    path.write_bytes(b"no weights at all")
    assert f"{path}: no safetensors file" in refusal("mnist_cnn", GREY, path)
    path.write_bytes(small_file(tmp_path / "whole", seed=0).read_bytes()[:-100])
    assert f"{path}: no safetensors file, or a broken one" in refusal("mnist_cnn", GREY, path)
    save_file({"head.weight": torch.zeros(10, 128)}, path)
    assert f"{path}: weights of another network" in refusal("mnist_cnn", GREY, path)
    wider = {name: torch.zeros(1, *value.shape) for name, value in classifier.Network().state_dict().items()}
    save_file(wider, path)
    assert f"{path}: weights of another network" in refusal("mnist_cnn", GREY, path)
    assert str(tmp_path) in refusal("mnist_cnn", GREY, tmp_path)  # a folder


def test_checksums_tell_networks_apart(tmp_path):
    one, two = (str(small_file(tmp_path / str(seed), seed)) for seed in (1, 2))
    sums = {
        load_extractor(name, GREY, "any", weights).checksum()
        for name, weights in [("mnist_cnn", one), ("mnist_cnn", two), ("fashion_cnn", one)]
    }
    sums |= {load_extractor(name, GREY, "any", None).checksum() for name in CLASSIFIERS}
    assert len(sums) == 5
    assert load_extractor("mnist_cnn", GREY, "any", one).checksum() in sums


@pytest.mark.parametrize(("name", "dataset"), CLASSIFIERS.items())
def test_the_files_that_ship(name, dataset):
    path = Path(classifier.__file__).parent / "weights" / f"{name}.safetensors"
    assert path.stat().st_size < 2_000_000
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    assert facts.keys() == {"trained_on", "test_accuracy", "epochs", "seed"}
    assert facts["trained_on"] == dataset
    extractor = load_extractor(name, GREY, "any", None)
    assert extractor.test_accuracy == float(facts["test_accuracy"])


@pytest.mark.parametrize(("name", "dataset"), CLASSIFIERS.items())
def test_the_stated_accuracy_is_that_of_test_images(name, dataset, monkeypatch):
    for key, value in REAL_DATA.items():
        monkeypatch.setenv(key, value) if value else monkeypatch.delenv(key, raising=False)
    try:
        test = load_images(parse(DatasetConfig, load_option("dataset", dataset, [conf_dir()])), "test")
    except DataError as error:
        pytest.skip(f"{dataset} is not on this machine: {error}")
    few = test.take(fixed_order(len(test))[:2000])  # by chance: the first half of MNIST's is of other writers
    extractor = load_extractor(name, GREY, dataset, None)
    right = extractor(few.images).logits.argmax(1) == few.labels
    stated = extractor.test_accuracy
    sigma = (stated * (1 - stated) / len(few)) ** 0.5
    assert right.double().mean().item() == pytest.approx(stated, abs=3 * sigma)


# ------------------------------------------------------------------ Inception


@pytest.fixture(scope="module")
def inception_state() -> dict[str, torch.Tensor]:
    """Weights of the right names and shapes, drawn at random."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()


@pytest.fixture(scope="module")
def inception_file(inception_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(inception_state, path)
    return path


def test_inception_is_torch_fidelitys_on_the_tiled_image(inception_file):
    extractor = load_extractor("inception", GREY, "mnist", str(inception_file))
    assert not extractor.training
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    x = images(2)
    features = extractor(x)
    assert features.logits is None
    assert extractor.num_classes is None
    assert features.values.shape == (2, extractor.num_features) == (2, 2048)
    assert features.values.dtype == torch.float32
    tiled = x.repeat(1, 3, 1, 1)
    # torch-fidelity's own forward has the published resize; that of torchmetrics only where asked.
    published = FeatureExtractorInceptionV3.forward(extractor.network, tiled)[0]
    assert torch.equal(features.values, published)
    assert not torch.equal(published[0], published[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(tiled).values, published)


def test_inception_refuses_what_is_neither_grey_nor_rgb():
    assert "takes grey or RGB images, not 8x8 2-channel" in refusal("inception", DataSpec(2, 8, 8))


class Exploit:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_weights_of_inception_that_do_not_fit_are_refused(tmp_path, inception_file):
    path = tmp_path / "weights.pth"
    assert f"{path}: no such file" in refusal("inception", GREY, path).lower()
    path.write_bytes(b"")
    assert f"{path}: no file of PyTorch weights" in refusal("inception", GREY, path)
    path.write_bytes(inception_file.read_bytes()[:1000])
    assert f"{path}: no file of PyTorch weights" in refusal("inception", GREY, path)
    torch.save({"fc.bias": torch.zeros(1008)}, path)
    assert f"{path}: weights of another network" in refusal("inception", GREY, path)
    torch.save([1, 2], path)
    assert f"{path}: weights of another network" in refusal("inception", GREY, path)


def test_no_code_in_weights_is_run(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.bias": Exploit(trace)}, path)
    assert "no file of PyTorch weights" in refusal("inception", GREY, path)
    path.write_bytes(pickle.dumps(Exploit(trace), protocol=2))
    assert "no file of PyTorch weights" in refusal("inception", GREY, path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("no route"), "no route"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError('invalid hash value (expected "6726825d",\ngot "0")'), "invalid hash value"),
        (EOFError(), "EOFError"),
    ],
)
def test_inception_that_can_not_be_fetched_names_the_ways_out(error, reason, tmp_path, monkeypatch, capsys):
    def download(*_, **__):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    message = refusal("inception", GREY)
    assert reason in message
    assert "weights=FILE" in message
    assert "fashion_cnn" in message
    assert capsys.readouterr().out == ""


def test_inception_from_the_cache_of_torch_hub(tmp_path, monkeypatch, inception_state):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    torch.save(inception_state, cached)
    extractor = load_extractor("inception", GREY, "mnist", None)
    assert torch.equal(extractor.network.fc.bias, inception_state["fc.bias"])
    cached.write_bytes(b"broken")
    assert "can't fetch the weights" in refusal("inception", GREY)
