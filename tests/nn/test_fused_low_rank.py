"""One autograd function for base and update: equal to PEFT's layer and to what autograd makes of the formula, in every shape."""

from __future__ import annotations

import math
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftlab.nn.flops import flop_counter
from peftlab.nn.fused_layers import same_type
from peftlab.nn.fused_low_rank import Branch, add_low_rank, dropped_places, low_rank_linear

DOUBLE = torch.float64


def leaf(*shape: int, seed: int, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def of_peft(d_in: int, d_out: int, rank: int, bias: bool, **options: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """PEFT's layer of scale 3 with its factors A and B, none of them zero."""
    config = peft.LoraConfig(r=rank, lora_alpha=3 * rank, lora_dropout=0.0, **options)
    layer: Any = peft.tuners.lora.Linear(nn.Linear(d_in, d_out, bias=bias), "default", config, r=rank, lora_alpha=3 * rank)
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_in_float64(dropout: float) -> None:
    weight, bias = leaf(9, 6, seed=0).detach(), leaf(9, seed=1).detach()

    def two_slices(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        branches = [Branch(a, b, 2.0, dropout, start=0), Branch(c, d, 0.5, dropout, start=5)]
        return low_rank_linear(x, weight, bias, branches)

    def beside(product: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return add_low_rank(product, x, Branch(a, b, 2.0, dropout))

    x = leaf(2, 3, 6, seed=2)
    factors = leaf(2, 6, seed=3), leaf(3, 2, seed=4), leaf(3, 6, seed=5), leaf(4, 3, seed=6)
    assert torch.autograd.gradcheck(two_slices, (x, *factors))
    assert torch.autograd.gradcheck(beside, (leaf(2, 3, 9, seed=7), x, leaf(2, 6, seed=8), leaf(9, 2, seed=9)))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    d_in=st.integers(1, 12),
    d_out=st.integers(1, 12),
    rank=st.integers(1, 6),
    bias=st.booleans(),
    x_trained=st.booleans(),
    trained=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 99),
)
def test_float32_equals_the_layer_of_peft(
    rows: list[int], d_in: int, d_out: int, rank: int, bias: bool, x_trained: bool, trained: tuple[bool, bool], seed: int
) -> None:
    """Within 1e-5 of what float32 products of these sizes are, outputs and every gradient; none where none is asked for."""
    torch.manual_seed(seed)
    layer, a, b = of_peft(d_in, d_out, rank, bias)
    layer.requires_grad_(False)
    a.requires_grad_(trained[0])
    b.requires_grad_(trained[1])
    x = torch.randn(*rows, d_in, requires_grad=x_trained)
    base = layer.base_layer
    theirs = layer(x)
    ours = low_rank_linear(x, base.weight, base.bias, [Branch(a, b, 3.0)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    wanted = [tensor for tensor in (x, a, b) if tensor.requires_grad]
    gradient = torch.randn(theirs.shape)
    for mine, other in zip(
        torch.autograd.grad(ours, wanted, gradient), torch.autograd.grad(theirs, wanted, gradient), strict=True
    ):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=2e-5)
    assert base.weight.grad is None


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    d_in=st.integers(1, 12),
    d_out=st.integers(1, 12),
    rank=st.integers(1, 6),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_with_magnitudes_it_equals_the_dora_of_peft(
    rows: list[int], d_in: int, d_out: int, rank: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, a, b = of_peft(d_in, d_out, rank, bias, use_dora=True)
    layer.base_layer.requires_grad_(False)
    m = layer.lora_magnitude_vector["default"].weight
    nn.init.uniform_(m, 0.5, 2.0)
    x, base = torch.randn(*rows, d_in, requires_grad=True), layer.base_layer
    theirs = layer(x)
    ours = low_rank_linear(x, base.weight, base.bias, [Branch(a, b, 3.0, magnitude=m)])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    gradient = torch.randn(theirs.shape)
    found, wanted = (torch.autograd.grad(y, (x, a, b, m), gradient) for y in (ours, theirs))
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_magnitudes_of_some_slices_are_the_formula_with_constant_norms() -> None:
    """Liu et al. 2024, eq. 5 and section 4.3, written naively in float64: two slices scaled, one updated only."""
    weight, bias, x = leaf(11, 6, seed=0).detach(), leaf(11, seed=1).detach(), leaf(2, 3, 6, seed=2)
    a, b, m = leaf(2, 6, seed=3), leaf(3, 2, seed=4), leaf(3, seed=5)
    c, d, n = leaf(1, 6, seed=6), leaf(2, 1, seed=7), leaf(2, seed=8)
    e, f = leaf(3, 6, seed=9), leaf(3, 3, seed=10)
    # given in another order than that of their outputs: 0-1 left alone, 2-4 e f, 5-7 a b m, 8-9 c d n, 10 left alone
    branches = [Branch(c, d, 0.5, start=8, magnitude=n), Branch(e, f, 1.5, start=2), Branch(a, b, 2.0, start=5, magnitude=m)]
    ours = low_rank_linear(x, weight, bias, branches)
    updates = {8: 0.5 * d @ c, 2: 1.5 * f @ e, 5: 2.0 * b @ a}
    whole = torch.cat([weight[:2], *(weight[s : s + len(updates[s])] + updates[s] for s in (2, 5, 8)), weight[10:]])
    scale = torch.ones(11, dtype=DOUBLE)
    scale[5:8], scale[8:10] = m / whole[5:8].norm(dim=1).detach(), n / whole[8:10].norm(dim=1).detach()
    formula = scale * F.linear(x, whole) + bias
    torch.testing.assert_close(ours, formula)
    gradient, leaves = leaf(2, 3, 11, seed=11).detach(), (x, a, b, m, c, d, n, e, f)
    for mine, other in zip(
        torch.autograd.grad(ours, leaves, gradient), torch.autograd.grad(formula, leaves, gradient), strict=True
    ):
        torch.testing.assert_close(mine, other)


@settings(max_examples=25, deadline=None)
@given(dropout=st.floats(0.01, 0.9), rank=st.integers(1, 4), rows=st.integers(1, 6), seed=st.integers(0, 99))
def test_with_dropout_it_is_the_formula_with_that_mask(dropout: float, rank: int, rows: int, seed: int) -> None:
    x, weight = leaf(rows, 7, seed=seed), leaf(5, 7, seed=seed + 1).detach()
    a, b = leaf(rank, 7, seed=seed + 2), leaf(5, rank, seed=seed + 3)
    torch.manual_seed(seed)
    ours = low_rank_linear(x, weight, None, [Branch(a, b, 2.0, dropout)])
    torch.manual_seed(seed)
    mask = torch.ones(x.numel() + 1, dtype=DOUBLE)
    mask[dropped_places(x.numel(), dropout, x.device)] = 0
    kept = x * mask[:-1].view(x.shape) / (1 - dropout)
    formula = F.linear(x, weight) + 2.0 * F.linear(F.linear(kept, a), b)
    torch.testing.assert_close(ours, formula)
    gradient = leaf(rows, 5, seed=seed + 4).detach()
    for mine, other in zip(
        torch.autograd.grad(ours, (x, a, b), gradient), torch.autograd.grad(formula, (x, a, b), gradient), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_masks_are_independent_draws_of_the_share(share: float) -> None:
    """Counts of every place, and of neighbours dropped together, within five standard errors of the binomial's."""
    size, draws = 400, 3000
    torch.manual_seed(0)
    masks = torch.zeros(draws, size + 1)
    for mask in masks:
        mask[dropped_places(size, share, torch.device("cpu"))] = 1
    masks = masks[:, :size]
    for found, chance in ((masks, share), (masks[:, 1:] * masks[:, :-1], share**2)):
        error = math.sqrt(chance * (1 - chance) / draws)
        assert (found.mean(0) - chance).abs().max() < 5 * error
        assert abs(float(found.mean()) - chance) < 5 * error / math.sqrt(size / 4)
    spread = masks.sum(1).var()
    assert float(spread) == pytest.approx(size * share * (1 - share), rel=0.15)


@given(size=st.integers(1, 50), share=st.floats(1e-6, 0.999))
@settings(max_examples=50, deadline=None)
def test_places_are_within_and_each_once(size: int, share: float) -> None:
    places = dropped_places(size, share, torch.device("cpu"))
    within = places[places < size]
    assert (places >= 0).all()
    assert (places <= size).all()
    assert len(within) == len(within.unique())


def test_little_is_kept_for_the_backward_pass() -> None:
    """x, the r-wide product and the dropped places; the weight by reference, nothing as wide as the output."""
    x, weight = leaf(64, 32, seed=0), leaf(48, 32, seed=1).detach()
    a, b = leaf(4, 32, seed=2), leaf(48, 4, seed=3)
    for dropout in (0.0, 0.1):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            low_rank_linear(x, weight, None, [Branch(a, b, 2.0, dropout)])
        for known in (x, weight, a, b):
            kept.pop(known.untyped_storage().data_ptr())
        places = 8 * len(dropped_places(x.numel(), dropout, x.device)) if dropout else 0
        assert sum(kept.values()) == 64 * 4 * 8 + places


@pytest.mark.parametrize("where", ["linear", "beside"])
def test_under_autocast_types_are_those_of_the_plain_form(where: str) -> None:
    x, weight = leaf(16, 8, seed=0, dtype=torch.float32), leaf(12, 8, seed=1, dtype=torch.float32).detach()
    a, b = leaf(3, 8, seed=2, dtype=torch.float32), leaf(12, 3, seed=3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.linear(x, weight) + F.linear(F.linear(x, a), b) * 2.0
        if where == "linear":
            ours = low_rank_linear(x, weight, None, [Branch(a, b, 2.0)])
        else:
            ours = add_low_rank(F.linear(x, weight), x, Branch(a, b, 2.0))
    assert ours.dtype == plain.dtype == torch.bfloat16
    exact = (F.linear(x, weight) + F.linear(F.linear(x, a), b) * 2.0).detach()
    errors = [float((y.detach().float() - exact).abs().max()) for y in (ours, plain)]
    assert errors[0] <= 1.5 * errors[1]  # rounds less often than the plain form
    for mine, other in zip(torch.autograd.grad(ours.sum(), (x, a, b)), torch.autograd.grad(plain.sum(), (x, a, b)), strict=True):
        assert mine.dtype == other.dtype == torch.float32
        torch.testing.assert_close(mine, other, atol=0.1, rtol=0.05)


def test_a_product_of_another_type_keeps_it() -> None:
    x, a, b = (leaf(*shape, seed=i, dtype=torch.float32) for i, shape in enumerate([(4, 6), (2, 6), (5, 2)]))
    product = torch.zeros(4, 5, dtype=torch.bfloat16, requires_grad=True)
    y = add_low_rank(product, x, Branch(a, b, 1.0))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.linear(F.linear(x, a), b), atol=0.05, rtol=0.02)
    y.sum().backward()
    assert product.grad is not None
    assert product.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_product_is_counted(dropout: float) -> None:
    """Two per frozen product (forward, gradient of x), three each for A and B; those that are added in place as well."""
    rows, d_in, d_out, rank = 16, 24, 32, 4
    x, weight = leaf(rows, d_in, seed=0), leaf(d_out, d_in, seed=1).detach()
    branch = Branch(leaf(rank, d_in, seed=2), leaf(d_out, rank, seed=3), 2.0, dropout)
    with flop_counter() as counter:
        low_rank_linear(x, weight, None, [branch]).sum().backward()
    frozen, update = 2 * rows * d_in * d_out, 2 * rows * rank * (d_in + d_out)
    assert counter.get_total_flops() == 2 * frozen + 3 * update


def test_autocast_gives_products_one_type() -> None:
    weight, x = torch.ones(8, 8), torch.ones(3, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_type(weight, x)
    assert not same_type(weight, x)
