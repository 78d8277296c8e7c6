"""What one run's group-wise quantizer recorded over training: ``quantization_history.json`` of quantizers/_schedule.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FILE = "quantization_history.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One entry: the step, rho, and of every adapted layer ||dW|| / ||W - Q(W)||."""

    step: int
    rho: float
    balance: Sequence[float]

    @property
    def median(self) -> float | None:
        return float(np.median(self.balance)) if len(self.balance) else None


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """Empty where nothing was recorded: other quantizers do not act during training."""

    schedule: str = ""
    full_from_step: int | None = None
    float_weights_mb: float | None = None
    lines: Sequence[Line] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> History:
        """From the file's content; entries that are none are left out."""
        resident, quantizer = raw.get("float_weights"), raw.get("quantizer")
        if not isinstance(resident, Mapping) or not isinstance(quantizer, Mapping):
            return cls()
        step, size = resident.get("resident_until_step"), resident.get("bytes")
        return cls(
            schedule=str(quantizer.get("schedule", "")),
            full_from_step=step if isinstance(step, int) else None,
            float_weights_mb=size / 1e6 if isinstance(size, int | float) else None,
            lines=tuple(line for entry in raw.get("history", ()) if (line := _line(entry)) is not None),
        )

    @property
    def start(self) -> float | None:
        """The median layer's balance after the first step."""
        return self.lines[0].median if self.lines else None

    @property
    def end(self) -> float | None:
        """And after the last."""
        return self.lines[-1].median if self.lines else None

    @property
    def swamped(self) -> float | None:
        """Share of the layers whose update is larger than the quantization error, in the end."""
        last = self.lines[-1].balance if self.lines else ()
        return float(np.mean([value > 1 for value in last])) if len(last) else None


def _line(entry: Any) -> Line | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("step"), int) or not isinstance(entry.get("rho"), int | float):
        return None
    balance = entry.get("balance")
    values = list(balance.values()) if isinstance(balance, Mapping) else []
    return Line(entry["step"], float(entry["rho"]), [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)])
