"""No quantization."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from peftlab.backbones.contract import Backbone
from peftlab.nn.quantized import QuantizedLinear
from peftlab.quantizers.contract import Conversion, Quantizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoQuantization(Quantizer):
    """Weights stay as they are loaded (float32): 32 bits per parameter."""

    name: ClassVar[str] = "none"
    quantizes: ClassVar[bool] = False

    def refuse(self, device: str) -> str | None:
        return None

    @property
    def scheme(self) -> str:
        return "float32"

    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        return [((d_out, d_in), torch.float32)]

    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        raise NotImplementedError("nothing is quantized")

    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(weight)

    def convert(self, backbone: Backbone) -> Conversion:
        return Conversion()
