"""Full fine-tuning."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.adapters._plain import InPlace
from peftlab.backbones.contract import Backbone


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Full(InPlace):
    """Every parameter of the backbone trains: the reference that the others are measured against."""

    name: ClassVar[str] = "full"

    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        return True
