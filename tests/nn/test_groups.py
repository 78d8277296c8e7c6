"""Group-wise quantization against bitsandbytes, a loop over weights, and its own invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from peftlab.errors import BackboneError, OptionError
from peftlab.nn.groups import (
    BITS,
    BOOKS,
    check_group_size,
    pack,
    packed_values,
    quantize_groups,
    stored_bytes,
    unpack,
)

TYPES = tuple(BITS)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """A float32 matrix, some of its groups constant or zero, and a group size that divides."""
    d_out, count, size = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    values = st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
    weight = torch.from_numpy(draw(arrays.arrays("float32", (d_out, count, size), elements=values)))
    for group in range(count):
        match draw(st.sampled_from(["as drawn", "constant", "zero"])):
            case "constant":
                weight[:, group] = weight[:, group, :1].clone()
            case "zero":
                weight[:, group] = 0.0
    return weight.reshape(d_out, count * size), size


def normal(d_out: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed))


def rounding(weight: torch.Tensor) -> float:
    return 1e-6 * float(weight.abs().max())


@pytest.mark.parametrize("kind", TYPES)
@given(drawn=matrices())
@settings(max_examples=60, deadline=None)
def test_every_weight_gets_the_nearest_value_of_its_group(kind: str, drawn: tuple[torch.Tensor, int]) -> None:
    weight, size = drawn
    found = quantize_groups(weight, size, kind)  # pyright: ignore
    restored = found.dequantize()
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            group = column // size
            if kind in BOOKS:
                levels = torch.tensor(BOOKS[kind]) * found.scale[row, group]
            else:
                assert found.shift is not None
                levels = found.scale[row, group] * (torch.arange(2.0 ** BITS[kind]) - found.shift[row, group])
            assert restored[row, column] == levels[int(found.codes[row, column])]
            nearest = float((levels - weight[row, column]).abs().min())
            assert abs(float(restored[row, column] - weight[row, column])) <= nearest + rounding(weight)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in BOOKS])
@given(drawn=matrices())
@settings(max_examples=40, deadline=None)
def test_integers_err_by_half_a_step_and_reach_both_ends(kind: str, drawn: tuple[torch.Tensor, int]) -> None:
    weight, size = drawn
    found = quantize_groups(weight, size, kind)  # pyright: ignore
    error = (found.dequantize() - weight).abs().view(*found.scale.shape, size).amax(-1)
    assert bool((error <= found.scale / 2 * (1 + 1e-5) + rounding(weight)).all())
    low, high = (f(weight.view(*found.scale.shape, size), -1) for f in (torch.amin, torch.amax))
    constant = low == high
    assert bool((found.scale[constant] == 1).all())
    assert bool((error[constant] <= rounding(weight)).all())
    assert torch.allclose(found.scale[~constant] * (2 ** BITS[kind] - 1), (high - low)[~constant], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", list(BOOKS))
@given(drawn=matrices())
@settings(max_examples=40, deadline=None)
def test_code_books_keep_the_largest_weight_and_zero(kind: str, drawn: tuple[torch.Tensor, int]) -> None:
    weight, size = drawn
    found = quantize_groups(weight, size, kind)  # pyright: ignore
    assert found.shift is None
    restored, largest = found.dequantize(), weight.abs().view(*found.scale.shape, size).amax(-1)
    assert bool((restored[weight == 0] == 0).all())
    assert torch.equal(found.scale, torch.where(largest > 0, largest, torch.ones_like(largest)))
    at_top = weight.abs() == largest.repeat_interleave(size, dim=1)
    assert torch.allclose(restored[at_top], weight[at_top], rtol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_quantizing_again_gives_the_same_codes(kind: str) -> None:
    weight = normal(48, 96)
    once = quantize_groups(weight, 32, kind)  # pyright: ignore
    again = quantize_groups(once.dequantize(), 32, kind)  # pyright: ignore
    zeros = once.codes % 8 == 0 if kind == "fp4" else torch.zeros(1, dtype=torch.bool)  # 0 and -0 are two codes of fp4
    assert torch.equal(once.codes.masked_fill(zeros, 0), again.codes.masked_fill(zeros, 0))
    assert torch.allclose(once.dequantize(), again.dequantize(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(BOOKS))
@pytest.mark.parametrize("block", [32, 64])
def test_equal_to_bitsandbytes_to_the_bit(kind: str, block: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal(48, 192, seed=1) * 0.02
    weight[3, :64] = 0.0
    found = quantize_groups(weight, block, kind)  # pyright: ignore
    theirs, state = functional.quantize_4bit(weight, blocksize=block, quant_type=kind)
    assert torch.equal(pack(found.codes, 4), theirs.flatten())
    assert torch.equal(found.dequantize(), functional.dequantize_4bit(theirs, state))
    assert torch.equal(torch.tensor(BOOKS[kind]), functional.get_4bit_type(kind, device="cpu"))


@pytest.mark.parametrize(("kind", "expected"), [("nf4", 0.092), ("fp4", 0.122)])
def test_relative_error_on_gaussian_weights(kind: str, expected: float) -> None:
    """Blocks of 64, as published implementations have them; the figures are bitsandbytes' own."""
    weight = normal(512, 512, seed=2)
    error = (quantize_groups(weight, 64, kind).dequantize() - weight).norm() / weight.norm()  # pyright: ignore
    assert math.isclose(float(error), expected, abs_tol=0.002)


@given(bits=st.sampled_from([2, 3, 4, 8]), d_out=st.integers(1, 5), d_in=st.integers(1, 9), seed=st.integers(0, 9))
def test_packed_codes_come_back(bits: int, d_out: int, d_in: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (d_out, d_in), generator=random, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.numel() == -(-bits * d_out * d_in // 8)
    assert torch.equal(unpack(packed, bits, (d_out, d_in)), codes)
    for kind in (k for k in TYPES if BITS[k] == bits):
        wanted = torch.tensor(BOOKS[kind])[codes.long()] if kind in BOOKS else codes.float()
        assert torch.equal(packed_values(packed, kind, (d_out, d_in)), wanted)


def test_three_bits_are_a_string_of_bits() -> None:
    """Written out: 5 1 7 0 6 2 3 4 is 101 001 11|1 000 110 0|10 011 100."""
    codes = torch.tensor([[5, 1, 7, 0, 6, 2, 3, 4]], dtype=torch.uint8)
    assert pack(codes, 3).tolist() == [0b10100111, 0b10001100, 0b10011100]
    assert pack(codes[:, :3], 3).tolist() == [0b10100111, 0b10000000]
    assert pack(torch.tensor([[3, 0, 1, 2, 2]], dtype=torch.uint8), 2).tolist() == [0b11000110, 0b10000000]


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_are_the_closed_formula(kind: str) -> None:
    found = quantize_groups(normal(6, 35), 7, kind)  # pyright: ignore
    held = [pack(found.codes, BITS[kind]), found.scale, found.shift]
    assert stored_bytes(35, 6, 7, kind) == sum(t.numel() * t.element_size() for t in held if t is not None)
    assert stored_bytes(35, 6, 7, kind, merged=True) == sum(
        t.numel() * t.element_size() for t in (held[0], found.scale, found.scale) if t is not None
    )


def test_int4_at_group_32_takes_at_most_a_fifth_of_float32() -> None:
    assert stored_bytes(768, 768, 32, "int4") <= 0.20 * 4 * 768 * 768


def test_a_group_size_that_does_not_divide_is_refused_with_its_neighbours() -> None:
    check_group_size(192, 48)
    with pytest.raises(OptionError) as caught:
        check_group_size(192, 40, "blocks.0.attn.qkv")
    assert caught.value.where == "blocks.0.attn.qkv"
    assert caught.value.remedy.endswith("24, 32, 48, 64")
    for size in (0, -3, 193):
        with pytest.raises(OptionError):
            check_group_size(192, size)


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = normal(2, 8)
    weight[1, 3] = math.nan
    with pytest.raises(BackboneError, match="not finite"):
        quantize_groups(weight, 4, "int4", "fc1")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_zero_among_the_smallest_numbers_stays_zero(kind: str) -> None:
    """One over a scale below 1e-38 is infinite in float32."""
    found = quantize_groups(torch.tensor([[1e-40, 0.0, 0.0, -1e-40], [0.0] * 4, [1e-45, 0.0, 1e-45, 0.0]]), 4, kind)  # pyright: ignore
    assert [BOOKS[kind][code] for code in found.codes[0, 1:3].tolist()] == [0.0, 0.0]
    assert [BOOKS[kind][code] for code in found.codes[1].tolist()] == [0.0] * 4
    assert found.dequantize().isfinite().all() and float(found.dequantize().abs().max()) <= 1e-38
