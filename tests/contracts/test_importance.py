"""What every importance metric promises, checked on every registered one, against loops over single weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.allocators.importance.contract import Importance
from peftlab.errors import OptionError
from peftlab.nn.parts import Part
from tests.contracts.conftest import samples

D_IN, D_OUT, SCALE = 6, 5, 2.0
RANKS = {"a": 3, "b": 1}
STEPS = 4


Makes = Callable[[], dict[str, Part]]
SAMPLED: list[Importance] = [registry.create("importance", sample.spec) for sample in samples("importance")]


@pytest.fixture(params=SAMPLED, ids=str)
def importance(request: pytest.FixtureRequest) -> Importance:
    return request.param


def lora_parts() -> dict[str, Part]:
    torch.manual_seed(0)
    return {
        name: Part(
            tensors=((nn.Parameter(torch.randn(rank, D_IN)), 0), (nn.Parameter(torch.randn(D_OUT, rank)), 1)),
            d_in=D_IN,
            d_out=D_OUT,
            scale=SCALE,
        )
        for name, rank in RANKS.items()
    }


def small_parts() -> dict[str, Part]:
    """With an update whose norm stays below 1."""
    parts = lora_parts()
    for part in parts.values():
        for tensor, _ in part.tensors:
            tensor.data *= 1e-3
    return parts


def triplet_parts() -> dict[str, Part]:
    torch.manual_seed(1)
    return {
        name: Part(
            tensors=(
                (nn.Parameter(torch.randn(D_OUT, rank)), 1),
                (nn.Parameter(torch.randn(rank, 1)), 0),
                (nn.Parameter(torch.randn(rank, D_IN)), 0),
            ),
            d_in=D_IN,
            d_out=D_OUT,
            scale=SCALE,
        )
        for name, rank in RANKS.items()
    }


def base_parts() -> dict[str, Part]:
    torch.manual_seed(2)
    return {n: Part(tensors=((nn.Parameter(torch.randn(D_OUT, D_IN)), None),), d_in=D_IN, d_out=D_OUT) for n in RANKS}


def train(parts: dict[str, Part], meter, steps: range = range(STEPS)) -> list[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Move every weight a little at each step; returns copies of (weight, gradient) as the meter saw them."""
    seen = []
    for step in steps:
        random = torch.Generator().manual_seed(step)
        for part in parts.values():
            for tensor, _ in part.tensors:
                tensor.grad = torch.randn(tensor.shape, generator=random)
                tensor.data -= 0.1 * tensor.grad
        meter.observe()
        seen.append({n: [(t.detach().clone(), t.grad.clone()) for t, _ in p.tensors] for n, p in parts.items()})
    return seen


def entries(part: Part, tensors: list[torch.Tensor], direction: int | None) -> list[list[float]]:
    """Per tensor, the entries of one direction (all entries for None), one by one."""
    found = []
    for tensor, (_, dim) in zip(tensors, part.tensors, strict=True):
        cells = [(i, j) for i in range(tensor.shape[0]) for j in range(tensor.shape[1])]
        found.append([float(tensor[c]) for c in cells if direction is None or c[0 if dim == 0 else 1] == direction])
    return found


def update_of(part: Part, weights: list[torch.Tensor], direction: int | None = None) -> torch.Tensor:
    """s B A, or one rank-1 term of it, entry by entry."""
    by_dim = {dim: t for t, (_, dim) in zip(weights, part.tensors, strict=True) if t.shape != (part.directions, 1) or dim == 1}
    middle = next((t for t, (_, dim) in zip(weights, part.tensors, strict=True) if dim == 0 and t.shape[1] == 1), None)
    result = torch.zeros(part.d_out, part.d_in)
    for i in range(part.directions) if direction is None else [direction]:
        factor = float(middle[i, 0]) if middle is not None else 1.0
        for row in range(part.d_out):
            for column in range(part.d_in):
                result[row, column] += part.scale * float(by_dim[1][row, i]) * factor * float(by_dim[0][i, column])
    return result


def own_test(name: str) -> Path:
    """Where a metric's own test is, and in it the loop ``naive(part, seen, direction)``."""
    return Path(__file__).parents[1] / "allocators" / "importance" / f"test_{name}.py"


def own_loop(name: str) -> Callable[[Part, list, int | None], float]:
    return importlib.import_module(f"tests.allocators.importance.test_{name}").naive


def naive_magnitude(part: Part, seen: list, direction: int | None) -> float:
    updates = [update_of(part, [w for w, _ in step], direction) for step in seen]
    return sum(math.sqrt(sum(float(x) ** 2 for x in u.flatten()) / u.numel()) for u in updates) / len(seen)


def naive_gradient_norm(part: Part, seen: list, direction: int | None) -> float:
    norms = [math.sqrt(sum(x * x for group in entries(part, [g for _, g in step], direction) for x in group)) for step in seen]
    return sum(norms) / len(norms)


def naive_fisher(part: Part, seen: list, direction: int | None) -> float:
    squares = [x * x for step in seen for group in entries(part, [g for _, g in step], direction) for x in group]
    return sum(squares) / len(squares)


def naive_sensitivity(part: Part, seen: list, direction: int | None) -> float:
    if direction is None and part.directions:
        return sum(naive_sensitivity(part, seen, i) for i in range(part.directions)) / part.directions
    total = 0.0
    for number in range(len(part.tensors)):
        scores = []
        for position in range(len(entries(part, [w for w, _ in seen[0]], direction)[number])):
            smooth = unsure = 0.0
            for step in seen:
                weight = entries(part, [w for w, _ in step], direction)[number][position]
                gradient = entries(part, [g for _, g in step], direction)[number][position]
                smooth = 0.85 * smooth + 0.15 * abs(weight * gradient)
                unsure = 0.85 * unsure + 0.15 * abs(abs(weight * gradient) - smooth)
            scores.append(smooth * unsure)
        total += sum(scores) / len(scores)
    return total


def naive_spectral(part: Part, seen: list, direction: int | None) -> float:
    values = torch.linalg.svdvals(update_of(part, [w for w, _ in seen[-1]]))[: part.directions] / math.sqrt(D_IN * D_OUT)
    if direction is not None:
        return float(values[direction])
    energy = [float(v) ** 2 for v in values]
    shares = [e / sum(energy) for e in energy]
    return math.sqrt(sum(energy)) * math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def naive_weight_gradient(part: Part, seen: list, direction: int | None) -> float:
    weights = [x for group in entries(part, [w for w, _ in seen[-1]], direction) for x in group]
    steps = [[x for group in entries(part, [g for _, g in step], direction) for x in group] for step in seen]
    means = [sum(values) / len(values) for values in zip(*steps, strict=True)]
    return sum(abs(w * g) for w, g in zip(weights, means, strict=True)) / len(weights)


NAIVE: dict[str, Callable[[Part, list, int | None], float]] = {
    "magnitude": naive_magnitude,
    "gradient_norm": naive_gradient_norm,
    "fisher": naive_fisher,
    "sensitivity": naive_sensitivity,
    "spectral": naive_spectral,
    "weight_gradient": naive_weight_gradient,
    **{name: own_loop(name) for name in registry.components("importance") if own_test(name).is_file()},
}


def test_every_metric_has_a_loop_to_compare_it_with() -> None:
    missing = [f"`naive` in {own_test(name)}" for name in registry.components("importance") if name not in NAIVE]
    assert not missing


def measurable(metric: Importance, make: Makes) -> bool:
    """A property of the update cannot be had of the base."""
    return make is not base_parts or not metric.of_update


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        (name, make)
        for make in (lora_parts, small_parts, triplet_parts, base_parts)
        for name in NAIVE
        if measurable(registry.create("importance", name), make)
    ],
)
def test_equals_a_loop_over_single_weights(name: str, make: Makes, steps: int) -> None:
    metric: Importance = registry.create("importance", name)
    parts = make()
    meter = metric.meter(parts)
    seen = train(parts, meter, range(steps))
    for module, scores in meter.scores().items():
        part, own = parts[module], [step[module] for step in seen]
        assert scores.module == pytest.approx(NAIVE[name](part, own, None), rel=1e-4)
        expected = [NAIVE[name](part, own, i) for i in range(part.directions)]
        assert scores.directions.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("importance", "make"),
    [(metric, make) for make in (lora_parts, base_parts) for metric in SAMPLED if measurable(metric, make)],
    ids=lambda value: getattr(value, "__name__", str(value)),  # as text a function has its address, another one in each process
)
def test_state_lets_a_run_continue_bit_for_bit(importance: Importance, make: Makes) -> None:
    whole, parts = importance.meter(first := make()), make()
    train(first, whole)
    begun = importance.meter(parts)
    train(parts, begun, range(2))
    continued = importance.meter(parts)
    continued.load_state(begun.state())
    train(parts, continued, range(2, STEPS))
    for name, scores in whole.scores().items():
        assert continued.scores()[name].module == scores.module
        assert torch.equal(continued.scores()[name].directions, scores.directions)


def test_state_is_taken_up_whatever_the_rank_was_at_the_start(importance: Importance) -> None:
    def grown() -> dict[str, Part]:
        parts = lora_parts()
        (a, _), (b, _) = parts["a"].tensors
        a.data, b.data = torch.ones(4, D_IN), torch.ones(D_OUT, 4)
        return parts

    whole = importance.meter(first := grown())
    train(first, whole, range(2))
    parts = lora_parts()
    continued = importance.meter(parts)
    for name, part in first.items():
        for (tensor, _), (now, _) in zip(parts[name].tensors, part.tensors, strict=True):
            tensor.data = now.detach().clone()
    continued.load_state(whole.state())
    assert {name: scores.module for name, scores in continued.scores().items()} == {
        name: scores.module for name, scores in whole.scores().items()
    }


def test_after_a_reset_only_what_follows_counts_whatever_the_rank_is_now(importance: Importance) -> None:
    parts = lora_parts()
    meter = importance.meter(parts)
    train(parts, meter, range(2))
    (a, _), (b, _) = parts["a"].tensors
    a.data, b.data, a.grad, b.grad = torch.ones(4, D_IN), torch.ones(D_OUT, 4), None, None
    meter.reset()
    train(parts, meter, range(2, 3))
    fresh_parts = lora_parts()
    train(fresh_parts, importance.meter(fresh_parts), range(2))
    (c, _), (d, _) = fresh_parts["a"].tensors
    c.data, d.data, c.grad, d.grad = torch.ones(4, D_IN), torch.ones(D_OUT, 4), None, None
    fresh = importance.meter(fresh_parts)
    train(fresh_parts, fresh, range(2, 3))
    assert meter.scores()["a"].module == fresh.scores()["a"].module
    assert meter.scores()["a"].directions.shape == (4,)


def test_a_step_that_is_not_finite_is_left_out(importance: Importance) -> None:
    parts = lora_parts()
    meter = importance.meter(parts)
    train(parts, meter)
    before = meter.scores()
    for part in parts.values():
        for tensor, _ in part.tensors:
            tensor.grad = torch.full_like(tensor, float("inf"))
    meter.observe()
    assert all(math.isfinite(s.module) for s in meter.scores().values())
    if not importance.of_update:
        assert {n: s.module for n, s in meter.scores().items()} == {n: s.module for n, s in before.items()}


def test_nothing_observed_is_no_importance_and_no_error(importance: Importance) -> None:
    parts = lora_parts()
    for part in parts.values():
        part.tensors[1][0].data.zero_()
    assert {s.module for s in importance.meter(parts).scores().values()} == {0.0}


def test_without_any_gradient_each_direction_still_has_a_value(importance: Importance) -> None:
    meter = importance.meter(lora_parts())
    meter.observe()
    assert {name: len(scores.directions) for name, scores in meter.scores().items()} == RANKS
    assert all(scores.module == 0.0 for scores in meter.scores().values()) or importance.of_update


@pytest.mark.parametrize("importance", [metric for metric in SAMPLED if measurable(metric, base_parts)], ids=str)
def test_without_any_gradient_there_is_no_importance_and_no_error(importance: Importance) -> None:
    """Weights of the base that no loss reached."""
    meter = importance.meter(base_parts())
    meter.observe()
    assert {s.module for s in meter.scores().values()} == {0.0}
    assert {len(s.directions) for s in meter.scores().values()} == {0}


@pytest.mark.parametrize("option", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [-0.5, 0.0, 1.0, 1.5])
def test_a_smoothing_that_forgets_all_or_nothing_is_refused(option: str, value: float) -> None:
    with pytest.raises(OptionError, match="must be between 0 and 1") as caught:
        registry.create("importance", {"name": "sensitivity", option: value})
    assert caught.value.where.endswith(option)
    for fine in (0.01, 0.99):
        registry.create("importance", {"name": "sensitivity", option: fine})


def test_options_survive_the_way_to_a_study_file_and_back(importance: Importance) -> None:
    assert registry.create("importance", importance.spec()) == importance
    assert importance.summary()
