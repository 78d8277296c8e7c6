"""Runs on the machines of a Ray cluster, as an engine."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from peftlab.execution import processes
from peftlab.execution.outcome import Outcome
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import WorkerOptions
from peftlab.execution.ray import cluster
from peftlab.execution.ray.execution import Execution
from peftlab.execution.ray.machines import Machines, peak_mb
from peftlab.execution.ray.passport import passport
from peftlab.execution.ray.task import Order
from peftlab.planning.plan import Plan
from peftlab.records.environment import ALLOWED_VARIABLES
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder

WORKER = "peftlab.execution.worker:main"
#: of this program's environment, what runs on other machines get as well
_CARRIED = [name for name in ALLOWED_VARIABLES if name.endswith("_OFFLINE") or name == "PYTHONHASHSEED"]


@dataclass(slots=True, kw_only=True)
class RayEngine:
    """An :class:`peftlab.execution.engine.Engine`."""

    machines: Machines
    cache: Path
    jobs: int | None = None  #: runs in flight at most; None: as many as the cluster has room for
    share: bool = True  #: work on the disk of the results where all nodes see it
    retries: int = 3  #: for a run whose machine failed, without a step of progress in between
    target: str = WORKER
    checked: set[tuple[str, str]] = field(default_factory=set)  #: fingerprints that all nodes have

    def open(self) -> list[str]:
        return self.machines.open()

    def close(self) -> None:
        self.machines.close()

    @property
    def available_mb(self) -> float | None:
        return self.machines.available_mb

    def check(self, plan: Plan) -> list[str]:
        machines = self.machines
        configs = [run.config for run in (*plan.tuning, *plan.runs) if run.config is not None and not run.refusal]
        machines.place.check(configs, [name for node in machines.nodes for name in node.resources])
        for config in sorted(configs, key=peak_mb, reverse=True):
            if not any(node.room(machines.needs(config)) for node in machines.nodes):
                raise machines.nowhere(config)
        new = [config for config in configs if _sources(config) not in self.checked]
        if new:
            cluster.check_sources(machines.nodes, new)
            self.checked |= {_sources(config) for config in new}
        at_once = max((machines.room(machines.needs(config)) for config in configs), default=0)
        said = [f"up to {cluster.number_of(min(at_once, self.jobs or at_once), 'run')} at once"] if configs else []
        if machines.gpus_per_run and plan.machine.get("device") == "cpu":
            said.append("memory and time are predicted for a CPU, and the runs get GPUs")
        return said

    @property
    def one_disk(self) -> bool:
        """Whether runs work in the folder of the results itself; else on copies, which travel."""
        return self.share and self.machines.shared

    def execute(
        self,
        folder: ResultsFolder,
        configs: Sequence[RunConfig],
        plan: Plan | None,
        options: WorkerOptions,
        listener: Listener,
        *,
        retry_failed: bool,
    ) -> Outcome:
        machines = self.machines
        if plan is not None:
            self.check(plan)
        device = "cuda" if machines.gpus_per_run else "cpu"
        options = replace(options, threads=machines.threads, device=device, cache=_below_home(self.cache))
        with machines.witness() as witness:
            order = Order(
                config="",
                folder=machines.folder.absolute(),
                witness=witness,
                share=self.one_disk,
                scratch=str(_below_home(self.cache) / "ray" / _scratch(machines.folder)),
                options=options,
                retry_failed=retry_failed,
                target=self.target,
                preload=tuple(processes.PRELOAD),
                passport=passport(),
                variables={name: os.environ[name] for name in _CARRIED if name in os.environ},
            )
            return Execution(machines, folder, list(configs), order, listener, jobs=self.jobs, retries=self.retries).run()


def _sources(config: RunConfig) -> tuple[str, str]:
    return config.backbone_fingerprint, config.data_fingerprint


def _below_home(path: Path) -> Path:
    """``~/...`` where the path is below this user's home, which is another one elsewhere."""
    with suppress(ValueError):
        return Path("~") / path.absolute().relative_to(Path.home())
    return path.absolute()


def _scratch(folder: Path) -> str:
    """Name of a study's folder on nodes; the same for as long as its results stay where they are."""
    key = hashlib.sha256(f"{platform.node()}:{folder.resolve()}".encode()).hexdigest()[:12]
    return f"{folder.name}-{key}"
