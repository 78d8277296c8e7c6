"""PEFT's LoRA layers, fused (nn/fused_layers.py). Parameters, modules and methods stay PEFT's; only ``forward`` is another."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import layer as lora
from torch import nn

from peftlab.nn.fused_layers import FusedLayer, Plain, subclass_of, watched
from peftlab.nn.fused_low_rank import Branch

try:
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
except ImportError:  # without bitsandbytes
    Linear4bit = Linear8bitLt = lora.Linear


class _Lora(FusedLayer):
    """PEFT's y = base(x) + (alpha/r) B A drop(x); masks have the distribution of PEFT's, not its draws."""

    def branch(self) -> Branch:
        peft: Any = self
        if peft.disable_adapters or peft.merged:
            raise Plain("its adapter is switched off or merged")
        names = [name for name in peft.active_adapters if name in peft.lora_A]
        if len(names) != 1:
            raise Plain("it has not exactly one adapter")
        [name] = names
        if name in peft.lora_variant:
            raise Plain(f"{type(peft.lora_variant[name]).__name__.removesuffix('LinearVariant')} is no plain sum")
        down, up, dropout = peft.lora_A[name], peft.lora_B[name], peft.lora_dropout[name]
        if up.bias is not None:
            raise Plain("its update has a bias")
        if watched(down) or watched(up) or watched(dropout):
            raise Plain("a hook watches its factors")
        share = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        return Branch(down.weight, up.weight, peft.scaling[name], share)


def fused_lora(layer: type) -> type | None:
    """The fused subclass of one of PEFT's LoRA layers; None for any other."""
    return subclass_of(_Lora, layer) if layer in (lora.Linear, Linear4bit, Linear8bitLt) else None
