"""Shares are those that a study states, not the binary numbers nearest to them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from peftlab.nn.shares import share_of


@given(k=st.integers(0, 1000), m=st.integers(0, 10**6))
def test_thousandths_of_thousands_are_exact(k: int, m: int) -> None:
    assert share_of(k / 1000, 1000 * m) == k * m


def test_small_shares_and_those_of_a_search_are_read_as_they_are_written() -> None:
    assert share_of(1e-5, 10**6) == 10
    assert share_of(1 / 3, 3) == 3 * Fraction("0.3333333333333333")
    assert share_of(float(np.float64(0.7)), 90) == share_of(np.float64(0.7), 90) == 63
