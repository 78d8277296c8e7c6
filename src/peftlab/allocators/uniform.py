"""The same rank everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from peftlab.allocators._static import Static
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(Static):
    """r_m = r for every adapted module m (the rule of Hu et al. 2021), or a budget shared out equally."""

    name: ClassVar[str] = "uniform"

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        return {site.name: 1.0 for site in sites}
