"""bitsandbytes' linear layers, without the side effects of their forward passes.

In bitsandbytes 0.50.2, ``Linear4bit.forward`` in evaluation repacks the weight in place on CPUs with AVX512-BF16, for a kernel
that has no backward pass: after the first evaluation nothing below it would train. Both layers write the cast bias back, so that
a frozen (or trained) bias changes its type. ``Linear8bitLt`` keeps its scales where moving the model to a device does not find
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bitsandbytes
import torch
from torch import nn

from peftlab.nn.quantized import QuantizedLinear, take_place
from peftlab.quantizers._bnb_decoding import repair

bnb: Any = bitsandbytes
repair()


class FourBit(QuantizedLinear, bnb.nn.Linear4bit):
    """4 bits, code book nf4 or fp4, 64 weights a block."""

    def __init__(self, layer: nn.Linear, scheme: str, book: str, double: bool, compute_dtype: torch.dtype | None) -> None:
        bnb.nn.Linear4bit.__init__(
            self,
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=double,
            quant_type=book,
            device="meta",  # draws no random numbers
        )
        self.scheme = scheme
        made = bnb.nn.Params4bit(layer.weight.detach(), requires_grad=False, compress_statistics=double, quant_type=book)
        self.weight = made._quantize(layer.weight.device)
        self.bias = layer.bias
        take_place(self, layer)

    @property
    def _state(self) -> Any:
        return self.weight.quant_state  # pyright: ignore

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return bnb.matmul_4bit(input.to(dtype), self.weight, quant_state=self._state, bias=bias).to(input.dtype)

    def dequantize(self) -> torch.Tensor:
        return bnb.functional.dequantize_4bit(self.weight.data, self._state).float()

    def codes(self) -> torch.Tensor:
        packed = self.weight.data.flatten()
        both = torch.stack((packed >> 4, packed & 0xF), dim=1).flatten()
        return both[: self.in_features * self.out_features].view(self.out_features, self.in_features)

    def stored(self) -> Sequence[torch.Tensor]:
        state = self._state
        nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
        return [self.weight.data, state.code, state.absmax, *nested]


class Int8(QuantizedLinear, bnb.nn.Linear8bitLt):
    """8 bits, one scale a row, outliers of the input in float."""

    row_scale: torch.Tensor

    def __init__(self, layer: nn.Linear, scheme: str, threshold: float) -> None:
        bnb.nn.Linear8bitLt.__init__(
            self,
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            has_fp16_weights=False,
            threshold=threshold,
            device="meta",
        )
        self.scheme = scheme
        codes, scale, _ = bnb.functional.int8_vectorwise_quant(layer.weight.detach().to(torch.float16))
        self.weight = bnb.nn.Int8Params(codes, requires_grad=False)
        self.register_buffer("row_scale", scale, persistent=False)
        self.bias = layer.bias
        take_place(self, layer)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.state.CB, self.state.SCB, self.state.is_training = self.weight.data, self.row_scale, self.training
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return bnb.matmul(input, self.weight, bias=bias, state=self.state)

    def dequantize(self) -> torch.Tensor:
        return self.weight.data.float() * (self.row_scale / 127).unsqueeze(1)

    def codes(self) -> torch.Tensor:
        return self.weight.data

    def stored(self) -> Sequence[torch.Tensor]:
        return [self.weight.data, self.row_scale]
