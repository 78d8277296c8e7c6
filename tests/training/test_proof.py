"""The proof of movement: which gradients count, and after how many updates the verdict falls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab.errors import BaseChanged, DidNothing
from peftlab.training.proof import Movement


def tensors() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}


def update(trainable: dict[str, nn.Parameter], movement: Movement, *gradients: float) -> None:
    """Weight decay moves everything, whatever the gradient."""
    for parameter, gradient in zip(trainable.values(), gradients, strict=True):
        parameter.grad = torch.tensor([gradient, 0.0])
        parameter.data.mul_(0.99)
    movement.observe()
    movement.verify()


def test_the_verdict_falls_after_two_updates_however_many_steps_it_takes() -> None:
    trainable = tensors()
    movement = Movement(trainable, ())
    movement.verify()
    update(trainable, movement, 1.0, 0.0)
    for _ in range(3):  # steps that were left out
        movement.verify()
    assert not movement.proved
    update(trainable, movement, 0.0, 1.0)
    assert movement.proved
    update(trainable, movement, 0.0, 0.0)  # nobody looks any more


@pytest.mark.parametrize("gradient", [0.0, float("nan"), float("inf")])
def test_a_gradient_of_zero_or_one_that_is_not_finite_proves_nothing(gradient: float) -> None:
    trainable = tensors()
    movement = Movement(trainable, ())
    update(trainable, movement, 1.0, gradient)
    with pytest.raises(DidNothing, match="1 of 2 trainable tensors") as raised:
        update(trainable, movement, 1.0, gradient)
    assert raised.value.where == "b"


def test_a_buffer_that_a_pass_changes_is_told_after_two_updates() -> None:
    """A layer that counts its calls, say; not after the whole of a training."""
    trainable, layer = tensors(), nn.Module()
    layer.register_buffer("calls", torch.zeros(1))
    layer.register_buffer("cache", torch.zeros(1), persistent=False)
    movement = Movement(trainable, (), nn.ModuleDict({"layer": layer}))
    layer.cache += 1
    update(trainable, movement, 1.0, 1.0)
    layer.calls += 1
    with pytest.raises(BaseChanged, match="changes a buffer") as raised:
        update(trainable, movement, 1.0, 1.0)
    assert raised.value.where == "layer.calls"
