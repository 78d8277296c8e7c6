"""The packed layer against the dense one that it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftlab.errors import OptionError
from peftlab.nn.groups import BITS, quantize_groups, stored_bytes
from peftlab.nn.packed import PackedLinear

TYPES = tuple(BITS)


def linear(d_in: int = 48, d_out: int = 20, bias: bool = True, seed: int = 0) -> nn.Linear:
    random = torch.Generator().manual_seed(seed)
    layer = nn.Linear(d_in, d_out, bias=bias)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    return layer.requires_grad_(False)


def inputs(d_in: int = 48, seed: int = 5) -> torch.Tensor:
    return torch.randn(3, 7, d_in, generator=torch.Generator().manual_seed(seed))


def dense(layer: PackedLinear) -> nn.Linear:
    """What the layer stands for."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight.data = layer.dequantize()
    if layer.bias is not None:
        made.bias.data = layer.bias.detach().clone()
    return made


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_input_gradient_are_those_of_the_dequantized_weight(kind: str, bias: bool) -> None:
    layer = PackedLinear.of(linear(bias=bias), 16, kind)  # pyright: ignore
    assert torch.equal(layer.dequantize(), quantize_groups(linear(bias=bias).weight, 16, kind).dequantize())  # pyright: ignore
    x, y = inputs().requires_grad_(), inputs().requires_grad_()
    ours, theirs = layer(x), dense(layer)(y)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert x.grad is not None and y.grad is not None
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == []


def test_a_bias_that_trains_gets_its_gradient() -> None:
    layer = PackedLinear.of(linear(), 16, "int4")
    assert layer.bias is not None
    layer.bias.requires_grad_(True)
    layer(inputs()).sum().backward()
    assert layer.bias.grad is not None
    assert torch.allclose(layer.bias.grad, torch.full((20,), 21.0))


@pytest.mark.parametrize("kind", TYPES)
@given(d_out=st.integers(1, 5), count=st.integers(1, 4), size=st.integers(1, 7), merged=st.booleans())
@settings(max_examples=25, deadline=None)
def test_bytes_are_those_of_the_buffers_and_the_formula(kind: str, d_out: int, count: int, size: int, merged: bool) -> None:
    layer = PackedLinear.of(linear(count * size, d_out), size, kind)  # pyright: ignore
    if merged:
        layer = layer.shifted(torch.ones(d_out, count))
    held = sum(b.numel() * b.element_size() for b in layer.buffers())
    assert layer.stored_bytes() == held == stored_bytes(count * size, d_out, size, kind, merged=merged)


@pytest.mark.parametrize("kind", TYPES)
def test_nothing_dense_is_kept_for_the_backward_pass(kind: str) -> None:
    layer, kept = PackedLinear.of(linear(), 16, kind), []  # pyright: ignore
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        y = layer(inputs().requires_grad_())
    assert (20, 48) not in kept and (48, 20) not in kept
    y.sum().backward()


@pytest.mark.parametrize("kind", TYPES)
@given(seed=st.integers(0, 50), size=st.floats(1e-4, 10))
@settings(max_examples=25, deadline=None)
def test_a_shift_constant_in_each_group_changes_no_code(kind: str, seed: int, size: float) -> None:
    layer = PackedLinear.of(linear(seed=seed), 16, kind)  # pyright: ignore
    update = size * torch.randn(20, 3, generator=torch.Generator().manual_seed(seed + 1))
    before = copy.deepcopy(layer.state_dict())
    moved = layer.shifted(update).shifted(update)
    wanted = layer.dequantize() + 2 * update.repeat_interleave(16, dim=1)
    assert torch.allclose(moved.dequantize(), wanted, rtol=1e-5, atol=2e-6 * float(wanted.abs().max()))
    assert torch.equal(moved.packed, layer.packed) and torch.equal(moved.scale, layer.scale)
    assert {k: torch.equal(v, before[k]) for k, v in layer.state_dict().items()} == dict.fromkeys(before, True)


@pytest.mark.parametrize("kind", TYPES)
def test_stacked_slices_are_the_fused_layer(kind: str) -> None:
    fused, parts = linear(48, 30), []
    for rows in (slice(0, 10), slice(10, 20), slice(20, 30)):
        part = linear(48, 10)
        part.weight.data, part.bias.data = fused.weight[rows].clone(), fused.bias[rows].clone()
        parts.append(PackedLinear.of(part, 16, kind))  # pyright: ignore
    whole, again = PackedLinear.of(fused, 16, kind), PackedLinear.stacked(parts)  # pyright: ignore
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True))
    parts[1] = parts[1].shifted(torch.ones(10, 3))
    changed = PackedLinear.stacked(parts).dequantize() - whole.dequantize()
    assert torch.allclose(changed[10:20], torch.ones(10, 48), atol=1e-5)
    assert float(changed[:10].abs().max()) < 1e-6 and float(changed[20:].abs().max()) < 1e-6


def test_gpt2s_transposed_layer() -> None:
    conv = Conv1D(20, 48).requires_grad_(False)
    layer = PackedLinear.of(conv, 16, "int8")
    assert (layer.in_features, layer.out_features) == (48, 20)
    assert float((layer(inputs()) - conv(inputs())).abs().max()) < 0.02 * float(conv(inputs()).abs().max())


@pytest.mark.parametrize("kind", TYPES)
def test_a_schedule_mixes_in_training_only(kind: str) -> None:
    plain = linear()
    layer = PackedLinear.of(plain, 16, kind, keep=True)  # pyright: ignore
    quantized = nn.functional.linear(inputs(), layer.dequantize(), layer.bias)
    layer.train()
    for share in (0.0, 0.25, 1.0):
        layer.share = share
        wanted = (1 - share) * plain(inputs()) + share * quantized
        assert torch.allclose(layer(inputs()), wanted, atol=1e-4)
        x, weight = inputs().requires_grad_(), (1 - share) * plain.weight + share * layer.dequantize()
        layer(x).sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad[0, 0], weight.sum(dim=0), atol=1e-4)
    layer.share = 0.25
    assert torch.allclose(layer.eval()(inputs()), quantized, atol=1e-5)
    assert "full" not in layer.state_dict()
    held = layer.stored_bytes()
    layer.release()
    assert held == layer.stored_bytes() == sum(b.numel() * b.element_size() for b in layer.buffers())


@pytest.mark.parametrize("kind", TYPES)
def test_bfloat16_autocast(kind: str) -> None:
    layer = PackedLinear.of(linear(), 16, kind)  # pyright: ignore
    x = inputs().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        theirs = dense(layer)(inputs())
    assert y.dtype == theirs.dtype == torch.bfloat16
    assert torch.allclose(y.float(), theirs.float(), atol=0.1, rtol=0.05)
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_a_group_that_does_not_divide_names_the_layer() -> None:
    with pytest.raises(OptionError, match="does not divide") as caught:
        PackedLinear.of(linear(), 7, "int4", where="blocks.0.mlp.fc1")
    assert caught.value.where == "blocks.0.mlp.fc1"


@pytest.mark.parametrize("kind", TYPES)
def test_a_layer_says_how_it_is_stored(kind: str) -> None:
    layer = PackedLinear.of(linear(), 16, kind)  # pyright: ignore
    assert (layer.scheme, layer.kind, layer.group_size) == (f"{kind}-g16", kind, 16) and isinstance(layer.group_size, int)
    assert (layer.in_features, layer.out_features) == (48, 20)
    assert layer.extra_repr() == f"48, 20, kind={kind}, group_size=16"
    assert layer.weight is layer.packed and list(layer.stored())[:2] == [layer.packed, layer.scale]


def test_until_a_schedule_says_otherwise_what_is_stored_is_what_is_used() -> None:
    layer = PackedLinear.of(linear(), 16, "int4", keep=True).train()
    wanted = nn.functional.linear(inputs(), layer.dequantize(), layer.bias)
    assert layer.full is not None and torch.allclose(layer(inputs()), wanted, atol=1e-5)
    layer.share = 0.5
    layer.release()
    assert layer.full is None and layer.share == 1.0
