"""What a trainer tells the outside while it trains."""

from __future__ import annotations

from collections.abc import Set
from typing import Any


class Listener:
    """What the loop tells the outside. Every method is a no-op here."""

    def on_step(self, step: int, total: int, loss: float, rate: float) -> None: ...

    def on_metrics(self, line: dict[str, Any]) -> None: ...

    def on_save(self, step: int) -> None:
        """Before a checkpoint of ``step`` is written: what was told so far is to outlast a power cut, as the checkpoint will.

        Raises:
            RecordError: the disk refuses.
        """

    def on_truncate(self, step: int) -> Set[tuple[int, str]] | None:
        """Training begins after ``step``: lines of later steps are dropped, they will be told again.

        Returns:
            (step, split) of the lines that are kept; None of a listener that keeps none.
        """


def gap(due: Set[tuple[int, str]], kept: Set[tuple[int, str]] | None) -> list[str]:
    """A note on lines, as (step, split), that were told before a checkpoint and are not kept."""
    lost = sorted(due - kept) if kept is not None else []
    return [f"lines of metrics.jsonl are lost, from step {lost[0][0]} to {lost[-1][0]}: curves have a gap"] if lost else []
