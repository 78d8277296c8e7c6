"""Several runs in one process, computed together (training/stack.py): the worker of each in a strand of its own."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Sequence

from peftlab.errors import Stopped
from peftlab.execution.child import INTERRUPTED, TERMINATED, record
from peftlab.execution.protocol import Channel, Part, WorkerOptions
from peftlab.execution.stop import StopFlag
from peftlab.execution.worker import Run
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.study.schema import Train
from peftlab.training.precision import resolve_device, resolve_precision
from peftlab.training.stack import Member, Stack, StackBroken

#: exit code: a joint pass failed. Runs that have no record then go on in a process of their own
BROKEN = 76


def main(parts: Sequence[Part], options: WorkerOptions) -> int:
    """Run all to their ends; called under their leases by execution/child.py. Returns the exit code."""
    stop = StopFlag()
    configs = [RunConfig.model_validate_json(part.config) for part in parts]
    device = resolve_device(options.device)
    precision = resolve_precision(Train.model_validate(configs[0].train).precision, device)
    works = [functools.partial(_run, config, part, options, stop) for config, part in zip(configs, parts, strict=True)]
    code = 0
    try:
        Stack(works, device, precision).run()
    except StackBroken as error:
        print(f"computed together the runs failed, and go on one by one: {error}", file=sys.stderr)  # into the log
        code = BROKEN
    if stop():
        return INTERRUPTED if stop.number == signal.SIGINT else TERMINATED
    return code


def _run(config: RunConfig, part: Part, options: WorkerOptions, stop: StopFlag, member: Member) -> None:
    """One of them. Whatever it dies of is its own record, and the others go on."""
    folder = RunFolder(part.path)
    try:
        Run(config, folder, options, Channel(part.connection), stop, member).execute()
    except StackBroken:
        raise
    except Stopped:
        pass  # saved; main says so
    except BaseException as error:
        record(folder, error, part.connection)
