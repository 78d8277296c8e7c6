"""No quantization."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.backbones.contract import Backbone
from peftlab.quantizers.contract import Quantizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoQuantization(Quantizer):
    """Weights stay as they are loaded (float32): 32 bits per parameter."""

    name: ClassVar[str] = "none"

    def refuse(self, device: str) -> str | None:
        return None

    def convert(self, backbone: Backbone) -> dict[str, str]:
        return {}
