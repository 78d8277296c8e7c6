"""Frozen weights stored by bitsandbytes: 8 bits (LLM.int8) or 4 bits (QLoRA)."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn
from torch.nn.functional import pad

from peftlab.errors import MissingExtra, OptionError
from peftlab.nn.quantized import QuantizedLinear
from peftlab.quantizers.contract import Quantizer

BLOCK, BLOCK_OF_BLOCKS = 64, 256  #: weights with one absmax; absmaxes with one absmax of their own (double quantization)
_LARGEST_GAP = {"nf4": 0.15191, "fp4": 1 / 6}  #: half of the largest distance between neighbours of the code book


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BitsAndBytes(Quantizer):
    """8 bits: W~ = c s / 127 with s the absolute maximum of a row. 4 bits: W~ = m book[c] with m that of 64 neighbours.

    Bits per parameter of a large layer: 8 bits 8.0 (a float32 per row); 4 bits 4.5; 4 bits with double quantization 4.127, where
    the absmaxes, less their mean, are stored in 8 bits, 256 with one absmax (Dettmers et al. 2023, section 3: 0.5 -> 0.127).
    8 bits multiply as LLM.int8 does (Dettmers et al. 2022, arXiv:2208.07339): rows of x are rounded to 8 bits too, but columns
    of x with a value of at least ``threshold`` are multiplied in float. On a CPU bitsandbytes does that in evaluation only; in
    training it multiplies x itself with W~. GPT-2's Conv1D is stored as the ``nn.Linear`` equal to it.
    """

    name: ClassVar[str] = "bnb"
    methods: ClassVar[Mapping[str, str]] = {
        "NF4": "quantizer: {name: bnb, bits: 4}",
        "FP4": "quantizer: {name: bnb, bits: 4, type: fp4}",
        "LLM.int8": "quantizer: {name: bnb, bits: 8}",
    }
    citation: ClassVar[str] = """@inproceedings{dettmers2023qlora,
  title = {{QLoRA}: Efficient Finetuning of Quantized {LLMs}},
  author = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2023},
  eprint = {2305.14314}, archivePrefix = {arXiv}
}"""

    bits: Literal[8, 4] = 4
    type: Literal["nf4", "fp4"] | None = None  #: code book of 4 bits; default nf4
    double: bool = False  #: quantize the absmaxes too; 4 bits only
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None  #: of the product, 4 bits; default the input's
    threshold: float | None = None  #: of outliers in the input, 8 bits; default 6; 0: no outliers

    def __post_init__(self) -> None:
        for option in ("type", "double", "compute_dtype"):
            if self.bits != 4 and getattr(self, option):
                raise OptionError(f"{option!r} needs bits: 4", where=option, remedy="remove it, or set bits: 4")
        if self.bits != 8 and self.threshold is not None:
            raise OptionError("'threshold' needs bits: 8", where="threshold", remedy="remove it, or set bits: 8")
        if self.threshold is not None and self.threshold < 0:
            raise OptionError("threshold must not be negative", where="threshold", remedy="e.g. 6")
        option, value = ("type", "nf4") if self.bits == 4 else ("threshold", 6.0)  # LLM.int8, section 3.2
        if getattr(self, option) is None:  # written out, so that a default and the same value given are one run
            object.__setattr__(self, option, value)

    @property
    def scheme(self) -> str:
        return "int8" if self.bits == 8 else f"{self.type}{'-double' if self.double else ''}"

    @property
    def merge_tolerance(self) -> float:
        return 0.05 if self.bits == 8 else 1e-4  # 8 bits: the input is rounded too

    @property
    def requantized_share(self) -> float:
        return 0.01 if self.type == "fp4" else 0.001  # fp4 has two codes for zero

    @property
    def keeps_input(self) -> bool:
        return self.bits == 8

    @property
    def exact(self) -> Quantizer | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return dataclasses.replace(self, compute_dtype="float32") if self.compute_dtype in ("bfloat16", "float16") else None

    def refuse(self, device: str) -> str | None:
        return _trial(self, device)

    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        if self.bits == 8:
            return [((d_out, d_in), torch.int8), ((d_out,), torch.float32)]
        blocks = -(-d_out * d_in // BLOCK)
        codes, table = (((d_out * d_in + 1) // 2, 1), torch.uint8), ((16,), torch.float32)
        if not self.double:
            return [codes, table, ((blocks,), torch.float32)]
        nested = [((-(-blocks // BLOCK_OF_BLOCKS),), torch.float32), ((256,), torch.float32), ((), torch.float32)]
        return [codes, table, ((blocks,), torch.uint8), *nested]

    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        _require()
        from peftlab.quantizers import _bnb_layers

        if self.bits == 8:
            return _bnb_layers.Int8(layer, self.scheme, cast(float, self.threshold))
        dtype = getattr(torch, self.compute_dtype) if self.compute_dtype else None
        return _bnb_layers.FourBit(layer, self.scheme, cast(str, self.type), self.double, dtype)

    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        if self.bits == 8:  # half a step, and what float16 cuts off before
            return (weight.abs().amax(1, keepdim=True) / 254 + weight.abs() * 2**-11).expand_as(weight)
        blocks = pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK).abs().amax(1)
        bound = blocks * _LARGEST_GAP[cast(str, self.type)]
        if self.double:  # absmaxes less their mean, at most half of the largest step of an 8-bit dynamic map away
            spread = pad(blocks - blocks.mean(), (0, -len(blocks) % BLOCK_OF_BLOCKS)).view(-1, BLOCK_OF_BLOCKS)
            bound = bound + 0.01 * spread.abs().amax(1).repeat_interleave(BLOCK_OF_BLOCKS)[: len(blocks)]
        return bound.repeat_interleave(BLOCK)[: weight.numel()].view_as(weight)


def _require() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes is not installed", where="quantizer", remedy="pip install bitsandbytes")
    import bitsandbytes

    return bitsandbytes


@cache
def _trial(quantizer: BitsAndBytes, device: str) -> str | None:
    """Forward and backward through a small layer on this device: what it says if it cannot."""
    try:
        _require()
        layer = nn.Linear(BLOCK, 16, device="meta").to_empty(device=device).requires_grad_(False)
        layer.weight.data = torch.linspace(-1, 1, 16 * BLOCK, device=device).view(16, BLOCK)
        layer.bias.data.zero_()
        x = torch.ones(4, BLOCK, device=device, requires_grad=True)
        quantized = quantizer.quantize(layer).to(device)
        quantized(x).sum().backward()
        with torch.no_grad():
            finite = bool(torch.isfinite(quantized.eval()(x)).all() and torch.isfinite(cast(torch.Tensor, x.grad)).all())
    except MissingExtra as error:
        return f"{error.what} ({error.remedy})"
    except Exception as error:  # whatever a missing kernel, driver or device says
        return f"{device} cannot run bitsandbytes {quantizer.scheme}: {str(error).splitlines()[0][:160]}"
    return None if finite else f"{device} gives non-finite values with bitsandbytes {quantizer.scheme}"
