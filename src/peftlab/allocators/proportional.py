"""Ranks follow importance."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.allocators._adaptive import Adaptive, Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proportional(Adaptive):
    """r_m proportional to the importance of module m, by largest remainders between min_rank and max_rank.

    All importances zero: equal ranks.
    """

    name: ClassVar[str] = "proportional"

    def decide(self, task: Task) -> dict[str, int]:
        return task.proportional(task.importance)
