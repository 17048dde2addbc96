"""Residual Flow: unbiased log-determinants and gradients, an accurate inverse, what it refuses."""

import math

import pytest
import torch
from torch import nn

from genlab.config import parse
from genlab.errors import ConfigError, GenlabError
from genlab.metrics.likelihood import protocol
from genlab.models.residual_flow import ResidualFlow, ResidualFlowConfig
from genlab.nets.lipschitz import LipschitzConv2d
from genlab.nets.power_series import RussianRouletteConfig, TruncatedConfig, log_det
from genlab.nets.residual import ConvBranch, ResidualBijection
from genlab.types import Batch, DataSpec

ROULETTE = RussianRouletteConfig(exact_terms=2, eval_exact_terms=4, stop_probability=0.3)
LONG = TruncatedConfig(terms=60, eval_terms=60)
SPEC = DataSpec(1, 4, 4)


def _block(estimator=ROULETTE, shape=(1, 2, 3), tolerance=1e-12, max_iterations=2000) -> ResidualBijection:
    """Positive weights at their bound and steep activations: no power of the Jacobian is negligible."""
    torch.manual_seed(0)
    branch = ConvBranch(shape, 6, bound=0.9, iterations=8, activate_input=True)
    with torch.no_grad():
        for layer in branch:
            if isinstance(layer, LipschitzConv2d):
                layer.weight.abs_().mul_(10)
                layer.bias.fill_(2.0)
    return ResidualBijection(branch, estimator, tolerance, max_iterations).double().eval()


def _flow(spec=SPEC, blocks=(1, 1), estimator=ROULETTE, **settings) -> ResidualFlow:
    torch.manual_seed(0)
    config = ResidualFlowConfig(blocks=blocks, hidden_channels=6, estimator=estimator, **settings)
    model = ResidualFlow(config, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _images(n=8, spec=SPEC) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)


def _jacobian(function, x: torch.Tensor) -> torch.Tensor:
    """``(D, D)`` of ``function`` at one element ``x``, in the graph of the parameters."""
    jacobian = torch.autograd.functional.jacobian(lambda v: function(v[None])[0], x, create_graph=True)
    return jacobian.reshape(x.numel(), x.numel())


def _agrees(draws: torch.Tensor, expected: float) -> bool:
    """Whether the mean of ``draws`` is within three standard errors of what is expected."""
    error = draws.std().item() / math.sqrt(len(draws))
    assert error > 0
    return abs(draws.mean().item() - expected) < 3 * error


# ---------------------------------------------------------------------------------- the series


@pytest.mark.parametrize("training", [True, False])
def test_the_expected_weight_of_every_term_is_one(training):
    torch.manual_seed(0)
    draws = torch.zeros(4000, 8)
    for row in draws:
        weights = torch.tensor(ROULETTE.weights(training))[:8]
        row[: len(weights)] = weights
    exact = 2 if training else 4
    assert (draws[:, :exact] == 1).all()
    assert all(_agrees(draws[:, k], 1.0) for k in range(exact, 8))


def test_the_series_goes_on_with_the_probability_it_is_told():
    torch.manual_seed(0)
    rare = RussianRouletteConfig(exact_terms=1, eval_exact_terms=1, stop_probability=0.9)
    lengths = torch.tensor([float(len(rare.weights(True))) for _ in range(2000)])
    assert _agrees(lengths, 1 + 0.1 / 0.9)


@pytest.mark.parametrize("training", [True, False])
def test_the_roulette_is_unbiased(training):
    block = _block().train(training)
    x = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([block(x.expand(64, -1, -1, -1))[1].mean() for _ in range(200)])
        exact = torch.linalg.slogdet(_jacobian(block.transform, x[0])).logabsdet.item()
    assert abs(exact) > 0.2
    assert _agrees(draws, exact)


def test_the_gradient_of_the_roulette_is_unbiased():
    """Of the parameters and of the input, along random directions; one exact term, so that weights matter."""
    block = _block(RussianRouletteConfig(exact_terms=1, eval_exact_terms=1, stop_probability=0.3))
    x = torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, *block.parameters()]
    value = torch.linalg.slogdet(_jacobian(block.transform, x[0])).logabsdet
    exact = torch.autograd.grad(value, leaves, materialize_grads=True)
    direction = [torch.randn_like(leaf) for leaf in leaves]

    def along(gradient):
        return torch.stack([(g * d).sum() for g, d in zip(gradient, direction, strict=True)])

    draws = []
    for _ in range(250):
        estimate = block(x.expand(64, -1, -1, -1))[1].mean()
        gradient = torch.autograd.grad(estimate, leaves, materialize_grads=True)
        draws.append(along(gradient))
    draws, expected = torch.stack(draws), along(exact)
    assert _agrees(draws.sum(1), expected.sum().item())
    moved = draws.std(0) > 0  # the last bias moves no slope
    assert moved.sum() == len(leaves) - 1
    deviations = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)))
    assert (deviations[moved] < 4).all()  # of ten at once


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_truncated_series_has_the_terms_it_says_and_their_gradient(terms):
    """In one dimension each Rademacher trace is exact."""
    block = _block(TruncatedConfig(terms=terms, eval_terms=terms), shape=(1, 1, 1))
    x = torch.randn(5, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(block.g(x).sum(), x, create_graph=True)
    expected = sum((-1) ** (k + 1) / k * slope.flatten() ** k for k in range(1, terms + 1))
    estimate = block(x)[1]
    assert torch.allclose(estimate, expected, atol=1e-12)
    parameters = list(block.parameters())
    for found, true in zip(
        torch.autograd.grad(estimate.sum(), parameters, materialize_grads=True, retain_graph=True),
        torch.autograd.grad(expected.sum(), parameters, materialize_grads=True),
        strict=True,
    ):
        assert torch.allclose(found, true, atol=1e-12)


def test_a_truncated_series_ends_elsewhere_in_evaluation():
    block = _block(TruncatedConfig(terms=1, eval_terms=50), shape=(1, 1, 1))
    x = torch.randn(1, 1, 1, 1, dtype=torch.float64)
    exact = torch.linalg.slogdet(_jacobian(block.transform, x[0])).logabsdet.item()
    assert block(x)[1].item() == pytest.approx(exact, abs=1e-9)
    assert block.train()(x)[1].item() != pytest.approx(exact, abs=1e-3)


def test_a_likelihood_says_whether_it_is_biased():
    unbiased, biased = _flow(estimator=ROULETTE), _flow(estimator=LONG)
    assert (unbiased.likelihood, biased.likelihood) == ("unbiased", "biased")
    assert "unbiased estimate" in protocol(unbiased)
    assert "biased estimate" in protocol(biased).split(";")[0].replace("unbiased", "")


def test_the_truncated_mean_is_that_of_exact_traces():
    block = _block(TruncatedConfig(terms=3, eval_terms=3))
    x = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    jacobian = _jacobian(block.transform, x[0]).detach() - torch.eye(6, dtype=torch.float64)
    power, expected = torch.eye(6, dtype=torch.float64), 0.0
    for k in (1, 2, 3):
        power = power @ jacobian
        expected += (-1) ** (k + 1) / k * power.trace().item()
    with torch.no_grad():
        draws = block(x.expand(10_000, -1, -1, -1))[1]
    assert _agrees(draws, expected)


def test_memory_does_not_grow_with_the_series():
    """The graph of the estimate holds as many nodes after fifty terms as after two."""

    def nodes(terms: int) -> int:
        x = torch.randn(1, 3, requires_grad=True)
        seen, stack = set(), [log_det(x, torch.tanh(x) / 2, [1.0] * terms, True).grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [parent for parent, _ in node.next_functions]
        return len(seen)

    assert nodes(2) == nodes(50)


# ---------------------------------------------------------------------------------- the block


@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 3, 3), (2, 1, 1)])
def test_the_inverse_undoes_the_map(shape):
    block = _block(shape=shape)
    x = 3 * torch.randn(5, *shape, dtype=torch.float64)
    with torch.no_grad():
        y, _ = block(x)
    assert torch.allclose(block.inverse(y), x, atol=1e-9)
    assert torch.equal(block.transform(x), y)


def test_each_image_is_iterated_until_it_stands_still_and_no_longer():
    """An element of the batch comes out as it would alone, however early it is done."""
    half = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(half.weight, 0.5)
    block = ResidualBijection(half, ROULETTE, tolerance=1e-3, max_iterations=100)
    y = torch.tensor([1e-3, 1.0, 300.0]).view(3, 1, 1, 1).expand(3, 1, 2, 3)
    alone = torch.cat([block.inverse(y[i : i + 1]) for i in range(3)])
    assert torch.equal(block.inverse(y), alone)
    assert torch.equal(alone[0], y[0] / 2)  # after one step, of 5e-4


def test_the_error_of_the_inverse_follows_the_tolerance():
    x = torch.randn(8, 1, 2, 3, dtype=torch.float64)
    for tolerance in (1e-2, 1e-5, 1e-8):
        block = _block(tolerance=tolerance)
        error = (block.inverse(block.transform(x)) - x).abs().max()
        contraction = 0.9**3
        assert error < 4 * tolerance * contraction / (1 - contraction)


def test_an_expanding_block_is_reported_and_not_returned():
    steep = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(steep.weight, -1.5)
    block = ResidualBijection(steep, ROULETTE, tolerance=1e-5, max_iterations=30)
    with pytest.raises(GenlabError, match=r"inverse_max_iterations=30 .* model.inverse_tolerance=1e-05"):
        block.inverse(torch.ones(2, 1, 2, 2))


def test_what_is_no_number_is_reported_too():
    block = _block(max_iterations=5)
    with pytest.raises(GenlabError, match="did not converge"):
        block.inverse(torch.full((1, 1, 2, 3), math.nan, dtype=torch.float64))


def test_the_residual_branch_is_a_contraction_after_training():
    torch.manual_seed(0)
    model = ResidualFlow(ResidualFlowConfig(blocks=(1, 1), hidden_channels=6, estimator=ROULETTE), SPEC)
    batch = Batch(_images(32))
    model.initialize(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(20):
        (update,) = model.updates(batch, "train", step)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    blocks = [part for part in model.bijection.parts if isinstance(part, ResidualBijection)]
    assert len(blocks) == 2
    for training in (True, False):
        for block, shape in zip(blocks, [(1, 4, 4), (4, 2, 2)], strict=True):
            block.train(training)
            a = 3 * torch.randn(500, *shape)
            b = a + 0.1 * torch.randn(500, *shape)
            stretch = (block.g(a) - block.g(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
            slopes = torch.stack([torch.linalg.matrix_norm(_jacobian(block.g, x), 2) for x in a[:5]])
            assert stretch.max() < 1
            assert slopes.max() < 1
    assert torch.equal(model.eval().reconstruct(batch.x), batch.x)


def test_autocast_reaches_training_alone():
    """In evaluation the map that is scored is the one that is inverted."""
    block = _block(tolerance=1e-6).float()
    x = torch.randn(4, 1, 2, 3)
    exact = block.transform(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(x)[0], exact)
        assert torch.equal(block.transform(x), exact)
        assert torch.allclose(block.inverse(exact), x, atol=1e-4)
        y, estimate = block.train()(x)
    assert y.dtype == estimate.dtype == torch.float32
    assert not torch.equal(y, exact)
    assert torch.allclose(y, exact, atol=0.1)


# ---------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("spec", [DataSpec(1, 4, 4), DataSpec(3, 2, 2)], ids=str)
def test_the_log_density_is_that_of_the_whole_map(spec):
    """The mean of many estimates against the exact determinant of the 16 or 12 pixels."""
    model = _flow(spec).double()
    x = 0.02 + 0.96 * torch.rand(1, *spec.shape, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([model(x.expand(32, -1, -1, -1))[1]["log_det"].mean() for _ in range(80)])

    def whole(x):
        return model.bijection.transform(torch.logit(1e-6 + (1 - 2e-6) * x)).flatten(1)

    exact = torch.linalg.slogdet(_jacobian(whole, x[0])).logabsdet.item() - spec.dim * math.log(256)
    assert _agrees(draws, exact)


def test_the_score_is_the_density_of_the_code():
    model = _flow(estimator=LONG)
    x = _images()
    torch.manual_seed(3)
    log_prob = model.log_prob(x)
    torch.manual_seed(3)
    (update,) = model.updates(Batch(x), "train", 0)
    assert update.loss.item() == pytest.approx(-log_prob.mean().item(), rel=1e-5)


def test_images_come_back_from_their_codes():
    model = _flow()
    x = _images()
    assert model.encode(x).shape == (8, 16)
    assert torch.equal(model.decode(model.encode(x)), x)
    assert torch.equal(model.reconstruct(x), x)


def test_codes_cost_no_log_determinant(monkeypatch):
    model = _flow()

    def estimated(*_):
        raise AssertionError

    monkeypatch.setattr("genlab.nets.residual.log_det", estimated)
    model.encode(_images())
    model.reconstruct(_images())
    model.sample(2)
    model.initialize(Batch(_images()))
    with pytest.raises(AssertionError):
        model.log_prob(_images())


def test_scoring_needs_no_gradient_and_leaves_none():
    model = _flow()
    with torch.no_grad():
        assert not model.log_prob(_images()).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_looking_moves_nothing():
    model = _flow()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.log_prob(_images())
        model.sample(3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_initialisation_normalises_the_code():
    model = _flow()
    model.initialize(Batch(_images(256)))
    z = model.encode(_images(256)).view(-1, 4, 4)
    assert z.mean(dim=(0, 2)).abs().max() < 0.2
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_the_likelihood_says_how_it_was_obtained():
    assert "Russian roulette after 4 terms" in _flow().protocol
    assert "biased, as the series ends after 60 terms" in _flow(estimator=LONG).protocol


def test_samples_are_images_and_follow_the_seed():
    model = _flow()
    draw = lambda seed: model.sample(5, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert (draw(0).shape, draw(0).dtype) == ((5, 1, 4, 4), torch.uint8)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("spec", [DataSpec(1, 7, 5), DataSpec(1, 1, 1), DataSpec(3, 6, 8)], ids=str)
def test_images_that_no_squeeze_divides_are_refused_with_the_way_out(spec):
    with pytest.raises(ConfigError, match=r"model.blocks=\[1, 2, 1\].* divisible by 4.*model.blocks=\[1\]"):
        _flow(spec, blocks=(1, 2, 1))
    model = _flow(spec, blocks=(1,))
    assert torch.equal(model.reconstruct(_images(spec=spec)), _images(spec=spec))


def test_the_first_block_alone_reads_its_input_as_it_is():
    blocks = [part for part in _flow(blocks=(2, 1)).bijection.parts if isinstance(part, ResidualBijection)]
    assert [type(block.g[0]).__name__ for block in blocks] == ["Identity", "LipSwish", "LipSwish"]


def test_there_is_an_actnorm_before_each_block_a_squeeze_between_scales_and_an_actnorm_at_the_end():
    parts = [type(part).__name__ for part in _flow(blocks=(1, 2)).bijection.parts]
    block = ["ActNorm", "ResidualBijection"]
    assert parts == [*block, "Squeeze", *block, *block, "ActNorm"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lipschitz": 1.0}, "model.lipschitz=1.0"),
        ({"blocks": []}, r"model.blocks=\[\]"),
        ({"estimator": {"name": "russian_roulette", "stop_probability": 0.0}}, "estimator.stop_probability"),
        ({"estimator": {"name": "guess"}}, "unknown model.estimator.name 'guess'"),
    ],
)
def test_settings_that_make_no_flow_are_refused(settings, line):
    values = {"name": "residual_flow", "estimator": {"name": "truncated"}, **settings}
    with pytest.raises(ConfigError, match=line):
        parse(ResidualFlowConfig, values, "model")


def test_labels_are_refused():
    with pytest.raises(ConfigError, match="unconditional"):
        _flow().sample(2, y=torch.zeros(2, dtype=torch.long))
