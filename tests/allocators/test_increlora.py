"""IncreLoRA against a naive allocator of the authors' code, and what holds at each addition."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.allocators._growth import Growth
from peftlab.allocators._own_rate import OwnRate
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.roles import Site
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train
from tests.contracts.tiny import CLASSES, make

TOTAL, RATE = 30, 1e-2
SPEC = {"name": "increlora", "budget": {"ranks": 11}, "top_h": 2, "add": 1, "initial_steps": 4, "every": 3}
SVD = {"name": "svd", "targets": ["q", "v"]}
POOLED = {"name": "pooled", "form": "svd", "group_size": 8, "rank": 2, "targets": ["q", "v"]}
ROUNDS = [6, 9, 12, 15]  # 4 modules, 7 directions to add, 2 a time


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = make("vit", tmp_path_factory.mktemp("vit"))
    found = source_of(str(folder)).load(str(folder), outputs=CLASSES, seed=0)
    found.module.double()
    return found


def adapt(backbone: Backbone, options: Mapping[str, Any] = SVD, **changes: Any) -> tuple[Adapted, Any, dict[str, TripletLinear]]:
    """A float64 IncreLoRA model, its hook and its layers."""
    allocator = registry.create("allocator", {**SPEC, **changes})
    adapter = registry.create("adapter", options)
    sites = adapter.sites(backbone)
    adapted = adapter.attach(copy.deepcopy(backbone), seed=1, ranks=allocator.initial(sites, 8))
    adapted.seed = 1
    adapted.module.double()
    layers = {s.name: adapted.module.get_submodule(s.name) for s in adapted.sites}
    return adapted, allocator.hook(adapted), layers  # pyright: ignore


def batch(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(t)
    images = torch.randn(6, 3, 32, 32, generator=random, dtype=torch.float64)
    return images, torch.randint(0, CLASSES, (6,), generator=random)


def begin(adapted: Adapted, hook: Any, decay: float = 0.0) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=decay)
    hook.start(TOTAL, optimizer)
    return optimizer


def step(adapted: Adapted, hook: Any, optimizer: torch.optim.Optimizer, t: int) -> None:
    images, labels = batch(t)
    optimizer.zero_grad()
    hook.before_step(t)
    loss = nn.functional.cross_entropy(adapted.module.eval()(images).logits, labels)
    (loss + (hook.penalty() or 0)).backward()
    hook.after_backward(t)
    optimizer.step()
    hook.after_update(t)
    hook.after_step(t)


class Naive:
    """The authors' RankAllocator (loralib/increlora.py): scores of whole matrices, smoothed, the highest grow."""

    def __init__(self, modules: list[str]) -> None:
        self.ranks = dict.fromkeys(modules, 1)
        self.smoothed, self.uncertain = dict.fromkeys(modules, 0.0), dict.fromkeys(modules, 0.0)

    def step(self, t: int, weights: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        if sum(self.ranks.values()) >= 11:
            return
        for name, weight in weights.items():
            now = float((weight * gradients[name]).abs().sum()) / math.sqrt(weight.numel())
            self.smoothed[name] = 0.85 * self.smoothed[name] + 0.15 * now
            self.uncertain[name] = 0.85 * self.uncertain[name] + 0.15 * abs(now - self.smoothed[name])
        if t > 4 and t % 3 == 0:
            scores = {name: self.smoothed[name] * self.uncertain[name] for name in weights}
            number = min(2, 11 - sum(self.ranks.values()))
            for name in sorted(scores, key=lambda name: -scores[name])[:number]:
                self.ranks[name] += 1


def test_ranks_of_every_step_equal_the_naive_implementations(backbone: Backbone) -> None:
    adapted, hook, layers = adapt(backbone)
    optimizer = begin(adapted, hook)
    naive = Naive(list(layers))
    heads = {n: p for n, p in adapted.trainable().items() if adapted.is_head(n)}
    for t in range(TOTAL):
        updates = {
            n: (layer.scale * layer.P @ torch.diag(layer.singular_values.flatten()) @ layer.Q) for n, layer in layers.items()
        }
        updates = {n: update.detach().requires_grad_() for n, update in updates.items()}
        whole = {f"{n}.weight": backbone.module.get_submodule(n).weight.detach() + update for n, update in updates.items()}
        images, labels = batch(t)
        logits = torch.func.functional_call(backbone.module.eval(), {**whole, **heads}, (images,)).logits
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), list(updates.values()))
        naive.step(t, {n: u.detach() for n, u in updates.items()}, dict(zip(updates, gradients, strict=True)))
        step(adapted, hook, optimizer, t)
        assert hook.ranks == naive.ranks, f"step {t}"
    assert [line["step"] - 1 for line in hook.history] == ROUNDS
    assert len(set(hook.ranks.values())) > 1
    hook.finish()


@pytest.mark.parametrize(("initial", "rounds"), [(0, [10, 20, 30]), (9, [10, 20, 30]), (10, [20, 30])])
def test_nothing_is_added_up_to_the_end_of_the_initial_steps(initial: int, rounds: list[int]) -> None:
    """The first addition is in step t > initial_steps; one in the last step but one of 40 would still be trained."""
    allocator = registry.create("allocator", {**SPEC, "initial_steps": initial, "every": 10})
    assert allocator.rounds(40) == allocator.rounds(32) == rounds and allocator.rounds(31) == rounds[:-1]


@pytest.mark.parametrize("adapter", [SVD, POOLED], ids=lambda spec: spec["name"])
def test_the_budget_is_monotone_and_met_and_ranks_really_grow(backbone: Backbone, adapter: dict[str, Any]) -> None:
    adapted, hook, layers = adapt(backbone, adapter, max_rank=3)
    seen = 4 if adapter is POOLED else 32  # sums over groups of 8 inputs, or the inputs
    optimizer = begin(adapted, hook)
    spent, most = [], []
    for t in range(TOTAL):
        before = dict(hook.ranks)
        step(adapted, hook, optimizer, t)
        grown = {name for name in before if hook.ranks[name] > before[name]}
        assert len(grown) <= 2 and (not grown or t in ROUNDS)
        assert all(1 <= rank <= 3 for rank in hook.ranks.values())
        spent.append(sum(hook.ranks.values()))
        most.append(max(layer.rank for layer in layers.values()))
        for layer in layers.values():
            assert layer.P.shape == (32, layer.rank) and layer.Q.shape == (layer.rank, seen)
            for parameter in (layer.P, layer.singular_values, layer.Q):
                assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    assert spent == sorted(spent) and spent[0] == 4 and spent[-1] == 11
    assert max(most) <= 3
    assert {name: layer.rank for name, layer in layers.items()} == hook.ranks  # no reserve is left
    assert all(layer.watch is None for layer in layers.values())


def test_an_addition_leaves_the_function_as_it_is(backbone: Backbone) -> None:
    adapted, hook, layers = adapt(backbone)
    optimizer = begin(adapted, hook)
    images, _ = batch(99)
    changes = []
    grow = hook._grow

    def watched(t: int) -> None:
        with torch.no_grad():
            before = adapted.module(images).logits
            grow(t)
            changes.append(float((adapted.module(images).logits - before).abs().max()))

    hook._grow = watched
    for t in range(TOTAL):
        step(adapted, hook, optimizer, t)
    assert len(changes) == len(ROUNDS)
    assert max(changes) < 1e-6  # reserves begin and end with lambda = 1e-5: below float32's rounding of these outputs
    assert sum(layer.rank for layer in layers.values()) == 11


def test_reserves_learn_in_advance_at_a_fixed_small_lambda(backbone: Backbone) -> None:
    adapted, hook, layers = adapt(backbone, orthogonality=0.0)
    optimizer = begin(adapted, hook, decay=0.1)
    start = {name: layer.Q.detach().clone() for name, layer in layers.items()}
    for t in range(5):
        step(adapted, hook, optimizer, t)
    for name, layer in layers.items():
        assert layer.rank == 2
        assert float(layer.singular_values[1].detach()) == pytest.approx(1e-5)
        assert not optimizer.state[layer.singular_values]["exp_avg"][1].any()
        assert not torch.equal(layer.Q[1], start[name][1])


def test_a_step_that_float16_left_out_is_not_scored(backbone: Backbone) -> None:
    adapted, hook, _ = adapt(backbone)
    optimizer = begin(adapted, hook)
    step(adapted, hook, optimizer, 0)
    before = (hook.importance.clone(), hook.uncertainty.clone())
    images, labels = batch(1)
    nn.functional.cross_entropy(adapted.module.eval()(images).logits, labels).backward()
    assert hook.seen
    hook.after_step(1, False)
    assert torch.equal(hook.importance, before[0]) and torch.equal(hook.uncertainty, before[1])
    assert not hook.seen and hook.steps_done == 2, "what was seen of it is not added to the next step"
    assert hook.state()["left_out"] == [1]
    again, other, _ = adapt(backbone)
    begin(again, other)
    other.load_state(hook.state())
    assert other.rates.left_out == [1]


def test_the_penalty_by_hand(backbone: Backbone) -> None:
    adapted, hook, layers = adapt(backbone, orthogonality=0.3)
    begin(adapted, hook)
    vectors = [v for layer in layers.values() for v in (*layer.P.detach().T, *layer.Q.detach())]
    assert len(vectors) == 4 * 2 * 2
    expected = 0.3 * sum(abs(float(v @ v) - 1) for v in vectors) / len(vectors)
    assert float(hook.penalty().detach()) == pytest.approx(expected)


@pytest.mark.parametrize("left_out", [(), (0, 3, 6, 9)], ids=["float32", "float16"])
def test_late_directions_take_the_steps_of_a_fresh_optimizer(left_out: tuple[int, ...]) -> None:
    """Against torch's AdamW on parameters of their own, with the warm-up that the authors' new parameter groups get.

    Steps that float16 leaves out are steps of the schedule that neither optimizer takes.
    """
    torch.manual_seed(0)  # where a gradient is as small as AdamW's eps, the two part at the sixth digit
    layer = TripletLinear(nn.Linear(5, 4, dtype=torch.float64), 1, 1.0, 0.0, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        layer.singular_values.fill_(1.0)
    total, warmup, born, peak = 20, 3, 6, 0.02
    optimizer = torch.optim.AdamW(layer.parameters(), lr=peak, weight_decay=0.1)
    rates = OwnRate({"m": layer}, optimizer, total, warmup)
    own = None
    for t in range(total):
        if t == born:
            layer.append(2, 0.5, torch.Generator().manual_seed(1), optimizer)
            rates.append("m", 2, born)
            rates.free("m", 1, 2, born)
            fresh = {"P": layer.P[:, 1:], "L": layer.singular_values[1:], "Q": layer.Q[1:]}
            fresh = {k: v.detach().clone().requires_grad_() for k, v in fresh.items()}
            own = torch.optim.AdamW(fresh.values(), lr=peak, weight_decay=0.1)
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = peak * (1 - t / total)
        optimizer.zero_grad()
        rates.before_step()
        (layer(inputs) - inputs[:, :4]).square().sum().backward()
        if own is not None:
            fresh["P"].grad = layer.P.grad[:, 1:].clone()  # pyright: ignore
            fresh["L"].grad, fresh["Q"].grad = layer.singular_values.grad[1:].clone(), layer.Q.grad[1:].clone()  # pyright: ignore
            k = t - born
            share = (k + 1) / (warmup + 1) if k < warmup else 1 - (k - warmup) / (total - born - warmup)
            own.param_groups[0]["lr"] = peak * share
            if t not in left_out:
                own.step()
        old = layer.Q[0].detach().clone()
        if t not in left_out:
            optimizer.step()
        kept = layer.Q[0].detach().clone()
        if t in left_out:
            rates.leave_out(t)
        else:
            rates.after_update(t)
        assert torch.equal(layer.Q[0], kept) and torch.equal(old, kept) == (t in left_out)
        if own is not None:
            torch.testing.assert_close(layer.P[:, 1:], fresh["P"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(layer.singular_values[1:], fresh["L"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(layer.Q[1:], fresh["Q"], rtol=1e-5, atol=1e-6)


def test_a_budget_of_parameters_is_never_exceeded_and_no_direction_fits_behind_it() -> None:
    growth = Growth(
        unit="parameters", amount=700, price={"a": 64, "b": 96}, top={"a": 32, "b": 32}, add=2, top_h=1
    )  # 160 at the start
    ranks = {"a": 1, "b": 1}
    order = ["b", "a"]
    while given := growth.round(ranks, order):
        assert len(given) == 1
        ranks = {name: rank + given.get(name, 0) for name, rank in ranks.items()}
    assert ranks == {"a": 1, "b": 6}  # 64 + 576 = 640; 60 are left
    growth.check(4)  # that many if "a" always comes first
    with pytest.raises(OptionError, match="may leave the budget"):
        growth.check(3)


def sites(count: int = 4, width: int = 32) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=width, d_out=width) for i in range(count)]


@pytest.mark.parametrize(
    ("changes", "train", "steps", "message"),
    [
        ({}, {"select": "best"}, 30, "may have other ranks"),
        ({"initial_steps": 40}, {}, 30, "0 additions"),
        ({"every": 12}, {}, 30, "2 additions of up to 2 x 1 directions"),
        ({"budget": {"ranks": 4}}, {}, 30, "nothing would be added"),
        ({"budget": {"ranks": 8}, "max_rank": 2, "top_h": 3}, {}, 8, "1 additions"),
    ],
)
def test_schedules_that_do_not_fit_are_errors_when_planned(changes, train, steps: int, message: str) -> None:
    allocator = registry.create("allocator", {**SPEC, **changes})
    with pytest.raises(OptionError, match=message):
        allocator.check(sites(), allocator.initial(sites(), 8), steps, Train(**train))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"ranks": 3}}, "below the least"),
        ({"budget": {"ranks": 9}, "max_rank": 2}, "above the most"),
        ({"budget": "match lora"}, "within a study only"),
    ],
)
def test_budgets_that_do_not_fit_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        registry.create("allocator", {**SPEC, **changes}).initial(sites(), 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_h": 0},
        {"add": 0},
        {"every": 0},
        {"max_rank": 0},
        {"initial_steps": -1},
        {"warmup": 1.5},
        {"beta1": 1.0},
        {"beta2": 0.0},
        {"orthogonality": -1.0},
    ],
    ids=str,
)
def test_bad_options_are_errors_at_construction(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {**SPEC, **changes})


def test_a_budget_that_was_not_met_is_noticed_at_the_end(backbone: Backbone) -> None:
    adapted, hook, _ = adapt(backbone)
    begin(adapted, hook)
    hook.steps_done = TOTAL
    with pytest.raises(DidNothing, match="not met"):
        hook.finish()
