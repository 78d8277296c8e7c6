"""4-bit decoding on the CPU against the definition, also where a block spans rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

bitsandbytes: Any = pytest.importorskip("bitsandbytes")

from peftlab.quantizers._bnb_decoding import repair  # noqa: E402

BLOCK = 64


def naive(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """W~ = m book[c], m the absmax of the 64 neighbours of the flat weight."""
    functional = bitsandbytes.functional
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    both = torch.stack((packed.flatten() >> 4, packed.flatten() & 0xF), dim=1).flatten().long()
    count = state.shape.numel()
    return (state.code[both[:count]] * absmax.float()[torch.arange(count) // BLOCK]).reshape(state.shape)


@given(
    st.integers(1, 9),
    st.integers(1, 200),
    st.sampled_from(["nf4", "fp4"]),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16"]),
)
@settings(max_examples=60, deadline=None)
def test_decoding_is_what_its_definition_says(rows: int, columns: int, book: str, double: bool, dtype: str) -> None:
    repair()
    random = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = (torch.randn(rows, columns, generator=random) * 10.0 ** torch.arange(rows)[:, None]).to(getattr(torch, dtype))
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=BLOCK, quant_type=book, compress_statistics=double)
    found = bitsandbytes.functional.dequantize_4bit(packed, state).reshape(state.shape)  # a single byte comes back transposed
    assert found.dtype == weight.dtype
    torch.testing.assert_close(found.float(), naive(packed, state), rtol=1e-2 if dtype == "bfloat16" else 1e-6, atol=0)
