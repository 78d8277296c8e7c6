"""IncreLoRA: every module starts with one direction, and the most important modules get more until the budget is met."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import PARAMETERS, BudgetOption, amount_of, check_bounds, check_budget, factors, share_out
from peftlab.allocators._growth import Growth
from peftlab.allocators._own_rate import OwnRate
from peftlab.allocators._report import ranks_report
from peftlab.allocators._timing import Steps, check_share, steps_of
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train

RESERVE = 1e-5  #: lambda of a reserve direction


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IncreLora(Allocator):
    """dW = s P diag(lambda) Q, grown by importance (Zhang et al. 2023, section 3).

    * A module's score is sum |dW * G| / sqrt(d_in d_out) with G the gradient of dW, smoothed as AdaLoRA's: I_bar, U_bar, and
      importance I_bar U_bar. G costs one product of the size of a weight gradient for each module and step until the budget is
      met. With gradient accumulation the micro-batches' scores are added.
    * In step t > initial_steps with t a multiple of ``every``, the ``top_h`` most important modules get ``add`` directions each,
      none above its maximum, until the budget is met: in ranks exactly, in parameters so that no further direction fits.
    * Advance learning: each module has ``add`` reserve directions besides, whose P and Q train at lambda = 1e-5. An addition
      frees the lambda of the reserve, which leaves the function as it is, and draws a new reserve. They are dropped in the end.
    * Restart warm-up: what is added later has Adam moments, and a learning rate, of its own (allocators/_own_rate.py).
    * The loss gets ``orthogonality`` times the mean over all vectors v (columns of P, rows of Q) of | ||v||^2 - 1 |.

    As the authors' code, where it differs from the paper: the score is divided by the root of the number of weights, not by the
    number; vectors are held to length 1 but not orthogonal to one another. Other than there, the scale s stays what it is (the
    code divides alpha by the rank of the moment, so that each addition shrinks the module's update), and the last addition does
    not exceed the budget.
    """

    name: ClassVar[str] = "increlora"
    needs_all_examples: ClassVar[bool] = True
    needs_triplets: ClassVar[bool] = True
    citation: ClassVar[str] = """@article{zhang2023increlora,
  title = {{IncreLoRA}: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning},
  author = {Zhang, Feiyu and Li, Liangzhi and Chen, Junhao and Jiang, Zhouqiang and Wang, Bowen and Qian, Yiming},
  journal = {arXiv preprint arXiv:2308.12043}, year = {2023}, url = {https://arxiv.org/abs/2308.12043}
}"""

    budget: BudgetOption  #: at the end: {ranks: 64}, {parameters: N}, "match ARM"
    max_rank: int | None = None  #: of every module; default min(d_in, d_out)
    top_h: int = 4  #: modules that grow at a time
    add: int | None = None  #: directions that such a module gets; default half the mean rank at the end, at least 1
    initial_steps: Steps = 0.1  #: before the first addition: steps, or a share of the run if below 1 and not whole
    every: int = 10  #: steps between two additions
    warmup: Steps = 0.06  #: of the learning rate of what is added: likewise steps or a share
    beta1: float = 0.85  #: smoothing of the score
    beta2: float = 0.85  #: smoothing of its uncertainty
    orthogonality: float = 0.1  #: weight of the penalty in training

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_bounds(1, self.max_rank)
        for option in ("top_h", "every", "add"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise OptionError(f"{option} must be at least 1, got {value}", where=option, remedy="e.g. 4")
        for option in ("initial_steps", "warmup"):
            check_share(getattr(self, option), option)
        for option in ("beta1", "beta2"):
            if not 0 < getattr(self, option) < 1:
                raise OptionError(f"must be between 0 and 1, got {getattr(self, option)}", where=option, remedy="e.g. 0.85")
        if self.orthogonality < 0:
            raise OptionError("must not be negative", where="orthogonality", remedy="e.g. 0.1")

    def growth(self, sites: Sequence[Site]) -> Growth:
        unit, amount = amount_of(self.budget)
        price = {s.name: factors(s, 1) if unit == PARAMETERS else 1 for s in sites}
        top = {s.name: min(s.d_in, s.d_out, self.max_rank or s.d_in) for s in sites}
        add = self.add or max(1, amount // (2 * sum(price.values())))
        return Growth(unit=unit, amount=amount, price=price, top=top, add=add, top_h=self.top_h)

    def rounds(self, total: int) -> list[int]:
        """Steps after which modules grow; what the last one adds is trained for one step at least."""
        return [t for t in range(steps_of(self.initial_steps, total) + 1, total - 1) if t % self.every == 0]

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        growth = self.growth(sites)
        share_out(sites, growth.price, {growth.unit: growth.amount}, high=self.max_rank)  # raises where nothing would fit
        return dict.fromkeys(growth.price, 1)

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        if train.select == "best":
            raise OptionError(
                "the best weights on validation may have other ranks than the last ones",
                where="train.select",
                remedy="use `select: last` with this allocator",
            )
        self.growth(sites).check(len(self.rounds(total_steps)))

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        growth = self.growth(sites)
        return (
            f"{self.name}: starts with rank 1 everywhere and ends with {growth.amount} {growth.unit}; until then "
            f"{growth.add * len(sites)} reserve directions train besides",
        )

    def hook(self, adapted: Adapted) -> TrainingHook:
        return _Growing(self, adapted)


class _Growing(TrainingHook):
    """Scores the modules of one adapted model and adds directions."""

    name = HOOK

    def __init__(self, allocator: IncreLora, adapted: Adapted) -> None:
        self.allocator, self.seed, self.sites = allocator, adapted.seed, list(adapted.sites)
        self.layers: dict[str, TripletLinear] = {s.name: adapted.module.get_submodule(s.name) for s in self.sites}  # pyright: ignore
        self.growth = allocator.growth(self.sites)
        self.ranks = {name: layer.rank for name, layer in self.layers.items()}  #: without reserves
        self.seen: dict[str, torch.Tensor] = {}  #: score of the step in flight
        self.history: list[dict[str, Any]] = []
        self.steps_done = 0
        self.grown = False  #: the budget is met

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.total, self.optimizer = total_steps, optimizer
        self.rounds = set(self.allocator.rounds(total_steps))
        self.growth.check(len(self.rounds))
        self.rates = OwnRate(self.layers, optimizer, total_steps, steps_of(self.allocator.warmup, total_steps))
        for name in self.layers:
            self._reserve(name, born=None)
        for name, layer in self.layers.items():
            layer.watch = self._watch(name)
        self.importance = torch.zeros(len(self.layers), device=next(iter(self.layers.values())).Q.device)
        self.uncertainty = torch.zeros_like(self.importance)

    def _watch(self, name: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
        """Score of a module, from what its Q sees and the gradient of its update."""

        @torch.no_grad()
        def gather(inputs: torch.Tensor, gradient: torch.Tensor) -> None:
            layer = self.layers[name]
            weight = layer.scale * (layer.P * layer.singular_values.T) @ layer.Q
            of_weight = gradient.flatten(0, -2).T @ inputs.flatten(0, -2).to(gradient.dtype)
            score = (weight * of_weight).abs().sum() / math.sqrt(weight.numel())
            self.seen[name] = self.seen[name] + score if name in self.seen else score

        def watch(inputs: torch.Tensor, update: torch.Tensor) -> None:
            update.register_hook(lambda gradient: gather(inputs, gradient))

        return watch

    def _reserve(self, name: str, born: int | None) -> None:
        """Fill the reserve of a module up, with directions that begin in step ``born``."""
        layer, rank = self.layers[name], self.ranks[name]
        missing = min(rank + self.growth.add, self.growth.top[name]) - layer.rank
        if missing > 0:
            random = generator(self.seed, "increlora", name, layer.rank)
            layer.append(missing, RESERVE, random, self.optimizer)
            self.rates.append(name, missing, born)

    def penalty(self) -> torch.Tensor | None:
        if not self.allocator.orthogonality:
            return None
        squares = [v for layer in self.layers.values() for v in (layer.P.square().sum(dim=0), layer.Q.square().sum(dim=1))]
        return self.allocator.orthogonality * (torch.cat(squares) - 1).abs().mean()

    def before_step(self, step: int) -> None:
        self.rates.before_step()

    def after_backward(self, step: int) -> None:
        for name, layer in self.layers.items():
            if not self.grown and layer.singular_values.grad is not None:
                layer.singular_values.grad[self.ranks[name] :] = 0

    def after_update(self, step: int) -> None:
        self.rates.after_update(step)

    @torch.no_grad()
    def after_step(self, step: int, updated: bool = True) -> None:
        self.steps_done = step + 1
        if not updated:
            self.rates.leave_out(step)
        if self.grown:
            return
        for name, layer in self.layers.items():
            layer.singular_values[self.ranks[name] :] = RESERVE  # weight decay
        if updated:
            self._score()
        self.seen = {}
        if step in self.rounds:
            self._grow(step)

    def _score(self) -> None:
        if not self.seen:
            raise DidNothing("no adapted module took part in a backward pass", where="allocator", remedy="report this fault")
        nothing = torch.zeros_like(self.importance[0])
        now = torch.stack([self.seen.get(name, nothing) for name in self.layers]).to(self.importance)
        if not bool(now.sum().isfinite()):
            return  # float16: a product is larger than those of which gradients are made
        self.importance.lerp_(now, 1 - self.allocator.beta1)
        self.uncertainty.lerp_((now - self.importance).abs(), 1 - self.allocator.beta2)

    def _grow(self, step: int) -> None:
        scores = dict(zip(self.layers, (self.importance * self.uncertainty).tolist(), strict=True))
        ordered = sorted(self.sites, key=lambda s: (-scores[s.name], -1 if s.block is None else s.block, s.name))
        given = self.growth.round(self.ranks, [site.name for site in ordered])
        for name, number in given.items():
            self.rates.free(name, self.ranks[name], number, step + 1)
            self.ranks[name] += number
            self._reserve(name, born=step + 1)
        self.history.append({"step": self.steps_done, "added": given, "ranks": dict(self.ranks), "importance": scores})
        if not self.growth.round(self.ranks, self.ranks):
            self._stop_growing()

    def _stop_growing(self) -> None:
        """No more reserves, no more scores."""
        self.grown = True
        self.close()
        for name, layer in self.layers.items():
            if layer.rank > self.ranks[name]:
                layer.truncate(self.ranks[name], self.optimizer)
                self.rates.truncate(name, self.ranks[name])

    def finish(self) -> None:
        """Raises DidNothing if a whole run left the budget unmet."""
        met = self.grown
        self._stop_growing()
        if self.steps_done == self.total and not met:
            raise DidNothing("the budget was not met", where="allocator", remedy="report this fault")

    def close(self) -> None:
        for layer in self.layers.values():
            layer.watch = None

    def state(self) -> dict[str, Any]:
        return {
            "importance": self.importance,
            "uncertainty": self.uncertainty,
            "ranks": self.ranks,
            "born": self.rates.born,
            "left_out": self.rates.left_out,
            "history": self.history,
            "steps_done": self.steps_done,
            "grown": self.grown,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.importance.copy_(state["importance"])
        self.uncertainty.copy_(state["uncertainty"])
        self.ranks = {name: state["ranks"][name] for name in self.layers}
        self.rates.born = {name: state["born"][name] for name in self.layers}
        self.rates.left_out = list(state.get("left_out", []))
        self.history, self.steps_done, self.grown = list(state["history"]), state["steps_done"], state["grown"]
        for name, layer in self.layers.items():
            layer.set_rank(len(self.rates.born[name]))
        if self.grown:
            self.close()

    def report(self) -> dict[str, Any]:
        return ranks_report(
            self.allocator,
            self.sites,
            scale=next(iter(self.layers.values())).scale,
            budget={self.growth.unit: self.growth.amount},
            start=dict.fromkeys(self.layers, 1),
            ranks=self.ranks,
            history=self.history,
        )
