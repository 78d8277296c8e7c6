"""Numbers and sentences as a careful person writes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.analysis.words import listed, show, show_difference, show_interval, show_p, show_percent, significant, unbroken


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.1, 2, "0.10"), (9.996, 3, "10.0"), (120.4, 2, "120"), (1234.5, 3, "1,230"), (-0.268, 3, "−0.268"), (0.0, 3, "0"),
        (4.7e-7, 2, "4.7 × 10⁻⁷"), (3.41e-5, 3, "0.0000341"), (None, 3, "–"), (math.nan, 3, "–"),
    ],
)  # fmt: skip
def test_significant_digits(value: float | None, digits: int, text: str) -> None:
    assert significant(value, digits) == text


@given(st.floats(1e-5, 1e9), st.integers(1, 6))
def test_what_is_written_is_the_rounded_number(value: float, digits: int) -> None:
    assert float(significant(value, digits).replace(",", "")) == pytest.approx(float(f"{value:.{digits}g}"), rel=1e-12)


@pytest.mark.parametrize(("value", "text"), [(100, "100"), (12.0, "12.0"), (0.207, "0.207"), (1190.4, "1,190")])
def test_percentages_of_one_column_have_as_many_digits(value: float, text: str) -> None:
    assert show_percent(value) == text


def test_no_line_ends_between_a_number_and_its_sign() -> None:
    text = unbroken("within 3 % (adjusted p = 0.032, n = 5 pairs), p < 0.001; τ 0.80, r = −0.10: 5 runs")
    assert text.replace("\u00a0", "_") == "within 3_% (adjusted p_=_0.032, n_=_5 pairs), p_<_0.001; τ_0.80, r_=_−0.10: 5 runs"


@given(st.floats(0.001, 1.0), st.sampled_from([0.1, 0.05, 0.025, 0.02, 0.01]))
def test_a_p_is_never_written_on_the_other_side_of_a_level(p: float, level: float) -> None:
    text = show_p(p)
    assert (float(text) <= level) == (p <= level) or abs(p - level) < 1e-8
    assert float(text) == pytest.approx(p, abs=5.01e-4)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0496, "0.0496"), (0.049996, "0.049996"), (0.050004, "0.050004"), (0.05, "0.050"), (0.0999, "0.0999"), (0.00204, "0.002")],
)
def test_digits_of_a_p(p: float, text: str) -> None:
    assert show_p(p) == text


def test_large_values_have_no_powers_of_ten() -> None:
    assert show_interval((12_353.4, 9_998.2), "perplexity") == "[12,353, 9,998]"
    assert show(12_353.4, "perplexity") == "12,353" and show(45.678, "perplexity") == "45.68"
    assert show(9999.7, "loss") == "10,000" and show_difference(-12_345.6, "loss") == "−12,346"
    assert show_difference(999.7, "loss") == "+1,000" and show_difference(1e-9, "loss") == "+1e−9"


def test_a_list_is_not_cut_for_a_single_name() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    assert listed(names, 5) == "a, b, c, d, e and f"
    assert listed(names, 4) == "a, b, c, d and 2 more"
