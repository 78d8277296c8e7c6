"""What allocators share that decide every rank before training starts, by one weight a module."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from peftlab.allocators._budget import BudgetOption, Shares, check_bounds, check_budget, factors, share_out
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.errors import OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import ATTENTION, FEED_FORWARD, Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Static(Allocator):
    """Base: ranks proportional to :meth:`weights` (a module without a weight is not adapted), rounded within the budget.

    Without a budget the adapter's own rank times the number of adapted modules is spent, so that a schedule costs as many ranks
    as ``uniform``.
    """

    acts: ClassVar[bool] = False

    budget: BudgetOption | None = None  #: {ranks: 64}, {parameters: 73728} or "match ARM"; default the adapter's rank everywhere
    min_rank: int = 1  #: of an adapted module; 0 lets the budget leave modules out
    max_rank: int | None = None  #: default min(d_in, d_out) of each module

    def __post_init__(self) -> None:
        self._check_options()

    def _check_options(self) -> None:
        check_budget(self.budget)
        check_bounds(self.min_rank, self.max_rank)

    @abstractmethod
    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        """Site name -> weight; sites left out get rank 0."""

    def shares(self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None) -> Shares:
        """The ranks, and what the rounding left of the budget."""
        weights = self.weights(sites)
        kept = [site for site in sites if site.name in weights]
        budget = self.budget if self.budget is not None else {"ranks": rank * len(kept)}
        found = share_out(kept, weights, budget, low=self.min_rank, high=self.max_rank, cost=cost or factors)
        return dataclasses.replace(found, ranks={site.name: found.ranks.get(site.name, 0) for site in sites})

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        return dict(self.shares(sites, rank, cost).ranks)

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        found = self.shares(sites, rank, cost)
        if not found.remainder:
            return ()
        return (f"{self.name}: {found.remainder} of {found.budget} {found.unit} cannot be spent in whole ranks",)

    def hook(self, adapted) -> TrainingHook | None:
        return Report(self, adapted, self.budget)


class Report(TrainingHook):
    """Writes what was decided; does nothing during training."""

    name = HOOK

    def __init__(self, allocator: Allocator, adapted, budget: BudgetOption | None) -> None:
        ranks = dict(adapted.ranks)
        spent = {
            "ranks": sum(ranks.values()),
            "parameters": adapted.adapter.count(adapted.backbone, adapted.sites, {s.name: ranks[s.name] for s in adapted.sites}),
        }
        unit, amount = next(iter(budget.items())) if isinstance(budget, Mapping) else ("ranks", spent["ranks"])
        self.content: dict[str, Any] = {
            "allocator": allocator.spec(),
            "budget": {"unit": unit, "amount": amount, "remainder": amount - spent[unit]},
            "spent": spent,
            "ranks": ranks,
        }

    def report(self) -> dict[str, Any]:
        return {"ranks.json": self.content}


def depth(sites: Sequence[Site]) -> tuple[dict[str, int], int]:
    """Site name -> position l of its block among the adapted blocks (0 ... L-1), and L.

    Raises:
        OptionError: a site outside the blocks.
    """
    outside = next((site.name for site in sites if site.block is None), None)
    if outside is not None:
        raise OptionError(f"{outside} lies in no block", where="allocator", remedy="adapt layers of blocks only")
    order = {block: i for i, block in enumerate(sorted({site.block for site in sites if site.block is not None}))}
    return {site.name: order[site.block] for site in sites if site.block is not None}, len(order)


def heavy(sites: Sequence[Site], favoured: Sequence[str], weight: float, name: str) -> dict[str, float]:
    """``weight`` for modules with a favoured role, 1 for the others.

    Raises:
        OptionError: all modules are of one kind, so that the schedule would be uniform.
    """
    weights = {site.name: weight if site.role in favoured else 1.0 for site in sites}
    if len({site.role in favoured for site in sites}) < 2:
        raise OptionError(
            f"{name!r} needs attention and other layers among the adapted ones; it would be uniform here",
            where="allocator",
            remedy="use `targets: all-linear`, or `uniform`",
        )
    return weights


def check_weight(weight: float) -> None:
    if not weight > 0:
        raise OptionError(f"weight must be positive, got {weight}", where="weight", remedy="e.g. 2")


ATTENTION_ROLES = (*ATTENTION, "qkv")
FEED_FORWARD_ROLES = FEED_FORWARD
