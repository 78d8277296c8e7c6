"""The way back to float, and layers that stand for quantized ones where only shapes count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import (
    PlannedLinear,
    dense_layer,
    device_of,
    make_dense,
    parameter_sizes,
    quantized_layers,
    stored_tensors,
)


def test_what_was_frozen_stays_frozen_in_float() -> None:
    model = nn.Sequential(
        PackedLinear.of(nn.Linear(8, 6), 4, "int4"), nn.Linear(6, 2), PackedLinear.of(nn.Linear(2, 2), 2, "nf4")
    )
    x = torch.randn(3, 8)
    before = model(x)
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    dense = make_dense(model)
    assert all(type(layer) is nn.Linear for layer in dense.children())
    torch.testing.assert_close(dense(x), before)
    now = {name: parameter.requires_grad for name, parameter in dense.named_parameters()}
    assert now == {**asked, "0.weight": False, "2.weight": False}


@pytest.mark.parametrize("keeps_input", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_a_planned_layer_gives_gradients_to_those_that_ask(asks: bool, keeps_input: bool) -> None:
    stored = [torch.zeros(12, dtype=torch.uint8), torch.zeros(4, 2)]
    layer = PlannedLinear(nn.Linear(6, 4), "int4-g3", stored, keeps_input)
    x = torch.zeros(2, 5, 6, requires_grad=asks)
    y = layer(x)
    assert y.shape == (2, 5, 4)
    y.sum().backward()
    assert (None if x.grad is None else x.grad.shape) == (x.shape if asks else None)
    assert layer.bias.grad is not None and layer.bias.grad.tolist() == [10.0] * 4
    assert [tensor.shape for tensor in layer.stored()] == [(12,), (4, 2)] and layer.stored_bytes() == 12 + 32


def test_where_a_layer_lies_its_parameters_say_or_its_buffers() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.Linear(2, 2)) == device_of(nn.Identity()) == torch.device("cpu")


def test_sizes_are_those_of_the_matrices_that_layers_stand_for() -> None:
    model = nn.Sequential(PackedLinear.of(nn.Linear(8, 6), 4, "int4"), nn.Linear(6, 2, bias=False))
    assert parameter_sizes(model) == {"0.bias": 6, "0.weight": 48, "1.weight": 12}
    assert list(quantized_layers(model)) == ["0"]
    stored = dict(stored_tensors(model))
    assert list(stored) == ["0.stored.0", "0.stored.1", "0.stored.2"]
    assert [tuple(tensor.shape) for tensor in stored.values()] == [(24,), (6, 2), (6, 2)]


def test_hooks_and_mode_go_over_to_the_layer_that_takes_the_place() -> None:
    layer, called = nn.Linear(8, 6).eval(), []
    layer.register_forward_hook(lambda module, inputs, output: called.append("after"))
    layer.register_forward_pre_hook(lambda module, inputs: called.append("before"))
    layer.add_module("beside", nn.Identity())
    packed = PackedLinear.of(layer, 4, "int4")
    back = dense_layer(packed)
    for one in (packed, back):
        called.clear()
        one(torch.zeros(1, 8))
        assert called == ["before", "after"] and not one.training and dict(one.named_children()).keys() == {"beside"}
    assert PackedLinear.of(nn.Linear(8, 6).train(), 4, "int4").training
