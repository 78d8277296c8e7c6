"""A coroutine that any function can be: one runs at a time, and what it raises comes out where it was told to go on."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from peftlab.training.strand import Ended, Strand


def test_asks_are_answered_in_order_and_never_two_run_at_once() -> None:
    running: list[str] = []
    said: list[object] = []

    def work(name: str, strand: Strand) -> None:
        for number in range(3):
            running.append(name)
            assert running == [name]
            running.clear()
            said.append(strand.ask((name, number)))

    strands = [Strand(lambda strand, name=name: work(name, strand)) for name in "ab"]
    asked = [strand.resume() for strand in strands]
    assert asked == [("a", 0), ("b", 0)]
    for number in (1, 2):
        assert [strand.resume(-number) for strand in strands] == [("a", number), ("b", number)]
    assert all(isinstance(strand.resume(), Ended) for strand in strands)
    assert said == [-1, -1, -2, -2, None, None]


def test_errors_go_in_and_come_out() -> None:
    caught: list[str] = []

    def work(strand: Strand) -> None:
        try:
            strand.ask("first")
        except ValueError as error:
            caught.append(str(error))
        raise KeyError("mine")

    strand = Strand(work)
    assert strand.resume() == "first"
    with pytest.raises(KeyError, match="mine"):
        strand.resume(ValueError("theirs"))
    assert caught == ["theirs"]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no signals for single threads")
def test_a_signal_is_handled_while_a_strand_waits_for_its_handler() -> None:
    """Python's handlers run in the main thread, which waits for the strand."""
    come: list[int] = []

    def work(_strand: Strand) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        end = time.monotonic() + 60
        while not come and time.monotonic() < end:
            time.sleep(0.01)
        assert come

    before = signal.signal(signal.SIGTERM, lambda number, _frame: come.append(number))
    try:
        assert isinstance(Strand(work).resume(), Ended)
    finally:
        signal.signal(signal.SIGTERM, before)
