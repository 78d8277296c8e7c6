"""A linear layer with an update that is a sum of triplets (column of P, singular value, row of Q).

Shape legend: d_in, d_out of the layer, r triplets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from peftlab.nn.low_rank import padded, replace_data
from peftlab.nn.low_rank_layer import LowRankLinear
from peftlab.nn.quantized import device_of
from peftlab.nn.roles import linear_shape


class TripletLinear(LowRankLinear):
    """y = base(x) + s P diag(lambda) Q dropout(x), with P [d_out, r], lambda [r, 1], Q [r, d_in].

    At the start lambda = 0 and P, Q ~ N(0, 0.02^2), drawn from ``random`` (AdaLoRA's official code, loralib/adalora.py). A
    triplet whose lambda is zero has no effect and can come back, because P and Q stay.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, random: torch.Generator) -> None:
        super().__init__(base, scale, dropout)
        d_in, d_out = linear_shape(base) or (0, 0)
        device = device_of(base)
        self.P = nn.Parameter((0.02 * torch.randn(d_out, rank, generator=random)).to(device))
        self.singular_values = nn.Parameter(torch.zeros(rank, 1, device=device))
        self.Q = nn.Parameter((0.02 * torch.randn(rank, d_in, generator=random)).to(device))
        #: in training, called with what Q sees and the update s P diag(lambda) Q of it
        self.watch: Callable[[torch.Tensor, torch.Tensor], None] | None = None

    @property
    def rank(self) -> int:
        """How many triplets there are, those that are switched off as well (:meth:`surviving` leaves them out)."""
        return self.Q.shape[0]

    @property
    def plain_only(self) -> str:
        return "an allocator watches its update" if self.watch is not None else ""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.Q, self.P * self.singular_values.T

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.inputs(x)
        update = self.scale * F.linear(F.linear(seen, self.Q) * self.singular_values.T, self.P)
        if self.watch is not None and update.requires_grad:
            self.watch(seen.detach(), update)
        return update

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """What Q sees of x."""
        return self.dropout(x.to(self.Q.dtype))

    @torch.no_grad()
    def append(self, number: int, value: float, random: torch.Generator, optimizer: torch.optim.Optimizer) -> None:
        """Triplets with lambda = ``value`` and P, Q ~ N(0, 0.02^2) behind the others; their moments are zero."""
        fresh = {
            self.P: (0.02 * torch.randn(self.P.shape[0], number, generator=random), 1),
            self.singular_values: (torch.full((number, 1), value), 0),
            self.Q: (0.02 * torch.randn(number, self.Q.shape[1], generator=random), 0),
        }
        for parameter, (values, dim) in fresh.items():
            new = values.to(parameter.device, parameter.dtype)
            grow = padded(new, dim)
            replace_data(parameter, torch.cat([parameter.data, new], dim=dim), optimizer, grow, grow)

    @torch.no_grad()
    def truncate(self, rank: int, optimizer: torch.optim.Optimizer) -> None:
        """Keep the first triplets, and their moments."""
        for parameter, dim in ((self.P, 1), (self.singular_values, 0), (self.Q, 0)):
            cut = functools.partial(torch.narrow, dim=dim, start=0, length=rank)
            replace_data(parameter, cut(parameter.data).clone(), optimizer, cut, cut)

    def set_rank(self, rank: int) -> None:
        """Make room for a rank whose values are about to be loaded."""
        self.P.data = self.P.new_zeros(self.P.shape[0], rank)
        self.singular_values.data = self.singular_values.new_zeros(rank, 1)
        self.Q.data = self.Q.new_zeros(rank, self.Q.shape[1])

    def surviving(self) -> torch.Tensor:
        """Indices of the triplets whose lambda is not zero."""
        return torch.nonzero(self.singular_values.detach().flatten()).flatten()

    def chosen(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) of these triplets, their update being s B A: A = Q, B = P diag(lambda)."""
        down = self.Q.detach()[indices]
        up = self.P.detach()[:, indices] * self.singular_values.detach()[indices].T
        return down.contiguous(), up.contiguous()

    def exported(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.chosen(self.surviving())
