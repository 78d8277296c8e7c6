"""Where a study is run: the one place where engines are chosen and put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftlab.errors import OptionError, nearest

if TYPE_CHECKING:
    from peftlab.execution.engine import Engine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What the command line says about it."""

    engine: str = "local"  #: or ray
    jobs: int | None = None  #: runs at the same time; None: what fits
    processes: int = 1  #: of each run, which share its batches
    shard: bool = False  #: and its frozen weights
    stack: str = "off"  #: runs computed together in one process: off, auto, or how many at most
    device: str = "auto"  #: of this machine: cpu, cuda, mps
    address: str | None = None  #: of a Ray cluster; None: auto
    place: Sequence[str] = ()  #: which runs go to which nodes, WHAT=RESOURCE
    gpus: float | None = None  #: for each run; None: 1 where the cluster has any
    shared_disk: bool = True  #: runs work on the disk of the results where all nodes see it; else their folders are sent

    def make(self, folder: Path, cache: Path, *, starts: bool = True) -> Engine:
        """The engine for the results in ``folder``; ``starts``: something will be run.

        Raises:
            OptionError: there is no such engine, or an option would have no effect on it.
        """
        makers = {"local": self._local, "ray": self._ray}
        if self.engine not in makers:
            raise OptionError(f"there is no engine {self.engine!r}", where="--engine", remedy=nearest(self.engine, makers))
        return makers[self.engine](folder, cache, starts)

    def _local(self, folder: Path, cache: Path, starts: bool) -> Engine:
        from peftlab.execution.here import Here
        from peftlab.planning.stacking import wanted_stack

        given = {"--address": self.address is not None, "--place": bool(self.place), "--gpus": self.gpus is not None}
        for option, asked in {**given, "--no-shared-disk": not self.shared_disk}.items():
            if asked:
                raise OptionError("this option is for another engine", where=option, remedy="add --engine ray, or leave it out")
        if self.processes > 1 and self.stack != "off":
            remedy = "leave out --stack or --processes"
            raise OptionError("runs of several processes each cannot be stacked", where="--stack", remedy=remedy)
        about = {"jobs": self.jobs, "processes": self.processes, "shard": self.shard, "device": self.device}
        return Here(cache=cache, starts=starts, stack=wanted_stack(self.stack), **about)  # pyright: ignore

    def _ray(self, folder: Path, cache: Path, starts: bool) -> Engine:
        from peftlab.execution.ray.engine import RayEngine
        from peftlab.execution.ray.machines import Machines
        from peftlab.execution.ray.place import Place

        if self.stack != "off":
            remedy = "leave it out: on a cluster every run has a process of its own"
            raise OptionError("runs are not stacked on a Ray cluster", where="--stack", remedy=remedy)
        if self.device != "auto":
            remedy = "leave it out: nodes use what they have; --gpus 0 trains on their processors"
            raise OptionError("the device of this machine, and runs go to others", where="--device", remedy=remedy)
        if self.processes > 1 or self.shard:
            remedy = "leave it out: on a cluster runs are spread over GPUs, one each"
            raise OptionError("a run on a Ray cluster has one process", where="--processes", remedy=remedy)
        place = Place.parse(self.place)
        machines = Machines(address=self.address or "auto", folder=folder, place=place, gpus=self.gpus)
        return RayEngine(machines=machines, cache=cache, jobs=self.jobs, share=self.shared_disk)
