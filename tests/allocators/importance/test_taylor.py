"""Taylor importance: the loop that the contract suite compares with, and the derivative that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab.allocators.importance.taylor import Taylor
from peftlab.nn.parts import Part

D_IN, D_OUT, RANK, SCALE = 7, 5, 3, 1.5


def naive(part: Part, seen: list, direction: int | None) -> float:
    """``seen``: for every step, (weight, gradient) of each tensor."""
    total = 0.0
    for step in seen:
        gate = 0.0
        for (weight, gradient), (_, dim) in zip(step, part.tensors, strict=True):
            for i in range(weight.shape[0]):
                for j in range(weight.shape[1]):
                    if direction is None or direction == (i if dim == 0 else j):
                        gate += float(weight[i, j]) * float(gradient[i, j]) / len(part.tensors)
        total += abs(gate)
    return total / len(seen)


def at_base(weight: torch.Tensor, gradients: list[torch.Tensor]) -> float:
    """Of a weight of the base, from its gradient of each batch."""
    return sum(abs(float((weight.detach() * gradient).sum())) for gradient in gradients) / len(gradients)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss(update: torch.Tensor) -> torch.Tensor:
    """Of a layer W + update on fixed inputs."""
    weight, x = numbers(D_OUT, D_IN, seed=1).to(update), numbers(20, D_IN, seed=2).to(update)
    return (x @ (weight + update).T).tanh().square().mean()


def test_it_is_the_derivative_by_a_gate_on_the_update_and_on_each_direction() -> None:
    """Which autograd takes here by the gates themselves."""
    a, middle, b = (nn.Parameter(numbers(*s, seed=i)) for i, s in enumerate([(RANK, D_IN), (RANK, 1), (D_OUT, RANK)], 3))
    gates = torch.ones(RANK, requires_grad=True)
    loss(SCALE * (b * gates) @ (middle * a)).backward()
    assert gates.grad is not None
    parts = {"lora": Part(tensors=((a, 0), (middle, 0), (b, 1)), d_in=D_IN, d_out=D_OUT, scale=SCALE)}
    meter = Taylor().meter(parts)
    meter.observe()
    scores = meter.scores()["lora"]
    torch.testing.assert_close(scores.directions, gates.grad.abs(), rtol=1e-4, atol=1e-7)
    assert scores.module == pytest.approx(abs(float(gates.grad.sum())), rel=1e-4)


def test_it_predicts_what_closing_the_gate_a_little_does() -> None:
    a, b = nn.Parameter(numbers(RANK, D_IN, seed=3).double()), nn.Parameter(numbers(D_OUT, RANK, seed=4).double())
    loss(b @ a).backward()
    meter = Taylor().meter({"m": Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT)})
    meter.observe()
    change = float(loss(1.001 * (b @ a).detach()) - loss(0.999 * (b @ a).detach()))
    assert abs(change) == pytest.approx(0.002 * meter.scores()["m"].module, rel=0.01)


def test_a_factor_that_is_frozen_does_not_count() -> None:
    a, b = nn.Parameter(numbers(RANK, D_IN, seed=3)), nn.Parameter(numbers(D_OUT, RANK, seed=4))
    loss(b @ a).backward()
    both, one = (Taylor().meter({"m": Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT)}) for _ in range(2))
    both.observe()
    b.grad = None
    one.observe()
    assert one.scores()["m"].module == pytest.approx(both.scores()["m"].module, rel=1e-4)


def test_factors_before_a_normalisation_have_no_importance_at_the_base() -> None:
    """Its outputs, and so the loss, do not depend on the length of such a weight."""
    weight, x = nn.Parameter(numbers(D_OUT, D_IN, seed=1)), numbers(20, D_IN, seed=2)
    nn.functional.normalize(x @ weight.T, dim=-1).square().mul(torch.arange(5.0)).sum().backward()
    meter = Taylor().meter({"m": Part(tensors=((weight, None),), d_in=D_IN, d_out=D_OUT)})
    meter.observe()
    assert weight.grad is not None
    assert meter.scores()["m"].module < 1e-5 * float((weight * weight.grad).abs().sum())
