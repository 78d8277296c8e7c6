"""Runs on this machine, as an engine: how many at once, on which device, with how many threads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlab.errors import PlanRefused
from peftlab.execution.local import execute, warm_up
from peftlab.execution.outcome import Outcome
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.estimate import HEADROOM, Estimate
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan
from peftlab.planning.stacking import Stacking, Wanted
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.training.assemble import Ingredients


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """An :class:`peftlab.execution.engine.Engine`."""

    cache: Path
    jobs: int | None = None  #: runs at once; None: what fits
    starts: bool = True  #: something will be run
    device: str = "auto"  #: or cpu, cuda, mps
    processes: int = 1  #: of each run, which share its batches
    shard: bool = False  #: and its frozen weights
    stack: Wanted = "off"  #: runs computed together in one process

    @property
    def available_mb(self) -> None:
        return None

    def open(self) -> tuple[str, ...]:
        if self.starts:
            warm_up()  # the fork server loads its libraries while we plan
        return ()

    def check(self, plan: Plan) -> tuple[str, ...]:
        machine = Machine.here(self.cache, device=self.device)
        if self.processes > 1:
            check_processes(self.processes, machine, plan)
        if self.shard:
            check_sharding(self.processes, plan)
        if self.jobs is not None:
            checked_jobs(self.jobs, plan, machine, self.processes)
        return ()

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
        machine = Machine.here(self.cache, device=self.device)
        jobs = max(1, jobs_that_fit(plan, machine) // self.processes) if self.jobs is None else self.jobs  # checked before
        threads = 1 if machine.device == "cpu" else max(1, machine.cores // self.processes)
        options = dataclasses.replace(options, threads=threads, device=machine.device, processes=self.processes, shard=self.shard)
        stacking = Stacking(self.stack)
        given: dict[str, Any] = {"jobs": jobs, "options": options, "listener": listener, "stacking": stacking}
        return execute(folder, configs, **given, retry_failed=retry_failed)

    def close(self) -> None:
        pass


def jobs_that_fit(plan: Plan, machine: Machine) -> int:
    """As many runs at once as there are cores, and memory for the smallest of them; one at a time on an accelerator.

    Larger ones wait for each other (execution/memory_guard.py).
    """
    if machine.device != "cpu":
        return 1
    peaks = sorted(found.peak_mb for found in _estimates(plan))[: machine.cores]
    together = itertools.accumulate(peaks)
    by_memory = sum(mb <= HEADROOM * machine.available_mb for mb in together) if peaks else machine.cores
    return max(1, by_memory)


def check_processes(processes: int, machine: Machine, plan: Plan) -> None:
    """Whether a run can have so many.

    Raises:
        PlanRefused: there are fewer GPUs or cores, the device takes one process only, or a method does.
    """
    import torch

    there = {"cuda": torch.cuda.device_count(), "cpu": machine.cores}.get(machine.device, 1)
    if processes > there:
        unit = {"cuda": "GPU", "cpu": "core"}.get(machine.device, machine.device)
        what = f"{processes} processes need a {unit} each, and there {'is' if there == 1 else 'are'} {there}"
        raise PlanRefused(what, where="--processes", remedy=f"use {there}")
    for config in _configs(plan):
        allocator = Ingredients.of_run(config).allocator
        if allocator is not None and allocator.needs_all_examples:
            what = f"{config.label}: {allocator.name} looks at single examples, of which no process has all"
            raise PlanRefused(what, where="--processes", remedy="leave it out, or these arms with --only")
        if config.predicted.get("moving"):
            what = f"{config.label}: batch normalisation that trains looks at whole batches, of which no process has all"
            raise PlanRefused(what, where="--processes", remedy="leave it out, or these arms with --only")


def check_sharding(processes: int, plan: Plan) -> None:
    """Whether the frozen weights of every run can be divided.

    Raises:
        PlanRefused: there is one process, or nothing is frozen, or it is quantized.
    """
    if processes == 1:
        raise PlanRefused("one process has nobody to share with", where="--shard", remedy="add --processes 2, or more")
    for run in (*plan.tuning, *plan.runs):
        if run.config is None or run.refusal:
            continue
        parts = Ingredients.of_run(run.config)
        remedy = "leave out --shard, or these arms with --only"
        if run.trainable == run.total_parameters:
            raise PlanRefused(f"{run.label} trains all weights, and only frozen ones are sharded", where="--shard", remedy=remedy)
        if parts.adapter.reads_frozen:
            raise PlanRefused(f"{run.label} reads frozen weights when it is saved", where="--shard", remedy=remedy)
        if parts.quantizer.quantizes:
            raise PlanRefused(f"{run.label} has quantized weights, which cannot be sharded", where="--shard", remedy=remedy)


def checked_jobs(jobs: int, plan: Plan, machine: Machine, processes: int = 1) -> int:
    """``jobs``, unless so many runs at once, of so many processes each, are predicted not to fit.

    Even if all share the pages of the libraries; on accelerators each process has one for itself.

    Raises:
        PlanRefused: they are.
    """
    at_once = min(jobs, max(len(plan.tuning), len(plan.runs))) * (processes if machine.device == "cpu" else 1)
    largest = max(_estimates(plan), key=lambda found: found.peak_mb, default=None)
    if largest is None or at_once <= 1:
        return jobs
    unit = "processes" if processes > 1 else "runs"
    shared_mb = largest.parts_mb.get("process", 0.0)
    needed_mb = shared_mb + at_once * (largest.peak_mb - shared_mb)
    if needed_mb > HEADROOM * machine.available_mb:
        raise PlanRefused(
            f"{at_once} {unit} at once need up to {needed_mb:,.0f} MB (predicted) of {machine.available_mb:,.0f} MB free",
            where="--jobs",
            remedy=f"use --jobs {max(1, jobs_that_fit(plan, machine) // processes)}, or leave it out",
        )
    return jobs


def _configs(plan: Plan) -> list[RunConfig]:
    return [run.config for run in (*plan.tuning, *plan.runs) if run.config is not None and not run.refusal]


def _estimates(plan: Plan) -> list[Estimate]:
    return [run.estimate for run in (*plan.tuning, *plan.runs) if run.estimate is not None and not run.refusal]
