"""Runs in progress and the processes they are in: one for each, or one for a stack of runs that are computed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from peftlab.execution.child import run_child, run_stack
from peftlab.execution.processes import out_of_memory_kills, process_context, start_up
from peftlab.execution.protocol import Failed, Finished, Leased, Message, Part, Reused, Step, WorkerOptions
from peftlab.execution.silence import Watch
from peftlab.records.record import RunConfig
from peftlab.records.store import RunFolder


@dataclass(eq=False)
class Host:
    """A process of ours."""

    process: Any
    control: Connection  #: for numbers of signals; closing it tells the process that we are gone
    runs: int
    ended: bool = False  #: by us, for a silence
    out_of_memory_kills: int = field(default_factory=out_of_memory_kills)  #: before it started
    started_s: float = field(default_factory=time.monotonic)

    @property
    def stacked(self) -> bool:
        return self.runs > 1


@dataclass(eq=False)
class Worker:
    """A run that a process of ours works on."""

    config: RunConfig
    folder: RunFolder
    connection: Connection
    host: Host
    watch: Watch
    leased: bool = False
    reused: bool = False
    stepped: bool = False
    ended: bool = False  #: it said so; in a stack its process goes on
    error: dict[str, str] | None = None  #: that it told; on a full disk not even that can be written
    hung_s: float | None = None  #: the process that it has for itself was ended after this long a silence

    def heard(self, message: Message) -> None:
        """Note what a message says."""
        self.leased |= isinstance(message, Leased)
        self.reused |= isinstance(message, Reused)
        self.stepped |= isinstance(message, Step)
        self.ended |= isinstance(message, Leased | Reused | Finished | Failed)
        self.error = dict(message.error) if isinstance(message, Failed) else self.error


def launch(
    runs: Sequence[tuple[RunConfig, RunFolder, str]], options: WorkerOptions, target: str, stack_target: str
) -> list[Worker]:
    """Start one process for all these runs.

    Args:
        runs: configuration, folder, and SHA-256 of the error that may be retried.
        target: ``module:function`` of the worker of one run.
        stack_target: of several.
    """
    context = process_context()
    pipes = [context.Pipe(duplex=False) for _ in runs]
    orders, control = context.Pipe(duplex=False)
    parts = [
        Part(config.model_dump_json(), str(folder.path), retry, theirs)
        for (config, folder, retry), (_, theirs) in zip(runs, pipes, strict=True)
    ]
    first, name = parts[0], f"{runs[0][0].label} seed {runs[0][0].seed}"
    if len(runs) == 1:
        arguments: tuple[Any, ...] = (target, first.config, first.path, options, first.retry, first.connection, orders)
        process = context.Process(target=run_child, args=arguments, name=name)
    else:
        process = context.Process(target=run_stack, args=(stack_target, parts, options, orders), name=f"{name} and others")
    with start_up():
        process.start()
    for _, theirs in pipes:
        theirs.close()
    orders.close()
    host = Host(process, control, len(runs))
    return [
        Worker(config, folder, connection, host, Watch.of(config, options.silence_s))
        for (config, folder, _), (connection, _) in zip(runs, pipes, strict=True)
    ]
