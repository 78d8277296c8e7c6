"""Seconds of a run are its own, or None: nobody is given those of several runs, or 0."""

from __future__ import annotations

from typing import Any

import pytest

from peftlab.records.times import last_attempt_s, own_s, took_s

STACK = {"runs": 4}


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ({"total_s": 10.0, "train_s": 7.0}, 10.0),
        ({"train_s": 7.0}, 7.0),  # imported
        ({"total_s": None, "train_s": 7.0}, 7.0),  # begun by an earlier version
        ({}, None),
        ({"stacked": STACK, "shared": {"total_s": 40.0, "train_s": 32.0, "part_s": 10.0}}, 10.0),
        ({"stacked": STACK, "shared": {"total_s": 45.0, "train_s": 32.0, "part_s": 15.0}}, 15.0),  # went on by itself
        ({"stacked": STACK, "shared": {"total_s": 40.0, "train_s": 32.0}}, 10.0),  # by an earlier version
        ({"stacked": {}, "shared": {"total_s": 40.0}}, None),
    ],
)
def test_what_a_run_took(time: dict[str, Any], seconds: float | None) -> None:
    assert took_s(time) == seconds


def test_several_parts_of_it() -> None:
    assert own_s({"train_s": 2, "evaluate_s": 0.5}, "train_s", "evaluate_s") == 2.5
    assert own_s({"train_s": 2.0}, "train_s", "evaluate_s") is None
    shared = {"train_s": 30.0, "evaluate_s": 10.0, "total_s": 60.0, "part_s": 15.0}
    assert own_s({"stacked": STACK, "shared": shared}, "train_s", "evaluate_s") == 10.0


def test_attempts_given_up_are_taken_off() -> None:
    time = {"total_s": 14.0, "cpu_s": 7.0, "given_up": {"total_s": 10.0, "cpu_s": 1.0}}
    assert (last_attempt_s(time, "total_s"), last_attempt_s(time, "cpu_s")) == (4.0, 6.0)
    assert last_attempt_s({"total_s": 14.0}, "total_s") == 14.0
    assert last_attempt_s({"total_s": 14.0, "given_up": {"total_s": None}}, "total_s") is None
    assert last_attempt_s({"shared": {"total_s": 3.0}}, "total_s") is None
