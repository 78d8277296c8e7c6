"""Where runs are executed: on this machine (execution/here.py) or on the machines of a Ray cluster (execution/ray/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from peftlab.execution.outcome import Outcome
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.plan import Plan
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder


class Engine(Protocol):
    """Executes runs. Which engine did it is no part of a run: ids and results are the same, and one goes on where another
    stopped.
    """

    @property
    def available_mb(self) -> float | None:
        """Memory of the largest machine for one run; None: what is free on this one."""
        ...

    def open(self) -> Sequence[str]:
        """Reach the machines, before anything is planned; returns what the reader should know about them.

        Raises:
            MissingExtra, OptionError, PlanRefused: they cannot be reached or used.
        """
        ...

    def check(self, plan: Plan) -> Sequence[str]:
        """Whether every run of the plan has a machine; returns what the reader should know.

        Raises:
            PlanRefused, OptionError: one has none.
        """
        ...

    def execute(
        self,
        folder: ResultsFolder,
        configs: Sequence[RunConfig],
        plan: Plan,
        options: WorkerOptions,
        listener: Listener,
        *,
        retry_failed: bool,
    ) -> Outcome:
        """Run what is not done yet, and wait for it. ``options``: all but threads and device, which the machine decides."""
        ...

    def close(self) -> None:
        """Let go of the machines."""
        ...
