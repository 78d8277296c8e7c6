"""A budget of ranks or of trainable parameters, shared out over the adapted modules in whole ranks.

Shares are proportional to weights between a minimum and a maximum; rounding is by largest remainders. A budget of ranks is met
exactly. A budget of parameters is never exceeded, and what is left over is the least that whole ranks near the shares allow: no
further rank would fit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from peftlab.errors import OptionError, nearest
from peftlab.mistakes import shown
from peftlab.nn.roles import Site

#: ``{ranks: 64}``, ``{parameters: 73728}``, or ``match LABEL``, which the planner replaces by the other arm's parameters; a bare
#: number is taken in only to be refused in the words that help
BudgetOption = Mapping[str, int] | str | int
#: (site, rank) -> trainable parameters
Cost = Callable[[Site, int], int]

PARAMETERS = "parameters"
UNITS = ("ranks", PARAMETERS)
MATCH = re.compile(r"match\s+(\S.*)")


def factors(site: Site, rank: int) -> int:
    """r (d_in + d_out): the parameters of a rank-r update."""
    return rank * (site.d_in + site.d_out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Ranks that were given out, and what is left of the budget (in its unit)."""

    ranks: Mapping[str, int]
    unit: str
    budget: int
    spent: int

    @property
    def remainder(self) -> int:
        return self.budget - self.spent


def check_budget(budget: BudgetOption | None, where: str = "budget") -> None:
    """The form of a budget.

    Raises:
        OptionError: neither ``match LABEL`` nor one of ranks, parameters with a positive number.
    """
    if budget is None or (isinstance(budget, str) and MATCH.fullmatch(budget.strip())):
        return
    remedy = 'write {ranks: 64}, {parameters: 73728} or "match lora[rank=8]"'
    if isinstance(budget, str | int) or len(budget) != 1:
        raise OptionError(f"{shown(budget)} is no budget", where=where, remedy=remedy)
    unit, amount = next(iter(budget.items()))
    if unit not in UNITS:
        raise OptionError(f"a budget has no unit {unit!r}", where=f"{where}.{unit}", remedy=nearest(unit, UNITS))
    if amount < 1:
        raise OptionError(f"the budget must be at least 1, got {amount}", where=f"{where}.{unit}", remedy=remedy)


def check_bounds(low: int, high: int | None, *, least: int = 0) -> None:
    """Smallest and largest rank of a module.

    Raises:
        OptionError: max below min, or min below ``least``.
    """
    if low < least:
        raise OptionError(f"min_rank must be at least {least}, got {low}", where="min_rank", remedy=f"e.g. {max(1, least)}")
    if high is not None and high < max(1, low):
        raise OptionError(f"max_rank {high} is below min_rank {max(1, low)}", where="max_rank", remedy="raise max_rank")


def amount_of(budget: BudgetOption) -> tuple[str, int]:
    """(unit, amount).

    Raises:
        OptionError: a budget ``match ...`` that no planner has replaced.
    """
    if isinstance(budget, str | int):
        raise OptionError(
            f"the budget {budget!r} can be used within a study only", where="allocator.budget", remedy="give {parameters: ...}"
        )
    return next(iter(budget.items()))


def unit_cost(unit: str, cost: Cost) -> Cost:
    """What a rank costs in the budget's unit."""
    return cost if unit == PARAMETERS else lambda site, rank: rank


def share_out(
    sites: Sequence[Site],
    weights: Mapping[str, float],
    budget: BudgetOption,
    *,
    low: int = 1,
    high: int | None = None,
    cost: Cost = factors,
) -> Shares:
    """Ranks proportional to ``weights``, between ``low`` and ``high`` (and min(d_in, d_out)), within the budget.

    1. x_m = clip(t w_m, low, high_m) with the t at which the budget is met in real numbers; modules of weight 0 get more than
       ``low`` only when all others are at their maximum, and then equally (so all weights 0 means uniform).
    2. r_m = floor(x_m); the rest goes, one rank a module, to the set of modules that leaves least over; among such sets the one
       with the largest remainders x_m - floor(x_m). Again, while a rank fits. Ties go by block, then by name: the order of
       modules changes nothing.

    Raises:
        OptionError: the budget is below the sum of minimum ranks or above the sum of maximum ranks; max below min.
    """
    unit, amount = amount_of(budget)
    price = unit_cost(unit, cost)
    ordered = sorted(sites, key=lambda s: (-1 if s.block is None else s.block, s.name))
    tops = [min(high if high is not None else s.d_in, s.d_in, s.d_out) for s in ordered]
    for site, top in zip(ordered, tops, strict=True):
        if top < low:
            raise OptionError(
                f"min_rank {low} is above the largest rank {site.name} can have, {top}",
                where="allocator.min_rank",
                remedy="lower min_rank, or raise max_rank",
            )
    _check_reach(ordered, tops, amount, unit, low, price)
    exact = _fill(ordered, tops, [Fraction(weights[s.name]) for s in ordered], amount, low, price)
    ranks = [int(x) for x in exact]
    while True:
        left = amount - sum(price(s, r) for s, r in zip(ordered, ranks, strict=True))
        steps = {i: price(s, ranks[i] + 1) - price(s, ranks[i]) for i, s in enumerate(ordered) if ranks[i] < tops[i]}
        steps = {i: step for i, step in steps.items() if step <= left}
        if not steps:
            break
        candidates = sorted(steps, key=lambda i: (ranks[i] - exact[i], i))  # largest remainder first
        for k in _best_subset([steps[i] for i in candidates], left):
            ranks[candidates[k]] += 1
    found = {s.name: r for s, r in zip(ordered, ranks, strict=True)}
    total = sum(price(s, found[s.name]) for s in ordered)
    return Shares(ranks={s.name: found[s.name] for s in sites}, unit=unit, budget=amount, spent=total)


def equal_ranks(
    sites: Sequence[Site], budget: BudgetOption, *, low: int = 1, high: int | None = None, cost: Cost | None = None
) -> dict[str, int]:
    """Site name -> rank: the same share of the budget for every site.

    Raises:
        OptionError: as of :func:`share_out`.
    """
    equal = dict.fromkeys((site.name for site in sites), 1.0)
    return dict(share_out(sites, equal, budget, low=low, high=high, cost=cost or factors).ranks)


def most_gained(
    sites: Sequence[Site],
    ranks: Mapping[str, int],
    budget: BudgetOption,
    *,
    low: int = 1,
    high: int | None = None,
    cost: Cost = factors,
) -> int:
    """How many ranks modules can gain together, at most, when ``ranks`` are shared out anew; 0 only where none can move.

    A module either gains, g_m up to its maximum, or gives, s_m down to ``low``, at p_m a rank. The bound lets it do a part x_m of
    each: max sum x_m g_m with sum x_m p_m (g_m + s_m) <= left over + sum p_m s_m, a knapsack that is filled by g_m over weight.
    """
    unit, amount = amount_of(budget)
    price = {s.name: unit_cost(unit, cost)(s, 1) for s in sites}
    gain = {s.name: min(high if high is not None else s.d_in, s.d_in, s.d_out) - ranks[s.name] for s in sites}
    give = {name: ranks[name] - low for name in price}
    left = Fraction(amount - sum(p * ranks[name] for name, p in price.items()) + sum(p * give[name] for name, p in price.items()))
    if not any(gain[name] and p <= left - p * give[name] for name, p in price.items()):
        return 0
    gained = Fraction(0)
    weights = {name: p * (gain[name] + give[name]) for name, p in price.items() if gain[name]}
    for name, weight in sorted(weights.items(), key=lambda item: Fraction(gain[item[0]], item[1]), reverse=True):
        share = min(Fraction(1), left / weight)
        gained, left = gained + share * gain[name], left - share * weight
    return int(gained)


def _check_reach(sites: Sequence[Site], tops: Sequence[int], amount: int, unit: str, low: int, price: Cost) -> None:
    least = sum(price(s, low) for s in sites)
    most = sum(price(s, top) for s, top in zip(sites, tops, strict=True))
    if amount < least:
        raise OptionError(
            f"the budget of {amount} {unit} is below the least that min_rank {low} needs over {len(sites)} modules, {least}",
            where="allocator.budget",
            remedy="raise the budget, lower min_rank, or adapt fewer modules",
        )
    if amount > most:
        raise OptionError(
            f"the budget of {amount} {unit} is above the most that the maximum ranks of {len(sites)} modules hold, {most}",
            where="allocator.budget",
            remedy="lower the budget, raise max_rank, or adapt more modules",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Prices:
    """What a module costs at every rank from ``low`` to ``top``, whole or not.

    Affine prices are one line, whose fixed part (DoRA's magnitudes) counts even at rank 0; others (LoRA-XS's r^2) are joined by
    lines from rank to rank. Either way the whole rank below never costs more.
    """

    price: Callable[[int], int]
    low: int
    top: int

    @property
    def slope(self) -> int | None:
        """Of affine prices."""
        first, slope = self.price(1), self.price(2) - self.price(1)
        return slope if first >= slope and self.price(self.top) - first == slope * (self.top - 1) else None

    def bends(self) -> list[int]:
        """The ranks between which the price is a line."""
        return [self.low, self.top] if self.slope is not None else list(range(self.low, self.top + 1))

    def at(self, rank: Fraction) -> Fraction:
        slope = self.slope
        if slope is not None:
            return self.price(1) + slope * (rank - 1)
        below = int(rank)
        part = rank - below
        return self.price(below) + (part * (self.price(below + 1) - self.price(below)) if part else Fraction(0))

    def share(self, level: Fraction) -> Fraction:
        """The rank nearest to ``level`` that is allowed."""
        return min(max(level, Fraction(self.low)), Fraction(self.top))


def _fill(
    sites: Sequence[Site], tops: Sequence[int], weights: Sequence[Fraction], amount: int, low: int, price: Cost
) -> list[Fraction]:
    """Step 1 of :func:`share_out`, in exact arithmetic: whole ranks below these shares never cost more than the budget."""
    prices = [_Prices(functools.partial(price, site), low, top) for site, top in zip(sites, tops, strict=True)]
    shares = [Fraction(low)] * len(sites)
    wanted = [i for i, w in enumerate(weights) if w > 0]
    rest = [i for i, w in enumerate(weights) if w <= 0]
    for group, heights in ((wanted, weights), (rest, [Fraction(1)] * len(sites))):
        if not group:
            continue
        others = sum(prices[i].at(shares[i]) for i in (rest if group is wanted else wanted))
        left = max(Fraction(amount) - others, sum((prices[i].at(Fraction(low)) for i in group), Fraction(0)))
        level = _level([(heights[i], prices[i]) for i in group], left)
        for i in group:
            shares[i] = prices[i].share(level * heights[i])
    return shares


def _level(items: Sequence[tuple[Fraction, _Prices]], left: Fraction) -> Fraction:
    """The t at which the sum over (weight, prices) of the price of t weight, between lowest and highest rank, equals ``left``.

    The sum grows with t and is linear between the points where a module leaves its minimum, passes a bend of its prices or
    reaches its maximum.
    """

    def spent(t: Fraction) -> Fraction:
        return sum((prices.at(prices.share(t * weight)) for weight, prices in items), Fraction(0))

    points = sorted({Fraction(bend) / weight for weight, prices in items for bend in prices.bends()})
    if spent(points[-1]) <= left:
        return points[-1]
    first, last = 0, len(points) - 1  # spent(points[first]) <= left < spent(points[last]), by bisection
    if spent(points[0]) > left:
        return points[0]
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if spent(points[middle]) <= left else (first, middle)
    a, b = points[first], points[last]
    return a + (b - a) * (left - spent(a)) / (spent(b) - spent(a))


def _best_subset(steps: Sequence[int], left: int) -> list[int]:
    """Positions whose prices sum to the most that fits into ``left``; among such sets the lexicographically first one.

    Subset sums as the bits of an integer: reachable[k] holds the sums of the positions from k on.
    """
    unit = math.gcd(*steps) or 1
    steps, left = [step // unit for step in steps], left // unit
    window = (1 << (left + 1)) - 1
    reachable = [1] * (len(steps) + 1)
    for k in range(len(steps) - 1, -1, -1):
        reachable[k] = reachable[k + 1] | ((reachable[k + 1] << steps[k]) & window)
    goal = reachable[0].bit_length() - 1
    chosen = []
    for k, step in enumerate(steps):
        if step <= goal and reachable[k + 1] >> (goal - step) & 1:
            chosen.append(k)
            goal -= step
    return chosen
