"""What an allocator is: who decides the rank of every adapted module, before or during training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.registry import Component


class Allocator(Component, ABC):
    """A configured allocator."""

    @abstractmethod
    def initial(self, sites: Sequence[Site], rank: int, probe: Callable[[], Mapping[str, float]] | None = None) -> dict[str, int]:
        """Site name -> rank at the start of training; 0 = not adapted. ``rank`` is the adapter's own uniform rank."""

    def hook(self, adapted) -> TrainingHook | None:
        """What acts during training; None for a static allocator."""
        return None
