"""GoRA: gradients of the base decide the ranks and the first update."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import BudgetOption, check_bounds, check_budget, factors, share_out
from peftlab.allocators._probe import Measured, ProbeReport, backward, check_batches, gradient_bytes, note, trainable_weights
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.errors import OptionError
from peftlab.nn.quantized import is_conv1d
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gora(Allocator):
    """I_m = mean |W * G| decides the ranks, and s B A = -gamma sqrt(d_in / r) G A^+ A is the start (He et al. 2025, section 3).

    G [d_out, d_in] is the mean gradient of the frozen weight over the first batches, in evaluation mode. A stays as the adapter
    drew it; G A^+ A, with A^+ = A^T (A A^T)^-1, is the best approximation of G by any B A. Of a random A it has about the norm
    sqrt(r / d_in) ||G||, so that the start is as long as one step of gradient descent at the rate gamma.

    Ranks: with r0 the adapter's own and c_m = sqrt(d_in + d_out), module m gets round(r0 sum(c) I_m / sum(I)) // c_m, within
    [min_rank, max_rank]: the authors' code, which rounds down where the paper rounds to the nearest; so the sum is near that of
    equal ranks only. With a ``budget`` ranks are proportional to I_m / c_m and the budget is met as everywhere else.
    """

    name: ClassVar[str] = "gora"
    acts: ClassVar[bool] = False
    needs_probe: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    sets_factors: ClassVar[bool] = True
    zero_at_start: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{he2025gora,
  title = {{GoRA}: Gradient-driven Adaptive Low Rank Adaptation},
  author = {He, Haonan and Ye, Peng and Ren, Yuchen and Yuan, Yuan and Zhou, Luyang and Ju, Shucun and Chen, Lei},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2025},
  url = {https://arxiv.org/abs/2502.12171}
}"""

    budget: BudgetOption | None = None  #: {ranks: 64}, {parameters: 73728} or "match ARM"; default the authors' rule
    min_rank: int | None = None  #: default half the adapter's rank, as in the paper (4 for 8)
    max_rank: int | None = None  #: default four times the adapter's rank, as in the paper (32 for 8)
    batches: int = 16  #: n, of the gradient
    gamma: float = 0.05  #: rate of the step that the start stands for

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_batches(self.batches)
        check_bounds(1 if self.min_rank is None else self.min_rank, self.max_rank, least=1)
        if not self.gamma > 0:
            raise OptionError(f"gamma must be positive, got {self.gamma}", where="gamma", remedy="e.g. 0.05")

    def bounds(self, sites: Sequence[Site], rank: int) -> tuple[int, int]:
        """min_rank and max_rank.

        Raises:
            OptionError: the adapter's rank does not lie between them, or a module is too small.
        """
        low = self.min_rank if self.min_rank is not None else max(1, rank // 2)
        high = self.max_rank if self.max_rank is not None else 4 * rank
        if not low <= rank <= high:
            raise OptionError(
                f"the adapter's rank {rank} does not lie between min_rank {low} and max_rank {high}",
                where="allocator.min_rank" if rank < low else "allocator.max_rank",
                remedy="change one of the three",
            )
        return low, high

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Measured | None = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        low, high = self.bounds(sites, rank)
        importance: Mapping[str, float] = measured.importance if measured is not None else {site.name: 0.0 for site in sites}
        lengths = {site.name: math.sqrt(site.d_in + site.d_out) for site in sites}
        if self.budget is not None:
            weights = {name: importance[name] / length for name, length in lengths.items()}
            return dict(share_out(sites, weights, self.budget, low=low, high=high, cost=cost or factors).ranks)
        whole = math.fsum(importance.values())
        if not whole:
            return {site.name: rank for site in sites}
        total = rank * math.fsum(lengths.values())
        return {
            site.name: min(
                max(int(round(total * importance[site.name] / whole) // lengths[site.name]), low), high, site.d_in, site.d_out
            )
            for site in sites
        }

    def measure(self, base: BaseProbe, sites: Sequence[Site], rank: int) -> Measured:
        with trainable_weights(base, sites) as weights:
            count, seconds = backward(base, self.batches)
            importance, gradients = {}, {}
            for name, weight in weights.items():
                mean = weight.grad.div_(count) if weight.grad is not None else torch.zeros_like(weight)  # held once
                importance[name] = float((weight.detach() * mean).abs().mean())
                gradients[name] = mean.T if is_conv1d(base.backbone.module.get_submodule(name)) else mean
        held = gradient_bytes(weights)
        return Measured(importance=importance, batches=count, seconds=seconds, gradient_bytes=held, gradients=gradients)

    @torch.no_grad()
    def initialise(self, adapted: Adapted, measured: Measured) -> None:
        for name, layer in adapted.adapter.low_rank(adapted).items():
            a, gradient = layer.A.cpu().double(), measured.gradients[name].cpu().double()  # MPS has no float64
            rank, d_in = a.shape
            step = -self.gamma * math.sqrt(d_in / rank)
            layer.B.copy_(step / layer.scale * gradient @ torch.linalg.pinv(a))
        adapted.hooks.append(ProbeReport(self, adapted, self.budget, measured))

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        return note(self.name, sites, self.batches, copies=1)
