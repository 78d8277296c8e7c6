"""AlphaLoRA: ranks by the tails of the weights' own spectra, without any data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import factors, share_out
from peftlab.allocators._probe import Measured, ProbeReport
from peftlab.allocators._static import Static
from peftlab.allocators.contract import BaseProbe
from peftlab.errors import NonFinite, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.quantized import dense_weight
from peftlab.nn.roles import Site
from peftlab.nn.shares import share_of

_RESOLVED = 1e-10  #: eigenvalues below this share of the largest are rounding errors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlphaLora(Static):
    """r_m ~ alpha_m^beta, with alpha the Hill estimate of the tail of the spectrum of W^T W (Qing et al. 2024, section 3).

    lambda_1 >= ... >= lambda_n are the eigenvalues (squared singular values), k = tail n of them the tail:
    alpha = 1 + k / sum_{i <= k} ln(lambda_i / lambda_{k+1}). A heavy tail (small alpha) marks a layer that is well trained
    already and gets less. The paper shares out experts, layer by layer (``level: block``: the mean over the adapted weights of a
    block, which they share); here it is ranks. A weight whose spectrum has no tail (zero, or all values equal) counts as the mean
    of the others. No data and no gradients: the frozen weights as they are stored, decomposed once, before training.
    """

    name: ClassVar[str] = "alphalora"
    needs_probe: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{qing2024alphalora,
  title = {{AlphaLoRA}: Assigning {LoRA} Experts Based on Layer Training Quality},
  author = {Qing, Peijun and Gao, Chongyang and Zhou, Yefan and Diao, Xingjian and Yang, Yaoqing and Vosoughi, Soroush},
  booktitle = {Conference on Empirical Methods in Natural Language Processing}, year = {2024},
  url = {https://arxiv.org/abs/2410.10054}
}"""

    beta: float = 2.5  #: how much alphas that differ matter; 0 gives equal ranks, below 0 a heavy tail gets more
    tail: float = 0.5  #: share of the eigenvalues that count as the tail
    level: Literal["block", "module"] = "block"  #: one alpha for all adapted weights of a block, or one for each

    def __post_init__(self) -> None:
        self._check_options()
        if not 0 < self.tail < 1:
            raise OptionError(f"tail must be between 0 and 1, got {self.tail}", where="tail", remedy="e.g. 0.5")
        if not math.isfinite(self.beta):
            raise OptionError(f"beta must be finite, got {self.beta}", where="beta", remedy="e.g. 2.5")

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        """Equal, as long as nothing is known."""
        return {site.name: 1.0 for site in sites}

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Measured | None = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        weights = measured.importance if measured is not None else self.weights(sites)
        budget = self.budget if self.budget is not None else {"ranks": rank * len(sites)}
        return dict(share_out(sites, weights, budget, low=self.min_rank, high=self.max_rank, cost=cost or factors).ranks)

    def measure(self, base: BaseProbe, sites: Sequence[Site], rank: int) -> Measured:
        begin, alphas = time.perf_counter(), {}
        for site in sites:
            weight = dense_weight(base.backbone.module.get_submodule(site.name)).float()
            if not bool(weight.isfinite().all()):
                raise NonFinite("a weight is not finite", where=site.name, remedy="use other weights")
            alphas[site.name] = hill(torch.linalg.svdvals(weight).square(), self.tail)
        shared = self._shared(alphas, sites)
        importance = {name: alpha**self.beta for name, alpha in shared.items()}
        return Measured(importance=importance, batches=0, seconds=time.perf_counter() - begin)

    def _shared(self, alphas: Mapping[str, float | None], sites: Sequence[Site]) -> dict[str, float]:
        """Site name -> the alpha that it goes by."""
        known = [alpha for alpha in alphas.values() if alpha is not None]
        mean = math.fsum(known) / len(known) if known else 1.0
        groups: dict[object, list[float]] = defaultdict(list)
        keys = {s.name: s.block if self.level == "block" and s.block is not None else s.name for s in sites}
        for name, alpha in sorted(alphas.items()):  # a sum does not depend on the order of the sites
            if alpha is not None:
                groups[keys[name]].append(alpha)
        return {name: math.fsum(found) / len(found) if (found := groups.get(keys[name])) else mean for name in alphas}

    def initialise(self, adapted: Adapted, measured: Measured | None) -> None:
        if measured is not None:
            adapted.hooks.append(ProbeReport(self, adapted, self.budget, measured))

    def hook(self, adapted: Adapted) -> TrainingHook | None:
        return None  # the report is the probe's

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        told = f"{self.name}: planned with equal ranks; the spectra of the frozen weights decide as a run starts"
        return (*Static.notes(self, sites, rank, cost, scale), told)


def hill(eigenvalues: torch.Tensor, tail: float) -> float | None:
    """The exponent of a power law p(lambda) ~ lambda^-alpha of the largest eigenvalues; None where there is no tail.

    Hill's estimate is that of maximum likelihood above lambda_{k+1}; k is at least 1, and one less than there are eigenvalues at
    most.

    Args:
        eigenvalues: [n], in any order, none negative.
    """
    ordered = eigenvalues.double().sort(descending=True).values
    ordered = ordered[ordered > _RESOLVED * ordered[0]]
    k = min(max(1, int(share_of(tail, len(ordered)))), len(ordered) - 1)
    if k < 1:
        return None
    logs = float((ordered[:k] / ordered[k]).log().sum())
    return 1 + k / logs if logs > 1e-6 * k else None
