"""An update s B A of a linear map, whoever keeps its two factors, whose rank can change during training.

Shape legend: d_in, d_out of the layer, r its rank now.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import nn


def product_norm(b: torch.Tensor, a: torch.Tensor) -> float:
    """||B A||, Frobenius, of B [d_out, r] and A [r, d_in], without the product: tr((B^T B)(A A^T))."""
    b, a = b.detach().cpu().double(), a.detach().cpu().double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())


@dataclasses.dataclass(frozen=True, slots=True)
class LowRank:
    """dW = s B A with A [r, d_in] and B [d_out, r].

    ``down`` and ``up`` are the linear layers that hold A and B as their weights. They stay, and so do their parameter objects:
    a change of rank gives the same ``nn.Parameter`` other data, so that optimizers and checkpoints go on finding it.
    """

    down: nn.Linear
    up: nn.Linear
    scale: float

    @property
    def A(self) -> nn.Parameter:
        return self.down.weight  # pyright: ignore

    @property
    def B(self) -> nn.Parameter:
        return self.up.weight  # pyright: ignore

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @torch.no_grad()
    def resize(self, rank: int, random: torch.Generator, optimizer: torch.optim.Optimizer | None = None) -> float:
        """Change the rank; gradients are dropped. Returns the share ||dropped|| / ||dW|| of the update that was lost.

        Growing keeps dW exactly: fresh rows of A, uniform in +-1/sqrt(d_in) as LoRA's (Kaiming-uniform with a = sqrt(5)), and
        zero columns of B. Shrinking keeps the best approximation of dW of the new rank, from the QR factors of A and B and the
        singular value decomposition of the small core (Eckart & Young 1936); the rows of the new A are orthogonal and as long as
        the old ones were on average, so that steps go on having the same effect.

        Adam's moments follow: first moments by the same linear map as the gradients, second moments by its squared entries
        (the diagonal of what they estimate, were directions independent). Fresh directions start with first moment 0 and the
        mean second moment of the module, because bias correction is over by then and an empty second moment would make
        their first steps several times too long.
        """
        if rank == self.rank:
            return 0.0
        if rank > self.rank:
            self._grow(rank - self.rank, random, optimizer)
            lost = 0.0
        else:
            lost = self._shrink(rank, optimizer)
        self.down.out_features = self.up.in_features = rank
        return lost

    def set_rank(self, rank: int) -> None:
        """Make room for a rank whose values are about to be loaded."""
        self.A.data, self.B.data = self.A.new_zeros(rank, self.A.shape[1]), self.B.new_zeros(self.B.shape[0], rank)
        self.down.out_features = self.up.in_features = rank

    @torch.no_grad()
    def truncate(self, rank: int, factor: float) -> None:
        """Keep the first directions, times ``factor``, at the end of training: moments do not follow."""
        self.A.data, self.B.data = self.A.data[:rank].clone(), self.B.data[:, :rank] * factor
        self.down.out_features = self.up.in_features = rank

    def _grow(self, more: int, random: torch.Generator, optimizer: torch.optim.Optimizer | None) -> None:
        bound = 1 / math.sqrt(self.A.shape[1])
        fresh = (2 * torch.rand(more, self.A.shape[1], generator=random) - 1) * bound
        for parameter, new, dim in ((self.A, fresh, 0), (self.B, torch.zeros(self.B.shape[0], more), 1)):
            new = new.to(parameter.device, parameter.dtype)
            replace_data(
                parameter, torch.cat([parameter.data, new], dim=dim), optimizer, first=padded(new, dim), second=_filled(new, dim)
            )

    def _shrink(self, rank: int, optimizer: torch.optim.Optimizer | None) -> float:
        a, b = self.A.data.double(), self.B.data.double()
        basis_in, core_in = torch.linalg.qr(a.T)  # A = core_in^T basis_in^T
        basis_out, core_out = torch.linalg.qr(b)
        left, values, right = torch.linalg.svd(core_out @ core_in.T)
        length = a.norm(dim=1).mean()
        length = length if length > 0 else torch.ones_like(length)
        kept = right[:rank].T  # [r, rank]
        new_a = length * (basis_in @ kept).T
        new_b = basis_out @ left[:, :rank] * values[:rank] / length
        # new_B = B T and new_A = M A, so the gradient of A goes by T^T and that of B by M^T
        to_a = (core_in.T @ kept / length).T  # T^T [rank, r]
        to_b = length * torch.linalg.pinv(core_in) @ kept  # M^T [r, rank]
        replace_data(self.A, new_a, optimizer, lambda m: to_a.to(m) @ m, lambda v: to_a.to(v).square() @ v)
        replace_data(self.B, new_b, optimizer, lambda m: m @ to_b.to(m), lambda v: v @ to_b.to(v).square())
        whole = values.norm()
        return float(values[rank:].norm() / whole) if whole > 0 else 0.0


_Change = Callable[[torch.Tensor], torch.Tensor]


def padded(new: torch.Tensor, dim: int) -> _Change:
    """Moments of zero for ``new``, behind those there are."""
    return lambda m: torch.cat([m, torch.zeros_like(new)], dim=dim)


def _filled(new: torch.Tensor, dim: int) -> _Change:
    return lambda v: torch.cat([v, torch.full_like(new, float(v.mean()))], dim=dim)


def replace_data(
    parameter: nn.Parameter, data: torch.Tensor, optimizer: torch.optim.Optimizer | None, first: _Change, second: _Change
) -> None:
    """Give a parameter other data, and its moments with it."""
    parameter.grad = None
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    for key, change in (("exp_avg", first), ("exp_avg_sq", second)):
        if key in state:
            state[key] = change(state[key]).contiguous()
    parameter.data = data.to(parameter.device, parameter.dtype).contiguous()
