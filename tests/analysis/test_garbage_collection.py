"""Rare collections while somebody works on records, and what was there before afterwards."""

from __future__ import annotations

import gc
import threading

import pytest

from peftlab.analysis.garbage_collection import THRESHOLDS, few_collections


def test_what_was_there_is_restored_also_after_an_error() -> None:
    before = gc.get_threshold()
    with few_collections():
        with few_collections():
            assert gc.get_threshold() == THRESHOLDS != before
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == before
    with pytest.raises(ValueError, match="in between"), few_collections():
        raise ValueError("in between")
    assert gc.get_threshold() == before


def test_threads_that_overlap_leave_nothing_behind() -> None:
    before = gc.get_threshold()
    begun, over = threading.Event(), threading.Event()

    def other() -> None:
        with few_collections():
            begun.set()
            assert over.wait(30)

    thread = threading.Thread(target=other)
    with few_collections():
        thread.start()
        assert begun.wait(30)
    assert gc.get_threshold() == THRESHOLDS, "the other one is still at work"
    over.set()
    thread.join()
    assert gc.get_threshold() == before
