"""Sharing out a budget: exact in ranks, never above and least left over in parameters, proportional, whatever the order."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peftlab.allocators._budget import check_budget, factors, share_out
from peftlab.errors import OptionError
from peftlab.nn.roles import Site

WIDTHS = (8, 12, 16, 32)


@st.composite
def problems(draw: st.DrawFn, largest: int = 12) -> tuple[list[Site], dict[str, float], int, int | None]:
    """(sites, weights, low, high)."""
    count = draw(st.integers(1, largest))
    sites = [
        Site(
            name=f"layers.{i // 3}.m{i % 3}",
            role="q",
            block=i // 3,
            d_in=draw(st.sampled_from(WIDTHS)),
            d_out=draw(st.sampled_from(WIDTHS)),
        )
        for i in range(count)
    ]
    weights = {s.name: draw(st.floats(0, 100, allow_subnormal=False)) for s in sites}
    low = draw(st.integers(0, 3))
    high = draw(st.one_of(st.none(), st.integers(max(1, low), 8)))
    return sites, weights, low, high


def bounds(sites: list[Site], low: int, high: int | None) -> tuple[list[int], list[int]]:
    tops = [min(high or 10**9, s.d_in, s.d_out) for s in sites]
    return [low] * len(sites), tops


@given(problem=problems(), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_budget_of_ranks_is_met_exactly_within_the_bounds_in_any_order(problem, share: float, seed: int) -> None:
    sites, weights, low, high = problem
    lows, tops = bounds(sites, low, high)
    amount = round(sum(lows) + share * (sum(tops) - sum(lows)))
    assume(amount >= 1)
    found = share_out(sites, weights, {"ranks": amount}, low=low, high=high)
    assert sum(found.ranks.values()) == found.spent == amount
    assert found.remainder == 0
    assert all(low <= found.ranks[s.name] <= top for s, top in zip(sites, tops, strict=True))
    shuffled = random.Random(seed).sample(sites, len(sites))
    assert share_out(shuffled, weights, {"ranks": amount}, low=low, high=high).ranks == found.ranks


@given(problem=problems(), share=st.floats(0, 1))
def test_more_weight_never_means_less_rank(problem, share: float) -> None:
    """Among modules of one size: at most one rank apart from the order of weights, because of rounding ties only."""
    sites, weights, low, high = problem
    same = [Site(name=s.name, role="q", block=s.block, d_in=16, d_out=16) for s in sites]
    lows, tops = bounds(same, low, high)
    amount = round(sum(lows) + share * (sum(tops) - sum(lows)))
    assume(amount >= 1)
    ranks = share_out(same, weights, {"ranks": amount}, low=low, high=high).ranks
    for a, b in itertools.combinations(same, 2):
        if weights[a.name] > weights[b.name]:
            assert ranks[a.name] >= ranks[b.name]


def squares(site: Site, rank: int) -> int:
    """LoRA-XS: r^2."""
    return rank * rank


def with_magnitudes(site: Site, rank: int) -> int:
    """DoRA: d_out besides the factors, unless nothing is adapted."""
    return factors(site, rank) + (site.d_out if rank else 0)


def rising(site: Site, rank: int) -> int:
    """Neither a line nor smooth: every fourth rank costs more."""
    return 3 * rank + 20 * (rank // 4)


@pytest.mark.parametrize("cost", [factors, with_magnitudes, squares, rising])
@settings(max_examples=60)
@given(problem=problems(largest=6), share=st.floats(0, 1))
def test_a_budget_of_parameters_is_never_exceeded_and_nothing_more_fits(cost, problem, share: float) -> None:
    sites, weights, low, high = problem
    lows, tops = bounds(sites, low, high)
    least, most = (sum(cost(s, r) for s, r in zip(sites, ranks, strict=True)) for ranks in (lows, tops))
    amount = math.floor(least + share * (most - least))
    assume(amount >= 1)
    found = share_out(sites, weights, {"parameters": amount}, low=low, high=high, cost=cost)
    spent = sum(cost(s, found.ranks[s.name]) for s in sites)
    assert spent == found.spent <= amount
    assert all(low <= found.ranks[s.name] <= top for s, top in zip(sites, tops, strict=True))
    room = [cost(s, r + 1) - cost(s, r) for s, top in zip(sites, tops, strict=True) if (r := found.ranks[s.name]) < top]
    assert not room or found.remainder < min(room)


@given(weights=st.lists(st.integers(1, 4), min_size=1, max_size=6), level=st.integers(1, 8))
def test_ranks_are_proportional_where_they_cost_their_square(weights: list[int], level: int) -> None:
    """Sum of (t w)^2 buys t w for every module, exactly."""
    sites = [Site(name=f"m{i}", role="q", block=0, d_in=32, d_out=32) for i in range(len(weights))]
    budget = {"parameters": sum((level * w) ** 2 for w in weights)}
    given_out = share_out(sites, {s.name: w for s, w in zip(sites, weights, strict=True)}, budget, cost=squares)
    assert list(given_out.ranks.values()) == [level * w for w in weights]
    assert given_out.remainder == 0


def test_no_rounding_of_the_shares_leaves_less_over() -> None:
    """Against brute force: every module at its exact share rounded down or one above."""
    sites = [Site(name=f"m{i}", role="q", block=0, d_in=d, d_out=d) for i, d in enumerate((5, 7, 9, 16))]
    for amount in range(80, 200):
        found = share_out(sites, dict.fromkeys((s.name for s in sites), 1.0), {"parameters": amount}, low=0)
        level = amount / sum(factors(s, 1) for s in sites)
        if level >= 5:
            break
        totals = [
            sum(factors(s, math.floor(level) + up) for s, up in zip(sites, ups, strict=True))
            for ups in itertools.product((0, 1), repeat=4)
        ]
        assert max(t for t in totals if t <= amount) <= found.spent <= amount


def test_shares_are_largest_remainders_by_hand() -> None:
    """10 seats at 3 : 2 : 1 -> 5, 3.33, 1.67 -> 5, 3, 2 (Hamilton's method)."""
    sites = [Site(name=n, role="q", block=0, d_in=64, d_out=64) for n in "abc"]
    assert share_out(sites, {"a": 3, "b": 2, "c": 1}, {"ranks": 10}).ranks == {"a": 5, "b": 3, "c": 2}
    capped = share_out(sites, {"a": 3, "b": 2, "c": 1}, {"ranks": 10}, high=4)  # 4, then 6 at 2 : 1
    assert capped.ranks == {"a": 4, "b": 4, "c": 2}


def test_all_weights_zero_is_uniform() -> None:
    sites = [Site(name=n, role="q", block=0, d_in=64, d_out=64) for n in "abcd"]
    assert set(share_out(sites, dict.fromkeys("abcd", 0.0), {"ranks": 20}).ranks.values()) == {5}


def test_a_fixed_price_per_module_is_counted() -> None:
    """DoRA's magnitudes: d_out for every module with a rank."""

    def dora(site: Site, rank: int) -> int:
        return factors(site, rank) + (site.d_out if rank else 0)

    sites = [Site(name=n, role="q", block=0, d_in=8, d_out=8) for n in "abc"]
    for amount in range(72, 300):
        found = share_out(sites, dict.fromkeys("abc", 1.0), {"parameters": amount}, cost=dora)
        assert found.spent == sum(dora(s, found.ranks[s.name]) for s in sites) <= amount
        assert found.remainder < 16


@pytest.mark.parametrize(
    ("budget", "low", "high", "message"),
    [
        ({"ranks": 2}, 1, None, "below the least that min_rank 1 needs over 3 modules, 3"),
        ({"ranks": 13}, 1, 4, "above the most that the maximum ranks of 3 modules hold, 12"),
        ({"parameters": 47}, 1, None, "below the least"),
        ({"ranks": 60}, 9, None, "min_rank 9 is above the largest rank a can have, 8"),
        ("match lora", 1, None, "within a study only"),
    ],
)
def test_budgets_out_of_reach_are_errors(budget, low: int, high: int | None, message: str) -> None:
    sites = [Site(name=n, role="q", block=0, d_in=8, d_out=8) for n in "abc"]
    with pytest.raises(OptionError, match=message):
        share_out(sites, dict.fromkeys("abc", 1.0), budget, low=low, high=high)


@pytest.mark.parametrize("budget", ["lora", {}, {"rank": 3}, {"ranks": 3, "parameters": 4}, {"ranks": 0}])
def test_forms_that_are_no_budget_are_errors(budget) -> None:
    with pytest.raises(OptionError):
        check_budget(budget)
    check_budget({"ranks": 3})
    check_budget("match lora[rank=8]")
