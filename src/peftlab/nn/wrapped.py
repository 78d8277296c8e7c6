"""A layer of ours around a frozen linear layer, to whose output it adds an update of its own.

Shape legend: d_in, d_out of the layer.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import cast

import torch
from torch import nn

from peftlab.nn.quantized import dense_layer


class WrappedLinear(nn.Module):
    """y = base(x) + adapt(x)."""

    base_layer: nn.Module

    @abstractmethod
    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """What is added: [..., d_in] -> [..., d_out]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., d_in] -> [..., d_out]
        result = self.base_layer(x)
        return result + self.adapt(x).to(result.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight, codes where it is quantized; libraries look at it for its dtype and device."""
        return cast(torch.Tensor, self.base_layer.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        return cast("torch.Tensor | None", self.base_layer.bias)

    def with_update(self, update: torch.Tensor) -> nn.Module:
        """A copy of the base layer, in float, with an update [d_out, d_in] folded in."""
        layer = dense_layer(copy.deepcopy(self.base_layer))
        weight = cast(nn.Parameter, layer.weight)
        weight.data += (update if isinstance(layer, nn.Linear) else update.T).to(weight.dtype)  # Conv1D keeps [d_in, d_out]
        return layer
