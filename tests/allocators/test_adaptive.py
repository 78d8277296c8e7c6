"""The rules by which ranks move, on importances given by hand; and when they move."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.allocators._adaptive import Adaptive, Task
from peftlab.allocators._budget import factors, most_gained
from peftlab.allocators.importance.contract import Scores
from peftlab.allocators.proportional import Proportional
from peftlab.allocators.threshold import Threshold
from peftlab.allocators.top_k import TopK, continued
from peftlab.errors import OptionError
from peftlab.nn.roles import Site
from peftlab.study.schema import Train
from tests.allocators.probing import attached

RULES = (Proportional, Threshold, TopK)
SITES = [Site(name=f"{b}.{role}", role=role, block=b, d_in=32, d_out=48) for b in range(3) for role in ("q", "v")]


def task(modules: list[float], ranks: int | list[int] = 4, *, low: int = 2, high: int = 16, **options: Any) -> Task:
    """Six modules; without ``directions`` every direction of a module has its importance."""
    now = [ranks] * len(SITES) if isinstance(ranks, int) else ranks
    directions = options.pop("directions", [[value] * r for value, r in zip(modules, now, strict=True)])
    return Task(
        sites=options.pop("sites", SITES),
        ranks={s.name: r for s, r in zip(SITES, now, strict=True)},
        scores={s.name: Scores(m, torch.tensor(d)) for s, m, d in zip(SITES, modules, directions, strict=True)},
        budget=options.pop("budget", {"ranks": sum(now)}),
        low=low,
        high=high,
        cost=factors,
    )


def ranks_of(rule: Adaptive, given: Task) -> list[int]:
    found = rule.decide(given)
    return [found[site.name] for site in SITES]


def test_proportional_is_proportional() -> None:
    assert ranks_of(Proportional(), task([1, 1, 2, 2, 3, 3])) == [2, 2, 4, 4, 6, 6]
    assert ranks_of(Proportional(), task([0, 0, 0, 0, 0, 0])) == [4] * 6
    assert ranks_of(Proportional(), task([0, 0, 0, 0, 0, 9])) == [2, 2, 2, 2, 2, 14]


def test_threshold_divides_between_the_modules_above_it() -> None:
    assert ranks_of(Threshold(fraction=0.5), task([10, 6, 4, 4, 4, 4])) == [8, 8, 2, 2, 2, 2]
    assert ranks_of(Threshold(), task([10, 6, 4, 4, 4, 4])) == [8, 8, 2, 2, 2, 2]
    assert ranks_of(Threshold(quantile=0.75), task([1, 2, 3, 4, 5, 6])) == [2, 2, 2, 2, 8, 8]
    assert ranks_of(Threshold(), task([10, 1, 1, 1, 1, 1], high=9)) == [
        9,
        3,
        3,
        3,
        3,
        3,
    ]  # what it cannot take goes to the others


def test_top_k_moves_a_direction_from_where_the_weakest_matters_least() -> None:
    equal = [[1.0] * 4] * 6
    assert ranks_of(TopK(), task([1] * 6, directions=equal)) == [4] * 6
    one_strong = [[5.0] * 4, *[[4.0, 3.0, 2.0, 1.0]] * 5]
    assert ranks_of(TopK(), task([5, *[2.5] * 5], directions=one_strong)) == [14, 2, 2, 2, 2, 2]
    fading = [[8.0, 4.0, 2.5, 1.0], *[[8.0, 4.0, 3.0, 2.9]] * 5]  # the others would go on with 2.07: more than 1, less than 2.5
    assert ranks_of(TopK(), task([3, *[4.5] * 5], directions=fading)) == [3, 5, 4, 4, 4, 4]


def test_scores_are_continued_geometrically() -> None:
    assert continued([1.0, 4.0, 2.0], 5) == pytest.approx([4.0, 2.0, 1.0, 0.5, 0.25])
    assert continued([3.0], 3) == [3.0, 1.5, 0.75]
    assert continued([0.0, 0.0], 4) == [0.0] * 4
    assert continued([4.0, 3.0, 2.0], 2) == [4.0, 3.0]


@pytest.mark.parametrize("unit", ["ranks", "parameters"])
@pytest.mark.parametrize("rule", [Proportional(), Threshold(), Threshold(quantile=0.6), TopK()], ids=repr)
@given(data=st.data())
def test_the_budget_is_spent_and_the_bounds_hold_whatever_the_importances(rule: Adaptive, unit: str, data: st.DataObject) -> None:
    now = data.draw(st.lists(st.integers(2, 9), min_size=6, max_size=6))
    score = st.floats(0, 1e6, width=32)
    directions = [data.draw(st.lists(score, min_size=r, max_size=r)) for r in now]
    amount = sum(now) * (1 if unit == "ranks" else 80)
    given_task = task([sum(d) for d in directions], now, high=12, directions=directions, budget={unit: amount})
    found = ranks_of(rule, given_task)
    assert all(2 <= rank <= 12 for rank in found)
    assert sum(found) * (1 if unit == "ranks" else 80) == amount
    shuffled = random.Random(3).sample(SITES, len(SITES))
    again = task([sum(d) for d in directions], now, high=12, directions=directions, budget={unit: amount}, sites=shuffled)
    assert rule.decide(again) == rule.decide(given_task)


def test_it_starts_with_equal_ranks_within_the_budget() -> None:
    ranks = Proportional(budget={"ranks": 26}).initial(SITES, 8)
    assert sum(ranks.values()) == 26 and set(ranks.values()) == {4, 5}
    assert set(Proportional().initial(SITES, 8).values()) == {8}


def test_an_importance_that_is_not_finite_moves_nothing_and_is_told() -> None:
    spec = {"name": "proportional", "importance": "weight_gradient", "min_rank": 1, "hysteresis": 0.0}
    spec |= {"warmup_steps": 2, "every": 1, "last_step": 3}
    adapted, _ = attached("vit", spec)
    layers = adapted.adapter.low_rank(adapted)
    hook = registry.create("allocator", spec).hook(adapted)
    hook.start(6, torch.optim.AdamW(adapted.trainable().values()))
    first = next(iter(layers.values()))
    for factor, layer in enumerate(layers.values(), start=1):
        layer.A.grad, layer.B.grad = torch.full_like(layer.A, float(factor)), torch.zeros_like(layer.B)
    kept = first.A.data.clone()
    first.A.data[0, 0] = float("nan")
    hook.after_step(0)
    hook.after_step(1)
    entry = hook.history[-1]
    assert (entry["step"], entry["changed"], entry["why"]) == (2, False, "an importance is not finite")
    assert entry["importance"] == {} and entry["ranks"] == hook.start_ranks == hook.ranks()
    first.A.data = kept
    hook.after_step(2)
    assert hook.history[-1]["changed"] and hook.ranks() != hook.start_ranks, "what was seen later is finite"


def test_steps_that_float16_left_out_say_nothing_of_importance() -> None:
    """Neither their gradients nor, once more, weights that have not moved; and nothing moves ranks where nothing was seen."""
    spec = {"name": "proportional", "importance": "weight_gradient", "min_rank": 1, "hysteresis": 0.0}
    spec |= {"warmup_steps": 2, "every": 2, "last_step": 6}
    adapted, _ = attached("vit", spec)
    hook = registry.create("allocator", spec).hook(adapted)
    hook.start(8, torch.optim.AdamW(adapted.trainable().values()))
    layers = list(adapted.adapter.low_rank(adapted).values())
    for factor, layer in enumerate(layers, start=1):
        layer.A.grad, layer.B.grad = torch.full_like(layer.A, float(factor)), torch.zeros_like(layer.B)
    hook.after_step(0, False)
    hook.after_step(1, False)
    entry = hook.history[-1]
    assert (entry["step"], entry["changed"], entry["importance"]) == (2, False, {}) and "left out every step" in entry["why"]
    hook.after_step(2, True)
    seen = {name: scores.module for name, scores in hook.meter.scores().items()}
    for layer in layers:
        layer.A.grad = torch.full_like(layer.A, 100.0)
    state = hook.state()
    hook.after_step(3, False)
    assert hook.history[-1]["importance"] == seen and hook.history[-1].get("why") != entry["why"]
    assert (state["seen"], hook.state()["seen"]) == (1, 0)
    hook.load_state(state)
    assert hook.seen == 1


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"min_rank": 5, "max_rank": 4}, "max_rank"),
        ({"min_rank": 0}, "min_rank"),
        ({"hysteresis": 1.0}, "hysteresis"),
        ({"every": 1.5}, "every"),
        ({"every": 0}, "every"),
        ({"every": 0.0}, "every"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"importance": "magnitud"}, "importance"),
        ({"importance": {"name": "sensitivity", "beta3": 0.5}}, "importance.beta3"),
        ({"budget": {"rank": 3}}, "budget.rank"),
    ],
)
@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_bad_options_are_typed_errors(name: str, options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        registry.create("allocator", {"name": name, **options})
    assert where in (caught.value.where or "")


def test_threshold_takes_one_kind_of_threshold() -> None:
    with pytest.raises(OptionError, match="either"):
        Threshold(fraction=0.5, quantile=0.5)
    with pytest.raises(OptionError, match="between 0 and 1"):
        Threshold(quantile=1.0)


@pytest.mark.parametrize(("options", "total"), [({"warmup_steps": 50}, 40), ({"last_step": 5, "warmup_steps": 10}, 40), ({}, 2)])
def test_a_reallocation_that_never_fires_is_refused(options: dict[str, Any], total: int) -> None:
    with pytest.raises(OptionError, match="no reallocation fires"):
        Proportional(**options).check(SITES, {}, total, Train())


def test_what_cannot_work_is_refused_when_planned() -> None:
    with pytest.raises(OptionError, match="below the least"):
        Proportional(budget={"ranks": 11}).initial(SITES, 8)
    with pytest.raises(OptionError, match="above the largest rank"):
        Proportional(min_rank=33, max_rank=40).initial(SITES, 33)
    with pytest.raises(OptionError, match="select: last"):
        Proportional().check(SITES, {}, 100, Train(select="best"))
    with pytest.raises(OptionError, match="no rank can move"):
        Proportional().check(SITES[:1], {}, 100, Train())


def refused(rank: int, sites: list[Site] = SITES, **options: Any) -> str:
    """What each rule says to a plan, all the same; empty where nothing."""
    said = set()
    for rule in RULES:
        allocator = rule(**options)
        try:
            allocator.check(sites, allocator.initial(sites, rank), 100, Train())
        except OptionError as error:
            assert error.remedy
            said.add(f"{error.where}: {error.what}")
        else:
            said.add("")
    (one,) = said
    return one


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (2, {}),
        (16, {}),
        (8, {"budget": {"ranks": 12}}),
        (8, {"budget": {"ranks": 96}}),
        (8, {"budget": {"parameters": 12 * 80 + 79}}),
        (4, {"min_rank": 4, "max_rank": 4}),
        (32, {"max_rank": None}),
    ],
)
def test_a_budget_under_which_no_rank_can_ever_move_is_refused(rank: int, options: dict[str, Any]) -> None:
    assert refused(rank, **options).startswith("allocator.budget: no rank can ever move")


@pytest.mark.parametrize(
    ("rank", "options"),
    [(3, {}), (15, {}), (2, {"min_rank": 1}), (16, {"max_rank": 17}), (8, {"budget": {"ranks": 13}}), (8, {"hysteresis": 0.37})],
)
def test_a_budget_under_which_one_can_is_not(rank: int, options: dict[str, Any]) -> None:
    assert refused(rank, **{"hysteresis": 0.0, **options}) == ""


def test_a_hysteresis_that_no_reallocation_can_pass_is_refused() -> None:
    """Six modules of rank 8 between 2 and 16: two can gain 8 each from four that give 6 each, three 18 from three; of 48."""
    assert refused(8, hysteresis=0.99).startswith("allocator.hysteresis: no reallocation can ever pass")
    assert refused(8, hysteresis=0.45)
    assert refused(8, hysteresis=18 / 48) == ""
    wide = {"min_rank": 18, "max_rank": 32}  # of rank 25: three give up 7 each; 0.14 * 150 > 21
    assert refused(25, hysteresis=0.14, **wide) == "" and refused(25, hysteresis=0.141, **wide)


@given(data=st.data())
@pytest.mark.parametrize("unit", ["ranks", "parameters"])
def test_the_bound_of_what_can_move_holds(unit: str, data: st.DataObject) -> None:
    """Against every way to share the ranks out."""
    sizes = data.draw(st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6)), min_size=1, max_size=4))
    sites = [Site(name=str(i), role="q", block=i, d_in=a, d_out=b) for i, (a, b) in enumerate(sizes)]
    tops = [min(5, a, b) for a, b in sizes]
    now = [data.draw(st.integers(1, top)) for top in tops]
    prices = [a + b if unit == "parameters" else 1 for a, b in sizes]
    amount = sum(p * r for p, r in zip(prices, now, strict=True)) + data.draw(st.integers(0, 3))
    ranks = {site.name: r for site, r in zip(sites, now, strict=True)}
    bound = most_gained(sites, ranks, {unit: amount}, low=1, high=5)
    most = max(
        sum(max(0, new - old) for new, old in zip(wanted, now, strict=True))
        for wanted in itertools.product(*(range(1, top + 1) for top in tops))
        if sum(p * r for p, r in zip(prices, wanted, strict=True)) <= amount
    )
    assert bound >= most and (bound == 0) == (most == 0)
