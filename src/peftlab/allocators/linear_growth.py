"""More rank to late blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from peftlab.allocators._static import Static, depth
from peftlab.nn.roles import Site
from peftlab.registry import OWN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearGrowth(Static):
    """r_l proportional to l + 1 for block l = 0 ... L-1: most rank in the last block.

    Rounded by largest remainders between min_rank and max_rank. The blocks are those that are adapted, in their order.
    A baseline of our own.
    """

    name: ClassVar[str] = "linear-growth"
    citation: ClassVar[str] = OWN

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        positions, _ = depth(sites)
        return {name: float(position + 1) for name, position in positions.items()}
