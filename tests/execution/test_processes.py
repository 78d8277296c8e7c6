"""Signals reach the loop that waits, whichever thread the system gives them to."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from peftlab.execution.processes import signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no signals for single threads")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    yield read, write
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_another_thread_took_wakes_the_loop(pipe: tuple[int, int], number: int) -> None:
    read, write = pipe
    come: deque[int] = deque()
    with signals(come, write):
        other = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), number))
        other.start()
        assert select.select([read], [], [], 60)[0] == [read]
        other.join()
        assert [*come] == [number]


def test_all_is_as_it_was_afterwards(pipe: tuple[int, int]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals(deque(), pipe[1]):
        assert signal.getsignal(signal.SIGINT) is not handlers[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_a_third_signal_ends_a_loop_that_does_not_come_round(pipe: tuple[int, int]) -> None:
    with signals(come := deque(), pipe[1]):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [*come] == [signal.SIGINT] * 2


def test_another_thread_than_the_main_one_is_not_asked_to_listen(pipe: tuple[int, int]) -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with signals(deque(), pipe[1]):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
