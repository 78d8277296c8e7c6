"""The processes of one run that has several (training/team.py): the first starts the others, and ends when one of them is lost.

The first is the worker that any run has: it writes the record and hears what is asked. The others compute, say nothing, and die
with it: they notice the next time that gradients are summed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed

from peftlab.errors import PeftlabError, Stopped, WorkerDied
from peftlab.execution.fallback import is_out_of_memory
from peftlab.training.team import Team, joined

OUT_OF_MEMORY = 73  #: exit code of a process that ran out of memory, by which the first knows that a fallback may help
HOST = "127.0.0.1"  #: one run stays on one machine
_LEAVE_S, _LAST_WORD_S = 60.0, 10.0
Work = Callable[..., None]


@contextmanager
def crew(size: int, device: torch.device, label: str, work: Work, arguments: tuple[Any, ...]) -> Iterator[Team]:
    """Inside, this process is the first of ``size``; the others call ``work(team, *arguments)``.

    Raises:
        WorkerDied: another process ended before its time.
        RuntimeError: another process ran out of memory.
    """
    if size == 1:
        yield Team()
        return
    _quiet_network()
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # pyright: ignore
    context = multiprocessing.get_context("spawn")  # nothing of this process may be shared with a GPU's
    others = [
        context.Process(target=_follow, args=(rank, size, store.port, str(device), work, arguments), daemon=True)
        for rank in range(1, size)
    ]
    try:
        for process in others:
            process.start()
        if device.type == "cuda":
            torch.cuda.set_device(0)
        with joined(0, size, store, device) as team:
            yield team
        for process in others:
            process.join(_LEAVE_S)
    except RuntimeError as error:
        raise _explained(error, others, label) from error
    finally:
        for process in others:
            if process.pid is not None and process.is_alive():
                process.kill()
                process.join()


def _explained(error: RuntimeError, others: list[Any], label: str) -> Exception:
    """What the network says is that somebody is gone; what became of them says why."""
    if is_out_of_memory(error):
        return error
    for process in others:
        process.join(_LAST_WORD_S)
    lost = [(rank, process.exitcode) for rank, process in enumerate(others, start=1) if process.exitcode]
    if any(code == OUT_OF_MEMORY for _, code in lost):
        return RuntimeError(f"out of memory in process {lost[0][0]} of {len(others) + 1}")
    if not lost:
        return error
    rank, code = lost[0]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    remedy = "log.txt of the run has what it printed; `peftlab run --retry-failed` goes on from the last checkpoint"
    return WorkerDied(f"process {rank} of {len(others) + 1} of the run {how}", where=label, remedy=remedy)


def _follow(rank: int, size: int, port: int, device: str, work: Work, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first is asked to stop, and tells
    _quiet_network()
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.set_device(rank)
    try:
        store = distributed.TCPStore(HOST, port, is_master=False)  # pyright: ignore
        with joined(rank, size, store, where) as team:
            work(team, *arguments)
    except Stopped:
        sys.exit(0)
    except PeftlabError as error:  # as a rule the first comes to the same end, and records it
        print(f"process {rank}: {error}", file=sys.stderr)  # into the run's log
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if is_out_of_memory(error):
            sys.exit(OUT_OF_MEMORY)
        if os.getppid() != multiprocessing.parent_process().pid:  # pyright: ignore
            sys.exit(0)  # nobody to tell
        raise


def _quiet_network() -> None:
    """Over the loopback: names of this machine may lead anywhere, or nowhere."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
