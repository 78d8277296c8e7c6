"""DyLoRA: every step trains another number of leading directions, so that the adapter works at every smaller rank."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import BudgetOption, amount_of, check_budget, equal_ranks
from peftlab.allocators._report import ranks_report
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.low_rank import LowRank
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.study.schema import Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DyLora(Allocator):
    """dW = s (r/b) B[:, :b] A[:b] with b drawn anew for each step, the same for all modules (Valipour et al. 2023, algorithm 1).

    s r/b is the paper's alpha/b. Directions beyond b get no gradient in that step; with ``frozen`` neither do those before the
    b-th. As in the authors' code they are rows and columns of the same tensors, so that AdamW's momentum and weight decay go on
    moving them. Evaluated at ``evaluate_rank``, to which A and B are cut at the end (B takes the factor r/b, so that the scale
    stays s). b is a function of (seed, step). The first two steps of a ``frozen`` run share it, because B = 0 gives A no gradient
    in the first and the loop wants to see every tensor move.
    """

    name: ClassVar[str] = "dylora"
    needs_resizing: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{valipour2023dylora,
  title = {{DyLoRA}: Parameter-Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank Adaptation},
  author = {Valipour, Mojtaba and Rezagholizadeh, Mehdi and Kobyzev, Ivan and Ghodsi, Ali},
  booktitle = {Proceedings of the 17th Conference of the European Chapter of the Association for Computational Linguistics},
  year = {2023}, url = {https://arxiv.org/abs/2210.07558}
}"""

    budget: BudgetOption | None = (
        None  #: while it trains: {ranks: 64}, {parameters: N}, "match ARM"; default the adapter's rank everywhere
    )
    min_rank: int = 1  #: the smallest b
    distribution: Literal["uniform", "geometric"] = "uniform"  #: of b between min_rank and the largest rank
    geometric_p: float = 0.15  #: P(b) falls by the factor 1 - p from one b to the next
    frozen: bool = False  #: a step trains the b-th direction only
    evaluate_rank: int | None = None  #: rank of evaluation and export; default all of it

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.min_rank < 1:
            raise OptionError(f"min_rank must be at least 1, got {self.min_rank}", where="min_rank", remedy="e.g. 1")
        if not 0 < self.geometric_p < 1:
            raise OptionError(f"must be between 0 and 1, got {self.geometric_p}", where="geometric_p", remedy="e.g. 0.15")
        if self.evaluate_rank is not None and self.evaluate_rank < self.min_rank:
            raise OptionError(
                f"rank {self.evaluate_rank} is never trained: the smallest is {self.min_rank}",
                where="evaluate_rank",
                remedy="raise it, or lower min_rank",
            )

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        return equal_ranks(sites, self.budget or {"ranks": rank * len(sites)}, cost=cost)

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        most = max(ranks.values())
        if most <= self.min_rank:
            raise OptionError(
                f"every step would train the same rank: the largest is {most}, the smallest b is {self.min_rank}",
                where="allocator.min_rank",
                remedy="lower it, or raise the adapter's rank",
            )
        if self.evaluate_rank is not None and self.evaluate_rank > most:
            raise OptionError(
                f"rank {self.evaluate_rank} is above the largest that is trained, {most}",
                where="allocator.evaluate_rank",
                remedy="lower it, or raise the adapter's rank",
            )

    def draw(self, seed: int, step: int, most: int) -> int:
        """b of a step."""
        fall = 1 - self.geometric_p if self.distribution == "geometric" else 1.0
        weights = torch.tensor([fall**i for i in range(most - self.min_rank + 1)], dtype=torch.float64)
        random = generator(seed, "dylora", max(step, 1) if self.frozen else step)
        return self.min_rank + int(torch.multinomial(weights, 1, generator=random))

    def hook(self, adapted: Adapted) -> TrainingHook:
        if not adapted.adapter.initialisable:
            raise OptionError(
                "directions are left out of most steps, and here they hold a part of the base",
                where="adapter.init",
                remedy="use `init: kaiming`, gaussian or orthogonal",
            )
        return _Nested(self, adapted)


class _Nested(TrainingHook):
    """Cuts the updates of one adapted model to their first directions."""

    name = HOOK

    def __init__(self, allocator: DyLora, adapted: Adapted) -> None:
        self.allocator, self.seed, self.sites = allocator, adapted.seed, list(adapted.sites)
        self.layers: dict[str, LowRank] = adapted.adapter.low_rank(adapted)
        self.start_ranks = {name: layer.rank for name, layer in self.layers.items()}
        self.most = max(self.start_ranks.values())
        self.evaluated = allocator.evaluate_rank or self.most
        self.b = self.most
        self.handles: list[Any] = []
        self.draws: Counter[int] = Counter()
        self.history: list[dict[str, Any]] = []
        self.steps_done = 0

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.total = total_steps
        self.handles = [layer.down.register_forward_hook(self._cut(layer.rank)) for layer in self.layers.values()]

    def _cut(self, rank: int) -> Callable[..., torch.Tensor | None]:
        """A x -> (r/b) (A x)_{:b}, zero behind it."""

        def cut(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            b = self.b if module.training else self.evaluated
            return None if b >= rank else F.pad(output[..., :b] * (rank / b), (0, rank - b))

        return cut

    def before_step(self, step: int) -> None:
        self.b = self.allocator.draw(self.seed, step, self.most)

    def after_backward(self, step: int) -> None:
        if not self.allocator.frozen:
            return
        for layer in self.layers.values():
            before = min(self.b, layer.rank) - 1
            if layer.A.grad is not None and layer.B.grad is not None:
                layer.A.grad[:before] = 0
                layer.B.grad[:, :before] = 0

    def after_step(self, step: int, updated: bool = True) -> None:
        self.steps_done = step + 1
        if updated:
            self.draws[self.b] += 1
        if self.steps_done % max(1, self.total // 100) == 0 or self.steps_done == self.total:
            self.history.append({"step": self.steps_done, "ranks": {n: min(self.b, r) for n, r in self.start_ranks.items()}})

    def finish(self) -> None:
        """Cut to the rank of evaluation. Raises DidNothing if no step of a whole run left anything out."""
        self.close()
        for layer in self.layers.values():
            if layer.rank > self.evaluated:
                layer.truncate(self.evaluated, layer.rank / self.evaluated)
        if self.steps_done == self.total and not any(b < self.most for b in self.draws):
            raise DidNothing("every step trained the full rank", where="allocator", remedy="train longer")

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def state(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "steps_done": self.steps_done,
            "draws": {str(b): count for b, count in self.draws.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.history, self.steps_done = list(state["history"]), state["steps_done"]
            self.draws = Counter({int(b): count for b, count in state["draws"].items()})

    def report(self) -> dict[str, Any]:
        budget = self.allocator.budget
        unit, amount = amount_of(budget) if budget else ("ranks", sum(self.start_ranks.values()))
        return ranks_report(
            self.allocator,
            self.sites,
            scale=next(iter(self.layers.values())).scale,
            budget={unit: amount},
            start=self.start_ranks,
            ranks={name: layer.rank for name, layer in self.layers.items()},
            history=self.history,
            draws={str(b): self.draws[b] for b in range(self.allocator.min_rank, self.most + 1)},
        )
