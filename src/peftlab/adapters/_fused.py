"""PEFT's LoRA layers, fused (nn/fused_layers.py). Parameters, modules and methods stay PEFT's; only ``forward`` is another."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from peft.tuners.lora import layer as lora
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn

from peftlab.nn.fused_layers import FusedLayer, Plain, frozen_weight, subclass_of, watched
from peftlab.nn.fused_low_rank import Branch

try:
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
except ImportError:  # without bitsandbytes
    Linear4bit = Linear8bitLt = lora.Linear


class _Lora(FusedLayer):
    """PEFT's y = base(x) + (alpha/r) B A drop(x), also with DoRA; masks have the distribution of PEFT's, not its draws."""

    def branch(self) -> Branch:
        peft: Any = self
        if peft.disable_adapters or peft.merged:
            raise Plain("its adapter is switched off or merged")
        names = [name for name in peft.active_adapters if name in peft.lora_A]
        if len(names) != 1:
            raise Plain("it has not exactly one adapter")
        [name] = names
        variant = peft.lora_variant.get(name)
        if variant is not None and type(variant) is not DoraLinearVariant:
            raise Plain(f"{type(variant).__name__.removesuffix('LinearVariant')} is no plain sum")
        down, up, dropout = peft.lora_A[name], peft.lora_B[name], peft.lora_dropout[name]
        if up.bias is not None:
            raise Plain("its update has a bias")
        if watched(down) or watched(up) or watched(dropout):
            raise Plain("a hook watches its factors")
        share = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        branch = Branch(down.weight, up.weight, peft.scaling[name], share)
        return branch if variant is None else self._with_magnitude(branch, peft.lora_magnitude_vector[name], dropout)

    def _with_magnitude(self, branch: Branch, magnitude: nn.Module, dropout: nn.Module) -> Branch:
        if isinstance(dropout, nn.Dropout):
            raise Plain("DoRA with dropout multiplies W twice, with x and with what dropout leaves of it")
        if frozen_weight(self.base_layer, branch) is None:
            raise Plain("the norms of DoRA want a frozen weight in floating point")
        if watched(magnitude):
            raise Plain("a hook watches its magnitudes")
        return dataclasses.replace(branch, magnitude=cast(torch.Tensor, magnitude.weight))


def fused_lora(layer: type) -> type | None:
    """The fused subclass of one of PEFT's LoRA layers; None for any other."""
    return subclass_of(_Lora, layer) if layer in (lora.Linear, Linear4bit, Linear8bitLt) else None
