"""AdaLoRA mask by mask: against a naive implementation of the authors' code, and against PEFT's RankAllocator."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adalora.layer import RankAllocator
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.allocators._curve import Curve
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import OptionError
from peftlab.nn.roles import Site
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train
from tests.contracts.tiny import CLASSES, make

TOTAL, INITIAL, FINAL, EVERY, START, TARGET = 48, 5, 10, 3, 6, 9
GAMMA, SCALE, RATE = 0.1, 2.0, 1e-2
SPEC = {
    "name": "adalora",
    "budget": {"ranks": TARGET},
    "initial_rank": START,
    "initial_steps": INITIAL,
    "final_steps": FINAL,
    "every": EVERY,
    "orthogonality": GAMMA,
}


class Naive:
    """The authors' RankAllocator (loralib/adalora.py) weight by weight in Python floats, importing nothing of ours."""

    def __init__(self, total_rank: int) -> None:
        self.total_rank = total_rank
        self.smoothed: dict[tuple, float] = {}
        self.uncertain: dict[tuple, float] = {}

    def step(self, t: int, modules: dict[str, dict[str, list]], gradients: dict[str, dict[str, list]]) -> set | None:
        """{(module, triplet)} to switch off, or None where nothing is masked. ``modules``: P [out][r], L [r], Q [r][in]."""
        if t < TOTAL - FINAL:
            for name, parts in modules.items():
                for part, rows in parts.items():
                    for i, row in enumerate(rows):
                        for j, weight in enumerate(row):
                            self._smooth((name, part, i, j), abs(weight * gradients[name][part][i][j]))
        if t <= INITIAL:
            return None
        if t > TOTAL - FINAL:
            budget = TARGET
        elif t % EVERY == 0:
            left = 1 - (t - INITIAL) / (TOTAL - FINAL - INITIAL)
            budget = int(TARGET + (self.total_rank - TARGET) * left**3)
        else:
            return None
        scores = {}
        for name, parts in modules.items():
            d_out, rank, d_in = len(parts["P"]), len(parts["Q"]), len(parts["Q"][0])
            for i in range(rank):
                left_mean = sum(self._score((name, "P", j, i)) for j in range(d_out)) / d_out
                right_mean = sum(self._score((name, "Q", i, j)) for j in range(d_in)) / d_in
                scores[name, i] = self._score((name, "L", i, 0)) + left_mean + right_mean
        threshold = sorted(scores.values())[self.total_rank - budget - 1]
        return {triplet for triplet, score in scores.items() if score <= threshold}

    def _smooth(self, key: tuple, now: float) -> None:
        self.smoothed[key] = 0.85 * self.smoothed.get(key, 0.0) + 0.15 * now
        self.uncertain[key] = 0.85 * self.uncertain.get(key, 0.0) + 0.15 * abs(now - self.smoothed[key])

    def _score(self, key: tuple) -> float:
        return self.smoothed[key] * self.uncertain[key]


class Reference:
    """The model as the paper writes it: W = W0 + s P diag(lambda) Q in every forward pass, its own parameters and optimizer."""

    def __init__(self, backbone: Backbone, start: dict[str, TripletLinear], head: dict[str, torch.Tensor]) -> None:
        self.module = backbone.module.eval()
        self.parts = {
            name: {
                "P": layer.P.detach().clone().requires_grad_(),
                "L": torch.zeros(START, 1, dtype=torch.float64, requires_grad=True),
                "Q": layer.Q.detach().clone().requires_grad_(),
            }
            for name, layer in start.items()
        }
        self.head = {name: value.detach().clone().requires_grad_() for name, value in head.items()}
        tensors = [t for parts in self.parts.values() for t in parts.values()] + list(self.head.values())
        self.optimizer = torch.optim.AdamW(tensors, lr=RATE, weight_decay=0.0)
        self.naive = Naive(START * len(self.parts))

    def step(self, t: int, images: torch.Tensor, labels: torch.Tensor) -> None:
        weights = dict(self.head)
        penalties = []
        for name, p in self.parts.items():
            frozen = self.module.get_submodule(name).weight.detach()
            weights[f"{name}.weight"] = frozen + SCALE * p["P"] @ torch.diag(p["L"].flatten()) @ p["Q"]
            for gram in (p["P"].T @ p["P"], p["Q"] @ p["Q"].T):
                penalties.append(((gram - torch.eye(START, dtype=torch.float64)) ** 2).sum().sqrt())
        logits = torch.func.functional_call(self.module, weights, (images,)).logits
        loss = nn.functional.cross_entropy(logits, labels) + GAMMA * sum(penalties) / len(penalties)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        values = {n: {k: v.tolist() for k, v in p.items()} for n, p in self.parts.items()}
        gradients = {n: {k: v.grad.tolist() for k, v in p.items()} for n, p in self.parts.items()}  # pyright: ignore
        off = self.naive.step(t, values, gradients)
        for name, i in off or ():
            self.parts[name]["L"].data[i] = 0.0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = make("vit", tmp_path_factory.mktemp("vit"))
    found = source_of(str(folder)).load(str(folder), outputs=CLASSES, seed=0)
    found.module.double()
    return found


def adapt(backbone: Backbone, **changes: Any) -> tuple[Adapted, Any]:
    """A float64 AdaLoRA model, and its hook."""
    allocator = registry.create("allocator", {**SPEC, **changes})
    adapter = registry.create("adapter", {"name": "svd", "targets": ["q", "v"]})
    sites = adapter.sites(backbone)
    adapted = adapter.attach(copy.deepcopy(backbone), seed=1, ranks=allocator.initial(sites, 8))
    adapted.module.double()
    return adapted, allocator.hook(adapted)


def batch(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(t)
    images = torch.randn(6, 3, 32, 32, generator=random, dtype=torch.float64)
    return images, torch.randint(0, CLASSES, (6,), generator=random)


def run_ours(adapted: Adapted, hook: Any, optimizer: torch.optim.Optimizer, t: int) -> None:
    images, labels = batch(t)
    loss = nn.functional.cross_entropy(adapted.module.eval()(images).logits, labels) + hook.penalty()
    loss.backward()
    optimizer.step()
    hook.after_step(t)


def test_a_step_that_float16_left_out_is_masked_and_not_scored(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone)
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=0.0)
    hook.start(TOTAL, optimizer)
    due = next(t for t in range(TOTAL) if hook.curve.masks(t) and hook.curve.scores(t))
    for t in range(due):
        run_ours(adapted, hook, optimizer, t)
    before = (hook.importance.clone(), hook.uncertainty.clone())
    for parameter in adapted.trainable().values():
        parameter.grad = torch.ones_like(parameter)
    noted = len(hook.history)
    hook.after_step(due, False)
    assert torch.equal(hook.importance, before[0]) and torch.equal(hook.uncertainty, before[1])
    assert len(hook.history) == noted + 1 and hook.steps_done == due + 1, "the budget falls by steps"


def test_every_mask_of_a_whole_schedule_equals_the_naive_implementations(backbone: Backbone) -> None:
    adapted, hook = adapt(backbone)
    layers = {s.name: adapted.module.get_submodule(s.name) for s in adapted.sites}
    head = {n: p for n, p in adapted.trainable().items() if adapted.is_head(n)}
    reference = Reference(copy.deepcopy(backbone), layers, head)  # pyright: ignore
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=0.0)
    hook.start(TOTAL, optimizer)
    masks = []
    for t in range(TOTAL):
        optimizer.zero_grad()
        run_ours(adapted, hook, optimizer, t)
        reference.step(t, *batch(t))
        for name, layer in layers.items():
            ours, theirs = layer.singular_values.detach(), reference.parts[name]["L"].detach()
            assert torch.equal(ours == 0, theirs == 0), f"step {t}, {name}"
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
        masks.append(frozenset((n, int(i)) for n, layer in layers.items() for i in layer.surviving()))  # pyright: ignore
    hook.finish()
    at_masks = [masks[line["step"]] for line in hook.history]
    assert len(set(at_masks)) > 5
    assert any(later - earlier for earlier, later in itertools.pairwise(at_masks)), "no triplet ever came back"
    assert len(masks[-1]) == TARGET
    assert len(set(masks[TOTAL - FINAL + 1 :])) == 1


class Named(nn.Module):
    """The same tensors under PEFT's names, for PEFT's allocator."""

    def __init__(self, layers: dict[str, TripletLinear]) -> None:
        super().__init__()
        for name, layer in layers.items():
            inner = nn.Module()
            for part, tensor in (("lora_A", layer.Q), ("lora_E", layer.singular_values), ("lora_B", layer.P)):
                setattr(inner, part, nn.ParameterDict({"default": nn.Parameter(tensor.detach().clone())}))
            self.add_module(name.replace(".", "_"), inner)

    def copy_from(self, layers: dict[str, TripletLinear], values: dict[str, torch.Tensor]) -> None:
        """Weights and gradients; lambda as it was before our mask."""
        for name, layer in layers.items():
            inner = self.get_submodule(name.replace(".", "_"))
            for part, tensor, value in (
                ("lora_A", layer.Q, layer.Q),
                ("lora_E", layer.singular_values, values[name]),
                ("lora_B", layer.P, layer.P),
            ):
                parameter = getattr(inner, part)["default"]
                parameter.data.copy_(value.detach())
                parameter.grad = tensor.grad.detach().clone()  # pyright: ignore


def test_masks_equal_those_of_pefts_allocator(backbone: Backbone) -> None:
    """PEFT's holds the final mask by another way, so up to the end of the falling budget."""
    adapted, hook = adapt(backbone, budget={"ranks": 8})
    layers: dict[str, TripletLinear] = {s.name: adapted.module.get_submodule(s.name) for s in adapted.sites}  # pyright: ignore
    theirs = Named(layers)
    config = peft.AdaLoraConfig(target_r=2, init_r=START, tinit=INITIAL, tfinal=FINAL, deltaT=EVERY, total_step=TOTAL)
    allocator = RankAllocator(theirs, config, "default")
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=RATE, weight_decay=0.0)
    hook.start(TOTAL, optimizer)
    masked = 0
    for t in range(TOTAL - FINAL + 1):
        optimizer.zero_grad()
        images, labels = batch(t)
        loss = nn.functional.cross_entropy(adapted.module.eval()(images).logits, labels) + hook.penalty()
        loss.backward()
        optimizer.step()
        before = {n: layer.singular_values.detach().clone() for n, layer in layers.items()}
        hook.after_step(t)
        theirs.copy_from(layers, before)
        budget, pattern = allocator.update_and_allocate(theirs, t)
        assert budget == hook.curve.budget(t)
        masked += pattern is not None
        for name, layer in layers.items():
            expected = theirs.get_submodule(name.replace(".", "_")).lora_E["default"]
            assert torch.equal(layer.singular_values.detach(), expected.detach()), f"step {t}, {name}"
    assert masked == len(hook.history) == hook.curve.falls > 5


def test_the_budget_curve_by_hand() -> None:
    curve = Curve(total=100, initial=10, final=20, every=5, start=40, target=10)
    assert [curve.budget(t) for t in (0, 10, 11, 45, 80, 81, 99)] == [40, 40, 38, 13, 10, 10, 10]  # 10 + 30 (1 - 35/70)^3 = 13.75
    assert [t for t in range(100) if curve.masks(t)] == [*range(15, 81, 5), *range(81, 100)]
    assert curve.scores(79) and not curve.scores(80)
    budgets = [curve.budget(t) for t in range(100)]
    assert budgets == sorted(budgets, reverse=True)


def sites(count: int = 4, width: int = 32) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=width, d_out=width) for i in range(count)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 12),  # 1.5 times the adapter's 8
        ({"budget": {"ranks": 10}}, 4),  # 1.5 * 10 / 4, rounded up
        ({"budget": {"parameters": 4 * 8 * 64}}, 12),  # rank 8 everywhere
        ({"budget": {"ranks": 10}, "initial_rank": 3}, 3),
    ],
)
def test_the_rank_at_the_start(changes: dict[str, Any], expected: int) -> None:
    allocator = registry.create("allocator", {"name": "adalora", **changes})
    assert set(allocator.initial(sites(), 8).values()) == {expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_rank": 8}, "would never fall: 4 modules start with 32 ranks and end with 32"),
        ({"budget": {"ranks": 12}, "initial_rank": 3}, "would never fall"),
        ({"budget": {"parameters": 63}}, "below one rank"),
        ({"initial_rank": 33}, r"above min\(d_in, d_out\) = 32 of m0"),
        ({"budget": "match lora"}, "within a study only"),
    ],
)
def test_budgets_that_do_not_fit_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        registry.create("allocator", {"name": "adalora", **changes}).initial(sites(), 8)


@pytest.mark.parametrize(
    ("changes", "train", "steps", "message"),
    [
        ({"initial_steps": 50, "final_steps": 50}, {}, 100, "longer than its first and last phase"),
        ({"initial_steps": 0.5, "final_steps": 0.5}, {}, 100, "longer than its first and last phase"),
        ({"every": 80}, {}, 100, "no mask is due"),
        ({"final_steps": 0}, {}, 100, "2 or more are needed"),
        ({}, {"select": "best"}, 100, "before the budget is met"),
    ],
)
def test_schedules_that_do_not_fit_are_errors_when_planned(changes, train, steps: int, message: str) -> None:
    allocator = registry.create("allocator", {"name": "adalora", **changes})
    with pytest.raises(OptionError, match=message):
        allocator.check(sites(), allocator.initial(sites(), 8), steps, Train(**train))


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_rank": 1},
        {"every": 0},
        {"initial_steps": -1},
        {"final_steps": 1.0},
        {"beta1": 1.0},
        {"beta2": 0.0},
        {"orthogonality": -1.0},
    ],
    ids=str,
)
def test_bad_options_are_errors_at_construction(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {"name": "adalora", **changes})


def test_a_mask_that_would_not_hold_is_noticed_at_the_end(backbone: Backbone, tmp_path: Path) -> None:
    from peftlab.errors import DidNothing

    adapted, hook = adapt(backbone)
    hook.start(TOTAL, torch.optim.SGD(adapted.trainable().values()))
    hook.steps_done = TOTAL
    with torch.no_grad():
        for site in adapted.sites:
            adapted.module.get_submodule(site.name).singular_values.fill_(1.0)  # pyright: ignore
    with pytest.raises(DidNothing, match="24 ranks are left, the budget is 9"):
        hook.finish()
