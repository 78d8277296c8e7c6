"""The processes of one run that has several (training/team.py): the first starts the others, and ends when one of them is lost.

The first is the worker that any run has: it writes the record and hears what is asked. The others compute, say nothing, and die
with it: they notice the next time that gradients are summed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed

from peftlab.errors import PeftlabError, Stopped, WorkerDied
from peftlab.execution.fallback import is_out_of_memory
from peftlab.records.run_folder import LOG
from peftlab.training.team import PATIENCE, Team, joined

#: exit codes of the others: out of memory, so that a fallback may help; lost the rest, which is no cause but its consequence
OUT_OF_MEMORY, LOST = 73, 74
HOST = "127.0.0.1"  #: one run stays on one machine
_LEAVE_S, _LAST_WORD_S, _LOOK_S = 60.0, 10.0, 0.1
_STOPPING = {signal.SIGINT, signal.SIGTERM}
Work = Callable[..., None]


@contextmanager
def crew(
    size: int,
    device: torch.device,
    label: str,
    work: Work,
    arguments: tuple[Any, ...],
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Team]:
    """Inside, this process is the first of ``size``; the others call ``work(team, *arguments)``.

    ``waiting`` is called while they start, and may raise.

    Raises:
        WorkerDied: another process ended before its time.
        RuntimeError: another process ran out of memory.
    """
    if size == 1:
        yield Team()
        return
    _quiet_network()
    store = _store()
    context = multiprocessing.get_context("spawn")  # nothing of this process may be shared with a GPU's
    others = [
        context.Process(target=_follow, args=(rank, size, store.port, str(device), work, arguments), daemon=True)
        for rank in range(1, size)
    ]
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # the others inherit it, until they know what to do
        try:
            for process in others:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if device.type == "cuda":
            torch.cuda.set_device(0)
        _meet(store, others, waiting)
        with joined(0, size, store, device) as team:
            yield team
        for process in others:
            process.join(_LEAVE_S)
    except (RuntimeError, MemoryError) as error:
        raise _explained(error, others, label) from error
    finally:
        for process in others:
            if process.pid is not None and process.is_alive():
                process.kill()
                process.join()


def _store() -> Any:
    """Where the processes meet: on the loopback only, which torch does not promise by itself."""
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    made: Any = distributed.TCPStore  # pyright: ignore
    return made(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())


def _meet(store: Any, others: list[Any], waiting: Callable[[], None]) -> None:
    """Until all are there; torch itself would wait for those that will never come."""
    until = time.monotonic() + PATIENCE.total_seconds()
    while not store.check([f"here{rank}" for rank in range(1, len(others) + 1)]):
        waiting()
        if any(process.exitcode is not None for process in others) or time.monotonic() > until:
            raise RuntimeError("not all processes of the run came to meet")
        multiprocessing.connection.wait([process.sentinel for process in others], _LOOK_S)


def _explained(error: Exception, others: list[Any], label: str) -> Exception:
    """What the network says is that somebody is gone; what became of them says why. Other errors stay what they are."""
    if is_out_of_memory(error):
        return error
    until = time.monotonic() + _LAST_WORD_S
    for process in others:
        process.join(max(0.0, until - time.monotonic()))
    causes = {rank: process.exitcode for rank, process in enumerate(others, start=1) if process.exitcode not in (None, 0, LOST)}
    if not causes:
        return error
    rank, code = min(causes.items(), key=lambda one: (one[1] != OUT_OF_MEMORY, one[1] > 0))
    if code == OUT_OF_MEMORY:
        return RuntimeError(f"out of memory in process {rank} of {len(others) + 1}")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    remedy = f"{LOG} of the run has what it printed; `peftlab run --retry-failed` goes on from the last checkpoint"
    return WorkerDied(f"process {rank} of {len(others) + 1} of the run {how}", where=label, remedy=remedy)


def _follow(rank: int, size: int, port: int, device: str, work: Work, arguments: tuple[Any, ...]) -> None:
    for number in _STOPPING:  # the first is asked to stop, and tells
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    threading.Thread(target=_die_with_the_first, name="first", daemon=True).start()
    _quiet_network()
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.set_device(rank)
    meeting = False
    try:
        made: Any = distributed.TCPStore  # pyright: ignore
        store = made(HOST, port, is_master=False)
        store.set(f"here{rank}", "")
        with joined(rank, size, store, where) as team:
            meeting = True
            work(team, *arguments)
            meeting = False
    except Stopped:
        sys.exit(0)
    except PeftlabError as error:  # as a rule the first comes to the same end, and records it
        print(f"process {rank}: {error}", file=sys.stderr)  # into the run's log
        sys.exit(error.exit_code)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            sys.exit(OUT_OF_MEMORY)
        if not meeting or _of_network(error):
            sys.exit(LOST)
        raise


def _of_network(error: BaseException) -> bool:
    """Whether it says that another process is gone; gloo raises plain RuntimeErrors."""
    return isinstance(error, distributed.DistError) or any(
        word in str(error) for word in ("gloo", "Connection", "NCCL", "Socket", "Broken pipe", "store")
    )


def _die_with_the_first() -> None:
    first = multiprocessing.parent_process()
    if first is not None:
        with contextlib.suppress(OSError):
            multiprocessing.connection.wait([first.sentinel])
        os._exit(LOST)


def _quiet_network() -> None:
    """Over the loopback: names of this machine may lead anywhere, or nowhere."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
