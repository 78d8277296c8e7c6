"""What a trainer tells the outside while it trains."""

from __future__ import annotations

from typing import Any


class Listener:
    """What the loop tells the outside. Every method is a no-op here."""

    def on_step(self, step: int, total: int, loss: float, rate: float) -> None: ...

    def on_metrics(self, line: dict[str, Any]) -> None: ...

    def on_truncate(self, step: int) -> None: ...
