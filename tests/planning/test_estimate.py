"""Predictions against PyTorch's own trackers, closed formulas and brute force."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from peftlab.nn.flops import flop_counter
from peftlab.nn.fused_layers import adjacent
from peftlab.planning.estimate import HEADROOM, Estimate, fits, largest_batch, refusal, roofline_s
from peftlab.planning.trace import Operation, StepTrace, fake_module, trace_step
from peftlab.training.memory import PARTS

CPU = torch.device("cpu")
WIDTH, BATCH, DEPTH = 256, 64, 4


def mlp(frozen: int = 0) -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)]
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    return nn.Sequential(*layers)


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True)


def traced(make: Callable[[], nn.Module], batch: int = BATCH, *, accumulate: bool = False) -> StepTrace:
    with torch.device("meta"):
        module = make()
    mode = FakeTensorMode()
    fake_module(module, mode, CPU)
    return trace_step(
        module, lambda: module(torch.empty(batch, WIDTH)).sum(), adamw, mode=mode, device=CPU, accumulate=accumulate
    )


def test_peak_equals_that_of_pytorchs_own_tracker() -> None:
    """torch.distributed._tools.mem_tracker follows the same kind of step with code nobody here wrote."""
    mode = FakeTensorMode()
    with mode:
        module = mlp()
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        tracker = MemTracker()
        tracker.track_external(module, optimizer)
        for _ in range(2):  # the second step has the optimizer's state all along
            tracker.reset_mod_stats()
            with tracker:
                loss = module(torch.empty(BATCH, WIDTH)).sum()
                loss.backward()
                del loss
                optimizer.step()
                optimizer.zero_grad()
        theirs = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    assert traced(mlp).peak == pytest.approx(theirs, rel=0.01)


def test_parts_of_a_chain_of_linear_layers_are_the_closed_formulas() -> None:
    step = traced(lambda: mlp(frozen=2))
    layer = 4 * (WIDTH * WIDTH + WIDTH)
    state = 2 * 2 * layer + 2 * 2 * 64  # two moments, and a step counter per tensor in a block of 64 bytes
    assert step.parts["weights"] == 2 * layer
    assert step.parts["adapter"] == 2 * layer
    assert step.parts["optimizer"] == state
    assert step.gradients == 2 * layer
    assert step.parts["activations"] + step.parts["workspace"] + step.parts["gradients"] == step.peak - 4 * layer - state


def test_what_is_frozen_below_the_first_adapter_keeps_nothing() -> None:
    """ReLU keeps its output, a trained linear layer its input; frozen layers under the first trained one keep nothing."""
    row = 4 * BATCH * WIDTH
    # the second ReLU's output is the third layer's input; the third's and fourth's are kept by themselves; the loss is 64 bytes
    assert traced(lambda: mlp(frozen=2)).saved == 3 * row + 64
    # and here the batch is the first layer's input
    assert traced(lambda: mlp(frozen=0)).saved == (DEPTH + 1) * row + 64


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 64))
def test_activations_are_proportional_to_the_batch(batch: int) -> None:
    one, many = traced(mlp, 1), traced(mlp, batch)
    assert many.saved - 64 == batch * (one.saved - 64)
    assert many.parts["weights"] == one.parts["weights"]


def test_accumulated_gradients_are_there_all_along() -> None:
    plain, accumulated = traced(mlp), traced(mlp, accumulate=True)
    assert accumulated.gradients == plain.gradients
    assert plain.peak < accumulated.peak <= plain.peak + plain.gradients


def test_checkpointing_keeps_less() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(*mlp()) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            return x

    plain = traced(lambda: nn.Sequential(*(mlp() for _ in range(3))), 4096)
    less = traced(Checkpointed, 4096)
    assert less.saved < 0.5 * plain.saved
    assert less.peak < plain.peak
    assert less.flops > 1.2 * plain.flops  # what is not kept is computed again


def test_flops_are_those_that_pytorch_counts_on_the_real_step() -> None:
    module = mlp(frozen=1)
    with flop_counter() as counter:
        module(torch.ones(BATCH, WIDTH)).sum().backward()
    assert traced(lambda: mlp(frozen=1)).flops == counter.get_total_flops()


def test_a_fake_module_has_the_same_shapes_and_ties() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[0].weight.requires_grad_(False)
    fake_module(module, FakeTensorMode(), CPU)
    assert module[1].weight is module[0].weight
    assert isinstance(module[0].weight, nn.Parameter)
    assert not module[0].weight.requires_grad
    assert module[0].bias.requires_grad


def test_tracing_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    traced(lambda: nn.Sequential(mlp(), nn.Dropout(0.5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_roofline_is_the_longer_of_computing_and_moving() -> None:
    operations = [Operation("mm", 1000, 10), Operation("add", 0, 600)]
    assert roofline_s(operations, flops_per_s=100, bytes_per_s=60, overhead_s=0.5) == pytest.approx(10 + 10 + 2 * 0.5)


def of(peak_mb: float) -> Estimate:
    parts = dict.fromkeys(PARTS, 0.0) | {"activations": peak_mb}
    return Estimate(parts_mb=parts, evaluate_peak_mb=0.0, step_flops=1, step_time_s=1.0, evaluate_time_per_example_s=1.0)


@given(st.integers(1, 512), st.floats(0, 100), st.floats(0.001, 10), st.floats(0, 1000))
def test_largest_batch_is_what_trying_all_finds(effective: int, fixed: float, each: float, available: float) -> None:
    def at(batch: int) -> Estimate:
        return of(fixed + each * batch)

    tried = [n for n in range(1, effective + 1) if effective % n == 0 and fits(at(n), available)]
    assert largest_batch(at, available, effective) == max(tried, default=0)


def test_refusal_names_the_largest_batch_that_fits() -> None:
    def at(batch: int) -> Estimate:
        return of(100.0 * batch)

    assert refusal(at(8), at, 1000.0, 64) is None
    assert HEADROOM * 1000.0 >= 800.0
    text = refusal(at(64), at, 1000.0, 64)
    assert text is not None
    assert "batch_size that would fit is 8" in text
    assert "6,400 MB" in text
    assert "not even a batch of one" in (refusal(at(64), at, 50.0, 64) or "")


def test_an_estimate_is_json_and_its_parts_sum_to_the_peak() -> None:
    estimate = of(123.456)
    assert math.isclose(sum(estimate.as_dict()["parts_mb"].values()), estimate.as_dict()["peak_mb"])


def test_slices_of_one_tensor_stay_slices_of_one() -> None:
    """The weights of q, k and v of a fused layer are rows of one tensor, which is multiplied with as a whole."""
    module = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(4, 3, bias=False))
    whole = torch.zeros(5, 4)
    module[0].weight.data, module[1].weight.data = whole[:2], whole[2:]  # pyright: ignore
    fake_module(module, FakeTensorMode(), CPU)
    joined = adjacent([p for _, p in module.named_parameters()])
    assert joined is not None
    assert joined.shape == (5, 4)
    apart = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(4, 3, bias=False))
    assert adjacent([p for _, p in apart.named_parameters()]) is None


def test_where_a_step_asks_for_a_number_it_is_taken_to_compute_something() -> None:
    """PEFT's LoHa and LoKr leave a layer out now and then: ``torch.rand(1) > module_dropout``."""

    class Sometimes(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            scale = float(torch.rand(1, device=input.device)) * int(torch.randint(5, (1,), device=input.device))
            return super().forward(input) * scale if torch.rand(1, device=input.device) > 0.5 else input

    found = traced(lambda: Sometimes(WIDTH, WIDTH))
    assert found.flops == traced(lambda: nn.Linear(WIDTH, WIDTH)).flops > 0
