"""What allocators share that move ranks between modules during training: when, by which importance, under which budget."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import (
    BudgetOption,
    Cost,
    amount_of,
    check_bounds,
    check_budget,
    equal_ranks,
    most_gained,
    share_out,
)
from peftlab.allocators._timing import Steps, Timing, check_share
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.allocators.importance.contract import Importance, Meter, Scores
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.low_rank import LowRank
from peftlab.nn.parts import Part
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.nn.shares import share_of
from peftlab.registry import create
from peftlab.study.schema import Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a rule decides about."""

    sites: Sequence[Site]
    ranks: Mapping[str, int]  #: now
    scores: Mapping[str, Scores]
    budget: Mapping[str, int]  #: {unit: amount}
    low: int
    high: int | None
    cost: Cost

    def top(self, site: Site) -> int:
        """The largest rank a module may get."""
        return min(site.d_in, site.d_out, *(() if self.high is None else (self.high,)))

    @property
    def importance(self) -> dict[str, float]:
        return {name: scores.module for name, scores in self.scores.items()}

    def proportional(self, weights: Mapping[str, float]) -> dict[str, int]:
        """Ranks proportional to weights, within the budget (allocators/_budget.py)."""
        found = share_out(self.sites, weights, self.budget, low=self.low, high=self.high, cost=self.cost)
        return dict(found.ranks)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Allocator):
    """Base: all modules start with equal ranks; at each reallocation a rule gives out the budget anew by importance.

    The importance is that of the steps since the last reallocation. Ranks really change size: nn/low_rank.py says what stays.
    The scale alpha/r of the start is kept, and the budget holds at every step.
    """

    needs_resizing: ClassVar[bool] = True

    importance: str | Mapping[str, Any] = "magnitude"  #: a metric of allocators/importance, by name or with its options
    budget: BudgetOption | None = None  #: {ranks: 64}, {parameters: N} or "match ARM"; default the adapter's rank everywhere
    min_rank: int = 2  #: of every module
    max_rank: int | None = 16  #: of every module; null: min(d_in, d_out)
    warmup_steps: Steps = 0.1  #: before the first reallocation: steps, or a share of the run if below 1 and not whole
    every: Steps = 0.1  #: between two reallocations: likewise
    last_step: Steps = 0.7  #: none after this one, nor after the last update, so that the last ranks are trained: likewise
    hysteresis: float = 0.05  #: a reallocation that would move a smaller share of the ranks is left

    def __post_init__(self) -> None:
        self._check_options()

    def _check_options(self) -> None:
        check_budget(self.budget)
        check_bounds(self.min_rank, self.max_rank, least=1)
        for option in ("warmup_steps", "every", "last_step"):
            check_share(getattr(self, option), option)
        if self.every == 0:
            raise OptionError("must not be 0 steps", where="every", remedy="e.g. 50, or 0.1 of the run")
        if not 0 <= self.hysteresis < 1:
            raise OptionError(f"must be in [0, 1), got {self.hysteresis}", where="hysteresis", remedy="e.g. 0.05")
        self.metric()

    def metric(self) -> Importance:
        """Raises OptionError: no such metric, or one without its options."""
        return create("importance", self.importance, where="importance")

    @abstractmethod
    def decide(self, task: Task) -> dict[str, int]:
        """Site name -> rank: the rule."""

    def timing(self, total: int) -> Timing:
        """When reallocations are due in a run of ``total`` steps."""
        return Timing.of(total, self.warmup_steps, self.every, self.last_step)

    def amount(self, sites: Sequence[Site], rank: int) -> dict[str, int]:
        """{unit: amount} of the budget."""
        unit, amount = amount_of(self.budget) if self.budget is not None else ("ranks", rank * len(sites))
        return {unit: amount}

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        return equal_ranks(sites, self.amount(sites, rank), low=self.min_rank, high=self.max_rank, cost=cost)

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        self.timing(total_steps).check()
        if train.select == "best":
            raise OptionError(
                "the best weights on validation may have other ranks than the last ones",
                where="train.select",
                remedy="use `select: last` with this allocator",
            )
        if len(sites) < 2:
            raise OptionError("there is only one module: no rank can move", where="adapter.targets", remedy="adapt more modules")
        total = sum(ranks.values())
        most = most_gained(sites, ranks, self.budget or {"ranks": total}, low=self.min_rank, high=self.max_rank)
        if not most:
            raise OptionError(
                f"no rank can ever move: of {total} over {len(sites)} modules with min_rank {self.min_rank} and max_rank "
                f"{self.max_rank}, none can be given up for another",
                where="allocator.budget",
                remedy="give a budget (or the adapter a rank) between the two, lower min_rank, or raise max_rank",
            )
        needed = math.ceil(share_of(self.hysteresis, total))
        if most < needed:
            raise OptionError(
                f"no reallocation can ever pass: from where they start at most {most} of {total} ranks can move at a time, and a "
                f"hysteresis of {self.hysteresis} leaves all that move fewer than {needed}",
                where="allocator.hysteresis",
                remedy=f"well below {most / total:.2f}, e.g. 0.05",
            )

    def hook(self, adapted: Adapted) -> TrainingHook:
        return _Reallocation(self, adapted)


class _Reallocation(TrainingHook):
    """Measures importance and moves ranks in one adapted model."""

    name = HOOK

    def __init__(self, allocator: Adaptive, adapted: Adapted) -> None:
        self.allocator, self.adapted = allocator, adapted
        self.sites = list(adapted.sites)
        self.layers: dict[str, LowRank] = adapted.adapter.low_rank(adapted)
        adapter, backbone = adapted.adapter, adapted.backbone
        self.cost: Cost = lambda site, rank: adapter.count(backbone, [site], {site.name: rank})
        self.budget = allocator.amount(self.sites, adapter.given_rank)
        self.start_ranks = self.ranks()
        self.history: list[dict[str, Any]] = [{"step": 0, "ranks": self.ranks(), "changed": False, "spent": self._spent()}]
        self.steps_done = 0
        self.seen = 0  #: updates since the last reallocation was due

    def ranks(self) -> dict[str, int]:
        return {name: layer.rank for name, layer in self.layers.items()}

    def _spent(self) -> dict[str, int]:
        ranks = self.ranks()
        return {"ranks": sum(ranks.values()), "parameters": sum(self.cost(site, ranks[site.name]) for site in self.sites)}

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.timing = optimizer, self.allocator.timing(total_steps)
        parts = {
            site.name: Part(tensors=((layer.A, 0), (layer.B, 1)), d_in=site.d_in, d_out=site.d_out, scale=layer.scale)
            for site in self.sites
            for layer in (self.layers[site.name],)
        }
        self.meter: Meter = self.allocator.metric().meter(parts)

    def after_step(self, step: int, updated: bool = True) -> None:
        self.steps_done = step + 1
        if self.steps_done > self.timing.last:
            return
        if updated:
            self.meter.observe()
            self.seen += 1
        if self.timing.due(self.steps_done):
            self._reallocate()
            self.meter.reset()
            self.seen = 0

    def _reallocate(self) -> None:
        ranks = self.ranks()
        scores = self.meter.scores()
        entry: dict[str, Any] = {"step": self.steps_done, "importance": {n: s.module for n, s in scores.items()}}
        if not self.seen:
            entry |= {"changed": False, "why": "float16 left out every step since the last one", "importance": {}}
        elif not all(math.isfinite(value) for value in entry["importance"].values()):
            entry |= {"changed": False, "why": "an importance is not finite", "importance": {}}
        else:
            entry |= self._decided(ranks, scores)
        self.history.append({**entry, "ranks": self.ranks(), "spent": self._spent()})

    def _decided(self, ranks: dict[str, int], scores: dict[str, Scores]) -> dict[str, Any]:
        allocator = self.allocator
        wanted = allocator.decide(
            Task(
                sites=self.sites,
                ranks=ranks,
                scores=scores,
                budget=self.budget,
                low=allocator.min_rank,
                high=allocator.max_rank,
                cost=self.cost,
            )
        )
        moved = sum(max(0, wanted[name] - ranks[name]) for name in ranks)
        if moved == 0 or moved < share_of(allocator.hysteresis, sum(ranks.values())):
            return {"changed": False, "why": "the rule keeps the ranks" if moved == 0 else "hysteresis", "moved": moved}
        lost = {}
        for name, layer in self.layers.items():
            random = generator(self.adapted.seed, "allocator", name, self.steps_done)
            share = layer.resize(wanted[name], random, self.optimizer)
            if wanted[name] < ranks[name]:
                lost[name] = share
        return {"changed": True, "moved": moved, "lost": lost}

    def finish(self) -> None:
        """Raises DidNothing if no reallocation was considered in a whole run, or the budget was left."""
        if self.steps_done < self.timing.total:
            return  # stopped early or diverged: an outcome of its own
        unit, amount = next(iter(self.budget.items()))
        if len(self.history) < 2:
            raise DidNothing("no reallocation was due in the whole run", where="allocator", remedy="report this fault")
        if any(entry["spent"][unit] > amount for entry in self.history):
            raise DidNothing(f"more than {amount} {unit} were spent", where="allocator.budget", remedy="report this fault")

    def state(self) -> dict[str, Any]:
        now = {"ranks": self.ranks(), "history": self.history, "steps_done": self.steps_done, "seen": self.seen}
        return {**now, "meter": self.meter.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        for name, rank in state["ranks"].items():
            self.layers[name].set_rank(rank)
        self.meter.reset()
        self.meter.load_state(state.get("meter") or {})
        self.history, self.steps_done = list(state["history"]), state["steps_done"]
        self.seen = state.get("seen", 1)  # earlier versions did not count

    def report(self) -> dict[str, Any]:
        unit, amount = next(iter(self.budget.items()))
        spent = self._spent()
        return {
            "ranks.json": {
                "allocator": self.allocator.spec(),
                "effective_scale": next(iter(self.layers.values())).scale,
                "budget": {"unit": unit, "amount": amount, "remainder": amount - spent[unit]},
                "spent": spent,
                "schedule": dataclasses.asdict(self.timing),
                "ranks_at_start": self.start_ranks,
                "ranks": self.ranks(),
                "history": self.history,
            }
        }
