"""4-bit decoding on CPUs, made right for rows that are not whole blocks.

A block is 64 neighbours of the flat weight and may begin in one row and end in the next. The AVX-512 kernel of bitsandbytes
0.50.2 takes rows for whole blocks all the same: with 32, 80, 96 or 160 columns it multiplies codes by the absmaxes of other
blocks and reads beyond the last (relative error of NF4 0.2 to 0.6 instead of 0.09). It says nothing, and on CPUs without AVX-512
all is well. Such weights are given to it as one row of whole blocks, from wherever they are decoded: our layers, PEFT's merge,
transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch.nn.functional import pad

_NAME = "dequantize_4bit"


@cache
def repair() -> torch.library.Library:
    """Put it right in this process; to be called after bitsandbytes was imported. The library has to be kept."""
    kernel = torch.library.get_kernel(f"bitsandbytes::{_NAME}", "CPU")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def decode(
        codes: torch.Tensor, absmax: torch.Tensor, blocksize: int, quant_type: str, shape: Sequence[int], dtype: torch.dtype
    ) -> Any:
        if shape[-1] % blocksize == 0:
            return kernel.call_boxed(keys, codes, absmax, blocksize, quant_type, shape, dtype)
        count = prod(shape)
        whole = -(-count // blocksize) * blocksize
        packed = codes.reshape(-1).view(torch.uint8)
        packed = pad(packed, (0, whole // 2 - packed.numel()))
        flat = kernel.call_boxed(keys, packed, absmax, blocksize, quant_type, [1, whole], dtype)
        return flat.reshape(-1)[:count].reshape(list(shape))

    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl(_NAME, decode, "CPU")
    return library
