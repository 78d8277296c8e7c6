"""The same rank everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from peftlab.allocators.contract import Allocator
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(Allocator):
    """r_m = r for every adapted module m (the rule of Hu et al. 2021)."""

    name: ClassVar[str] = "uniform"

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        return {site.name: rank for site in sites}
