"""Signals that ask a worker to stop: noted, and asked for where the worker can stop."""

from __future__ import annotations

import signal
from typing import Any

from peftlab.errors import Stopped


class StopFlag:
    """Set by SIGTERM and SIGINT, asked between two steps."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, number: int, _frame: Any) -> None:
        self.number = number

    def __call__(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raises Stopped if asked to; for what is begun anew anyway."""
        if self():
            raise Stopped("stopped before the next step", remedy="run the same command to continue")
