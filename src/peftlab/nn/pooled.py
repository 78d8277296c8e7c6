"""Updates of a linear layer that see only the sums of its inputs over groups, and so are constant within each group.

Shape legend: d_in, d_out of the layer, g the group size, L = d_in/g groups, r the rank.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import device_of
from peftlab.nn.roles import linear_shape
from peftlab.nn.triplets import TripletLinear
from peftlab.nn.wrapped import WrappedLinear


def group_sums(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """[..., d_in] -> [..., L]: g mean_g(x)."""
    return x.unflatten(-1, (-1, group_size)).sum(-1)


class Pooled(WrappedLinear):
    """What both forms have: a base layer, and an update [d_out, L] of the weight that repeats over the g columns of a group."""

    scale: float
    group_size: int

    @abstractmethod
    def exported(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B), without gradient, of the directions that have an effect; A [r, L]."""

    def update(self) -> torch.Tensor:
        """[d_out, L], scale included, without gradient."""
        down, up = self.exported()
        return self.scale * (up @ down)

    @abstractmethod
    def factor_tensors(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """What is trained of the update, each tensor with its dimension that counts the rank."""

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A copy of the base layer with the update folded in.

        A packed layer with the same groups takes it up in its zero points or offsets, and no code changes; others become float.
        """
        if isinstance(self.base_layer, PackedLinear) and self.base_layer.group_size == self.group_size:
            return self.base_layer.shifted(self.update())
        return self.with_update(self.update().repeat_interleave(self.group_size, dim=1))


class PooledLinear(Pooled):
    """y = base(x) + s B A dropout(g mean_g(x)), with A [r, L] uniform in +-``bound`` and B [d_out, r] zero."""

    def __init__(
        self, base: nn.Module, rank: int, scale: float, dropout: float, random: torch.Generator, *, group_size: int, bound: float
    ) -> None:
        super().__init__()
        d_in, d_out = linear_shape(base) or (0, 0)
        device = device_of(base)
        self.base_layer, self.scale, self.group_size = base, scale, group_size
        self.dropout = nn.Dropout(dropout)
        start = (2 * torch.rand(rank, d_in // group_size, generator=random) - 1) * bound
        self.A = nn.Parameter(start.to(device))
        self.B = nn.Parameter(torch.zeros(d_out, rank, device=device))

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.dropout(group_sums(x.to(self.A.dtype), self.group_size))
        return self.scale * F.linear(F.linear(pooled, self.A), self.B)

    def exported(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.A.detach(), self.B.detach()

    def factor_tensors(self) -> tuple[tuple[torch.Tensor, int], ...]:
        return (self.A, 0), (self.B, 1)


class PooledTriplets(TripletLinear, Pooled):
    """y = base(x) + s P diag(lambda) Q dropout(g mean_g(x)), with P [d_out, r], lambda [r, 1], Q [r, L] (nn/triplets.py)."""

    def __init__(
        self, base: nn.Module, rank: int, scale: float, dropout: float, random: torch.Generator, *, group_size: int
    ) -> None:
        super().__init__(base, rank, scale, dropout, random)
        self.group_size = group_size
        groups = self.Q.shape[1] // group_size
        self.Q = nn.Parameter((0.02 * torch.randn(rank, groups, generator=random)).to(self.Q.device))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(group_sums(x.to(self.Q.dtype), self.group_size))

    def factor_tensors(self) -> tuple[tuple[torch.Tensor, int], ...]:
        return (self.P, 1), (self.singular_values, 0), (self.Q, 0)

    def merged(self) -> nn.Module:
        return Pooled.merged(self)
