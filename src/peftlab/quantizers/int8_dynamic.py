"""8-bit products for speed on processors that have instructions for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from peftlab.errors import OptionError
from peftlab.nn.dynamic_int8 import LARGEST, DynamicInt8
from peftlab.nn.quantized import QuantizedLinear
from peftlab.quantizers.contract import Quantizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DynamicInt8Quantizer(Quantizer):
    """Frozen layers multiply 8-bit integers, forward and for the gradient of their input (nn/dynamic_int8.py has the formulas).

    W~ = s c with s the absolute maximum of an output's weights over 127: 8 bits per parameter and a float32 per output. Inputs,
    and gradients on their way back, are rounded to 8 bits row by row when they come (the scheme of Jacob et al. 2018, with ranges
    taken from the values themselves). It changes numbers, so it is an arm's choice and never made for it. It pays on processors
    with VNNI or AMX, for layers of some hundred inputs and batches of some hundred rows.
    """

    name: ClassVar[str] = "int8-dynamic"
    citation: ClassVar[str] = """@inproceedings{jacob2018quantization,
  title = {Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference},
  author = {Jacob, Benoit and Kligys, Skirmantas and Chen, Bo and Zhu, Menglong and Tang, Matthew and Howard, Andrew
    and Adam, Hartwig and Kalenichenko, Dmitry},
  booktitle = {{IEEE/CVF} Conference on Computer Vision and Pattern Recognition}, year = {2018},
  eprint = {1712.05877}, archivePrefix = {arXiv}
}"""

    @property
    def scheme(self) -> str:
        return "int8-dynamic"

    @property
    def merge_tolerance(self) -> float:
        return 0.05  # the input is rounded too

    @property
    def gradient_tolerance(self) -> float:
        return 0.05  # and so is the gradient

    def refuse(self, device: str) -> str | None:
        if device != "cpu":
            return f"{device} is not what int8-dynamic is for; use bnb with bits: 8"
        if not torch.cpu._is_vnni_supported():
            why = "this processor has no instructions for products of 8-bit integers (VNNI): they are slower than float32's"
            return f"{why}; leave the quantizer out here, or use bnb with bits: 8 to save memory"
        return None

    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        if d_in < 2:  # torch 2.14 takes such a matrix for its transpose, and reads beyond its end
            raise OptionError("a layer of one input has nothing to sum", where="quantizer", remedy="use another quantizer")
        return [((d_out, d_in), torch.int8), ((d_out,), torch.float32)]

    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        return DynamicInt8(layer, self.scheme)

    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        """Half a step."""
        return (weight.abs().amax(1, keepdim=True) / (2 * LARGEST)).expand_as(weight)
