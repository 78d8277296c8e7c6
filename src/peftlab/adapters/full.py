"""Full fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from peftlab.adapters._plain import InPlace
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Full(InPlace):
    """Every parameter of the backbone trains: the reference that the others are measured against."""

    name: ClassVar[str] = "full"
    methods: ClassVar[Mapping[str, str]] = {
        "fine-tuning": "adapter: full",
        "full-fine-tuning": "adapter: full",
    }

    @property
    def unstackable(self) -> str:
        return "it trains every weight, so there is nothing to share"

    @property
    def needs_float(self) -> str:
        return "it trains the weight matrices themselves, and updates of quantized ones would be rounded away"

    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        return True

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        """The weight of every linear layer outside the head; a fused qkv is one."""
        layers = [(site, adapted.module.get_submodule(site.name)) for site in adapted.backbone.roles.sites if not site.parent]
        return {
            site.name: Part(tensors=((layer.weight, None),), d_in=site.d_in, d_out=site.d_out)  # pyright: ignore
            for site, layer in layers
        }
