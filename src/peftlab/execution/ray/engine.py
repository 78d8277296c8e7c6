"""Runs on the machines of a Ray cluster, as an engine."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from peftlab.errors import OptionError, PlanRefused
from peftlab.execution import processes
from peftlab.execution.outcome import Outcome
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import WorkerOptions
from peftlab.execution.ray import cluster
from peftlab.execution.ray.cluster import Node
from peftlab.execution.ray.passport import passport
from peftlab.execution.ray.place import Place
from peftlab.execution.ray.task import Order
from peftlab.planning.estimate import HEADROOM
from peftlab.planning.plan import Plan
from peftlab.records.commit import disk_errors
from peftlab.records.environment import ALLOWED_VARIABLES
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder

_AGAIN_S = 2.0
#: between two signs of life of the witness; what is as old as records/survey.py SETTLED_S is taken for a left-over
_TOUCH_S = 300.0
WORKER = "peftlab.execution.worker:main"
#: of this program's environment, what runs on other machines get as well
_CARRIED = [name for name in ALLOWED_VARIABLES if name.endswith("_OFFLINE") or name == "PYTHONHASHSEED"]


@dataclass(slots=True, kw_only=True)
class RayEngine:
    """An :class:`peftlab.execution.engine.Engine`."""

    address: str = "auto"
    folder: Path  #: of the study's results
    cache: Path
    jobs: int | None = None  #: runs in flight at most; None: as many as the cluster has room for
    place: Place = field(default_factory=Place)
    gpus: float | None = None  #: for each run; None: 1 where the cluster has any
    share: bool = True  #: work on the disk of the results where all nodes see it
    retries: int = 3  #: for a run whose machine failed, without a step of progress in between
    patience_s: float = 600.0  #: for a cluster that is gone to come back
    target: str = WORKER
    nodes: list[Node] = field(default_factory=list)
    opened: bool = False
    head: str = ""  #: where the head of the cluster listens
    checked: set[tuple[str, str]] = field(default_factory=set)  #: fingerprints that all nodes have

    def open(self) -> list[str]:
        if self.gpus is not None and self.gpus < 0:
            raise OptionError(f"no run can have {self.gpus:g} GPUs", where="--gpus", remedy="give 0, a share, or a number")
        self.opened = cluster.connect(self.address)
        self.head = cluster.head(self.address)
        with self.witness() as witness:
            self.nodes = cluster.look(str(self.folder.absolute()), witness)
        return cluster.remarks(self.nodes)

    @property
    def available_mb(self) -> float | None:
        if self.gpus_per_run:
            return None
        return max((node.resources.get("memory", 0.0) for node in self.nodes), default=0.0) / 1e6

    @property
    def gpus_per_run(self) -> float:
        if self.gpus is not None:
            return self.gpus
        return 1.0 if any(node.resources.get("GPU") for node in self.nodes) else 0.0

    def check(self, plan: Plan) -> list[str]:
        configs = [run.config for run in (*plan.tuning, *plan.runs) if run.config is not None and not run.refusal]
        self.place.check(configs, [name for node in self.nodes for name in node.resources])
        for config in sorted(configs, key=_peak_mb, reverse=True):
            if not any(node.room(self.needs(config)) for node in self.nodes):
                raise self._nowhere(config)
        new = [config for config in configs if _sources(config) not in self.checked]
        if new:
            cluster.check_sources(self.nodes, new)
            self.checked |= {_sources(config) for config in new}
        at_once = max((self.room(self.needs(config)) for config in configs), default=0)
        said = [f"up to {min(at_once, self.jobs or at_once)} runs at once"] if configs else []
        if self.gpus_per_run and plan.machine.get("device") == "cpu":
            said.append("memory and time are predicted for a CPU, and the runs get GPUs")
        return said

    def needs(self, config: RunConfig) -> dict[str, float]:
        """What Ray has to set aside for a run. Memory is predicted, and Ray only keeps books on it."""
        gpus, peak_mb = self.gpus_per_run, _peak_mb(config)
        needed = {"CPU": float(self.threads), **self.place.resources(config)}
        if gpus:
            return {**needed, "GPU": gpus}
        return {**needed, "memory": float(int(peak_mb * 1e6 / HEADROOM))} if peak_mb else needed

    def room(self, needs: Mapping[str, float]) -> int:
        """Runs at once on the nodes as they were seen last."""
        return sum(node.room(needs) for node in self.nodes)

    @property
    def one_disk(self) -> bool:
        """Whether runs work in the folder of the results itself; else on copies, which travel."""
        return self.share and all(node.shared for node in self.nodes)

    @property
    def threads(self) -> int:
        """One on a CPU, so that results are the same everywhere; beside a GPU its share of the cores."""
        if not self.gpus_per_run:
            return 1
        with_gpu = [node.resources for node in self.nodes if node.resources.get("GPU")]
        return max(1, int(min((r.get("CPU", 1.0) / r["GPU"] * self.gpus_per_run for r in with_gpu), default=1.0)))

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
        from peftlab.execution.ray.execution import Execution

        if plan is not None:
            self.check(plan)
        device = "cuda" if self.gpus_per_run else "cpu"
        options = replace(options, threads=self.threads, device=device, cache=_below_home(self.cache))
        with self.witness() as witness:
            order = Order(
                config="",
                folder=self.folder.absolute(),
                witness=witness,
                share=self.one_disk,
                scratch=str(_below_home(self.cache) / "ray" / _scratch(self.folder)),
                options=options,
                retry_failed=retry_failed,
                target=self.target,
                preload=tuple(processes.PRELOAD),
                passport=passport(),
                variables={name: os.environ[name] for name in _CARRIED if name in os.environ},
            )
            return Execution(self, folder, list(configs), order, listener).run()

    def close(self) -> None:
        if self.opened:
            cluster.disconnect()

    @contextmanager
    def witness(self) -> Iterator[str]:
        """A file in the folder of the results, by which nodes see that they share its disk."""
        name, over = f".witness.tmp-{uuid.uuid4().hex[:8]}", threading.Event()
        path = self.folder / name
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        beat = threading.Thread(target=_keep_fresh, args=(path, over), name="witness", daemon=True)
        beat.start()
        try:
            yield name
        finally:
            over.set()
            beat.join()
            with suppress(OSError):
                path.unlink()

    def reachable(self) -> bool:
        """Whether the head of the cluster is there."""
        return cluster.reachable(self.head)

    def come_back(self, unless: Callable[[], bool]) -> None:
        """The cluster is gone: wait for it at the same address, ``unless`` asked not to.

        Raises:
            PlanRefused: it does not come.
        """
        until = time.monotonic() + self.patience_s
        cluster.disconnect()
        while not unless():
            try:
                self.open()
            except PlanRefused:
                if time.monotonic() > until:
                    raise
                time.sleep(_AGAIN_S)
            else:
                return

    def _nowhere(self, config: RunConfig) -> PlanRefused:
        needs = self.needs(config)
        memory_mb = needs.pop("memory", 0.0) / 1e6
        words = [f"{name} {amount:g}" for name, amount in needs.items()] + [f"{memory_mb:,.0f} MB of memory"] * bool(memory_mb)
        most = max((node.resources.get("memory", 0.0) for node in self.nodes), default=0.0) / 1e6
        return PlanRefused(
            f"no node fits {config.label}, which needs {', '.join(words)}",
            where=f"{len(self.nodes)} nodes, the largest with {most:,.0f} MB",
            remedy="use a smaller train.batch_size, change --place or --gpus, or add a larger node",
        )


def _keep_fresh(path: Path, over: threading.Event) -> None:
    while not over.wait(_TOUCH_S):
        with suppress(OSError):  # a disk that is gone shows where the results are written
            path.touch()


def _peak_mb(config: RunConfig) -> float:
    return float(config.predicted.get("peak_mb", 0.0))


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
