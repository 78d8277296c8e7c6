"""AdaLoRA's budget over time (Zhang et al. 2023, section 3.3; the authors' loralib/adalora.py)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """When triplets are masked, and how many may stay.

    b(t) = b0 for t <= ti; bT for t > T - tf; else int(bT + (b0 - bT) (1 - (t - ti)/(T - ti - tf))^3).
    Equation 14 of the paper as printed is wrong; this is the authors' code.
    """

    total: int  #: T
    initial: int  #: ti
    final: int  #: tf
    every: int  #: dT
    start: int  #: b0
    target: int  #: bT

    def budget(self, t: int) -> int:
        if t <= self.initial:
            return self.start
        if t > self.total - self.final:
            return self.target
        share = 1 - (t - self.initial) / (self.total - self.final - self.initial)
        return int(self.target + (self.start - self.target) * share**3)

    def masks(self, t: int) -> bool:
        """Every dT steps while the budget falls, every step of the final phase."""
        if t <= self.initial:
            return False
        return t > self.total - self.final or t % self.every == 0

    def scores(self, t: int) -> bool:
        """Importance is updated until the final phase, then it is frozen and the mask holds."""
        return t < self.total - self.final

    @property
    def falls(self) -> int:
        """How often the mask changes while the budget falls."""
        return sum(self.masks(t) for t in range(self.initial + 1, self.total - self.final + 1))
