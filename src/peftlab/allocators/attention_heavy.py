"""More rank to attention layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from peftlab.allocators._static import ATTENTION_ROLES, Static, check_weight, heavy
from peftlab.nn.roles import Site
from peftlab.registry import OWN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionHeavy(Static):
    """r_m proportional to w for attention layers and to 1 for all others (w = ``weight``).

    Rounded by largest remainders between min_rank and max_rank. A baseline of our own.
    """

    name: ClassVar[str] = "attention-heavy"
    citation: ClassVar[str] = OWN

    weight: float = 2.0  #: rank of an attention layer over that of another one

    def __post_init__(self) -> None:
        self._check_options()
        check_weight(self.weight)

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        return heavy(sites, ATTENTION_ROLES, self.weight, self.name)
