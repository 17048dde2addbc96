"""Learned ISTA against ISTA, the conditions of the lasso, and codes that are known."""

import pytest
import torch
from torch.nn import functional as F

from genlab.nets.lista import LISTA, Dictionary, LISTAConfig, lasso_objective, soft_threshold


@pytest.fixture
def atoms():
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(12, 30, generator=generator, dtype=torch.float64), dim=0)


@pytest.fixture
def features(atoms):
    return torch.randn(20, len(atoms), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _lista(atoms, num_iterations, alpha, matrices="tied"):
    config = LISTAConfig(num_iterations=num_iterations, matrices=matrices)
    return LISTA(config, atoms, alpha).eval()


def _ista(features, atoms, alpha, num_iterations):
    """The textbook's, by gradient and proximal step for one vector at a time."""
    largest = torch.linalg.eigvalsh(atoms.T @ atoms)[-1]
    codes = []
    for f in features:
        s = torch.zeros(atoms.shape[1], dtype=atoms.dtype)
        for _ in range(num_iterations):
            u = s - atoms.T @ (atoms @ s - f) / largest
            s = torch.where(u.abs() > alpha / largest, u - u.sign() * alpha / largest, torch.zeros_like(u))
        codes.append(s)
    return torch.stack(codes)


@pytest.mark.parametrize("matrices", ["tied", "learned"])
@pytest.mark.parametrize("num_iterations", [1, 2, 3, 10])
def test_before_training_it_is_ista_step_by_step(atoms, features, num_iterations, matrices):
    codes = _lista(atoms, num_iterations, 0.3, matrices)(features, atoms)
    torch.testing.assert_close(codes, _ista(features, atoms, 0.3, num_iterations), rtol=0, atol=1e-12)


def test_many_iterations_solve_the_lasso(atoms, features):
    """Optimality: ``D^T (f - D s)`` is ``alpha sign(s)`` on the support, and no larger than alpha off it."""
    alpha, atoms, features = 0.3, atoms[:, :18], features[:6]
    codes = _lista(atoms, 1000, alpha)(features, atoms)
    correlation = (features - codes @ atoms.T) @ atoms
    support = codes != 0
    assert 0 < support.double().mean() < 0.6
    torch.testing.assert_close(correlation[support], alpha * codes.sign()[support], rtol=0, atol=1e-6)
    assert correlation.abs()[~support].max() <= alpha + 1e-6


def test_the_objective_never_rises(atoms, features):
    objective = torch.stack(
        [lasso_objective(features, atoms, _lista(atoms, n, 0.3)(features, atoms), 0.3) for n in range(1, 60)]
    )
    assert (objective.diff(dim=0) <= 1e-12).all()
    assert (objective[-1] < objective[0]).all()


def test_an_orthonormal_dictionary_takes_one_step(features):
    atoms = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    expected = soft_threshold(features @ atoms, torch.tensor(0.4, dtype=torch.float64))
    for n in (1, 7):
        torch.testing.assert_close(_lista(atoms, n, 0.4)(features, atoms), expected, rtol=0, atol=1e-10)


def test_the_soft_threshold_of_numbers():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert soft_threshold(x, torch.tensor(0.5)).tolist() == [-1.5, 0.0, 0.0, 0.0, 1.5]


def test_planted_codes_are_recovered():
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.randn(40, 80, generator=generator, dtype=torch.float64), dim=0)
    planted = torch.zeros(50, 80, dtype=torch.float64)
    chosen = torch.rand(50, 80, generator=generator).argsort(1)[:, :3]
    signs = torch.rand(50, 3, generator=generator, dtype=torch.float64).round() * 2 - 1
    planted.scatter_(1, chosen, signs * 2)
    codes = _lista(atoms, 1000, 0.05)(planted @ atoms.T, atoms)
    assert ((codes.abs() > 0.5) == (planted != 0)).all()
    assert (codes - planted).abs().max() < 0.3  # the l1 norm shrinks what it finds


def test_the_threshold_decides_how_many_are_zero(atoms, features):
    dense = _lista(atoms, 20, 0.0)(features, atoms)
    assert (dense != 0).all()
    largest = (features @ atoms).abs().max().item()  # above it, zero is the solution
    assert (_lista(atoms, 20, largest * 1.001)(features, atoms) == 0).all()
    some = [(_lista(atoms, 200, a)(features, atoms) != 0).sum().item() for a in (0.1, 0.5, 1.0, 2.0)]
    assert some == sorted(some, reverse=True)


@pytest.mark.parametrize("matrices", ["tied", "learned"])
def test_gradients_reach_every_parameter_and_training_lowers_the_objective(matrices):
    torch.manual_seed(0)
    dictionary = Dictionary(12, 30)
    lista = LISTA(LISTAConfig(num_iterations=4, matrices=matrices), dictionary(), 0.3)
    parameters = [*dictionary.parameters(), *lista.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    features = torch.randn(100, 5) @ torch.randn(5, 12)
    losses = []
    for _ in range(100):
        loss = lasso_objective(features, dictionary(), lista(features, dictionary()), 0.3).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
        optimizer.step()
        losses.append(loss.item())
        norms = dictionary().norm(dim=0)
        torch.testing.assert_close(norms, torch.ones(30), rtol=0, atol=1e-6)
    assert losses[-1] < 0.8 * losses[0]


def test_the_step_follows_the_dictionary():
    torch.manual_seed(0)
    atoms = Dictionary(12, 30)().detach()
    lista = LISTA(LISTAConfig(), atoms, 0.3)
    moved = F.normalize(atoms + 0.5 * torch.randn_like(atoms) + 1, dim=0)
    for _ in range(50):
        lista(torch.randn(2, 12), moved)
    expected = torch.linalg.eigvalsh(moved @ moved.T)[-1]
    torch.testing.assert_close(lista.eval()._largest_eigenvalue(moved), expected, rtol=1e-4, atol=0)
