"""A frozen linear product with updates of low rank, as one autograd function.

Written out by autograd, y = W x + b + s B A drop(x) takes two more tensors as wide as y in the forward pass, and three passes
over such tensors backward; here the update is added inside the product that exists anyway. Kept for the backward pass are x, the
r-wide product and, with dropout, the places that were dropped. The frozen weight is only referred to and gets no gradient; x gets
one where it needs one.

DoRA (Liu et al. 2024, eq. 5) scales the outputs of that sum, c = m / ||W + s B A|| by rows, with the norms as constants (section
4.3); c is applied in one pass together with the bias, and the sum without bias is kept besides, for the gradient of m.

Shape legend: d_in, d_out of the layer, n <= d_out the outputs that one update reaches, r its rank, M rows of x.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """The update y[..., start : start + n] += scale B A drop(x), with A [r, d_in] and B [n, r]."""

    A: torch.Tensor
    B: torch.Tensor
    scale: float
    dropout: float = 0.0  #: share of the entries of x that this call drops; 0 outside training
    start: int = 0
    rows: tuple[int, int] | None = None  #: only of these rows of x (first, behind the last), x taken as [M, d_in]; None: of all
    generator: torch.Generator | None = None  #: of the masks; None: torch's default
    magnitude: torch.Tensor | None = None  #: DoRA's m [n]; of frozen weights in :func:`low_rank_linear` only, without dropout


def low_rank_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, branches: Sequence[Branch]) -> torch.Tensor:
    """[..., d_in] -> [..., d_out]: the product with a frozen ``weight`` [d_out, d_in], its frozen bias, and the updates.

    Under autocast every product is in its type, as those of ``nn.Linear`` are. Every branch has a mask of its own.
    """
    if any(branch.magnitude is not None for branch in branches):
        plain = [dataclasses.replace(branch, magnitude=None) for branch in branches]
        product, scale = low_rank_linear(x, weight, None, plain), _output_scale(weight, branches)
        scaled = product * scale if bias is None else torch.addcmul(bias.to(scale.dtype), product, scale)
        return scaled.to(product.dtype)
    tensors = [x, weight, bias, *(t for branch in branches for t in (branch.A, branch.B))]
    x, weight, bias, *factors = _as_autocast(tensors, x.device.type)
    return _LowRank.apply(x, weight, bias, None, *_arguments(x, branches, factors))  # pyright: ignore


def add_low_rank(product: torch.Tensor, x: torch.Tensor, branch: Branch) -> torch.Tensor:
    """``product`` [..., d_out] + scale B A drop(x), where the frozen product is someone else's; of its type."""
    x, A, B = _as_autocast([x, branch.A, branch.B], x.device.type)
    x = x.to(A.dtype)
    y: torch.Tensor = _LowRank.apply(x, None, None, product.to(A.dtype), *_arguments(x, [branch], [A, B]))  # pyright: ignore
    return y.to(product.dtype)


def _output_scale(weight: torch.Tensor, branches: Sequence[Branch]) -> torch.Tensor:
    """c [d_out]: m / ||W + s B A|| of the outputs of every branch with magnitudes, 1 elsewhere. Gradients reach m alone."""
    parts, end = [], 0
    for branch in sorted((b for b in branches if b.magnitude is not None), key=lambda branch: branch.start):
        m = branch.magnitude
        assert m is not None and branch.start >= end
        behind = branch.start + len(m)
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            norms = torch.addmm(weight[branch.start : behind], branch.B, branch.A, alpha=branch.scale).norm(dim=1)
        parts += [m.new_ones(branch.start - end), m / norms]
        end = behind
    return torch.cat([*parts, parts[-1].new_ones(len(weight) - end)])


def dropped_places(size: int, share: float, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Which of ``size`` entries a mask drops, each independently with probability ``share``: int64, ``size`` where it is none.

    The gaps between dropped entries are geometric, so that only share x size random numbers are drawn instead of one for every
    entry, which is what dropout costs on a CPU (torch's own mask takes longer than a 192 x 192 product of the same rows). The
    masks have the distribution of torch's, not its draws. As many are drawn as are needed but for one time in 10^15.
    """
    mean = size * share
    drawn = torch.rand(int(mean + 8 * math.sqrt(mean) + 8), device=device, generator=generator)
    gaps = drawn.neg_().log1p_().div_(math.log1p(-share)).to(torch.int64).add_(1)
    return gaps.cumsum_(0).sub_(1).clamp_(max=size)


def _arguments(x: torch.Tensor, branches: Sequence[Branch], factors: Sequence[torch.Tensor]) -> list[Any]:
    """What follows in the function: (scale, start, rows) of all branches, then A, B and the dropped places of each."""
    wide, everything = x.shape[-1], (0, x.numel() // x.shape[-1])
    plan = tuple((branch.scale / (1 - branch.dropout), branch.start, branch.rows or everything) for branch in branches)
    dropped = [
        dropped_places((last - first) * wide, b.dropout, x.device, b.generator) if b.dropout else None
        for b, (_, _, (first, last)) in zip(branches, plan, strict=True)
    ]
    return [plan, *(t for i in range(len(branches)) for t in (factors[2 * i], factors[2 * i + 1], dropped[i]))]


def _as_autocast(tensors: Sequence[Any], device: str) -> list[Any]:
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None else t.to(dtype) for t in tensors]


def _zeroed(x: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """A copy of x [M, d_in] with zeros there; x itself where nothing is dropped."""
    if places is None:
        return x
    room = x.new_empty(x.numel() + 1)  # the last entry takes the places that are none
    kept = room[:-1].view(x.shape).copy_(x)
    room.index_fill_(0, places, 0)
    return kept


class _LowRank(torch.autograd.Function):
    """r-wide products are [r, M]: the matrix library is up to six times faster with them that way round."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        product: torch.Tensor | None,
        plan: tuple[tuple[float, int, tuple[int, int]], ...],
        *factors: Any,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = product.reshape(-1, product.shape[-1]).clone() if weight is None else F.linear(rows, weight, bias)  # pyright: ignore
        inner = []
        for (scale, start, (first, last)), (A, B, places) in zip(plan, _threes(factors), strict=True):
            narrow = (A @ _zeroed(rows[first:last], places).t()).mul_(scale)
            y[first:last, start : start + B.shape[0]].addmm_(narrow.t(), B.t())
            inner.append(narrow)
        ctx.plan, ctx.shape = plan, x.shape
        ctx.save_for_backward(rows, weight, *factors, *inner)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:  # pyright: ignore
        rows, weight, *saved = ctx.saved_tensors
        factors, inner = saved[: 3 * len(ctx.plan)], saved[3 * len(ctx.plan) :]
        wide = gradients[0].reshape(-1, gradients[0].shape[-1])
        d_x: torch.Tensor | None = None
        plain: list[tuple[slice, torch.Tensor, torch.Tensor]] = []  # parts of d_x without a mask
        d_factors: list[Any] = []
        for i, ((scale, start, (first, last)), (A, B, places)) in enumerate(zip(ctx.plan, _threes(factors), strict=True)):
            of_x, of_A, of_B = ctx.needs_input_grad[0], *ctx.needs_input_grad[5 + 3 * i : 7 + 3 * i]
            mine = slice(first, last)
            part = wide[mine, start : start + B.shape[0]]
            narrow = (B.t() @ part.t()).mul_(scale) if of_x or of_A else None
            d_factors += [
                narrow @ _zeroed(rows[mine], places) if of_A else None,  # pyright: ignore
                (inner[i] @ part).t() if of_B else None,
                None,
            ]
            if not of_x:
                continue
            if places is None:
                plain.append((mine, narrow.t(), A))  # pyright: ignore
            else:
                room = rows.new_empty((last - first) * rows.shape[1] + 1)
                masked = torch.mm(narrow.t(), A, out=room[:-1].view(-1, rows.shape[1]))  # pyright: ignore
                room.index_fill_(0, places, 0)
                d_x = _added(d_x, masked, mine, rows)
        if ctx.needs_input_grad[0]:
            if weight is not None:
                d_x = wide @ weight if d_x is None else d_x.addmm_(wide, weight)
            for mine, narrow, A in plain:
                if d_x is None:
                    d_x = _added(d_x, narrow @ A, mine, rows)
                else:
                    d_x[mine].addmm_(narrow, A)
            assert d_x is not None
            d_x = d_x.view(ctx.shape)
        d_product = gradients[0] if ctx.needs_input_grad[3] else None
        return d_x, None, None, d_product, None, *d_factors


def _added(d_x: torch.Tensor | None, part: torch.Tensor, mine: slice, rows: torch.Tensor) -> torch.Tensor:
    """The gradient of x [M, d_in] with ``part`` added in its rows."""
    if d_x is None and len(part) == len(rows):
        return part
    d_x = torch.zeros_like(rows) if d_x is None else d_x
    d_x[mine].add_(part)
    return d_x


def _threes(factors: Sequence[Any]) -> list[Sequence[Any]]:
    return [factors[i : i + 3] for i in range(0, len(factors), 3)]
