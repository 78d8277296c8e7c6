"""What a quantizer is: how the frozen weights are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod

from peftlab.backbones.contract import Backbone
from peftlab.registry import Component


class Quantizer(Component, ABC):
    """A configured quantizer."""

    @abstractmethod
    def refuse(self, device: str) -> str | None:
        """Why this device cannot run the scheme; None if it can."""

    @abstractmethod
    def convert(self, backbone: Backbone) -> dict[str, str]:
        """Store the frozen weights of ``backbone.module`` in place. Returns module name -> scheme for what was converted."""
