"""A frozen linear layer that keeps nothing of its weight but packed codes and group statistics.

Shape legend: d_in, d_out of the layer, g the group size, L = d_in/g groups.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from peftlab.nn.groups import BITS, BOOKS, GroupKind, Groups, pack, packed_values, quantize_groups, scaled, unpack
from peftlab.nn.quantized import QuantizedLinear, as_linear, take_place
from peftlab.nn.weight_error import WeightError


class PackedLinear(QuantizedLinear):
    """y = W~ x + bias, W~ dequantized from what is stored (nn/groups.py) at every use: no dense weight outlives a product.

    Nothing of it has a gradient but a bias that the adapter trains. ``share`` is rho of a quantization-aware schedule: while
    ``full`` [d_out, d_in] holds the float weight, training uses (1 - rho) W + rho W~; evaluation always uses W~.
    """

    packed: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor | None
    full: torch.Tensor | None

    def __init__(self, groups: Groups, bias: nn.Parameter | None, error: WeightError | None = None) -> None:
        """``error``: of the quantization, where it is known."""
        nn.Module.__init__(self)  # an nn.Linear without its weight
        self.out_features, self.in_features = groups.codes.shape
        self.group_size = self.in_features // groups.scale.shape[1]
        self.kind = groups.kind
        self.scheme = f"{groups.kind}-g{self.group_size}"
        self.error = error
        self.share = 1.0
        self.register_buffer("packed", pack(groups.codes, BITS[groups.kind]))
        self.register_buffer("scale", groups.scale)
        self.register_buffer("shift", groups.shift)
        self.register_buffer("full", None, persistent=False)
        self.bias = bias

    @classmethod
    def of(
        cls, layer: nn.Module, group_size: int, kind: GroupKind, *, keep: bool = False, bounds: bool = True, where: str = ""
    ) -> PackedLinear:
        """Quantize a linear layer (GPT-2's Conv1D too), whose bias is taken over.

        Args:
            keep: hold the float weight for a schedule, until :meth:`release`.
            bounds: find what an update of low rank could cancel of the error (nn/weight_error.py).

        Raises:
            OptionError: ``group_size`` does not divide d_in.
            BackboneError: a weight is not finite.
        """
        linear = as_linear(layer)
        weight = linear.weight.detach()
        groups = quantize_groups(weight, group_size, kind, where)
        made = cls(groups, linear.bias, WeightError.of(weight, groups.dequantize(), group_size, bounds=bounds))
        if keep:
            made.full = weight.float().contiguous()
        return take_place(made, layer)

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore
        """The packed codes: libraries look at a layer's weight for its device."""
        return self.packed

    def stored(self) -> Sequence[torch.Tensor]:
        return [tensor for tensor in (self.packed, self.scale, self.shift) if tensor is not None]

    def codes(self) -> torch.Tensor:
        return unpack(self.packed, BITS[self.kind], (self.out_features, self.in_features))

    def dequantize(self) -> torch.Tensor:
        """W~ [d_out, d_in], float32."""
        values = packed_values(self.packed, self.kind, (self.out_features, self.in_features))
        return scaled(values, self.kind, self.scale, self.shift)

    def release(self) -> None:
        """Give the float weight back; from now on W~ alone is used."""
        self.full, self.share = None, 1.0

    def weight_in_use(self, share: float) -> torch.Tensor:
        """(1 - share) W + share W~."""
        quantized = self.dequantize()
        return quantized if share == 1.0 or self.full is None else torch.lerp(self.full, quantized, share)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., d_in] -> [..., d_out]  # pyright: ignore
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y: torch.Tensor = _Product.apply(x, self, self.share if self.training else 1.0)  # pyright: ignore
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def shifted(self, update: torch.Tensor) -> PackedLinear:
        """A layer whose weight is W~ + repeat(update, g), update [d_out, L], with the same codes.

        Integers: b' = b - update/a. Code books: c' = c + update. Exact up to float rounding.
        """
        update = update.to(self.scale)
        if self.kind in BOOKS:
            shift = update.clone() if self.shift is None else self.shift + update
        else:
            assert self.shift is not None
            shift = self.shift - update / self.scale
        made = copy.deepcopy(self)
        made.shift = shift
        made.release()
        return made

    @classmethod
    def stacked(cls, layers: Sequence[PackedLinear]) -> PackedLinear:
        """The layer of all their outputs, one after the other: groups lie within rows, so nothing is quantized anew."""
        shift = None
        if any(layer.shift is not None for layer in layers):
            shift = torch.cat([torch.zeros_like(layer.scale) if layer.shift is None else layer.shift for layer in layers])
        codes, scale = torch.cat([layer.codes() for layer in layers]), torch.cat([layer.scale for layer in layers])
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        return cls(Groups(layers[0].kind, codes, scale, shift), bias).train(layers[0].training)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kind={self.kind}, group_size={self.group_size}"


class _Product(torch.autograd.Function):
    """x W^T; the dense W is made again in the backward pass instead of being kept for it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PackedLinear, share: float) -> torch.Tensor:
        ctx.layer, ctx.share = layer, share
        return F.linear(x, layer.weight_in_use(share).to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # pyright: ignore
        (gradient,) = gradients
        return gradient @ ctx.layer.weight_in_use(ctx.share).to(gradient.dtype), None, None
