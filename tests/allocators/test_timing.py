"""When ranks move: shares of a run lose no step to rounding, and what is decided last is trained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.allocators._timing import Timing, steps_of
from peftlab.allocators.adalora import AdaLora
from peftlab.allocators.increlora import IncreLora
from peftlab.errors import OptionError


@given(k=st.integers(0, 10), m=st.integers(1, 10**5))
def test_tenths_of_a_run_of_tens_are_exact(k: int, m: int) -> None:
    assert steps_of(k / 10, 10 * m) == k * m


@given(share=st.decimals(0, 1, places=3), total=st.integers(1, 5000))
def test_other_shares_are_rounded_down(share: Any, total: int) -> None:
    assert steps_of(float(share), total) == int(share * total)


def test_a_number_of_steps_is_that_number() -> None:
    assert steps_of(7, 3) == 7 and steps_of(1, 50) == 1 and steps_of(1.0, 50) == 50


def due(*arguments: Any) -> list[int]:
    timing = Timing.of(*arguments)
    return [step for step in range(1, timing.total + 1) if timing.due(step)]


def test_due_steps() -> None:
    assert due(100, 0.1, 0.2, 0.7) == [10, 30, 50, 70]
    assert due(30, 0, 5, 20) == [2, 7, 12, 17]


@given(m=st.integers(3, 500))
def test_the_last_of_seven_reallocations_is_due_in_every_run_of_tens(m: int) -> None:
    assert due(10 * m, 0.1, 0.1, 0.7) == [k * m for k in range(1, 8)]


@pytest.mark.parametrize("last", [1.0, 20, 99])
def test_no_reallocation_comes_after_the_last_update(last: float | int) -> None:
    assert due(20, 0.25, 0.25, last) == [5, 10, 15]
    assert due(20, 19, 1, last) == [19], "whose ranks have one update"
    with pytest.raises(OptionError, match="the first would be after step 20"):
        Timing.of(20, 20, 1, last).check()


@given(m=st.integers(4, 400))
def test_phases_of_adalora_are_exact(m: int) -> None:
    curve = AdaLora(initial_steps=0.2, final_steps=0.7, every=1).curve(10 * m, 8, 4)
    assert (curve.initial, curve.final) == (2 * m, 7 * m)


def test_a_phase_of_adalora_that_is_no_number_is_refused() -> None:
    with pytest.raises(OptionError, match="neither steps nor a share"):
        AdaLora(initial_steps=float("nan"))


def test_increlora_waits_for_the_share_that_is_stated() -> None:
    assert IncreLora(budget={"ranks": 9}, initial_steps=0.7, every=1).rounds(90)[0] == 64
