"""What additions a budget and maximum ranks leave room for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from peftlab.errors import OptionError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Modules start with rank 1; at most ``top_h`` of them grow at a time, by up to ``add`` directions each."""

    unit: str
    amount: int
    price: Mapping[str, int]  #: of a direction, by site
    top: Mapping[str, int]  #: largest rank, by site
    add: int
    top_h: int

    def round(self, ranks: Mapping[str, int], order: Iterable[str]) -> dict[str, int]:
        """Site name -> new directions, for the first in ``order`` that have room; empty once the budget is met."""
        left = self.amount - sum(self.price[name] * rank for name, rank in ranks.items())
        given: dict[str, int] = {}
        for name in order:
            number = min(self.add, self.top[name] - ranks[name], left // self.price[name])
            if number > 0 and len(given) < self.top_h:
                given[name] = number
                left -= number * self.price[name]
        return given

    def check(self, rounds: int) -> None:
        """Whether ``rounds`` additions meet the budget even if those with the least room left always come first.

        Raises:
            OptionError: they do not, or nothing would be added.
        """
        ranks = dict.fromkeys(self.price, 1)
        done = 0
        while given := self.round(ranks, sorted(ranks, key=lambda name: (self.top[name] - ranks[name], self.price[name], name))):
            if done == rounds:
                raise OptionError(
                    f"{rounds} additions of up to {self.top_h} x {self.add} directions fit into the run and may leave the budget "
                    f"of {self.amount} {self.unit} unmet",
                    where="allocator.every",
                    remedy="lower `every` or initial_steps, raise top_h or add, or train longer",
                )
            ranks = {name: rank + given.get(name, 0) for name, rank in ranks.items()}
            done += 1
        if not done:
            raise OptionError(
                f"nothing would be added: rank 1 everywhere leaves no room in a budget of {self.amount} {self.unit}",
                where="allocator.budget",
                remedy="raise it, or max_rank",
            )
