"""VQ-VAE: the quantiser against running k-means, the PixelCNN against its definition, the two stages."""

import itertools
import math

import pytest
import torch

from genlab.errors import ConfigError
from genlab.models.vq_vae import VQVAE, VQVAEConfig
from genlab.nets.autoencoder import FeatureMapConfig
from genlab.nets.pixelcnn import PixelCNN, PixelCNNConfig, bits_per_code
from genlab.nets.pixels import BernoulliConfig, GaussianConfig, LogisticMixtureConfig
from genlab.nets.quantizer import VectorQuantizer, perplexity, straight_through
from genlab.types import Batch, DataSpec

# --------------------------------------------------------------------------------------- quantiser


def _quantizer(num_codes=5, dim=3, decay=0.9, restart_threshold=0.0):
    torch.manual_seed(0)
    return VectorQuantizer(num_codes, dim, decay, restart_threshold)


def test_a_codebook_of_the_points_themselves_gives_them_back():
    z = torch.randn(2, 3, 4, 6)
    quantizer = _quantizer(24, 6)
    quantizer.initialize(z)
    codes = quantizer.nearest(z)
    assert torch.equal(quantizer.vectors(codes), z)
    assert codes.unique().numel() == 24


def test_the_nearest_code_is_the_one_of_least_distance():
    quantizer, z = _quantizer(40, 7), torch.randn(200, 7)
    assert torch.equal(quantizer.nearest(z), torch.cdist(z, quantizer.codebook).argmin(1))


def test_distances_keep_their_precision_under_autocast():
    """Two codes that are one number in bfloat16."""
    quantizer = _quantizer(2, 1)
    quantizer.codebook.copy_(torch.tensor([[100.0], [100.1]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer.nearest(torch.tensor([[99.9], [100.2]])).tolist() == [0, 1]


def test_straight_through_is_the_code_forwards_and_the_identity_backwards():
    z, code = torch.randn(50, requires_grad=True), 100 * torch.randn(50)
    out, weight = straight_through(z, code), torch.randn(50)
    assert torch.equal(out, code)
    assert torch.equal(torch.autograd.grad((weight * out).sum(), z)[0], weight)


def test_an_update_is_one_step_of_running_means():
    quantizer, z = _quantizer(), torch.randn(30, 3)
    codes = quantizer.nearest(z)
    size, total = quantizer.cluster_size.clone(), quantizer.cluster_sum.clone()
    quantizer.update(z, codes)
    for k in range(5):
        mine = z[codes == k]
        new_size, new_sum = 0.9 * size[k] + 0.1 * len(mine), 0.9 * total[k] + 0.1 * mine.sum(0)
        assert quantizer.cluster_size[k].item() == pytest.approx(new_size.item(), rel=1e-5)
        assert torch.allclose(quantizer.cluster_sum[k], new_sum, atol=1e-5)
        # Laplace smoothing with 1e-5 moves a mean by a few parts in a million.
        assert torch.allclose(quantizer.codebook[k], new_sum / new_size, rtol=1e-4, atol=1e-5)


def test_updates_find_the_means_of_clusters():
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    z = (centres[:, None] + 0.1 * torch.randn(3, 100, 2)).flatten(0, 1)
    quantizer = _quantizer(3, 2, decay=0.5)
    quantizer.codebook.copy_(centres + 1)
    for _ in range(30):
        quantizer.update(z, quantizer.nearest(z))
    assert torch.allclose(quantizer.codebook, z.view(3, 100, 2).mean(1), atol=1e-3)


def test_a_dead_code_starts_anew_at_a_vector_of_the_batch():
    quantizer = _quantizer(4, 3, restart_threshold=0.5)
    z = torch.randn(40, 3)
    quantizer.cluster_size.copy_(torch.tensor([1.0, 10.0, 10.0, 1.0]))
    codes = torch.tensor([1, 2]).repeat(20)
    quantizer.update(z, codes)
    is_of_the_batch = (quantizer.codebook[:, None] == z).all(-1).any(-1)
    assert is_of_the_batch.tolist() == [True, False, False, True]
    assert quantizer.cluster_size[[0, 3]].tolist() == [5, 5]
    assert torch.allclose(quantizer.cluster_sum[0], 5 * quantizer.codebook[0])


def test_a_restarted_code_that_is_not_used_starts_anew_again():
    quantizer, z = _quantizer(2, 3, restart_threshold=0.5), torch.randn(1000, 3)
    quantizer.cluster_size.copy_(torch.tensor([0.0, 1000.0]))
    books = []
    for _ in range(3):
        quantizer.update(z, torch.ones(1000, dtype=torch.long))
        books.append(quantizer.codebook[0].clone())
    assert not torch.equal(books[0], books[1])
    assert not torch.equal(books[1], books[2])


def test_no_code_stays_unused_where_all_can_be_of_use():
    """Seven of eight codes begin far from everything."""
    quantizer, z = _quantizer(8, 2, restart_threshold=0.1), torch.randn(400, 2)
    quantizer.codebook[1:] += 1000
    quantizer.cluster_sum.copy_(quantizer.codebook)
    for _ in range(60):
        quantizer.update(z, quantizer.nearest(z))
    usage = quantizer.usage(quantizer.nearest(z))
    assert (usage > 0.02).all()


def test_no_code_dies_at_a_threshold_of_zero():
    quantizer, z = _quantizer(4, 3, restart_threshold=0.0), torch.randn(40, 3)
    for _ in range(300):
        quantizer.update(z, torch.zeros(40, dtype=torch.long))
    assert not (quantizer.codebook[1:, None] == z).all(-1).any()
    assert quantizer.codebook.isfinite().all()


@pytest.mark.parametrize(("codes", "expected"), [(range(8), 8), ([3] * 8, 1), ([0, 0, 5, 5], 2)])
def test_perplexity_is_the_number_of_codes_in_uniform_use(codes, expected):
    usage = _quantizer(8).usage(torch.tensor(list(codes)))
    assert perplexity(usage).item() == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------------------- PixelCNN

SIDE = 5


@pytest.fixture(params=[3, 5], ids="kernel {}".format)
def pixelcnn(request):
    """Deep enough to see all of the grid, with weights that let signals through."""
    torch.manual_seed(0)
    config = PixelCNNConfig(channels=6, num_layers=5, kernel_size=request.param)
    return PixelCNN(config, num_codes=4).double()


def test_logits_depend_on_all_codes_before_and_on_none_after(pixelcnn):
    """By the Jacobian in the embedded codes: there is no leak and no blind spot."""
    x = torch.randn(1, 6, SIDE, SIDE, dtype=torch.float64)

    def logits(x):
        return pixelcnn.from_embedded(x).sum((0, 1)).flatten()

    jacobian = torch.autograd.functional.jacobian(logits, x).squeeze(1).abs().sum(1).flatten(1)
    before = torch.ones(SIDE**2, SIDE**2).tril(-1).bool()
    assert torch.equal(jacobian > 0, before)


def test_one_layer_knows_its_immediate_predecessors():
    torch.manual_seed(0)
    pixelcnn = PixelCNN(PixelCNNConfig(channels=6, num_layers=1), num_codes=4).double()
    x = torch.randn(1, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(pixelcnn.from_embedded(x)[0, :, 1, 1].sum(), x)
    assert (gradient.abs().sum(1)[0] > 0).tolist() == [[True, True, True], [True, False, False], [False] * 3]


@pytest.fixture
def tiny():
    """A prior of 2x2 grids of three codes with sharp preferences, and all 81 grids."""
    torch.manual_seed(0)
    pixelcnn = PixelCNN(PixelCNNConfig(channels=8, num_layers=2), num_codes=3).double()
    with torch.no_grad():
        for parameter in pixelcnn.parameters():
            parameter.mul_(2)
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
    return pixelcnn, grids


def test_probabilities_of_all_grids_sum_to_one(tiny):
    pixelcnn, grids = tiny
    log_prob = pixelcnn.log_prob(grids)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert log_prob.std() > 0.1


def test_samples_follow_the_probabilities(tiny):
    """Pearson's chi-squared of 81 cells: mean 80, standard deviation sqrt(160); 5 of them is a tail of 1e-5."""
    pixelcnn, grids = tiny
    n = 20_000
    drawn = pixelcnn.sample(n, (2, 2), torch.Generator().manual_seed(0))
    place = torch.tensor([27, 9, 3, 1])
    observed = torch.bincount((drawn.flatten(1) * place).sum(1), minlength=81)
    expected = n * pixelcnn.log_prob(grids).exp().detach()
    assert expected.min() > 5, "too few for Pearson's test"
    chi_squared = ((observed - expected).square() / expected).sum().item()
    assert chi_squared < 80 + 5 * math.sqrt(160)


def test_a_low_temperature_draws_the_likeliest_code_each_time(tiny):
    pixelcnn, _ = tiny
    drawn = pixelcnn.sample(50, (2, 2), torch.Generator().manual_seed(0), temperature=1e-9)
    assert (drawn == drawn[:1]).all()
    assert drawn[0, 0, 0] == pixelcnn(drawn)[0, :, 0, 0].argmax()


def test_a_uniform_prior_takes_the_logarithm_of_the_codes(tiny):
    pixelcnn, grids = tiny
    with torch.no_grad():
        pixelcnn.head[-1].weight.zero_()
        pixelcnn.head[-1].bias.zero_()
    nats = -pixelcnn.log_prob(grids)
    assert torch.allclose(bits_per_code(nats, (2, 2)), torch.full((81,), math.log2(3)).double())


def test_a_kernel_has_a_middle():
    with pytest.raises(ValueError, match="kernel_size=4: it must be odd"):
        PixelCNNConfig(kernel_size=4)


# --------------------------------------------------------------------------------------- the model

SPEC = DataSpec(1, 8, 8)
NET = FeatureMapConfig(channels=(6, 8))


def _config(**changes) -> VQVAEConfig:
    prior = PixelCNNConfig(channels=8, num_layers=2)
    likelihood = LogisticMixtureConfig(num_components=2)
    settings = {"net": NET, "likelihood": likelihood, "prior": prior}
    return VQVAEConfig(**settings | {"embedding_dim": 4, "num_codes": 6} | changes)


def _model(spec=SPEC, **changes) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(_config(**changes), spec)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randint(0, 256, (16, *SPEC.shape), generator=generator, dtype=torch.uint8))


def _buffers(model):
    return {name: buffer.clone() for name, buffer in model.quantizer.named_buffers()}


def _step(model, batch, stage):
    """One step of SGD as the trainer takes it."""
    (parameters,) = next(s.groups.values() for s in model.stages() if s.name == stage)
    (update,) = model.updates(batch, stage, 0)
    gradients = torch.autograd.grad(update.loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(0.01 * gradient)
    return update


def test_each_stage_moves_what_is_its_own(batch):
    model = _model()
    model.initialize(batch)
    for stage, (own, frozen) in {
        "codes": (("encoder", "decoder", "quantizer"), ("prior",)),
        "prior": (("prior",), ("encoder", "decoder", "quantizer")),
    }.items():
        before = {name: value.clone() for name, value in model.state_dict().items()}
        _step(model, batch, stage)
        moved = {
            name.split(".")[0] for name, v in model.state_dict().items() if not torch.equal(v, before[name])
        }
        assert moved == set(own)
        assert not moved & set(frozen)


def test_the_codebook_rests_while_the_model_is_looked_at(batch):
    model = _model().eval()
    before = _buffers(model)
    for stage in ("codes", "prior"):
        model.validate(batch, stage)
    for look in (model.log_prob, model.reconstruct, model.encode):
        look(batch.x)
    model.sample(2)
    assert all(torch.equal(value, before[name]) for name, value in _buffers(model).items())


def test_a_codebook_of_all_encodings_costs_no_commitment(batch):
    model = _model(num_codes=64)
    model.initialize(batch)
    model.eval()
    terms = model.validate(batch, "codes")
    assert terms["commitment"].item() == 0
    assert terms["codes_used"].item() == 64
    assert terms["perplexity"].item() == pytest.approx(64, rel=1e-4)


def test_the_bound_is_the_sum_of_what_the_stages_minimise(batch):
    model = _model().eval()
    model.initialize(batch)
    reconstruction = model.validate(batch, "codes")["reconstruction"]
    prior = model.validate(batch, "prior")
    assert model.log_prob(batch.x).mean().item() == pytest.approx(
        -(reconstruction + prior["prior_nats"]).item(), rel=1e-5
    )
    bits = prior["prior_nats"].item() / 4 / math.log(2)
    assert prior["prior_bits_per_code"].item() == pytest.approx(bits, rel=1e-5)


def test_the_bound_is_below_the_sum_over_all_codes(batch):
    """Two codes on a 2x2 grid: log p(x) by all 16 grids."""
    model = _model(num_codes=2).double().eval()
    model.pixels.expected = lambda x: x.double() / 255
    model.initialize(batch)
    grids = torch.tensor(list(itertools.product(range(2), repeat=4))).view(16, 2, 2)
    planes = model.planes(model.quantizer.vectors(grids))[:, None]
    joint = model.pixels.log_prob(planes, model.pixels.observe(batch.x)) + model.prior.log_prob(grids)[:, None]
    exact = joint.logsumexp(0)
    assert (model.log_prob(batch.x) <= exact + 1e-9).all()


@pytest.mark.parametrize(
    "likelihood", [BernoulliConfig(), GaussianConfig(), LogisticMixtureConfig()], ids=lambda c: c.name
)
@pytest.mark.parametrize("spec", [SPEC, DataSpec(3, 8, 12)], ids=str)
def test_any_likelihood_of_pixels_scores_and_draws(likelihood, spec):
    model = _model(spec, likelihood=likelihood).eval()
    x = torch.randint(0, 256, (3, *spec.shape), dtype=torch.uint8)
    model.initialize(Batch(x))
    assert model.log_prob(x).isfinite().all()
    assert model.levels == model.pixels.levels
    assert model.sample(2).shape == (2, *spec.shape)


def test_encodings_are_decoded_through_their_codes(batch):
    model = _model().eval()
    model.initialize(batch)
    z = model.encode(batch.x)
    assert z.shape == (16, 2 * 2 * 4)
    assert torch.equal(model.decode(z), model.reconstruct(batch.x))
    nudged = model.decode(z + 1e-6)
    assert torch.equal(nudged, model.reconstruct(batch.x))


def test_samples_follow_the_seed():
    model = _model().eval()
    draw = lambda seed, **options: model.sample(8, generator=torch.Generator().manual_seed(seed), **options)  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    mode = draw(0, temperature=1e-9)
    assert (mode == mode[:1]).all()


def test_everything_learned_is_in_the_state(batch):
    model, other = _model(), _model(embedding_dim=4)
    model.initialize(batch)
    _step(model, batch, "codes")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().reconstruct(batch.x), model.eval().reconstruct(batch.x))
    model.train()
    other.train()
    for each in (model, other):
        torch.manual_seed(1)
        _step(each, batch, "codes")
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


def test_the_step_runs_under_autocast(batch):
    model = _model()
    model.initialize(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for stage in ("codes", "prior"):
            update = _step(model, batch, stage)
            assert update.loss.dtype == torch.float32
            assert update.loss.isfinite()
    assert all(buffer.dtype == torch.float32 for buffer in model.quantizer.buffers())


def test_the_model_learns_images_it_can_represent():
    """Flat images of four levels."""
    levels = torch.tensor([20, 90, 160, 230], dtype=torch.uint8)
    batch = Batch(levels.repeat(4).view(-1, 1, 1, 1).expand(-1, *SPEC.shape).contiguous())
    model = _model(num_codes=8, codebook_decay=0.9, restart_threshold=0.1)
    model.initialize(batch)
    for stage in model.stages():
        (parameters,) = stage.groups.values()
        optimizer = torch.optim.Adam(parameters, lr=2e-2)
        for step in range(120):
            (update,) = model.updates(batch, stage.name, step)
            optimizer.zero_grad()
            update.loss.backward(inputs=parameters)
            optimizer.step()
    model.eval()
    error = (model.reconstruct(batch.x).int() - batch.x.int()).abs().float().mean()
    assert error < 10  # of 60 for the best single image
    # One of four images is log 4 = 1.4 nats; independent codes would cost four times as much.
    assert model.validate(batch, "prior")["prior_nats"].item() == pytest.approx(math.log(4), abs=0.2)


# --------------------------------------------------------------------------------------- refusals


def test_images_that_can_not_be_halved_so_often_are_refused():
    with pytest.raises(ConfigError, match=r"become 2x2 codes, and the decoder takes 3x2"):
        _model(DataSpec(1, 10, 8))


def test_labels_are_refused():
    with pytest.raises(ConfigError, match="unconditional"):
        _model().sample(2, y=torch.zeros(2, dtype=torch.long))
