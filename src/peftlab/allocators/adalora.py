"""AdaLoRA: triplets are switched off, the least important first, until the budget is met.

Follows the paper, and the authors' code where the two differ (loralib/adalora.py, NLU trainer): t counts optimizer steps from 0,
and each step does backward, optimizer step, allocation, zero gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.allocators._budget import PARAMETERS, BudgetOption, amount_of, check_budget, factors
from peftlab.allocators._curve import Curve
from peftlab.allocators._timing import Steps, steps_of
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaLora(Allocator):
    """S_i = s(lambda_i) + mean_j s(P_ji) + mean_j s(Q_ij) is the importance of triplet i (Zhang et al. 2023, section 3).

    s = I_bar U_bar with I = |w g|, I_bar = b1 I_bar + (1 - b1) I and U_bar = b2 U_bar + (1 - b2) |I - I_bar|, the updated I_bar.
    Whenever the curve b(t) of :class:`Curve` masks, lambda_i = 0 where S_i <= the k-th smallest score, k = total - b(t). P and Q
    stay, so that a triplet can come back until the final phase. The training loss gets gamma times the mean over all P, Q of
    ||P^T P - I||_F, ||Q Q^T - I||_F.

    The budget counts ranks. One in parameters is turned into ranks at the mean price of a rank, d_in + d_out (so what survives
    may hold somewhat more or less than that); memory stays that of the start, for masked triplets are only switched off.
    """

    name: ClassVar[str] = "adalora"
    needs_triplets: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    budget: BudgetOption | None = (
        None  #: at the end: {ranks: 64}, {parameters: N}, "match ARM"; default the adapter's rank everywhere
    )
    initial_rank: int | None = None  #: of every module; default 1.5 times the mean rank at the end, rounded up (the paper's b0)
    initial_steps: Steps = 0.1  #: ti, before the budget falls: steps, or a share of the run if below 1 and not whole
    final_steps: Steps = 0.3  #: tf, with a fixed mask: likewise
    every: int = 10  #: dT, steps between two masks
    beta1: float = 0.85  #: smoothing of the sensitivity
    beta2: float = 0.85  #: smoothing of its uncertainty
    orthogonality: float = 0.1  #: gamma, weight of the penalty in training

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.initial_rank is not None and self.initial_rank < 2:
            raise OptionError(f"initial_rank must be at least 2, got {self.initial_rank}", where="initial_rank", remedy="e.g. 12")
        if self.every < 1:
            raise OptionError(f"every must be at least 1, got {self.every}", where="every", remedy="e.g. 10")
        for option in ("initial_steps", "final_steps"):
            value = getattr(self, option)
            if value < 0 or (isinstance(value, float) and not value < 1):
                raise OptionError(f"neither steps nor a share: {value}", where=option, remedy="e.g. 200, or 0.1 of the run")
        for option in ("beta1", "beta2"):
            if not 0 < getattr(self, option) < 1:
                raise OptionError(f"must be between 0 and 1, got {getattr(self, option)}", where=option, remedy="e.g. 0.85")
        if self.orthogonality < 0:
            raise OptionError("must not be negative", where="orthogonality", remedy="e.g. 0.1")

    def target(self, sites: Sequence[Site], rank: int) -> int:
        """bT in ranks.

        Raises:
            OptionError: less than one rank.
        """
        if self.budget is None:
            return rank * len(sites)
        unit, amount = amount_of(self.budget)
        found = amount * len(sites) // sum(factors(s, 1) for s in sites) if unit == PARAMETERS else amount
        if found < 1:
            raise OptionError(
                f"the budget of {amount} {unit} is below one rank", where="allocator.budget", remedy="raise the budget"
            )
        return found

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        target = self.target(sites, rank)
        start = self.initial_rank or math.ceil(1.5 * target / len(sites))
        if start * len(sites) <= target:
            raise OptionError(
                f"the budget would never fall: {len(sites)} modules start with {start * len(sites)} ranks and end with {target}",
                where="allocator.initial_rank",
                remedy="raise initial_rank, or lower the budget",
            )
        low = min(sites, key=lambda s: (min(s.d_in, s.d_out), s.name))
        if start > min(low.d_in, low.d_out):
            raise OptionError(
                f"the rank at the start, {start}, is above min(d_in, d_out) = {min(low.d_in, low.d_out)} of {low.name}",
                where="allocator.initial_rank",
                remedy="lower it or the budget",
            )
        return dict.fromkeys((site.name for site in sites), start)

    def curve(self, total: int, start: int, target: int) -> Curve:
        """The schedule of a run of ``total`` steps.

        Raises:
            OptionError: the run is too short for it, or the mask would change in the final phase only.
        """
        initial, final = steps_of(self.initial_steps, total), steps_of(self.final_steps, total)
        found = Curve(total=total, initial=initial, final=final, every=self.every, start=start, target=target)
        phases = f"{initial} initial and {final} final steps"
        if final < 2:
            raise OptionError(
                f"the mask is held in the last final_steps - 1 steps: 2 or more are needed, of {total} steps these are {final}",
                where="allocator.final_steps",
                remedy="raise it, or train longer",
            )
        if total <= initial + final:
            raise OptionError(
                f"the run must be longer than its first and last phase: {total} steps, of which {phases}",
                where="allocator",
                remedy="train longer, or shorten initial_steps and final_steps",
            )
        if not found.falls:
            raise OptionError(
                f"with every = {self.every}, no mask is due between {phases} of a run of {total}",
                where="allocator.every",
                remedy="lower `every`, or train longer",
            )
        return found

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        self.curve(total_steps, 1, 0)
        if train.select == "best":
            raise OptionError(
                "the best weights on validation may come from before the budget is met",
                where="train.select",
                remedy="use `select: last` with this allocator",
            )

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        start = next(iter(self.initial(sites, rank).values()))
        target = self.target(sites, rank)
        said = f"{self.name}: {len(sites)} modules start with rank {start} each and end with {target} ranks together"
        same = f"; the effective scale stays {scale:g}, that of a LoRA with alpha_over_rank: {scale:g}" if scale else ""
        return (said + same,)

    def hook(self, adapted) -> TrainingHook:
        return _Masking(self, adapted)


class _Masking(TrainingHook):
    """Scores and masks the triplets of one adapted model."""

    name = HOOK

    def __init__(self, allocator: AdaLora, adapted) -> None:
        self.allocator, self.sites = allocator, list(adapted.sites)
        self.layers: dict[str, TripletLinear] = {s.name: adapted.module.get_submodule(s.name) for s in self.sites}
        self.rank, self.scale = adapted.adapter.given_rank, next(iter(self.layers.values())).scale
        self.history: list[dict[str, Any]] = []
        self.steps_done = 0
        self.frozen = False  #: the final mask is in the history

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        start = sum(layer.rank for layer in self.layers.values())
        self.curve = self.allocator.curve(total_steps, start, self.allocator.target(self.sites, self.rank))
        self.parameters = [p for layer in self.layers.values() for p in (layer.P, layer.singular_values, layer.Q)]
        size, device = sum(p.numel() for p in self.parameters), self.parameters[0].device
        #: I_bar and U_bar of all weights in one vector, in the order of ``parameters``: a handful of operations a step
        self.importance = torch.zeros(size, dtype=self.parameters[0].dtype, device=device)
        self.uncertainty = torch.zeros_like(self.importance)

    def penalty(self) -> torch.Tensor | None:
        if not self.allocator.orthogonality:
            return None
        products = [layer.P.T @ layer.P for layer in self.layers.values()] + [
            layer.Q @ layer.Q.T for layer in self.layers.values()
        ]
        grams = torch.stack(products)  # all modules start with the same rank: [2 modules, r, r]
        distance = torch.linalg.matrix_norm(grams - torch.eye(grams.shape[-1], device=grams.device))
        return self.allocator.orthogonality * distance.mean()

    @torch.no_grad()
    def after_step(self, step: int, updated: bool = True) -> None:
        if updated and self.curve.scores(step):
            self._score()
        self.steps_done = step + 1
        if self.curve.masks(step):
            self._mask(step)

    def _score(self) -> None:
        """I, I_bar and U_bar of every weight, from the gradient of this step and the weight after it."""
        beta1, beta2 = self.allocator.beta1, self.allocator.beta2
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        now = torch.cat([(p * g).flatten() for p, g in zip(self.parameters, gradients, strict=True)]).abs_()
        self.importance.mul_(beta1).add_(now, alpha=1 - beta1)
        self.uncertainty.mul_(beta2).add_((now - self.importance).abs_(), alpha=1 - beta2)

    def scores(self) -> dict[str, torch.Tensor]:
        """Site name -> S_i of its triplets [r]."""
        parts = (self.importance * self.uncertainty).split([p.numel() for p in self.parameters])
        products = [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]
        found = {}
        for number, name in enumerate(self.layers):
            left, values, right = products[3 * number : 3 * number + 3]
            found[name] = values.flatten() + left.mean(dim=0) + right.mean(dim=1)
        return found

    def _mask(self, step: int) -> None:
        budget = self.curve.budget(step)
        scores = self.scores()
        together = torch.cat(list(scores.values()))
        off = len(together) - budget
        threshold = torch.kthvalue(together, off).values if off > 0 else together.new_tensor(-1.0)
        for name, layer in self.layers.items():
            layer.singular_values.masked_fill_((scores[name] <= threshold).unsqueeze(1), 0.0)
        final = step > self.curve.total - self.curve.final
        if final and self.frozen:
            return  # the same mask again
        self.frozen = final
        self.history.append(
            {
                "step": step,
                "budget": budget,
                "threshold": float(threshold),
                "ranks": {n: int((s > threshold).sum()) for n, s in scores.items()},
                "importance": {n: float(s.sum()) for n, s in scores.items()},
            }
        )

    def finish(self) -> None:
        """Raises DidNothing if a whole run left the budget where it was, or switched everything off."""
        if self.steps_done < self.curve.total:
            return  # stopped early or diverged: an outcome of its own
        final = sum(self._ranks().values())
        if not self.history or final > self.curve.target:
            raise DidNothing(
                f"{final} ranks are left, the budget is {self.curve.target}", where="allocator", remedy="report this fault"
            )
        if not final:
            raise DidNothing(
                "every triplet was switched off: all had the same importance", where="allocator", remedy="report this"
            )

    def _ranks(self) -> dict[str, int]:
        return {name: len(layer.surviving()) for name, layer in self.layers.items()}

    def state(self) -> dict[str, Any]:
        return {
            "importance": self.importance,
            "uncertainty": self.uncertainty,
            "history": self.history,
            "steps_done": self.steps_done,
            "frozen": self.frozen,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.importance.copy_(state["importance"])
        self.uncertainty.copy_(state["uncertainty"])
        self.history, self.steps_done, self.frozen = list(state["history"]), state["steps_done"], state["frozen"]

    def report(self) -> dict[str, Any]:
        ranks, start = self._ranks(), self.layers[self.sites[0].name].rank
        unit, amount = amount_of(self.allocator.budget) if self.allocator.budget else ("ranks", self.curve.target)
        parameters = sum(factors(site, ranks[site.name]) for site in self.sites)
        return {
            "ranks.json": {
                "allocator": self.allocator.spec(),
                "effective_scale": self.scale,
                "alpha": self.scale * start,
                "initial_rank": start,
                "budget": {"unit": unit, "amount": amount, "ranks": self.curve.target, "ranks_at_start": self.curve.start},
                "spent": {"ranks": sum(ranks.values()), "parameters": parameters},
                "schedule": {"total": self.curve.total, "initial": self.curve.initial, "final": self.curve.final},
                "budget_by_step": [self.curve.budget(t) for t in range(self.steps_done)],
                "ranks": ranks,
                "history": self.history,
            }
        }
