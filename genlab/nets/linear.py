"""Fully connected layers by the faster of the processor's two libraries for matrix products."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MIN_WEIGHTS = 2**14  # below, what a call costs is more than what the product does


class Linear(nn.Linear):
    """``x W^T + b``, as :class:`torch.nn.Linear`, whose parameters and names it has.

    In float32 torch asks Intel's MKL for the product, which leaves the wide registers of AMD's processors
    alone; oneDNN, which torch has on board for convolutions and bfloat16, does not. Measured on two cores of
    an EPYC (Zen 5): 2.1 to 2.3 times the rate, forwards and backwards, and the same digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``(..., in_features)``, ``(out_features, in_features)`` -> ``(..., out_features)``."""
    if not (_ONEDNN_IS_FASTER and _suits(x, weight)):
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x.contiguous(), weight, bias)
    return y


class _Linear(torch.autograd.Function):
    """The product by oneDNN; its gradients are such products again, so that they too have gradients.

    All matrices are contiguous or the transpose of such a one: for columns of a wider matrix oneDNN has but a
    plain loop, a thousand times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        product = _Linear.apply if torch.is_grad_enabled() else _product
        gradient = gradient.contiguous()
        rows, columns = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            product(gradient, weight.t(), None) if wanted[0] else None,
            product(rows.t(), columns.t(), None) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        y: Tensor = _compiled(x, weight, bias)
        return y
    if torch._C._are_functorch_transforms_active():  # several gradients at once, batched by vmap
        return F.linear(x, weight, bias)
    return _onednn(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


_compiled = torch.library.custom_op("genlab::linear", _onednn, mutates_args=(), device_types="cpu")
"""For torch.compile, which takes oneDNN's own operator only with weights that never change."""


@_compiled.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can be asked, for plain float32, and whether there is work enough."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() >= _MIN_WEIGHTS
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")  # bfloat16 goes to oneDNN as it is
        and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())
    )


def _onednn_is_faster() -> bool:
    """Whether this is a processor by AMD, and torch was built with both libraries."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else platform.processor()
    return "AuthenticAMD" in vendor


_ONEDNN_IS_FASTER = _onednn_is_faster()
