"""Sparse coding: a dictionary of unit-norm atoms, and a learned ISTA that finds sparse codes over it.

The code of a vector ``f`` ``(d,)`` over atoms ``D`` ``(d, K)`` is what minimises the lasso
``1/2 ||f - D s||^2 + alpha ||s||_1`` over ``s`` ``(K,)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, config


class Dictionary(nn.Module):
    """Atoms ``(d, K)`` of unit norm, begun as random directions.

    The norm holds by construction: what is learned is ``weight``, and :meth:`forward` divides by its norm.
    """

    def __init__(self, dim: int, num_atoms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(dim, num_atoms), dim=0))

    def forward(self) -> Tensor:
        """The atoms as columns."""
        return F.normalize(self.weight, dim=0)


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """``sign(x) max(|x| - threshold, 0)``: the proximal map of ``threshold * ||x||_1``; zeros are exact.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), torch.tensor(1.0))
    tensor([-2.,  0.,  1.])
    """
    return x.sign() * (x.abs() - threshold).relu()


def lasso_objective(features: Tensor, atoms: Tensor, codes: Tensor, alpha: float) -> Tensor:
    """``1/2 ||f - D s||^2 + alpha ||s||_1`` ``(B,)`` of ``features`` ``(B, d)`` and ``codes`` ``(B, K)``.

    >>> lasso_objective(torch.tensor([[3.0, 0.0]]), torch.eye(2), torch.tensor([[1.0, 0.0]]), alpha=0.5)
    tensor([2.5000])
    """
    error = (features - codes @ atoms.T).square().sum(1)
    return 0.5 * error + alpha * codes.abs().sum(1)


@config
class LISTAConfig:
    """``num_iterations`` are unrolled; the matrices are the dictionary's own (``tied``), or are ``learned``
    beside it, begun as its own."""

    num_iterations: Count = 8
    matrices: Literal["tied", "learned"] = "tied"


class LISTA(nn.Module):
    """``s <- soft(s + D^T (f - D s) / L, threshold)`` a fixed number of times, from ``s = 0``.

    Before training this is ISTA: ``L`` is the largest eigenvalue of ``D^T D`` and the threshold of every atom
    ``alpha / L``. Training scales the threshold of each atom; with ``learned`` matrices also ``W = D^T / L``
    and ``S = I - D^T D / L`` of ``s <- soft(W f + S s, threshold)`` move by themselves. Tied ones follow the
    dictionary, and ``L`` follows by one power iteration for each step of training: ISTA converges for any step
    below ``2 / L``, so that an eigenvalue which is a little out of date does no harm.

    Args:
        config: iterations and matrices.
        atoms: the dictionary ``(d, K)`` at the beginning.
        alpha: weight of the l1 norm.

    References:
        Gregor & LeCun 2010, "Learning fast approximations of sparse coding", section 3; Beck & Teboulle 2009,
        "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", eq. 1.4 (ISTA).
    """

    eigenvector: Tensor
    base_threshold: Tensor

    def __init__(self, config: LISTAConfig, atoms: Tensor, alpha: float) -> None:
        super().__init__()
        atoms = atoms.detach()
        self.num_iterations, self.alpha, self.tied = config.num_iterations, alpha, config.matrices == "tied"
        self.log_threshold = nn.Parameter(atoms.new_zeros(atoms.shape[1]))
        self.register_buffer("eigenvector", torch.linalg.eigh(atoms @ atoms.T).eigenvectors[:, -1].clone())
        step = 1 / self._largest_eigenvalue(atoms)
        self.register_buffer("base_threshold", alpha * step)
        if self.tied:
            return
        identity = torch.eye(atoms.shape[1], dtype=atoms.dtype)
        self.encode = nn.Parameter((step * atoms.T).contiguous())
        self.inhibit = nn.Parameter(identity - step * atoms.T @ atoms)

    def _largest_eigenvalue(self, atoms: Tensor) -> Tensor:
        """Of ``D^T D``, which has the non-zero eigenvalues of ``D D^T``; differentiable in the atoms."""
        vector = self._follow(atoms) if self.training else self.eigenvector
        return (vector @ atoms).square().sum()

    @torch.no_grad()
    def _follow(self, atoms: Tensor) -> Tensor:
        """One power iteration; what it returns is no buffer, which autograd would find changed later."""
        vector = F.normalize(atoms @ (atoms.T @ self.eigenvector), dim=0)
        self.eigenvector.copy_(vector)
        return vector

    def forward(self, features: Tensor, atoms: Tensor) -> Tensor:
        """Sparse codes ``(B, K)`` of ``features`` ``(B, d)`` over ``atoms`` ``(d, K)``.

        In the precision of the features even under autocast: in bfloat16 small codes would come and go.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._tied(features, atoms) if self.tied else self._learned(features)

    def _tied(self, features: Tensor, atoms: Tensor) -> Tensor:
        step = 1 / self._largest_eigenvalue(atoms)
        threshold = self.alpha * step * self.log_threshold.exp()
        codes = soft_threshold(step * features @ atoms, threshold)
        for _ in range(self.num_iterations - 1):
            residual = features - codes @ atoms.T
            codes = soft_threshold(codes + step * residual @ atoms, threshold)
        return codes

    def _learned(self, features: Tensor) -> Tensor:
        threshold = self.base_threshold * self.log_threshold.exp()
        drive = features @ self.encode.T
        codes = soft_threshold(drive, threshold)
        for _ in range(self.num_iterations - 1):
            codes = soft_threshold(drive + codes @ self.inhibit.T, threshold)
        return codes
