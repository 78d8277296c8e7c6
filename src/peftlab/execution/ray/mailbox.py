"""The actor between the runs and the program that waits for them: what runs say goes one way, signals to stop the other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

#: (run, method of the listener, its argument)
Letter = tuple[str, str, Any]
NAMESPACE = "peftlab"


class Mailbox:
    """Lives where the program lives that was started. Holds what has not been collected, and the last word of every run."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.signals: list[int] = []
        self.come = asyncio.Event()

    async def post(self, letters: list[Letter]) -> list[int]:
        """Leave letters; returns the signals that came so far."""
        self.letters += letters
        if letters:
            self.come.set()
        return self.signals

    async def collect(self, patience_s: float) -> list[Letter]:
        """All letters, once there is one; none after ``patience_s``."""
        if not self.letters:  # Python 3.11 does not look at all where the patience is 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self.come.wait(), patience_s)
        self.come.clear()
        letters, self.letters = self.letters, []
        return letters

    async def stop(self, number: int) -> None:
        """Pass a signal on to all runs."""
        self.signals.append(number)
