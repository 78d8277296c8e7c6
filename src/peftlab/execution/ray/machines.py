"""The machines of a Ray cluster as runs need them: what each run takes, where there is room, and whether they are there."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from peftlab.errors import OptionError, PlanRefused
from peftlab.execution.ray import cluster
from peftlab.execution.ray.cluster import Node, number_of
from peftlab.execution.ray.place import Place
from peftlab.planning.estimate import HEADROOM
from peftlab.records.commit import disk_errors
from peftlab.records.record import RunConfig

_AGAIN_S = 2.0
#: between two signs of life of the witness; what is as old as records/survey.py SETTLED_S is taken for a left-over
_TOUCH_S = 300.0


@dataclass(slots=True, kw_only=True)
class Machines:
    """Those of the cluster at an address, as they were seen last."""

    address: str = "auto"
    folder: Path  #: of the study's results
    place: Place = field(default_factory=Place)
    gpus: float | None = None  #: for each run; None: 1 where the cluster has any
    patience_s: float = 600.0  #: for a cluster that is gone to come back
    nodes: list[Node] = field(default_factory=list)
    opened: bool = False
    head: str = ""  #: where the head of the cluster listens

    def open(self) -> list[str]:
        """Join the cluster and look at its nodes: what the user should know of them.

        Raises:
            OptionError: no address, or no number of GPUs.
            PlanRefused: nobody answers, or a node that cannot run peftlab.
        """
        if self.gpus is not None and self.gpus < 0:
            raise OptionError(f"no run can have {self.gpus:g} GPUs", where="--gpus", remedy="give 0, a share, or a number")
        self.opened = cluster.connect(self.address)
        self.head = cluster.head(self.address)
        with self.witness() as witness:
            self.nodes = cluster.look(str(self.folder.absolute()), witness)
        return cluster.remarks(self.nodes)

    def close(self) -> None:
        """Leave the cluster, where this joined it."""
        if self.opened:
            cluster.disconnect()

    @property
    def shared(self) -> bool:
        """Whether all nodes see the folder of the results."""
        return all(node.shared for node in self.nodes)

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

    @property
    def threads(self) -> int:
        """One on a CPU, so that results are the same everywhere; beside a GPU its share of the cores."""
        if not self.gpus_per_run:
            return 1
        with_gpu = [node.resources for node in self.nodes if node.resources.get("GPU")]
        return max(1, int(min((r.get("CPU", 1.0) / r["GPU"] * self.gpus_per_run for r in with_gpu), default=1.0)))

    def needs(self, config: RunConfig) -> dict[str, float]:
        """What Ray has to set aside for a run. Memory is predicted, and Ray only keeps books on it."""
        gpus, peak = self.gpus_per_run, peak_mb(config)
        needed = {"CPU": float(self.threads), **self.place.resources(config)}
        if gpus:
            return {**needed, "GPU": gpus}
        return {**needed, "memory": float(int(peak * 1e6 / HEADROOM))} if peak else needed

    def room(self, needs: Mapping[str, float]) -> int:
        """Runs at once on the nodes as they were seen last."""
        return sum(node.room(needs) for node in self.nodes)

    def nowhere(self, config: RunConfig) -> PlanRefused:
        """The refusal of a run that no node has room for."""
        needs = self.needs(config)
        memory_mb = needs.pop("memory", 0.0) / 1e6
        words = [f"{name} {amount:g}" for name, amount in needs.items()] + [f"{memory_mb:,.0f} MB of memory"] * bool(memory_mb)
        most = max((node.resources.get("memory", 0.0) for node in self.nodes), default=0.0) / 1e6
        return PlanRefused(
            f"no node fits {config.label}, which needs {', '.join(words)}",
            where=f"{number_of(len(self.nodes), 'node')}, the largest with {most:,.0f} MB",
            remedy="use a smaller train.batch_size, change --place or --gpus, or add a larger node",
        )

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


def _keep_fresh(path: Path, over: threading.Event) -> None:
    while not over.wait(_TOUCH_S):
        with suppress(OSError):  # a disk that is gone shows where the results are written
            path.touch()


def peak_mb(config: RunConfig) -> float:
    """Predicted, in MB; 0 where it is not."""
    return float(config.predicted.get("peak_mb", 0.0))
