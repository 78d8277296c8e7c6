"""Products of 8-bit integers against the same sums written in int64, and what must not be lost in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftlab.nn.dynamic_int8 import DynamicInt8, quantize_rows, sums


def made(d_out: int, d_in: int, seed: int = 0, bias: bool = True) -> tuple[DynamicInt8, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    layer = nn.Linear(d_in, d_out, bias=bias).requires_grad_(False)
    layer.weight.copy_(torch.randn(d_out, d_in, generator=random))
    weight = layer.weight.clone()
    return DynamicInt8(layer, "int8-dynamic"), weight


@given(st.integers(1, 40), st.integers(2, 70), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_both_products_are_the_integer_sums(rows: int, d_in: int, d_out: int, seed: int) -> None:
    layer, _ = made(d_out, d_in, seed)
    random = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(rows, d_in, generator=random, requires_grad=True)
    wanted = torch.randn(rows, d_out, generator=random)
    y = layer(x)
    y.backward(wanted)
    codes, scale = layer.codes().long(), layer.scale.double()

    def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = values.abs().amax(1, keepdim=True)
        return (values * (127 / largest)).round().long(), largest.double() / 127

    q, s = rounded(x.detach())
    expected = (q @ codes.T) * s * scale + layer.bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))  # ties may round apart
    q, s = rounded(wanted * layer.scale)
    gradient = (q @ codes) * s
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), gradient, rtol=1e-2, atol=1e-2 * float(gradient.abs().max()))


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("inputs", [2, 1040, 1041, 3000])
def test_sums_are_exact_with_instructions_for_them_and_without(
    inputs: int, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: instructions)
    random = torch.Generator().manual_seed(inputs)
    rows = torch.randint(-127, 128, (5, inputs), dtype=torch.int8, generator=random)
    codes = torch.randint(-127, 128, (inputs, 4), dtype=torch.int8, generator=random)
    rows[0], codes[:, 0] = 127, 127  # the largest sum there is
    with torch.autocast("cpu", torch.bfloat16):
        found = sums(rows, codes)
    assert found.dtype == torch.int32 and torch.equal(found.long(), rows.long() @ codes.long())


def test_a_batch_of_sequences_is_rows() -> None:
    layer, _ = made(5, 8)
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = layer(x)
    assert torch.equal(y.reshape(12, 5), layer(x.reshape(12, 8)))
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


def test_rows_do_not_see_each_other() -> None:
    """One example with large values costs the others nothing, and padding nothing at all."""
    layer, _ = made(6, 16)
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    alone = layer(x[:1])
    x[1:] *= 1e4
    assert torch.equal(layer(x)[:1], alone)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    layer, _ = made(6, 16)
    x = torch.ones(2, 16)
    x[1, 3] = value
    y = layer(x)
    assert torch.isfinite(y[0]).all() and not torch.isfinite(y[1]).any()


def test_rows_of_zeros_are_zeros() -> None:
    codes, scale = quantize_rows(torch.zeros(2, 5))
    assert not codes.any() and not scale.any()
    layer, _ = made(3, 5, bias=False)
    x = torch.zeros(2, 5, requires_grad=True)
    layer(x).sum().backward()
    assert not layer(x).any() and x.grad is not None and torch.isfinite(x.grad).all()


def test_outputs_are_about_one_percent_off() -> None:
    layer, weight = made(96, 192)
    x = torch.randn(200, 192, generator=torch.Generator().manual_seed(4))
    exact = x @ weight.T + layer.bias
    assert 1e-3 < float((layer(x) - exact).norm() / exact.norm()) < 0.02


def test_a_bias_that_is_trained_gets_its_gradient() -> None:
    layer, _ = made(6, 16)
    layer.bias.requires_grad_()
    x = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(5))
    wanted = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(6))
    layer(x).backward(wanted)
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, wanted.sum((0, 1)))
