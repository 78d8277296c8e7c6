"""A whole study, executed: tuning runs, the choice, evaluation runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import PlanRefused
from peftlab.execution.local import execute
from peftlab.execution.progress import Listener, Outcome
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.estimate import HEADROOM, Estimate
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study
from peftlab.tuning import grid


def chosen_so_far(folder: ResultsFolder, study: Study, plan: Plan) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """What the tuning chose for the arms whose tuning runs have all ended; computed from the records each time."""
    found = grid.trials(folder, study, plan)
    waiting = {(t.label, t.backbone, t.task) for t in found if t.status == "missing"}
    ended = [t for t in found if (t.label, t.backbone, t.task) not in waiting]
    if not ended:
        return {}
    return grid.as_mapping(grid.choose(study, ended, plan.higher_is_better))


@dataclasses.dataclass(slots=True, kw_only=True)
class StudyRun:
    """Executes a plan. ``replan`` is asked for the evaluation runs once tuning has chosen."""

    folder: ResultsFolder
    study: Study
    plan: Plan
    replan: Callable[[], Plan]
    cache: Path
    jobs: int | None
    retry_failed: bool
    listener: Callable[[], Listener]

    def run(self) -> Outcome:
        """Everything that is not done yet.

        Returns:
            the outcome of the evaluation runs (of the tuning runs where those were interrupted).
        """
        self._write_plan()
        if self.study.tune is not None:
            outcome = self._execute(grid.configs(self.plan))
            if outcome.interrupted:
                return outcome
            found = grid.trials(self.folder, self.study, self.plan)
            grid.save(self.folder, self.study, found, grid.choose(self.study, found, self.plan.higher_is_better))
            self.plan = self.replan()
            self._write_plan()
        return self._execute([run.config for run in self.plan.runs if run.config is not None])

    def _execute(self, configs: list[RunConfig]) -> Outcome:
        machine = Machine.here(self.cache)
        jobs = jobs_that_fit(self.plan, machine) if self.jobs is None else checked_jobs(self.jobs, self.plan, machine)
        threads = 1 if machine.device == "cpu" else machine.cores
        trackers = tuple(self.study.trackers)
        options = WorkerOptions(cache=self.cache, threads=threads, device=machine.device, trackers=trackers)
        return execute(self.folder, configs, jobs=jobs, options=options, listener=self.listener(), retry_failed=self.retry_failed)

    def _write_plan(self) -> None:
        write_atomic(self.folder.path / "plan.json", json.dumps(self.plan.as_dict(), indent=1, sort_keys=True) + "\n")


def jobs_that_fit(plan: Plan, machine: Machine) -> int:
    """As many runs at once as there are cores and predicted memory; one at a time on an accelerator."""
    if machine.device != "cpu":
        return 1
    peak_mb = max((found.peak_mb for found in _estimates(plan)), default=0.0)
    by_memory = int(HEADROOM * machine.available_mb / peak_mb) if peak_mb else machine.cores
    return max(1, min(machine.cores, by_memory))


def checked_jobs(jobs: int, plan: Plan, machine: Machine) -> int:
    """``jobs``, unless so many runs at once are predicted not to fit even if all share the pages of the libraries.

    Raises:
        PlanRefused: they are.
    """
    at_once = min(jobs, max(len(plan.tuning), len(plan.runs)))
    largest = max(_estimates(plan), key=lambda found: found.peak_mb, default=None)
    if largest is None or at_once <= 1:
        return jobs
    shared_mb = largest.parts_mb.get("process", 0.0)
    needed_mb = shared_mb + at_once * (largest.peak_mb - shared_mb)
    if needed_mb > HEADROOM * machine.available_mb:
        raise PlanRefused(
            f"{at_once} runs at once need up to {needed_mb:,.0f} MB (predicted) of {machine.available_mb:,.0f} MB free",
            where="--jobs",
            remedy=f"use --jobs {jobs_that_fit(plan, machine)}, or leave it out",
        )
    return jobs


def _estimates(plan: Plan) -> list[Estimate]:
    return [run.estimate for run in (*plan.tuning, *plan.runs) if run.estimate is not None and not run.refusal]
