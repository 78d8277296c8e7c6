"""A frozen linear layer whose products are those of 8-bit integers, forward and for the gradient of its input.

Shape legend: x [n, d_in], codes C [d_out, d_in] int8, s [d_out] float32.

Weights are quantized once, a scale for every output; whatever is multiplied with them is quantized when it comes, a scale for
every row:

    W~ = diag(s) C                    s_o = max |W_o| / 127
    q(v) = round(127 v / max |v|)     of every row v, restored as q(v) max |v| / 127
    y  = (q(x) C^T) scaled by the rows' scales and by s
    dx = (q(dy diag(s)) C) scaled by the rows' scales

so that one copy of the codes serves both. Sums of products of 8-bit integers are exact in 32 bits (d < 2^17), hence the same on
every machine and with every number of threads. What is not exact is q: y differs from W~ x by about 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from peftlab.nn.quantized import QuantizedLinear, take_place

LARGEST = 127.0
_SUMMED = 2**24 // 127**2  #: so many products of two codes have a sum that float32 holds, whatever the order
_int_mm: Any = torch._int_mm  # pyright: ignore  # int8 [n, k] x [k, m] -> int32; k > 1


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes int8 [n, d], scales [n, 1]) with values ~ codes * scales; a row of zeros has scale 0.

    A row with a value that is not finite has such a scale, so that it stays visible.
    """
    largest = torch.maximum(values.amax(-1, keepdim=True), values.amin(-1, keepdim=True).neg_())  # a norm takes ten times as long
    scale = largest.mul_(1 / LARGEST)
    inverse = torch.where(scale > 0, scale.reciprocal(), 0.0)
    return (values * inverse).round_().to(torch.int8), scale


def sums(rows: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """rows [n, k] times codes [k, m], both of int8 from -127 to 127: int32 [n, m], exact.

    Processors without instructions for them do it in float32, which holds these sums exactly: there, torch takes them one by one.
    """
    if rows.device.type != "cpu" or torch.cpu._is_vnni_supported():
        return _int_mm(rows, codes)
    total = torch.zeros(len(rows), codes.shape[1], dtype=torch.int32)
    with torch.autocast("cpu", enabled=False):
        for part, others in zip(rows.split(_SUMMED, 1), codes.split(_SUMMED), strict=True):
            total += (part.float() @ others.float()).to(torch.int32)
    return total


def _multiplied(rows: torch.Tensor, codes: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """rows [n, k] times codes [k, m] as float32 [n, m], each row times its factor [n, 1]; in the memory of the integers."""
    found = sums(rows, codes)
    return found.view(torch.float32).copy_(found).mul_(factors)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.dtype, ctx.bias = x.dtype, bias is not None and bias.dtype
        rows, factors = quantize_rows(x.reshape(-1, x.shape[-1]).float())
        y = _multiplied(rows, codes.t(), factors).mul_(scale)
        y = y if bias is None else y.add_(bias)
        return y.to(x.dtype).view(*x.shape[:-1], len(codes))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        codes, scale = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1]).float()
        d_x = d_bias = None
        if ctx.needs_input_grad[0]:
            rows, factors = quantize_rows(flat * scale)
            d_x = _multiplied(rows, codes, factors).to(ctx.dtype).view(*gradient.shape[:-1], codes.shape[1])
        if ctx.needs_input_grad[3]:
            d_bias = flat.sum(0).to(ctx.bias)
        return d_x, None, None, d_bias


class DynamicInt8(QuantizedLinear):
    """y = W~ x + bias in 8-bit products."""

    codes_: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear, scheme: str) -> None:
        nn.Module.__init__(self)  # an nn.Linear without its weight
        self.in_features, self.out_features, self.scheme = layer.in_features, layer.out_features, scheme
        codes, scale = quantize_rows(layer.weight.detach().float())
        self.register_buffer("codes_", codes)
        self.register_buffer("scale", scale.squeeze(1))
        self.bias = layer.bias
        take_place(self, layer)

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore
        """The codes: libraries look at a layer's weight for its device."""
        return self.codes_

    def stored(self) -> Sequence[torch.Tensor]:
        return [self.codes_, self.scale]

    def codes(self) -> torch.Tensor:
        return self.codes_

    def dequantize(self) -> torch.Tensor:
        return self.codes_ * self.scale.unsqueeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., d_in] -> [..., d_out]  # pyright: ignore
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _Product.apply(x, self.codes_, self.scale, self.bias)  # pyright: ignore
