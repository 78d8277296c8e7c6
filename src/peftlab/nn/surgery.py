"""Replacing modules inside a model: fused projections taken apart into q, k, v and put together again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from peftlab.nn.quantized import dense_weight
from peftlab.nn.roles import Site, linear_shape


class SlicedLinear(nn.Module):
    """A fused projection as three layers: y = [q(x), k(x), v(x)], equal to the fused product.

    The parts are ordinary ``nn.Linear``, so whatever works on a linear layer works on a slice.
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module

    def __init__(self, fused: Any) -> None:
        super().__init__()
        d_in, d_out = linear_shape(fused) or (0, 0)
        self.in_features, self.out_features = d_in, d_out
        self.transposed = not isinstance(fused, nn.Linear)
        weight = dense_weight(fused)
        size = d_out // 3
        for i, part in enumerate("qkv"):
            layer = nn.Linear(d_in, size, bias=fused.bias is not None, device="meta")
            rows = slice(i * size, (i + 1) * size)
            layer.weight = nn.Parameter(weight[rows].clone(memory_format=torch.contiguous_format), fused.weight.requires_grad)
            if fused.bias is not None:
                layer.bias = nn.Parameter(fused.bias.detach()[rows].clone(), fused.bias.requires_grad)
            self.add_module(part, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., d_in] -> [..., 3 d]
        return torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)

    @property
    def weight(self) -> torch.Tensor:
        """The three weights below one another, [3 d, d_in]; libraries look at it for its dtype and device."""
        return torch.cat([dense_weight(self.get_submodule(part)) for part in "qkv"])

    @property
    def bias(self) -> torch.Tensor | None:
        """The three biases in one, [3 d]."""
        biases = [cast("torch.Tensor | None", self.get_submodule(part).bias) for part in "qkv"]
        return None if biases[0] is None else torch.cat(cast("list[torch.Tensor]", biases))

    def fuse(self) -> nn.Module:
        """The fused layer again, of the class it came from."""
        parts = [self.get_submodule(part) for part in "qkv"]
        weight = torch.cat([p.weight.detach() for p in parts])  # pyright: ignore
        if self.transposed:
            from transformers.pytorch_utils import Conv1D

            with torch.device("meta"):  # draws no random numbers
                layer: nn.Module = Conv1D(weight.shape[0], weight.shape[1])
            layer.weight = nn.Parameter(weight.T.contiguous())
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=parts[0].bias is not None, device="meta")
            layer.weight = nn.Parameter(weight)
        if parts[0].bias is not None:
            layer.bias = nn.Parameter(torch.cat([p.bias.detach() for p in parts]))  # pyright: ignore
        return layer


def slice_fused(model: nn.Module, sites: Iterable[Site]) -> None:
    """Take apart, in place, every fused layer that a site is a slice of."""
    for parent in dict.fromkeys(site.parent for site in sites if site.parent):
        fused = model.get_submodule(parent)
        if not isinstance(fused, SlicedLinear):
            model.set_submodule(parent, SlicedLinear(fused))


def fuse_slices(model: nn.Module) -> None:
    """Undo :func:`slice_fused` in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SlicedLinear):
            model.set_submodule(name, module.fuse())
