"""Layers whose Lipschitz constant is bounded: convolutions by their spectral norm, and LipSwish."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SETTLED = 1e-6  # relative growth of the norm, from one restart to the next, at which iteration may end
_MAX_RESTARTS = 200
_SQUARINGS = 14  # of a small matrix, so that its power is that of its largest eigenvalue


class LipSwish(nn.Module):
    """``x * sigmoid(softplus(beta) x) / 1.1`` with a learned ``beta``: slopes in [-0.1, 1] for each of them.

    References:
        Chen et al. 2019, "Residual flows for invertible generative modeling", section 3.3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        # Swish's slope is at most 1.0998 for every beta, which only stretches the axis.
        return x * torch.sigmoid(F.softplus(self.beta) * x) / 1.1


class LipschitzConv2d(nn.Conv2d):
    """A convolution, zero-padded to keep the size, whose operator norm is at most ``bound``.

    The weight in use is ``W / max(1, sigma / bound)``. ``sigma`` is the largest singular value of the
    operator from images of ``size`` to images, of which the reshaped kernel's is no bound. It is found by the
    Lanczos method on the convolution and its transpose: power iteration whose result is the best vector in
    the span of all steps, and not the last, as one direction may overtake another from one training step to
    the next. An estimate is never above the true norm; how far it may be below is what the distance from
    ``bound`` to 1 is for.

    In a training step the method goes on from the vector of the step before. Everywhere else it starts there
    and restarts until the norm stands still, as averaged weights have singular vectors of their own, and
    leaves the stored vector alone, as looking moves nothing.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd.
        size: ``(H, W)`` of the images.
        bound: of the operator norm.
        iterations: of the Lanczos method in each training step.

    References:
        Miyato et al. 2018, "Spectral normalization for generative adversarial networks", section 2.1;
        Gouk et al. 2021, "Regularisation of neural networks by enforcing Lipschitz continuity" (power
        iteration on the convolution itself);
        Behrmann et al. 2019, "Invertible residual networks", section 2.1;
        Golub & Van Loan 2013, "Matrix computations", section 10.4.
    """

    vector: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        size: tuple[int, int],
        bound: float,
        iterations: int,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.bound, self.iterations = bound, iterations
        # A 1x1 convolution is the same matrix at each pixel: one pixel has its norm.
        vector = torch.randn(1, in_channels, *(size if kernel_size > 1 else (1, 1)))
        self.register_buffer("vector", vector / vector.norm())
        self._settled: tuple[tuple[int, ...], Tensor] | None = None
        self.vector.copy_(self._settle())

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` -> ``(B, out_channels, H, W)``."""
        return F.conv2d(x, self.bounded_weight(), self.bias, padding=self.padding)

    def bounded_weight(self) -> Tensor:
        """The weight in use; its gradient includes that of the norm."""
        # In bfloat16 the estimate would be off by more than the bound leaves room for.
        with torch.autocast(self.weight.device.type, enabled=False):
            sigma = self._convolve(self._singular_vector()).norm()
            weight: Tensor = self.weight / (sigma / self.bound).clamp(min=1)
        return weight

    def _convolve(self, vector: Tensor) -> Tensor:
        return F.conv2d(vector, self.weight, padding=self.padding)

    def _singular_vector(self) -> Tensor:
        """An estimate of the first right singular vector ``(1, in_channels, H, W)``."""
        if not (self.training and torch.is_grad_enabled()):
            return self._settle()
        vector, _ = self._lanczos(self.vector)
        self.vector.copy_(vector)
        return vector

    @torch.no_grad()
    def _lanczos(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The unit vector of largest image in the Krylov space of ``vector``, and the norm of that image."""
        basis, images = vector, self._convolve(vector)
        for _ in range(self.iterations):
            back = F.conv_transpose2d(images[-1:], self.weight, padding=self.kernel_size[0] // 2)
            basis = torch.cat([basis, _orthogonal(back, basis)])
            images = torch.cat([images, self._convolve(basis[-1:])])
        coefficients = _first_eigenvector(images.flatten(1) @ images.flatten(1).T)
        best = torch.einsum("k,kchw->chw", coefficients, basis)[None]
        norm = best.norm()
        # Weights of zero send every vector to zero, from where no iteration returns.
        best = torch.where(norm > 0, best / norm, vector)
        return best, self._convolve(best).norm()

    @torch.no_grad()
    def _settle(self) -> Tensor:
        """The vector at which the norm stands still; remembered until a training step or new weights."""
        key = (self.weight._version, self.vector._version, self.weight.data_ptr())
        if self._settled is not None and self._settled[0] == key:
            return self._settled[1]
        vector, before = self.vector, 0.0
        for _ in range(_MAX_RESTARTS):
            vector, norm = self._lanczos(vector)
            after = norm.item()
            if after <= (1 + _SETTLED) * before:
                break
            before = after
        self._settled = (key, vector)
        return vector


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """The part of ``vector`` orthogonal to all of ``basis``, of unit length; zero where there is none."""
    length = vector.norm()
    for _ in range(2):  # once leaves what rounding makes of it
        along = torch.einsum("kchw,bchw->k", basis, vector)
        vector = vector - torch.einsum("k,kchw->chw", along, basis)
    rest = vector.norm()
    return torch.where(rest > 1e-5 * length, vector / rest, torch.zeros_like(vector))


def _first_eigenvector(matrix: Tensor) -> Tensor:
    """Of a small, symmetric, positive matrix ``(k, k)``; not ``eigh``, for which the host waits on CUDA."""
    for _ in range(_SQUARINGS):
        matrix = matrix / matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
        matrix = matrix @ matrix
    column = matrix.diagonal().argmax(0, keepdim=True)
    return matrix.index_select(1, column)[:, 0]
