"""Machines that failed under runs: how often under which, and how long what they left behind may still look alive."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

#: how long the lease of a run may stay with a machine that is gone
LEASE_S = 240.0


@dataclass(slots=True)
class _Loss:
    number: int = 0
    step: int = 0
    last_s: float = 0.0


class Losses:
    """Of one execution, by run."""

    def __init__(self) -> None:
        self._of: dict[str, _Loss] = {}

    def machine(self, key: str, step: int) -> int:
        """The machine of a run failed after ``step``; how often by now without a step of progress in between."""
        loss = self._of.setdefault(key, _Loss())
        loss.number, loss.step = (1 if step > loss.step else loss.number + 1), max(step, loss.step)
        loss.last_s = time.monotonic()
        return loss.number

    def cluster(self, keys: Iterable[str]) -> None:
        """All machines at once, which counts against no run."""
        for key in keys:
            self._of.setdefault(key, _Loss()).last_s = time.monotonic()

    def recent(self, key: str) -> bool:
        """Whether the lease of a run may be that of a machine that is gone."""
        loss = self._of.get(key)
        return loss is not None and time.monotonic() - loss.last_s < LEASE_S
