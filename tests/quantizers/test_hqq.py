"""HQQ against the paper written out weight by weight, and against plain minimum and maximum on real weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftlab.adapters.pooled import PooledLora
from peftlab.errors import BackboneError, OptionError
from peftlab.nn.groups import quantize_groups
from peftlab.nn.packed import PackedLinear
from peftlab.quantizers.hqq import Hqq, fit_zero_points
from peftlab.registry import create
from tests.adapters import models
from tests.contracts.conftest import perturb

BUNDLED = "bundled:vit-nano"


def by_hand(weights: list[float], bits: int, turns: int) -> tuple[float, list[int], float]:
    """(zero point, codes, squared error) of one group, one weight after the other, in double precision."""
    highest = 2**bits - 1
    scale = (max(weights) - min(weights)) / highest or 1.0
    start = zero = -min(weights) / scale
    beta, met = 10.0, []
    for _ in range(turns + 1):
        codes = [min(max(round(w / scale + zero), 0), highest) for w in weights]
        errors = [w - scale * (q - zero) for w, q in zip(weights, codes, strict=True)]
        met.append((sum(e * e for e in errors), zero, codes))
        shrunk = [math.copysign(max(abs(e) - abs(e) ** -0.3 / beta, 0), e) if e else 0.0 for e in errors]
        zero = sum(q - (w - e) / scale for w, q, e in zip(weights, codes, shrunk, strict=True)) / len(weights)
        zero = min(max(zero, start - 0.499), start + 0.499)
        beta *= 1.01
    least = min(error for error, _, _ in met)
    error, zero, codes = next(entry for entry in met if entry[0] == least)
    return zero, codes, error


def fitted(weight: torch.Tensor, size: int, bits: int, turns: int = 20) -> Any:
    return fit_zero_points(weight, quantize_groups(weight, size, f"int{bits}"), turns)  # pyright: ignore


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_points_and_codes_are_those_written_out_by_hand(bits: int) -> None:
    weight = torch.randn(4, 48, generator=torch.Generator().manual_seed(bits))
    found = fitted(weight, 16, bits)
    moved = 0
    for row in range(4):
        for group in range(3):
            values = weight[row, 16 * group : 16 * (group + 1)].tolist()
            zero, codes, error = by_hand(values, bits, 20)
            squared = float((weight - found.dequantize())[row, 16 * group : 16 * (group + 1)].square().sum())
            assert math.isclose(squared, error, rel_tol=2e-3)
            assert math.isclose(float(found.shift[row, group]), zero, abs_tol=2e-3)
            assert found.codes[row, 16 * group : 16 * (group + 1)].tolist() == codes
            moved += abs(zero + min(values) / float(found.scale[row, group])) > 1e-3
    assert moved >= 10


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from([2, 3, 4, 8]), size=st.integers(1, 24), seed=st.integers(0, 99), tail=st.floats(0.5, 3))
def test_no_group_is_further_off_than_with_minimum_and_maximum(bits: int, size: int, seed: int, tail: float) -> None:
    draws = torch.randn(3, 4 * size, generator=torch.Generator().manual_seed(seed))
    weight = draws.sign() * draws.abs() ** tail
    plain = quantize_groups(weight, size, f"int{bits}")  # pyright: ignore
    found = fitted(weight, size, bits)
    ours, theirs = ((weight - g.dequantize()).unflatten(1, (-1, size)).square().sum(-1) for g in (found, plain))
    assert bool((ours <= theirs * (1 + 1e-4) + 1e-10).all())
    assert torch.equal(found.scale, plain.scale)
    assert float((found.shift - plain.shift).abs().max()) < 0.5


def test_without_a_turn_it_is_groupwise() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    plain, found = quantize_groups(weight, 16, "int4"), fitted(weight, 16, 4, turns=0)
    assert torch.equal(found.codes, plain.codes) and torch.equal(found.dequantize(), plain.dequantize())


def test_a_symmetric_group_gains_nothing_and_a_skewed_one_does() -> None:
    """Weights on the grid stay where they are; all weights a quarter step beside it cost next to nothing after the fit."""
    grid = torch.arange(16.0).repeat(1, 2)
    assert torch.equal(fitted(grid, 32, 4).dequantize(), grid)
    beside = grid.clone()
    beside[:, 1:15] += 0.25
    beside[:, 17:31] += 0.25
    plain = (quantize_groups(beside, 32, "int4").dequantize() - beside).norm()
    assert float((fitted(beside, 32, 4).dequantize() - beside).norm()) < 0.6 * float(plain)


def relative_error(name: str, options: dict[str, Any], source: str) -> dict[str, float]:
    from peftlab.backbones.resolve import source_of

    backbone = source_of(source).load(source, outputs=10, head="image-classification", seed=0)
    converted = create("quantizer", {"name": name, "bounds": False, **options}).convert(backbone)
    return {layer: entry.error for layer, entry in converted.layers.items() if entry.error is not None}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_layer_of_real_weights_is_nearer_than_with_groupwise(bits: int) -> None:
    ours = relative_error("hqq", {"bits": bits, "group_size": 16}, BUNDLED)
    plain = relative_error("groupwise", {"type": f"int{bits}", "group_size": 16}, BUNDLED)
    assert ours.keys() == plain.keys()
    assert all(error < plain[layer] for layer, error in ours.items())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("targets", ["standard", "all-linear"])
def test_a_pooled_update_merges_into_fitted_zero_points(bits: int, targets: str) -> None:
    """QA-LoRA with 2, 3 and 4 bits: no code changes, and the merged layer is still packed."""
    quantizer = Hqq(bits=bits, group_size=8)  # pyright: ignore
    adapter = PooledLora(rank=2, targets=targets).fitted(quantizer)
    backbone = models.backbone("vit")
    quantizer.convert(backbone)
    adapted = adapter.attach(backbone, seed=0)
    perturb(adapted)
    wanted = models.logits("vit", adapted.module)
    merged = adapter.merge(adapted)
    torch.testing.assert_close(models.logits("vit", merged), wanted, rtol=1e-4, atol=1e-5)
    packed = {n: m for n, m in merged.named_modules() if isinstance(m, PackedLinear)}
    assert packed
    for name, layer in packed.items():
        before = adapted.module.get_submodule(name)
        before = before if isinstance(before, PackedLinear) else before.base_layer
        assert torch.equal(layer.packed, before.packed)  # pyright: ignore


@pytest.mark.parametrize(("bits", "stored"), [(2, 3), (3, 4), (4, 5), (8, 9)])
def test_bits_per_parameter_at_its_group_of_64(bits: int, stored: int) -> None:
    assert Hqq(bits=bits).bits_per_parameter(768, 768) == stored  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "where"),
    [({"bits": 5}, "quantizer.bits"), ({"group_size": 0}, "quantizer.group_size"), ({"iterations": -1}, "quantizer.iterations")],
)
def test_wrong_options_are_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        create("quantizer", {"name": "hqq", **options})
    assert caught.value.where == where and caught.value.remedy


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(64, 2)
    layer.weight.data[1, 3] = math.nan
    with pytest.raises(BackboneError, match="not finite"):
        Hqq().quantize(layer)


@pytest.mark.parametrize("bits", [2, 3])
def test_onnx_says_that_it_has_no_operator(bits: int) -> None:
    from peftlab.deployment.onnx_layers import with_operators

    backbone = models.backbone("vit")
    Hqq(bits=bits, group_size=16).convert(backbone)  # pyright: ignore
    with pytest.raises(OptionError, match=f"codes of {bits} bits") as caught:
        with_operators(backbone.module, "float")
    assert "4 or 8 bits" in caught.value.remedy
