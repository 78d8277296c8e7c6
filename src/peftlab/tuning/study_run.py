"""A whole study, executed: tuning runs, the choice, evaluation runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from peftlab.analysis.tuned import chosen_sentences, not_given
from peftlab.errors import PlanRefused
from peftlab.execution.local import execute
from peftlab.execution.progress import Ending, Listener, Outcome
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.estimate import HEADROOM, Estimate
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan
from peftlab.planning.planner import Planner
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study
from peftlab.tuning import choice, racing
from peftlab.tuning.search import Progress, follow
from peftlab.tuning.store import Store


@dataclasses.dataclass(slots=True, kw_only=True)
class StudyRun:
    """Executes a study: its tuning runs round by round, then its evaluation runs with what was chosen."""

    folder: ResultsFolder
    study: Study
    planner: Planner
    progress: Progress  #: how far the tuning is, with the plan
    cache: Path
    jobs: int | None
    retry_failed: bool
    listener: Callable[[], Listener]
    say: Callable[[str], None]  #: is given what the tuning chose, and what an arm did not get, a sentence at a time
    said: list[str] = dataclasses.field(default_factory=list)
    raced: list[str] = dataclasses.field(default_factory=list)  #: which arms left the race, and why

    def run(self) -> Outcome:
        """Everything that is not done yet.

        Returns:
            the outcome of the evaluation runs (of the tuning runs where those were interrupted).
        """
        self._write_plan()
        if self.study.tune is not None:
            asked: set[str] = set()
            while new := [config for config in choice.configs(self.plan) if config.run_id not in asked]:
                self._keep_trials()
                outcome = self._execute(new)
                if outcome.interrupted:
                    return outcome
                asked |= {config.run_id for config in new}
                self.progress = follow(self.folder, self.study, self.planner)
                self._write_plan()
            self._keep_trials()
            self._conclude()
        if self.study.search is not None:
            return self._race()
        return self._execute([run.config for run in self.plan.runs if run.config is not None])

    def _race(self) -> Outcome:
        """Round by round: what the next look at each race needs, until nothing is left to run."""
        asked: set[str] = set()
        told: set[str] = set()
        endings: list[Ending] = []
        while True:
            heats = racing.follow_race(self.folder, self.study, self.plan)
            content = racing.save(self.folder, self.study, heats)
            for text in [text for heat in content["heats"] for text in heat["sentences"] if text not in told]:
                told.add(text)
                self.raced.append(text)
                self.say(f"racing, {text}")
            new = [c for heat in heats for c in (*(heat.needed if not asked else ()), *heat.due) if c.run_id not in asked]
            if not new:
                return Outcome(tuple(endings))
            outcome = self._execute(new)
            endings += outcome.endings
            if outcome.interrupted:
                return Outcome(tuple(endings), outcome.stop_signal)
            asked |= {config.run_id for config in new}

    @property
    def plan(self) -> Plan:
        return self.progress.plan

    def _keep_trials(self) -> None:
        """In Optuna's form; of a grid, which needs no Optuna, only where it is installed. Rungs of halving have no form there."""
        tune = self.study.tune
        if tune is None or tune.sampler == "halving" or (tune.sampler == "grid" and find_spec("optuna") is None):
            return
        Store(self.folder.path, self.study, self.plan.higher_is_better).write(self.progress.entries())

    def _conclude(self) -> None:
        """Record what the tuning chose, and say it."""
        content = choice.save(self.folder, self.study, self.plan.searches, self.progress.found, self.progress.chosen)
        self.said = [*chosen_sentences(content), *not_given(content)]
        for sentence in self.said:
            self.say(sentence)

    def _write_plan(self) -> None:
        write_atomic(self.folder.path / "plan.json", json.dumps(self.plan.as_dict(), indent=1, sort_keys=True) + "\n")

    def _execute(self, configs: list[RunConfig]) -> Outcome:
        machine = Machine.here(self.cache)
        jobs = jobs_that_fit(self.plan, machine) if self.jobs is None else checked_jobs(self.jobs, self.plan, machine)
        threads = 1 if machine.device == "cpu" else machine.cores
        options = WorkerOptions(
            cache=self.cache,
            threads=threads,
            device=machine.device,
            trackers=tuple(self.study.trackers),
            probes=self.study.probes,
            fused=self.planner.options.fused,
            prefix_cache_mb=self.planner.options.prefix_cache_mb,
        )
        return execute(self.folder, configs, jobs=jobs, options=options, listener=self.listener(), retry_failed=self.retry_failed)


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
