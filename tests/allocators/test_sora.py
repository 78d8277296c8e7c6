"""SoRA against a naive proximal AdamW, and what its paper promises: exact zeros, more of them with a larger threshold."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.roles import Site
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train
from tests.contracts.tiny import CLASSES, make

TOTAL, RATE = 24, 3e-2
SPEC = {"name": "sora", "threshold": 1e-2, "l1": 0.5}
SVD = {"name": "svd"}
POOLED = {"name": "pooled", "form": "svd", "group_size": 8}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = make("vit", tmp_path_factory.mktemp("vit"))
    found = source_of(str(folder)).load(str(folder), outputs=CLASSES, seed=0)
    found.module.double()
    return found


def adapt(backbone: Backbone, on: Mapping[str, Any] = SVD, **changes: Any) -> tuple[Adapted, Any]:
    """A float64 SoRA model, and its hook."""
    allocator = registry.create("allocator", {**SPEC, **changes})
    adapter = registry.create("adapter", {**on, "targets": ["q", "v"]})
    sites = adapter.sites(backbone)
    adapted = adapter.attach(copy.deepcopy(backbone), seed=1, ranks=allocator.initial(sites, 6 if on is SVD else 3))
    adapted.seed = 1
    adapted.module.double()
    allocator.initialise(adapted, None)
    return adapted, allocator.hook(adapted)


def layers(adapted: Adapted) -> dict[str, TripletLinear]:
    return {s.name: adapted.module.get_submodule(s.name) for s in adapted.sites}  # pyright: ignore


def loss(adapted: Adapted, t: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(t)
    images = torch.randn(6, 3, 32, 32, generator=random, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (6,), generator=random)
    return nn.functional.cross_entropy(adapted.module.eval()(images).logits, labels)


def train(adapted: Adapted, hook: Any, steps: int = TOTAL, stop: int | None = None) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=0.1)
    hook.start(steps, optimizer)
    for t in range(steps if stop is None else stop):
        optimizer.zero_grad()
        (loss(adapted, t) + (hook.penalty() or 0)).backward()
        optimizer.step()
        hook.after_step(t)
    hook.finish()
    return optimizer


def test_a_step_that_float16_left_out_shrinks_no_gate(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone)
    hook.start(TOTAL, torch.optim.AdamW(adapted.trainable().values()))
    before = {name: layer.singular_values.detach().clone() for name, layer in layers(adapted).items()}
    hook.after_step(0, False)
    assert all(torch.equal(layer.singular_values.detach(), before[name]) for name, layer in layers(adapted).items())
    assert hook.steps_done == 1
    hook.after_step(1, True)
    assert not any(torch.equal(layer.singular_values.detach(), before[name]) for name, layer in layers(adapted).items())


class NaiveGate:
    """Adam with bias correction and no weight decay, then T_xi, gate by gate in Python floats."""

    def __init__(self, value: float) -> None:
        self.value, self.first, self.second, self.steps = value, 0.0, 0.0, 0

    def step(self, gradient: float, threshold: float) -> None:
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        moved = self.value - RATE * mean / (math.sqrt(square) + 1e-8)
        self.value = math.copysign(max(abs(moved) - threshold, 0.0), moved)


def test_every_step_equals_a_naive_proximal_step(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone)
    gates = {name: [NaiveGate(float(g)) for g in layer.singular_values.detach()] for name, layer in layers(adapted).items()}
    number = sum(len(group) for group in gates.values())
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=0.1)
    hook.start(TOTAL, optimizer)
    zeros = 0
    for t in range(TOTAL):
        optimizer.zero_grad()
        loss(adapted, t).backward()
        plain = {name: layer.singular_values.grad.flatten().tolist() for name, layer in layers(adapted).items()}  # pyright: ignore
        optimizer.zero_grad()
        (loss(adapted, t) + hook.penalty()).backward()
        optimizer.step()
        hook.after_step(t)
        for name, layer in layers(adapted).items():
            for gate, gradient in zip(gates[name], plain[name], strict=True):
                sign = (gate.value > 0) - (gate.value < 0)
                gate.step(gradient + 0.5 * sign / number, 1e-2)
            expected = torch.tensor([gate.value for gate in gates[name]], dtype=torch.float64)
            ours = layer.singular_values.detach().flatten()
            assert torch.equal(ours == 0, expected == 0), f"step {t}, {name}"
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
            zeros += int((ours == 0).sum())
    assert zeros > 20


def test_the_start_is_the_authors(backbone: Backbone) -> None:
    adapted, _ = adapt(backbone)
    gates = torch.cat([layer.singular_values.detach().flatten() for layer in layers(adapted).values()])
    assert 0.5 < float(gates.std()) < 1.5 and abs(float(gates.mean())) < 0.6
    for layer in layers(adapted).values():
        assert not layer.P.any()
        assert 0.9 / math.sqrt(32) < float(layer.Q.detach().abs().max()) <= 1 / math.sqrt(32)
    again, _ = adapt(backbone)
    assert all(torch.equal(p, again.trainable()[n]) for n, p in adapted.trainable().items())


def test_what_sees_sums_over_groups_starts_as_large_as_what_sees_the_inputs(backbone: Backbone) -> None:
    """A x of inputs of unit variance: 1/sqrt(3) for A uniform in +-1/sqrt(d_in), and as much where A sees sums of 8."""
    x = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = []
    for on in (SVD, POOLED):
        adapted, _ = adapt(backbone, on)
        seen = [layer.inputs(x) @ layer.Q.detach().T for layer in layers(adapted).values()]
        sizes.append(float(torch.cat(seen, dim=1).square().mean().sqrt()))
        assert all(float(layer.Q.detach().abs().max()) <= 1 / math.sqrt(32) for layer in layers(adapted).values())
    assert sizes == pytest.approx([1 / math.sqrt(3)] * 2, rel=0.15)


def test_a_larger_threshold_leaves_fewer_directions_and_export_leaves_out_exactly_the_zeros(
    backbone: Backbone, tmp_path: Path
) -> None:
    left = []
    for threshold in (1e-3, 1e-2, 3e-2):
        adapted, hook = adapt(backbone, threshold=threshold)
        train(adapted, hook)
        ranks = hook.report()["ranks.json"]["ranks"]
        assert ranks == {name: int((layer.singular_values != 0).sum()) for name, layer in layers(adapted).items()}
        left.append(sum(ranks.values()))
        adapted.adapter.save(adapted, tmp_path / str(threshold))
        from safetensors.torch import load_file

        saved = load_file(tmp_path / str(threshold) / "adapter_model.safetensors")
        found = {key: tensor.shape[0] for key, tensor in saved.items() if key.endswith("lora_A.weight")}
        assert found == {f"base_model.model.{name}.lora_A.weight": rank for name, rank in ranks.items() if rank}
    assert 24 >= left[0] > left[1] > left[2] > 0


def test_weight_decay_leaves_the_gates_alone(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone)
    optimizer = train(adapted, hook, steps=2)
    gates = {id(layer.singular_values) for layer in layers(adapted).values()}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert {decays[gate] for gate in gates} == {0.0}
    assert decays.keys() == {id(p) for p in adapted.trainable().values()}


@pytest.mark.parametrize(
    ("schedule", "first", "middle"),
    [("linear", 0.1, 0.5), ("log_linear", 0.1, math.log((math.exp(0.1) + math.exp(0.9)) / 2)), ("exp_linear", 0.1, 0.3)],
)
def test_the_sparsifying_schedule_by_hand(schedule: str, first: float, middle: float) -> None:
    sora = registry.create(
        "allocator", {"name": "sora", "threshold": 0.1, "max_threshold": 0.9, "levels": 3, "schedule": schedule}
    )
    expected = [first] * 4 + [middle] * 3 + [0.9] * 3
    assert sora.thresholds(10) == pytest.approx(expected)


def test_a_threshold_that_leaves_nothing_is_noticed(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone, threshold=1.0)
    with pytest.raises(DidNothing, match="every gate became zero"):
        train(adapted, hook)


def test_a_threshold_that_leaves_nothing_is_noticed_where_training_stops_early_but_divergence_is_an_outcome(
    backbone: Backbone,
) -> None:
    adapted, hook = adapt(backbone, threshold=1.0)
    with pytest.raises(DidNothing, match="every gate became zero"):
        train(adapted, hook, stop=6)
    hook.non_finite(6)
    hook.finish()
    adapted, hook = adapt(backbone)
    train(adapted, hook, stop=2)  # gates are left


def sites(count: int = 4, width: int = 32) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=width, d_out=width) for i in range(count)]


@pytest.mark.parametrize(
    ("changes", "train", "steps", "message"),
    [
        ({"threshold": 1e-6, "l1": 0.0}, {}, 100, "no gate is likely to become zero"),
        ({"max_threshold": 1e-1, "levels": 7}, {}, 6, "do not fit into 6 steps"),
        ({"max_threshold": 1e-1}, {"select": "best"}, 100, "before the last threshold"),
    ],
)
def test_schedules_that_do_not_fit_are_errors_when_planned(changes, train, steps: int, message: str) -> None:
    allocator = registry.create("allocator", {**SPEC, **changes})
    with pytest.raises(OptionError, match=message):
        allocator.check(sites(), allocator.initial(sites(), 8), steps, Train(**train))


@pytest.mark.parametrize(
    ("changes", "train"), [({}, {"select": "best"}), ({"max_threshold": 1e-1}, {"select": "last"}), ({}, {"select": "last"})]
)
def test_the_best_weights_are_refused_for_a_rising_threshold_only(changes, train) -> None:
    allocator = registry.create("allocator", {**SPEC, **changes})
    allocator.check(sites(), allocator.initial(sites(), 8), 100, Train(**train))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.0},
        {"threshold": -1.0},
        {"max_threshold": 1e-3},
        {"threshold": 0.0, "max_threshold": 1.0, "schedule": "exp_linear"},
        {"levels": 1},
        {"l1": -1.0},
        {"budget": {"ranks": 0}},
    ],
    ids=str,
)
def test_bad_options_are_errors_at_construction(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {**SPEC, **changes})


def test_budgets_that_do_not_fit_are_errors() -> None:
    for budget, message in (({"ranks": 3}, "below the least"), ({"ranks": 999}, "above the most")):
        with pytest.raises(OptionError, match=message):
            registry.create("allocator", {**SPEC, "budget": budget}).initial(sites(), 8)
