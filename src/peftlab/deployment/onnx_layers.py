"""Packed layers as ONNX operators that multiply with the codes as they are stored (contrib operators of onnxruntime).

Shape legend: d_in, d_out of a layer, g its group size, L = d_in/g groups, s(x) [..., L] the sums of x over the groups.

int4, int8:  y = MatMulNBits(x; q, a, zero point m) + s(x) C,   C [L, d_out] = a (m - b),   m = 8 or 128
nf4, fp4:    y = MatMulBnb4(x; codes, absmax) + s(x) C,         C [L, d_out] = c, the offset; nothing is added where there is none

MatMulNBits takes float zero points too, but unpacks the weight at every call then; with the fixed m it has fast kernels, and what
is left of a (q - b) is constant within each group. Exact up to float rounding. Layers that may be called with few rows have a
function in its place, which is as exact (onnx_parts.py).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from peftlab.deployment import onnx_parts
from peftlab.errors import OptionError
from peftlab.nn.groups import BITS, BOOKS
from peftlab.nn.packed import PackedLinear
from peftlab.nn.pooled import group_sums

Activations = Literal["float", "int8"]
#: accuracy_level of MatMulNBits: what the inputs may be rounded to inside the product
LEVELS: dict[str, int] = {"float": 1, "int8": 4}
_DOMAIN = "com.microsoft"


def block_size(group_size: int) -> int:
    """The largest block that onnxruntime knows and of which groups are whole numbers.

    Raises:
        OptionError: there is none.
    """
    for block in onnx_parts.BLOCKS:
        if group_size % block == 0:
            return block
    raise OptionError(
        f"onnxruntime has no product with groups of {group_size} inputs, only of multiples of 16",
        where="quantizer.group_size",
        remedy="use --packed, or train with a multiple of 16",
    )


class _GroupTerm(nn.Module):
    """s(x) C + bias, added to a product with codes."""

    C: torch.Tensor | None

    def __init__(self, layer: PackedLinear, constant: torch.Tensor | None) -> None:
        """``constant`` [d_out, L]."""
        super().__init__()
        self.in_features, self.out_features, self.group_size = layer.in_features, layer.out_features, layer.group_size
        self.block = block_size(layer.group_size)
        self.register_buffer("C", None if constant is None else constant.T.contiguous())
        self.bias = layer.bias

    def complete(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.C is None:
            return y if self.bias is None else y + self.bias
        term = group_sums(x, self.group_size) @ self.C
        return y + (term if self.bias is None else term + self.bias)  # the inner sum is one operator of onnxruntime's

    def scales(self, scale: torch.Tensor) -> torch.Tensor:
        """[d_out * d_in/block], each group's as often as it has blocks."""
        return scale.repeat_interleave(self.group_size // self.block, dim=1).flatten().contiguous()


class _Integers(_GroupTerm):
    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: PackedLinear, activations: Activations) -> None:
        bits = BITS[layer.kind]
        if bits not in onnx_parts.FEW:
            raise OptionError(
                f"there is no ONNX operator here for codes of {bits} bits",
                where=layer.scheme,
                remedy="export without `packed`, or quantize to 4 or 8 bits",
            )
        middle = 2 ** (bits - 1)
        assert layer.shift is not None
        super().__init__(layer, layer.scale * (middle - layer.shift))
        blocks = layer.codes().unflatten(1, (-1, self.block))
        self.register_buffer("codes", blocks[..., ::2] | (blocks[..., 1::2] << 4) if bits == 4 else blocks.contiguous())
        self.register_buffer("scale", self.scales(layer.scale))
        self.options = {"K": layer.in_features, "N": layer.out_features, "bits": bits, "block_size": self.block}
        self.options["accuracy_level"] = LEVELS[activations]
        self.exact = activations == "float"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits, weights = self.options["bits"], (self.codes, self.scale)
        if self.exact and onnx_parts.worth_splitting(bits, self.in_features * self.out_features, x.shape[1:-1]):
            sizes = {"K": self.in_features, "N": self.out_features, "most": onnx_parts.FEW[bits].rows * self.in_features}
            y = _operator(onnx_parts.function_name(bits, self.block), x.flatten(0, -2), weights, sizes, onnx_parts.DOMAIN)
            return self.complete(x, y.unflatten(0, x.shape[:-1]))
        return self.complete(x, _operator("MatMulNBits", x, weights, self.options))


class _Book(_GroupTerm):
    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: PackedLinear, activations: Activations) -> None:
        if activations == "int8":
            raise OptionError(
                f"onnxruntime multiplies {layer.kind} codes with float inputs only",
                where="--activations",
                remedy="leave --activations out, or quantize to int4",
            )
        super().__init__(layer, layer.shift)
        self.register_buffer("codes", layer.packed)
        self.register_buffer("scale", self.scales(layer.scale))
        self.options = {"K": layer.in_features, "N": layer.out_features, "block_size": self.block}
        self.options["quant_type"] = ("fp4", "nf4").index(layer.kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.complete(x, _operator("MatMulBnb4", x, (self.codes, self.scale), self.options))


def _operator(
    name: str, x: torch.Tensor, weights: tuple[torch.Tensor, ...], options: dict[str, int], domain: str = _DOMAIN
) -> torch.Tensor:
    """Stands for the operator while the graph is recorded; gives no values."""
    shape = (*x.shape[:-1], options["N"])
    return torch.onnx.ops.symbolic(f"{domain}::{name}", (x, *weights), {**options}, dtype=x.dtype, shape=shape, version=1)


def with_operators(module: nn.Module, activations: Activations) -> nn.Module:
    """Replace, in place, every packed layer by its operators; returns the model, which can only be exported now.

    Raises:
        OptionError: onnxruntime has no operator for a layer, or ``activations`` would change nothing.
    """
    found = False
    for name, layer in list(module.named_modules()):
        if isinstance(layer, PackedLinear):
            found = True
            module.set_submodule(name, (_Book if layer.kind in BOOKS else _Integers)(layer, activations))
    if activations == "int8" and not found:
        raise OptionError(
            "nothing in this model is packed, so nothing would be multiplied in 8 bits",
            where="--activations",
            remedy="leave --activations out",
        )
    return module
